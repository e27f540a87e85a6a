/* turns.c - see turns.h. */
#include "services/model-registry/turns.h"

#include <stdlib.h>
#include <string.h>

#include "services/model-registry/slots.h"

/* A model of a backend in use at one gateway. */
struct use {
	struct use *next;
	uint8_t gateway[16];
	char *backend, *model;
	int64_t waits_from_us;        /* a request waits for the load since; 0 = none does */
	int64_t told_us;
};

/* A model that waits somewhere. */
struct turn {
	struct turn *next;
	char *backend, *model;
	int64_t from_us;              /* it waits since, or had its turn then */
	int64_t still_us;             /* while it is on: since when nothing else runs; 0 = something does */
	bool on;
};

struct turns {
	struct use *uses;
	struct turn *list;
	void (*began)(void *arg, const char *backend, const char *model);
	void *arg;
};

struct turns *turns_new(void (*began)(void *, const char *, const char *), void *arg)
{
	struct turns *s = x_calloc(1, sizeof(*s));

	s->began = began;
	s->arg = arg;
	return s;
}

static void use_free(struct use *u)
{
	free(u->backend);
	free(u->model);
	free(u);
}

static void turn_free(struct turn *t)
{
	free(t->backend);
	free(t->model);
	free(t);
}

void turns_free(struct turns *s)
{
	if (!s)
		return;
	for (struct use *u = s->uses, *next; u; u = next) {
		next = u->next;
		use_free(u);
	}
	for (struct turn *t = s->list, *next; t; t = next) {
		next = t->next;
		turn_free(t);
	}
	free(s);
}

/* --- who uses what --- */

static void forget(struct turns *s, const uint8_t *gateway, int64_t now_us)
{
	for (struct use **at = &s->uses; *at;) {
		struct use *u = *at;

		if ((gateway && memcmp(u->gateway, gateway, sizeof(u->gateway)) == 0) || now_us - u->told_us > SLOTS_LEASE_MS * 1000) {
			*at = u->next;
			use_free(u);
		} else {
			at = &u->next;
		}
	}
}

void turns_hear(struct turns *s, const Corral__LeaseRequest *r, int64_t now_us)
{
	if (r->gateway.len != sizeof(s->uses->gateway))
		return;
	forget(s, r->gateway.data, now_us);
	for (size_t i = 0; i < r->n_active; i++) {
		const Corral__SlotActivity *a = r->active[i];
		int64_t wait_us = (int64_t)(a->load_wait_ms < 86400000 ? a->load_wait_ms : 86400000) * 1000;
		struct use *u;

		if (!a->in_use)
			continue;
		u = x_calloc(1, sizeof(*u));
		memcpy(u->gateway, r->gateway.data, sizeof(u->gateway));
		u->backend = x_strdup(a->backend);
		u->model = x_strdup(a->model);
		u->waits_from_us = wait_us ? now_us - wait_us : 0;
		u->told_us = now_us;
		u->next = s->uses;
		s->uses = u;
	}
}

/* --- whose turn it is --- */

/* Since when the first of its requests waits; 0: none does. */
static int64_t waits_from(const struct turns *s, const struct turn *t)
{
	int64_t from = 0;

	for (const struct use *u = s->uses; u; u = u->next)
		if (u->waits_from_us && strcmp(u->model, t->model) == 0 && strcmp(u->backend, t->backend) == 0 && (!from || u->waits_from_us < from))
			from = u->waits_from_us;
	return from;
}

static bool others_run(const struct turns *s, const struct turn *t)
{
	for (const struct use *u = s->uses; u; u = u->next)
		if (!u->waits_from_us && strcmp(u->backend, t->backend) == 0 && strcmp(u->model, t->model) != 0)
			return true;
	return false;
}

static void drop_those_who_have_it(struct turns *s)
{
	for (struct turn **at = &s->list; *at;) {
		struct turn *t = *at;
		int64_t from = waits_from(s, t);

		if (!from) {
			*at = t->next;
			turn_free(t);
			continue;
		}
		if (!t->on && t->from_us < from)
			t->from_us = from;
		at = &t->next;
	}
}

static void add_those_who_wait(struct turns *s)
{
	for (const struct use *u = s->uses; u; u = u->next) {
		struct turn *t = s->list;

		while (t && (strcmp(t->model, u->model) != 0 || strcmp(t->backend, u->backend) != 0))
			t = t->next;
		if (t || !u->waits_from_us)
			continue;
		t = x_calloc(1, sizeof(*t));
		t->backend = x_strdup(u->backend);
		t->model = x_strdup(u->model);
		t->from_us = waits_from(s, t);
		t->next = s->list;
		s->list = t;
	}
}

static void end_turn(const struct turns *s, struct turn *t, int64_t now_us)
{
	if (!t->on)
		return;
	if (others_run(s, t))
		t->still_us = 0;
	else if (!t->still_us)
		t->still_us = now_us;
	if (!t->still_us || now_us - t->still_us < TURNS_STILL_MS * 1000)
		return;
	t->on = false;
	t->from_us = now_us;
}

/* The one that waits longest at its backend, while none there has its turn. */
static bool may_begin(const struct turns *s, const struct turn *t)
{
	for (const struct turn *o = s->list; o; o = o->next)
		if (o != t && strcmp(o->backend, t->backend) == 0 && (o->on || o->from_us < t->from_us))
			return false;
	return true;
}

static void put(const struct turns *s, struct arena *mem, Corral__LeaseReply *reply)
{
	size_t n = 0;

	for (const struct turn *t = s->list; t; t = t->next)
		n += t->on;
	reply->turns = arena_array(mem, Corral__SlotTurn *, n + 1);
	for (const struct turn *t = s->list; t; t = t->next) {
		Corral__SlotTurn *one;

		if (!t->on)
			continue;
		one = arena_new_of(mem, Corral__SlotTurn);
		corral__slot_turn__init(one);
		one->backend = t->backend;
		one->model = t->model;
		reply->turns[reply->n_turns++] = one;
	}
}

void turns_put(struct turns *s, int64_t after_ms, int64_t now_us, struct arena *mem, Corral__LeaseReply *reply)
{
	forget(s, NULL, now_us);
	drop_those_who_have_it(s);
	add_those_who_wait(s);
	for (struct turn *t = s->list; t; t = t->next) {
		end_turn(s, t, now_us);
		if (!t->on && after_ms && now_us - t->from_us >= after_ms * 1000 && may_begin(s, t)) {
			t->on = true;
			t->still_us = 0;
			s->began(s->arg, t->backend, t->model);
		}
	}
	if (after_ms)
		put(s, mem, reply);
}
