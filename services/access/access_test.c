/* access_test.c - keys, tenants and their audit log on a real store: what is refused, what is written down, and what stays after
 * kill -9, a full disk, a lock held by somebody else, and hands in the database. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/apikey.h"
#include "common/store/db_test.h"
#include "common/store/db_writer.h"
#include "common/store/spool.h"
#include "events.pb-c.h"
#include "services/access/audit.h"
#include "services/access/facts.h"
#include "services/access/keys.h"
#include "services/access/narrow.h"
#include "services/access/news.h"
#include "services/access/service.h"
#include "services/access/tell.h"
#include "services/access/tenants.h"

/* --- kill -9 in the middle of a write: SQLite's pwrite64 comes through here --- */

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at);
static int writes_until_kill = -1;        /* -1 = never */

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	if (writes_until_kill == 0) {
		(void)!syscall(SYS_pwrite64, fd, p, n / 2, at);       /* half of it reaches the file */
		raise(SIGKILL);
	}
	if (writes_until_kill > 0)
		writes_until_kill--;
	return syscall(SYS_pwrite64, fd, p, n, at);
}

/* --- a directory and a store --- */

#define SECOND 1000000LL
#define DAY (86400 * SECOND)
static const int64_t t0 = 1795251600 * SECOND;    /* 2026-11-21T09:00:00Z */

struct fixture {
	char dir[64], path[128], url[256];
	struct access_store *s;
	struct arena *mem;
	int64_t now_us;
	struct why why;
	Corral__AccessDelta delta;    /* of the last act */
	bool unsure;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void reopen(struct fixture *f)
{
	access_store_close(f->s);
	f->s = access_store_open(f->url, &f->why);
	if (!f->s)
		fail_msg("%s", f->why.text);
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/access-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/access.db", f->dir);
	test_db(f->dir, "access.db", access_migrations, f->url, sizeof(f->url));
	f->mem = arena_new(1 << 16);
	f->now_us = t0;
	reopen(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	access_store_close(f->s);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* --- acts --- */

static Corral__Caller *caller(struct fixture *f, const char *key_id, Corral__Role role)
{
	Corral__Caller *c = arena_alloc(f->mem, sizeof(*c));

	corral__caller__init(c);
	c->key_id = (char *)key_id;
	c->role = role;
	c->address = (char *)"127.0.0.1";
	c->request_id = (char *)"req";
	return c;
}

static struct act act_by(struct fixture *f, const char *key_id, Corral__Role role)
{
	return (struct act){ .store = f->s, .mem = f->mem, .caller = caller(f, key_id, role), .now_us = f->now_us };
}

#define OWNER act_by(f, "", CORRAL__ROLE__ROLE_OWNER)
#define BY(key) act_by(f, (key)->id, CORRAL__ROLE__ROLE_OWNER)     /* what a caller says of itself does not count */

static Corral__Key wish(Corral__Role role, const char *name)
{
	Corral__Key k = CORRAL__KEY__INIT;

	k.role = role;
	k.name = (char *)name;
	return k;
}

static enum err make_by(struct fixture *f, struct act a, Corral__Key k, Corral__CreateKeyReply *ret)
{
	enum err e = key_create(&a, &k, ret, &f->why);

	f->delta = a.delta;
	return e;
}

static Corral__Key *make(struct fixture *f, Corral__Key k)
{
	Corral__CreateKeyReply reply;

	if (make_by(f, OWNER, k, &reply))
		fail_msg("%s", f->why.text);
	return reply.key;
}

static void tenant(struct fixture *f, const char *name)
{
	Corral__Tenant t = CORRAL__TENANT__INIT, *ret;
	struct act a = OWNER;

	t.name = (char *)name;
	if (tenant_put(&a, &t, true, &ret, &f->why))
		fail_msg("%s", f->why.text);
}

static enum err replace(struct fixture *f, struct act a, const char *id, int64_t overlap_s, Corral__CreateKeyReply *ret)
{
	enum err e = key_rotate(&a, str_of(id), overlap_s, ret, &f->why);

	f->delta = a.delta;
	return e;
}

static enum err end_key(struct fixture *f, struct act a, const char *id, bool *ret_changed)
{
	enum err e = key_revoke(&a, str_of(id), ret_changed, &f->why);

	f->delta = a.delta;
	f->unsure = a.unsure;
	return e;
}

static Corral__ListKeysReply list(struct fixture *f, bool with_ended)
{
	Corral__ListKeysRequest q = CORRAL__LIST_KEYS_REQUEST__INIT;
	Corral__ListKeysReply reply;
	struct act a = OWNER;

	q.with_ended = with_ended;
	q.limit = 1000;
	assert_int_equal(keys_list(&a, &q, &reply, &f->why), ERR_OK);
	return reply;
}

static bool live(struct fixture *f, const char *id)
{
	struct key_row row;

	assert_int_equal(key_get(f->s, f->mem, str_of(id), &row, &f->why), ERR_OK);
	return key_is_live(&row, f->now_us);
}

/* --- the log --- */

static Corral__AuditReply audit(struct fixture *f, const char *action)
{
	Corral__AuditQuery q = CORRAL__AUDIT_QUERY__INIT;
	Corral__AuditReply reply;

	q.caller = caller(f, "", CORRAL__ROLE__ROLE_OWNER);
	q.action = (char *)action;
	q.limit = 1000;
	assert_int_equal(audit_query(f->s, &q, f->now_us, f->mem, &reply, &f->why), ERR_OK);
	return reply;
}

static Corral__AuditEntry *last(struct fixture *f)
{
	Corral__AuditReply r = audit(f, "");

	assert_true(r.n_entries > 0);
	return r.entries[r.n_entries - 1];
}

static Corral__AuditVerifyReply verify(struct fixture *f, unsigned step)
{
	struct audit_walk w = { 0 };
	Corral__AuditVerifyReply reply;

	while (!w.done)
		assert_true(audit_walk_on(f->s, &w, step, &f->why));
	audit_verdict(&w, f->mem, &reply);
	return reply;
}

static void sql(struct fixture *f, const char *text)
{
	if (!db_query(access_db(f->s), text, NULL, 0, NULL, NULL, &f->why))
		fail_msg("%s", f->why.text);
}

static bool one_more(void *arg, const struct db_row *row)
{
	++*(unsigned *)arg;
	return true;
}

static unsigned count(struct fixture *f, const char *text)
{
	unsigned n = 0;

	if (!db_query(access_db(f->s), text, NULL, 0, one_more, &n, &f->why))
		fail_msg("%s", f->why.text);
	return n;
}

/* --- keys --- */

static void a_key_is_made_once_and_kept_as_a_hash(void **state)
{
	struct fixture *f = *state;
	Corral__CreateKeyReply reply;
	uint8_t hash[SHA256_BYTES];
	struct key_row row;
	struct str id;

	assert_int_equal(make_by(f, OWNER, wish(CORRAL__ROLE__ROLE_USER, "ci"), &reply), ERR_OK);
	assert_true(apikey_parse(str_of(reply.secret), &id) && str_eqz(id, reply.key->id));
	sha256(str_of(reply.secret), hash);
	reopen(f);
	assert_int_equal(key_get(f->s, f->mem, id, &row, &f->why), ERR_OK);
	assert_memory_equal(row.key->hash.data, hash, SHA256_BYTES);
	assert_string_equal(row.key->tenant, "default");
	assert_string_equal(row.key->created_by, "loopback");
	assert_int_equal(row.key->created_at_us, t0);
	assert_string_equal(last(f)->action, "keys.create");
	assert_string_equal(last(f)->object, reply.key->id);
	assert_string_equal(last(f)->outcome, "ok");
	assert_non_null(strstr(last(f)->detail, "\"role\":\"user\""));
	assert_null(strstr(last(f)->detail, reply.secret));
	assert_int_equal(f->delta.n_put_keys, 1);
}

static bool file_has(const char *path, const char *needle)
{
	FILE *in = fopen(path, "rb");
	char *p = x_malloc(4 << 20);
	size_t n = in ? fread(p, 1, 4 << 20, in) : 0;
	bool has = memmem(p, n, needle, strlen(needle)) != NULL;

	if (in)
		fclose(in);
	free(p);
	return has;
}

static void no_secret_is_in_the_store(void **state)
{
	struct fixture *f = *state;
	Corral__CreateKeyReply reply;
	char wal[140];

	SKIP_ON_SERVER();
	assert_int_equal(make_by(f, OWNER, wish(CORRAL__ROLE__ROLE_USER, "ci"), &reply), ERR_OK);
	snprintf(wal, sizeof(wal), "%s-wal", f->path);
	assert_true(file_has(wal, reply.key->id));
	assert_false(file_has(wal, reply.secret + 27));
	access_store_close(f->s);
	f->s = NULL;
	assert_true(file_has(f->path, reply.key->id));
	assert_false(file_has(f->path, reply.secret + 27));
}

static void a_name_is_used_once_in_a_tenant(void **state)
{
	struct fixture *f = *state;
	Corral__CreateKeyReply reply;
	Corral__Key other = wish(CORRAL__ROLE__ROLE_USER, "ci"), *first = make(f, wish(CORRAL__ROLE__ROLE_USER, "ci"));
	bool changed;

	assert_int_equal(make_by(f, OWNER, wish(CORRAL__ROLE__ROLE_USER, "ci"), &reply), ERR_CONFLICT);
	assert_string_equal(f->why.field, "name");
	assert_string_equal(last(f)->outcome, "failed");
	tenant(f, "acme");
	other.tenant = (char *)"acme";
	make(f, other);
	assert_int_equal(end_key(f, OWNER, first->id, &changed), ERR_OK);
	make(f, wish(CORRAL__ROLE__ROLE_USER, "ci"));
	make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
}

static void what_is_no_key_is_refused(void **state)
{
	struct fixture *f = *state;
	char *bad_net = (char *)"10.0.0.1/8", *bad_action = (char *)"modles.*", *bad_model = (char *)"a b";
	Corral__CreateKeyReply reply;
	Corral__Key k[] = {
		wish(CORRAL__ROLE__ROLE_NONE, ""), wish((Corral__Role)99, ""), wish(CORRAL__ROLE__ROLE_USER, "a\nb"), wish(CORRAL__ROLE__ROLE_USER, "\xff"),
		wish(CORRAL__ROLE__ROLE_USER, ""), wish(CORRAL__ROLE__ROLE_USER, ""), wish(CORRAL__ROLE__ROLE_USER, ""), wish(CORRAL__ROLE__ROLE_USER, ""),
		wish(CORRAL__ROLE__ROLE_USER, ""), wish(CORRAL__ROLE__ROLE_USER, ""), wish(CORRAL__ROLE__ROLE_USER, ""),
	};
	static const char *const fields[] = { "role", "role", "name", "name", "networks", "actions", "models", "expires_at", "expires_at", "tenant", "team" };

	k[4].n_networks = 1, k[4].networks = &bad_net;
	k[5].n_actions = 1, k[5].actions = &bad_action;
	k[6].n_models = 1, k[6].models = &bad_model;
	k[7].expires_at_us = t0;
	k[8].expires_at_us = -1;
	k[9].tenant = (char *)"nobody";
	k[10].team = (char *)"nobody";
	for (size_t i = 0; i < sizeof(k) / sizeof(*k); i++) {
		if (make_by(f, OWNER, k[i], &reply) != ERR_INVALID || strcmp(f->why.field, fields[i]) != 0)
			fail_msg("case %zu: %s (%s)", i, f->why.text, f->why.field);
	}
	assert_int_equal(list(f, true).n_keys, 0);
	assert_int_equal(audit(f, "keys.create").n_entries, sizeof(k) / sizeof(*k));
}

static void a_key_ends_when_its_time_is_over_and_not_by_a_wrong_clock(void **state)
{
	struct fixture *f = *state;
	Corral__Key k = wish(CORRAL__ROLE__ROLE_USER, "ci"), *made;

	k.expires_at_us = t0 + DAY;
	made = make(f, k);
	f->now_us = t0 + DAY - 1;
	assert_true(live(f, made->id));
	f->now_us = t0 + DAY;
	assert_false(live(f, made->id));
	assert_int_equal(list(f, false).n_keys, 0);
	assert_int_equal(list(f, true).n_keys, 1);
	make(f, wish(CORRAL__ROLE__ROLE_USER, "ci"));         /* its name is free */
	f->now_us = t0;                                       /* the clock was an hour, or ten years, ahead */
	assert_true(live(f, made->id));
}

static void a_revoked_key_stays_revoked(void **state)
{
	struct fixture *f = *state;
	Corral__Key *k = make(f, wish(CORRAL__ROLE__ROLE_USER, "ci"));
	bool changed = false;

	assert_int_equal(end_key(f, OWNER, k->id, &changed), ERR_OK);
	assert_true(changed);
	assert_int_equal(f->delta.n_del_keys, 1);
	assert_string_equal(f->delta.del_keys[0], k->id);
	f->now_us = t0 - DAY;
	assert_false(live(f, k->id));
	assert_int_equal(end_key(f, OWNER, k->id, &changed), ERR_OK);
	assert_false(changed);
	assert_int_equal(f->delta.n_del_keys, 0);
	assert_int_equal(end_key(f, OWNER, "nosuchkeynosuchk", &changed), ERR_NOT_FOUND);
	reopen(f);
	assert_false(live(f, k->id));
}

static void a_rotated_key_lives_on_for_the_overlap(void **state)
{
	struct fixture *f = *state;
	Corral__Key k = wish(CORRAL__ROLE__ROLE_USER, "ci"), *old;
	Corral__CreateKeyReply reply, again;

	k.expires_at_us = t0 + 90 * DAY;
	old = make(f, k);
	f->now_us = t0 + 80 * DAY;
	assert_int_equal(replace(f, OWNER, old->id, 3600, &reply), ERR_OK);
	assert_string_equal(reply.key->replaces, old->id);
	assert_string_equal(reply.key->name, "ci");
	assert_int_equal(reply.key->expires_at_us, t0 + 170 * DAY);
	assert_int_equal(f->delta.n_put_keys, 2);
	assert_true(live(f, old->id) && live(f, reply.key->id));
	assert_int_equal(replace(f, OWNER, old->id, 3600, &again), ERR_CONFLICT);
	f->now_us += 3600 * SECOND;
	assert_false(live(f, old->id));
	assert_int_equal(replace(f, OWNER, old->id, 3600, &again), ERR_CONFLICT);
	assert_int_equal(replace(f, OWNER, reply.key->id, 0, &again), ERR_OK);
	assert_false(live(f, reply.key->id));
	assert_int_equal(f->delta.n_del_keys, 1);
	assert_int_equal(replace(f, OWNER, again.key->id, -1, &again), ERR_INVALID);
}

static void the_overlap_lengthens_no_life(void **state)
{
	struct fixture *f = *state;
	Corral__Key k = wish(CORRAL__ROLE__ROLE_USER, "ci"), *old;
	Corral__CreateKeyReply reply;

	k.expires_at_us = t0 + 10 * SECOND;
	old = make(f, k);
	assert_int_equal(replace(f, OWNER, old->id, 3600, &reply), ERR_OK);
	f->now_us = t0 + 10 * SECOND;
	assert_false(live(f, old->id));
}

static void limits_are_changed_within_ones_own(void **state)
{
	struct fixture *f = *state;
	Corral__Limits some = CORRAL__LIMITS__INIT, more = CORRAL__LIMITS__INIT;
	Corral__Key k = wish(CORRAL__ROLE__ROLE_ADMIN, ""), *made, *ret;
	struct act a;

	some.requests_per_minute = 50;
	more.requests_per_minute = 51;
	k.limits = &some;
	made = make(f, k);
	a = BY(made);
	assert_int_equal(key_limit(&a, str_of(made->id), &more, &ret, &f->why), ERR_FORBIDDEN);
	a = BY(made);
	assert_int_equal(key_limit(&a, str_of(made->id), NULL, &ret, &f->why), ERR_FORBIDDEN);
	a = OWNER;
	assert_int_equal(key_limit(&a, str_of(made->id), &more, &ret, &f->why), ERR_OK);
	assert_int_equal(ret->limits->requests_per_minute, 51);
	assert_int_equal(a.delta.n_put_keys, 1);
	a = OWNER;
	assert_int_equal(key_limit(&a, str_of(made->id), NULL, &ret, &f->why), ERR_OK);
	assert_null(ret->limits);
	a = OWNER;
	assert_int_equal(key_revoke(&a, str_of(made->id), &(bool){ false }, &f->why), ERR_OK);
	a = OWNER;
	assert_int_equal(key_limit(&a, str_of(made->id), &some, &ret, &f->why), ERR_CONFLICT);
}

static int64_t last_used(struct fixture *f)
{
	Corral__ListKeysRequest q = CORRAL__LIST_KEYS_REQUEST__INIT;
	Corral__ListKeysReply reply;
	struct act a = OWNER;

	assert_int_equal(keys_list(&a, &q, &reply, &f->why), ERR_OK);
	assert_int_equal(reply.n_keys, 1);
	return reply.keys[0]->last_used_us;
}

static void when_a_key_was_used_is_in_the_list(void **state)
{
	struct fixture *f = *state;
	Corral__KeyUse now = CORRAL__KEY_USE__INIT, odd = CORRAL__KEY_USE__INIT;

	now.id = make(f, wish(CORRAL__ROLE__ROLE_USER, ""))->id;
	assert_int_equal(last_used(f), 0);
	now.at_us = odd.at_us = f->now_us;
	odd.id = (char *)"no id of a key";
	assert_true(key_used(f->s, &now, f->now_us, &f->why) && key_used(f->s, &odd, f->now_us, &f->why));
	now.at_us = f->now_us - SECOND;                        /* another gateway, that tells late */
	assert_true(key_used(f->s, &now, f->now_us, &f->why));
	now.at_us = f->now_us + 3600 * SECOND;                 /* one whose clock is wrong */
	assert_true(key_used(f->s, &now, f->now_us, &f->why));
	assert_int_equal(last_used(f), f->now_us);
}

static void keys_are_listed_in_pages(void **state)
{
	struct fixture *f = *state;
	Corral__ListKeysRequest q = CORRAL__LIST_KEYS_REQUEST__INIT;
	Corral__ListKeysReply reply;
	unsigned seen = 0, pages = 0;

	for (int i = 0; i < 25; i++, f->now_us += i % 3)
		make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	q.limit = 10;
	do {
		struct act a = OWNER;

		assert_int_equal(keys_list(&a, &q, &reply, &f->why), ERR_OK);
		for (size_t i = 0; i < reply.n_keys; i++)
			assert_int_equal(reply.keys[i]->hash.len, 0);
		seen += (unsigned)reply.n_keys;
		pages++;
		q.after = reply.next;
	} while (reply.next[0]);
	assert_int_equal(seen, 25);
	assert_int_equal(pages, 3);
}

/* --- who may --- */

static void a_key_is_no_stronger_than_its_maker(void **state)
{
	struct fixture *f = *state;
	char *nets[] = { (char *)"10.0.0.0/8" }, *inside[] = { (char *)"10.1.0.0/16" }, *outside[] = { (char *)"0.0.0.0/0" };
	char *models[] = { (char *)"small-*" }, *fewer[] = { (char *)"small-a*" }, *more[] = { (char *)"*" };
	Corral__Limits limits = CORRAL__LIMITS__INIT, higher = CORRAL__LIMITS__INIT;
	Corral__Key strong = wish(CORRAL__ROLE__ROLE_ADMIN, "admin"), *admin, k;
	Corral__CreateKeyReply reply;

	limits.requests_per_minute = 60;
	higher.requests_per_minute = 61;
	strong.n_networks = 1, strong.networks = nets;
	strong.n_models = 1, strong.models = models;
	strong.limits = &limits;
	strong.expires_at_us = t0 + 30 * DAY;
	admin = make(f, strong);

	assert_int_equal(make_by(f, BY(admin), wish(CORRAL__ROLE__ROLE_OWNER, ""), &reply), ERR_FORBIDDEN);
	assert_string_equal(last(f)->outcome, "refused");
	assert_string_equal(last(f)->actor, admin->id);
	assert_string_equal(last(f)->role, "admin");
	/* what is not said is inherited */
	assert_int_equal(make_by(f, BY(admin), wish(CORRAL__ROLE__ROLE_USER, ""), &reply), ERR_OK);
	assert_string_equal(reply.key->networks[0], "10.0.0.0/8");
	assert_string_equal(reply.key->models[0], "small-*");
	assert_int_equal(reply.key->limits->requests_per_minute, 60);
	assert_int_equal(reply.key->expires_at_us, t0 + 30 * DAY);
	assert_string_equal(reply.key->created_by, admin->id);
	k = wish(CORRAL__ROLE__ROLE_USER, "");
	k.n_networks = 1, k.networks = inside, k.n_models = 1, k.models = fewer, k.expires_at_us = t0 + DAY;
	assert_int_equal(make_by(f, BY(admin), k, &reply), ERR_OK);
	k.networks = outside;
	assert_int_equal(make_by(f, BY(admin), k, &reply), ERR_FORBIDDEN);
	assert_string_equal(f->why.field, "networks");
	k.networks = inside, k.models = more;
	assert_int_equal(make_by(f, BY(admin), k, &reply), ERR_FORBIDDEN);
	assert_string_equal(f->why.field, "models");
	k.models = fewer, k.limits = &higher;
	assert_int_equal(make_by(f, BY(admin), k, &reply), ERR_FORBIDDEN);
	assert_string_equal(f->why.field, "requests_per_minute");
	k.limits = NULL, k.expires_at_us = t0 + 31 * DAY;
	assert_int_equal(make_by(f, BY(admin), k, &reply), ERR_FORBIDDEN);
	assert_string_equal(f->why.field, "expires_at");
}

static void a_narrow_maker_makes_narrow_keys(void **state)
{
	struct fixture *f = *state;
	char *only_keys[] = { (char *)"keys.*" }, *all[] = { (char *)"*" }, *less[] = { (char *)"keys.read" };
	Corral__Key strong = wish(CORRAL__ROLE__ROLE_ADMIN, "maker"), *maker, k = wish(CORRAL__ROLE__ROLE_ADMIN, "");
	Corral__CreateKeyReply reply;

	strong.n_actions = 1, strong.actions = only_keys;
	maker = make(f, strong);
	k.n_actions = 1, k.actions = all;
	assert_int_equal(make_by(f, BY(maker), k, &reply), ERR_FORBIDDEN);
	k.actions = less;
	assert_int_equal(make_by(f, BY(maker), k, &reply), ERR_OK);
	assert_int_equal(make_by(f, BY(reply.key), k, &reply), ERR_FORBIDDEN);        /* it may only read keys */
}

static void nobody_rotates_into_more(void **state)
{
	struct fixture *f = *state;
	Corral__Key *owner = make(f, wish(CORRAL__ROLE__ROLE_OWNER, "")), *admin = make(f, wish(CORRAL__ROLE__ROLE_ADMIN, "")),
		    *user = make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	Corral__CreateKeyReply reply;
	bool changed;

	assert_int_equal(replace(f, BY(admin), owner->id, 60, &reply), ERR_FORBIDDEN);
	assert_int_equal(end_key(f, BY(admin), owner->id, &changed), ERR_FORBIDDEN);
	assert_int_equal(replace(f, BY(user), user->id, 60, &reply), ERR_FORBIDDEN);
	assert_int_equal(replace(f, BY(admin), user->id, 60, &reply), ERR_OK);
	assert_true(live(f, owner->id));
}

static void another_tenants_key_does_not_exist(void **state)
{
	struct fixture *f = *state;
	Corral__Key in_acme = wish(CORRAL__ROLE__ROLE_ADMIN, ""), *acme, *ours = make(f, wish(CORRAL__ROLE__ROLE_USER, "")), k = wish(CORRAL__ROLE__ROLE_USER, "");
	Corral__CreateKeyReply reply;
	struct why absent;
	bool changed;

	tenant(f, "acme");
	in_acme.tenant = (char *)"acme";
	acme = make(f, in_acme);
	assert_int_equal(end_key(f, BY(acme), ours->id, &changed), ERR_NOT_FOUND);
	absent = f->why;
	assert_int_equal(end_key(f, BY(acme), "nosuchkeynosuchk", &changed), ERR_NOT_FOUND);
	assert_int_equal(strlen(absent.text), strlen(f->why.text));
	assert_int_equal(make_by(f, BY(acme), k, &reply), ERR_OK);
	assert_string_equal(reply.key->tenant, "acme");
	k.tenant = (char *)"default";
	assert_int_equal(make_by(f, BY(acme), k, &reply), ERR_NOT_FOUND);
}

static void an_ended_key_makes_nothing(void **state)
{
	struct fixture *f = *state;
	Corral__Key *admin = make(f, wish(CORRAL__ROLE__ROLE_OWNER, "")), k;
	Corral__Tenant t = CORRAL__TENANT__INIT, *ret;
	Corral__CreateKeyReply reply;
	struct act a = OWNER;
	Corral__AuditQuery q = CORRAL__AUDIT_QUERY__INIT;
	Corral__AuditReply audited;
	bool changed;

	assert_int_equal(end_key(f, OWNER, admin->id, &changed), ERR_OK);
	assert_int_equal(make_by(f, BY(admin), wish(CORRAL__ROLE__ROLE_USER, ""), &reply), ERR_UNAUTHENTICATED);
	assert_int_equal(make_by(f, act_by(f, "nosuchkeynosuchk", CORRAL__ROLE__ROLE_OWNER), wish(CORRAL__ROLE__ROLE_USER, ""), &reply), ERR_UNAUTHENTICATED);
	assert_int_equal(make_by(f, act_by(f, "", CORRAL__ROLE__ROLE_USER), wish(CORRAL__ROLE__ROLE_USER, ""), &reply), ERR_FORBIDDEN);
	assert_int_equal(make_by(f, act_by(f, "", CORRAL__ROLE__ROLE_NONE), wish(CORRAL__ROLE__ROLE_USER, ""), &reply), ERR_FORBIDDEN);
	assert_string_equal(last(f)->actor, "anonymous");
	t.name = (char *)"acme";
	t.suspended = true;
	assert_int_equal(tenant_put(&a, &t, true, &ret, &f->why), ERR_OK);
	k = wish(CORRAL__ROLE__ROLE_ADMIN, "");
	k.tenant = (char *)"acme";
	admin = make(f, k);
	assert_int_equal(make_by(f, BY(admin), wish(CORRAL__ROLE__ROLE_USER, ""), &reply), ERR_FORBIDDEN);
	assert_string_equal(last(f)->outcome, "refused");
	assert_string_equal(last(f)->actor, admin->id);
	assert_string_equal(last(f)->tenant, "acme");
	assert_string_equal(last(f)->role, "admin");
	q.caller = caller(f, admin->id, CORRAL__ROLE__ROLE_ADMIN);
	assert_int_equal(audit_query(f->s, &q, f->now_us, f->mem, &audited, &f->why), ERR_FORBIDDEN);
	assert_string_equal(last(f)->action, "audit.read");
	assert_string_equal(last(f)->outcome, "refused");
	assert_string_equal(last(f)->tenant, "acme");
}

static void patterns_lie_within_patterns(void **state)
{
	static const struct { const char *inner, *outer; bool within; } cases[] = {
		{ "a", "a", true }, { "a", "*", true }, { "*", "a", false }, { "*", "*", true }, { "models.*", "*", true }, { "models.*", "models.*", true },
		{ "models.read", "models.*", true }, { "models.*", "models.read", false }, { "a*", "a*b", false }, { "a*b", "a*", true }, { "a*b", "*b", true },
		{ "ab", "a*b", true }, { "*a*", "*", true }, { "*", "**", true }, { "", "*", true }, { "a", "", false }, { "a*c", "a*b*c", false },
		{ "axbyc", "a*b*c", true }, { "a*b*c", "a*c", true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (pattern_within(str_of(cases[i].inner), str_of(cases[i].outer)) != cases[i].within)
			fail_msg("'%s' in '%s'", cases[i].inner, cases[i].outer);
}

/* --- tenants --- */

static void tenants_come_change_and_go(void **state)
{
	struct fixture *f = *state;
	Corral__Tenant t = CORRAL__TENANT__INIT, *ret;
	Corral__ListTenantsReply all;
	struct act a = OWNER;
	Corral__Key k = wish(CORRAL__ROLE__ROLE_USER, ""), *made;
	char *teams[] = { (char *)"red" };
	bool changed;

	t.name = (char *)"acme";
	t.n_teams = 1, t.teams = teams;
	assert_int_equal(tenant_put(&a, &t, true, &ret, &f->why), ERR_OK);
	assert_int_equal(a.delta.n_put_tenants, 1);
	a = OWNER, f->now_us += SECOND, a.now_us = f->now_us;
	assert_int_equal(tenant_put(&a, &t, true, &ret, &f->why), ERR_CONFLICT);
	t.suspended = true;
	assert_int_equal(tenant_put(&a, &t, false, &ret, &f->why), ERR_OK);
	assert_int_equal(ret->created_at_us, t0);
	k.tenant = (char *)"acme", k.team = (char *)"red";
	made = make(f, k);
	assert_int_equal(tenant_delete(&a, STR("acme"), &f->why), ERR_CONFLICT);
	assert_int_equal(end_key(f, OWNER, made->id, &changed), ERR_OK);
	assert_int_equal(tenant_delete(&a, STR("acme"), &f->why), ERR_OK);
	assert_string_equal(a.delta.del_tenants[0], "acme");
	assert_int_equal(tenant_delete(&a, STR("acme"), &f->why), ERR_NOT_FOUND);
	assert_int_equal(tenant_delete(&a, STR("default"), &f->why), ERR_CONFLICT);
	assert_int_equal(tenants_list(&a, &all, &f->why), ERR_OK);
	assert_int_equal(all.n_tenants, 1);
	a = act_by(f, "", CORRAL__ROLE__ROLE_ADMIN);
	assert_int_equal(tenant_put(&a, &t, false, &ret, &f->why), ERR_FORBIDDEN);
	for (const char *const *p = (const char *const[]){ "", "A", "-a", "a b", "ä", NULL }; *p; p++) {
		a = OWNER;
		t.name = (char *)*p;
		assert_int_equal(tenant_put(&a, &t, false, &ret, &f->why), ERR_INVALID);
	}
}

/* --- the audit log --- */

/* As a gateway's shipper sends them: from 'first' of its spool to where the cursor is then. */
static enum err tell(struct fixture *f, const char *source, uint64_t epoch, uint64_t first, Corral__AccessFact *const *facts, unsigned n, uint64_t *ret,
		     unsigned *ret_bad)
{
	Corral__FactBatch b = CORRAL__FACT_BATCH__INIT;
	ProtobufCBinaryData records[16];

	for (unsigned i = 0; i < n; i++) {
		records[i].len = corral__access_fact__get_packed_size(facts[i]);
		records[i].data = arena_alloc(f->mem, records[i].len + 1);
		corral__access_fact__pack(facts[i], records[i].data);
	}
	b.topic = (char *)FACTS_TOPIC;
	b.source = (char *)source;
	b.epoch = epoch;
	b.first = first;
	b.next = first + 100 * n;
	b.records = records;
	b.n_records = n;
	return facts_take(f->s, &b, f->now_us, ret, ret_bad, &f->why);
}

static void lines(struct fixture *f, unsigned n)
{
	Corral__AuditEntry e = CORRAL__AUDIT_ENTRY__INIT;
	Corral__AccessFact fact = CORRAL__ACCESS_FACT__INIT, *list[1] = { &fact };
	uint64_t at;
	unsigned bad;

	e.actor = (char *)"gateway";
	e.action = (char *)"models.manage";
	e.outcome = (char *)"refused";
	e.detail = (char *)"{}";
	fact.entry = &e;
	assert_int_equal(facts_cursor(f->s, "g/trail-0", &at, &f->why), ERR_OK);
	for (unsigned i = 0; i < n; i++) {
		e.at_us = f->now_us + i;
		assert_int_equal(tell(f, "g/trail-0", 1, at, list, 1, &at, &bad), ERR_OK);
		assert_int_equal(bad, 0);
	}
}

static void the_log_is_asked_by_range_actor_and_action(void **state)
{
	struct fixture *f = *state;
	Corral__AuditQuery q = CORRAL__AUDIT_QUERY__INIT;
	Corral__AuditReply r;
	unsigned seen = 0;

	make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	lines(f, 25);
	assert_int_equal(audit(f, "keys.create").n_entries, 1);
	assert_int_equal(audit(f, "keys.*").n_entries, 1);
	assert_int_equal(audit(f, "models.*").n_entries, 25);
	assert_int_equal(audit(f, "keys.creat").n_entries, 0);
	assert_int_equal(audit(f, "*").n_entries, 26);
	q.caller = caller(f, "", CORRAL__ROLE__ROLE_AUDITOR);
	q.actor = (char *)"gateway";
	q.from_us = t0 + 5;
	q.to_us = t0 + 20;
	q.limit = 10;
	do {
		assert_int_equal(audit_query(f->s, &q, f->now_us, f->mem, &r, &f->why), ERR_OK);
		seen += (unsigned)r.n_entries;
		q.after_seq = r.next_seq;
	} while (r.next_seq);
	assert_int_equal(seen, 15);
	q.caller->role = CORRAL__ROLE__ROLE_USER;
	assert_int_equal(audit_query(f->s, &q, f->now_us, f->mem, &r, &f->why), ERR_FORBIDDEN);
}

static void a_line_of_others_is_checked(void **state)
{
	struct fixture *f = *state;
	Corral__AuditEntry good = CORRAL__AUDIT_ENTRY__INIT, bad = CORRAL__AUDIT_ENTRY__INIT;
	Corral__AccessFact one = CORRAL__ACCESS_FACT__INIT, two = CORRAL__ACCESS_FACT__INIT, none = CORRAL__ACCESS_FACT__INIT, *list[] = { &two, &none, &one };
	unsigned n_bad;
	uint64_t at;

	good.actor = good.action = good.outcome = (char *)"x";
	one.entry = &good;
	two.entry = &bad;
	assert_int_equal(tell(f, "g", 1, 0, list, 3, &at, &n_bad), ERR_OK);
	assert_int_equal(n_bad, 2);
	assert_int_equal(audit(f, "").n_entries, 1);          /* what cannot be kept does not hold up the rest */
}

/* However often, and in whatever pieces, a gateway sends what is in its spool. */
static void facts_are_taken_once(void **state)
{
	struct fixture *f = *state;
	Corral__AuditEntry e = CORRAL__AUDIT_ENTRY__INIT;
	Corral__AccessFact fact = CORRAL__ACCESS_FACT__INIT, *list[] = { &fact, &fact, &fact };
	unsigned bad;
	uint64_t at;

	e.actor = e.action = e.outcome = (char *)"x";
	fact.entry = &e;
	assert_int_equal(tell(f, "g", 5, 0, list, 3, &at, &bad), ERR_OK);
	assert_int_equal(at, 300);
	assert_int_equal(tell(f, "g", 5, 0, list, 3, &at, &bad), ERR_OK);      /* its answer was lost, and it says it again */
	assert_int_equal(at, 300);
	assert_int_equal(tell(f, "g", 5, 200, list, 2, &at, &bad), ERR_OK);
	assert_int_equal(at, 300);
	assert_int_equal(audit(f, "").n_entries, 3);
	assert_int_equal(tell(f, "g", 4, 300, list, 1, &at, &bad), ERR_OK);    /* of a run before */
	assert_int_equal(at, 300);
	assert_int_equal(tell(f, "g", 6, 300, list, 1, &at, &bad), ERR_OK);
	assert_int_equal(at, 400);
	assert_int_equal(tell(f, "other", 1, 0, list, 1, &at, &bad), ERR_OK);
	assert_int_equal(audit(f, "").n_entries, 5);
	assert_true(verify(f, 7).ok);
}

static void hands_in_the_log_are_noticed(void **state)
{
	static const struct { const char *name, *sql; uint64_t broken; } cases[] = {
		{ "a text changed", "UPDATE audit SET object = 'other' WHERE seq = 7", 7 },
		{ "a time changed", "UPDATE audit SET at_us = at_us + 1 WHERE seq = 1", 1 },
		{ "text moved between fields", "UPDATE audit SET actor = 'gatewaymodels', action = '.manage' WHERE seq = 9", 9 },
		{ "text behind a zero byte", "UPDATE audit SET detail = detail || char(0) || 'x' WHERE seq = 4", 4 },
		{ "a hash changed", "UPDATE audit SET hash = x'0000000000000000000000000000000000000000000000000000000000000000' WHERE seq = 5", 5 },
		{ "one removed", "DELETE FROM audit WHERE seq = 6", 6 },
		{ "the first removed", "DELETE FROM audit WHERE seq = 1", 1 },
		{ "the last removed", "DELETE FROM audit WHERE seq = 20", 20 },
		{ "all removed", "DELETE FROM audit", 1 },
		{ "two exchanged", "UPDATE audit SET seq = CASE seq WHEN 3 THEN -4 WHEN 4 THEN -3 END WHERE seq IN (3, 4)", 3 },
		{ "the head set back", "UPDATE audit_head SET seq = 19", 20 },
		{ "one added", "INSERT INTO audit SELECT 21, at_us, actor, role, tenant, address, action, object, outcome, detail, request_id, hash FROM audit WHERE seq = 20", 21 },
	};
	struct fixture *f = *state;

	lines(f, 20);
	assert_true(verify(f, 7).ok);
	assert_int_equal(verify(f, 1).entries, 20);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		Corral__AuditVerifyReply r;

		if (test_db_is_server() && strstr(cases[i].sql, "char(0)"))      /* it keeps no such text */
			continue;
		sql(f, "CREATE TABLE kept AS SELECT * FROM audit");
		sql(f, "CREATE TABLE kept_head AS SELECT * FROM audit_head");
		sql(f, cases[i].sql);
		sql(f, "UPDATE audit SET seq = -seq WHERE seq < 0");
		r = verify(f, 7);
		if (r.ok || r.broken_seq != cases[i].broken)
			fail_msg("%s: %s (%llu)", cases[i].name, r.text, (unsigned long long)r.broken_seq);
		sql(f, "DELETE FROM audit");
		sql(f, "INSERT INTO audit SELECT * FROM kept");
		sql(f, "DELETE FROM audit_head");
		sql(f, "INSERT INTO audit_head SELECT * FROM kept_head");
		sql(f, "DROP TABLE kept");
		sql(f, "DROP TABLE kept_head");
		assert_true(verify(f, 1000).ok);
	}
}

/* Somebody cut the log and set its head to match: only a head remembered elsewhere tells. */
static void a_shortened_log_is_told_by_a_remembered_head(void **state)
{
	struct fixture *f = *state;
	struct audit_head head;
	Corral__AuditVerifyReply r;

	SKIP_ON_SERVER();
	lines(f, 20);
	assert_true(audit_head(f->s, &head, &f->why));
	assert_int_equal(access_verify_file(f->path, head.seq, head.hash, f->mem, &r, &f->why), ERR_OK);
	assert_true(r.ok);
	sql(f, "DELETE FROM audit WHERE seq > 15");
	sql(f, "UPDATE audit_head SET seq = 15, hash = (SELECT hash FROM audit WHERE seq = 15)");
	assert_true(verify(f, 1000).ok);
	assert_int_equal(access_verify_file(f->path, head.seq, head.hash, f->mem, &r, &f->why), ERR_OK);
	assert_false(r.ok);
	assert_int_equal(r.broken_seq, 16);
	lines(f, 10);                                         /* and it grew again */
	assert_int_equal(access_verify_file(f->path, head.seq, head.hash, f->mem, &r, &f->why), ERR_OK);
	assert_false(r.ok);
	assert_int_equal(r.broken_seq, 20);
}

/* --- faults --- */

static void one_process_holds_the_store(void **state)
{
	struct fixture *f = *state;
	Corral__CreateKeyReply reply;
	Corral__AuditVerifyReply r;
	struct { const char *db, *file; int64_t checkpoint; } cfg = { f->url, "", 0 };
	Corral__Key k = wish(CORRAL__ROLE__ROLE_OWNER, "first");
	struct db_writer *writer = test_db_is_server() ? db_writer_open(f->url, "the service", NULL, &f->why) : NULL;
	const char *other;

	if (writer) {                     /* a server's is the writer's */
		assert_int_equal(db_writer_try(writer, &other, &f->why), DB_WRITER_MINE);
	} else {
		assert_null(access_store_open(f->url, &f->why));
		assert_int_equal(f->why.code, ERR_CONFLICT);
		assert_non_null(strstr(f->why.text, "in use by another process"));
		assert_int_equal(access_verify_file(f->path, 0, NULL, f->mem, &r, &f->why), ERR_OK);
		assert_true(r.ok);
	}
	assert_int_equal(access_make_key(&cfg, f->dir, &k, f->mem, &reply, &f->why), ERR_CONFLICT);
	assert_non_null(strstr(f->why.text, "in use by another process"));
	access_store_close(f->s);
	f->s = NULL;
	db_writer_free(writer);
	assert_int_equal(access_make_key(&cfg, f->dir, &k, f->mem, &reply, &f->why), ERR_OK);
	reopen(f);
	assert_true(live(f, reply.key->id));
	assert_string_equal(last(f)->address, "command line");
}

static void a_lock_in_the_database_fails_the_act_alone(void **state)
{
	struct fixture *f = *state;
	struct access_store *other;
	Corral__CreateKeyReply reply;

	SKIP_ON_SERVER();
	other = access_store_peek(f->url, &f->why);
	assert_non_null(other);
	assert_true(db_begin(access_db(other), &f->why));
	assert_int_equal(make_by(f, OWNER, wish(CORRAL__ROLE__ROLE_USER, "ci"), &reply), ERR_STORE_FAILED);
	db_rollback(access_db(other));
	access_store_close(other);
	assert_int_equal(list(f, true).n_keys, 0);
	make(f, wish(CORRAL__ROLE__ROLE_USER, "ci"));
	assert_true(verify(f, 100).ok);
}

/* Every key has its line, every line its key. */
static void books_agree(struct fixture *f)
{
	Corral__ListKeysReply keys = list(f, true);
	Corral__AuditReply made = audit(f, "keys.create");
	Corral__AuditVerifyReply r = verify(f, 100);
	size_t ok = 0;

	if (!r.ok)
		fail_msg("%s", r.text);
	for (size_t i = 0; i < made.n_entries; i++) {
		struct key_row row;

		if (strcmp(made.entries[i]->outcome, "ok") != 0)
			continue;
		ok++;
		assert_int_equal(key_get(f->s, f->mem, str_of(made.entries[i]->object), &row, &f->why), ERR_OK);
	}
	assert_int_equal(keys.n_keys, ok);
}

static void a_full_disk_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, low;
	Corral__CreateKeyReply reply;
	unsigned made = 0, failed = 0;

	SKIP_ON_SERVER();
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = (struct rlimit){ 300 << 10, old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &low);
	for (int i = 0; i < 200 && failed < 5; i++) {
		enum err e = make_by(f, OWNER, wish(CORRAL__ROLE__ROLE_USER, ""), &reply);

		made += e == ERR_OK;
		failed += e == ERR_STORE_FAILED;
		assert_true(e == ERR_OK || e == ERR_STORE_FAILED);
	}
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(failed, 5);
	assert_int_equal(list(f, true).n_keys, made);
	make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	books_agree(f);
}

/* The child makes and ends keys until a write kills it; whatever was written, the books agree afterwards. */
static void act_until_killed(struct fixture *f, int writes)
{
	bool changed;

	reopen(f);
	writes_until_kill = writes;
	for (int i = 0;; i++) {
		Corral__Key *k = make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
		Corral__CreateKeyReply reply;

		if (i % 3 == 1)
			end_key(f, OWNER, k->id, &changed);
		if (i % 3 == 2)
			replace(f, OWNER, k->id, 60, &reply);
	}
}

/* A process of its own does that until it is killed at this write. */
static void killed_in(struct fixture *f, void (*deed)(struct fixture *, int writes), int writes)
{
	pid_t child;
	int status;

	access_store_close(f->s);
	f->s = NULL;
	child = fork();
	if (child == 0)
		deed(f, writes);
	if (test_db_is_server()) {                /* it writes elsewhere: at any time instead */
		usleep((useconds_t)writes * 3000);
		kill(child, SIGKILL);
	}
	waitpid(child, &status, 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	reopen(f);
}

static void kill_9_parts_no_act_from_its_line(void **state)
{
	struct fixture *f = *state;

	for (int writes = 1; writes < 120; writes += 3) {
		killed_in(f, act_until_killed, writes);
		if (writes % 15 == 1) {
			Corral__AuditVerifyReply r = verify(f, 1000);

			if (!r.ok)
				fail_msg("after %d writes: %s", writes, r.text);
		}
		arena_reset(f->mem);
	}
	assert_true(verify(f, 1000).ok);
	assert_int_equal(count(f, "SELECT id FROM keys WHERE id NOT IN (SELECT object FROM audit WHERE outcome = 'ok')"), 0);
	assert_int_equal(count(f, "SELECT object FROM audit WHERE action = 'keys.create' AND object NOT IN (SELECT id FROM keys)"), 0);
	assert_int_equal(count(f, "SELECT id FROM keys WHERE ended_us > 0"), count(f, "SELECT seq FROM audit WHERE action = 'keys.revoke'"));
	assert_true(list(f, true).n_keys > 20);
}

/* --- the first key --- */

static void file_write(const char *path, const char *text)
{
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	fputs(text, out);
	assert_int_equal(fclose(out), 0);
}

static void the_bootstrap_key_is_installed_once(void **state)
{
	struct fixture *f = *state;
	char text[APIKEY_TEXT + 1], id[APIKEY_ID + 1], second[APIKEY_TEXT + 1], id2[APIKEY_ID + 1], path[128], with_newline[APIKEY_TEXT + 3];
	uint8_t hash[SHA256_BYTES];
	struct key_row row;
	const char *note;
	bool changed;

	snprintf(path, sizeof(path), "%s/key", f->dir);
	assert_false(key_bootstrap(f->s, path, t0, &note, &f->why));
	assert_non_null(strstr(f->why.text, "cannot be read"));
	file_write(path, "a secret of more than thirty-two characters\n");
	assert_false(key_bootstrap(f->s, path, t0, &note, &f->why));
	assert_non_null(strstr(f->why.text, "corral keys generate"));
	assert_null(strstr(f->why.text, "a secret"));
	apikey_make(text, id, hash);
	snprintf(with_newline, sizeof(with_newline), " %s\n", text);
	file_write(path, with_newline);
	for (int i = 0; i < 3; i++)
		assert_true(key_bootstrap(f->s, path, t0, &note, &f->why));
	assert_int_equal(key_get(f->s, f->mem, str_of(id), &row, &f->why), ERR_OK);
	assert_int_equal(row.key->role, CORRAL__ROLE__ROLE_OWNER);
	assert_memory_equal(row.key->hash.data, hash, SHA256_BYTES);
	assert_int_equal(audit(f, "keys.create").n_entries, 1);
	assert_string_equal(last(f)->actor, "system");
	/* there is an owner: another file changes nothing */
	apikey_make(second, id2, hash);
	file_write(path, second);
	assert_true(key_bootstrap(f->s, path, t0, &note, &f->why));
	assert_int_equal(key_get(f->s, f->mem, str_of(id2), &row, &f->why), ERR_NOT_FOUND);
	/* revoked is revoked, also when no owner is left */
	assert_int_equal(end_key(f, OWNER, id, &changed), ERR_OK);
	file_write(path, text);
	assert_true(key_bootstrap(f->s, path, t0, &note, &f->why));
	assert_false(live(f, id));
	file_write(path, second);
	assert_true(key_bootstrap(f->s, path, t0, &note, &f->why));
	assert_true(live(f, id2));
}

/* --- what gateways hear --- */

static Corral__AccessSnapshot *heard(struct fixture *f, struct news *w)
{
	struct str whole = news_whole(w);
	Corral__AccessSnapshot *s = access_unpack(f->mem, &corral__access_snapshot__descriptor, arena_str(f->mem, whole));

	assert_non_null(s);
	return s;
}

static void gateways_hear_live_keys_without_what_they_need_not(void **state)
{
	struct fixture *f = *state;
	struct news *w = news_new(f->s, NULL, t0, &f->why);
	Corral__Key k = wish(CORRAL__ROLE__ROLE_USER, "ci"), *first, *second;
	Corral__AccessSnapshot *s;
	bool changed;

	assert_int_equal(heard(f, w)->n_tenants, 1);
	k.expires_at_us = t0 + DAY;
	first = make(f, k);
	news_tell(w, &f->delta);
	second = make(f, wish(CORRAL__ROLE__ROLE_ADMIN, ""));
	news_tell(w, &f->delta);
	s = heard(f, w);
	assert_int_equal(s->n_keys, 2);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(s->keys[i]->hash.len, SHA256_BYTES);
		assert_string_equal(s->keys[i]->name, "");
		assert_string_equal(s->keys[i]->created_by, "");
	}
	assert_int_equal(end_key(f, OWNER, second->id, &changed), ERR_OK);
	news_tell(w, &f->delta);
	s = heard(f, w);
	assert_int_equal(s->n_keys, 1);
	assert_string_equal(s->keys[0]->id, first->id);
	news_time(w, t0 + DAY);
	assert_int_equal(heard(f, w)->n_keys, 0);
	news_time(w, t0);                                     /* the clock was wrong */
	assert_int_equal(heard(f, w)->n_keys, 1);
	news_free(w);
}

/* --- many keys --- */

static void many_keys(struct fixture *f, unsigned n)
{
	char *models[] = { (char *)"small-*" }, id[APIKEY_ID + 1];
	uint8_t hash[SHA256_BYTES];
	Corral__Key k = CORRAL__KEY__INIT;

	k.id = id;
	k.hash = (ProtobufCBinaryData){ SHA256_BYTES, hash };
	k.tenant = (char *)"default";
	k.user = (char *)"somebody@example.org";
	k.name = (char *)"a key with a name";
	k.created_by = (char *)"loopback";
	k.role = CORRAL__ROLE__ROLE_USER;
	k.created_at_us = t0;
	k.expires_at_us = t0 + 365 * DAY;
	k.n_models = 1, k.models = models;
	assert_true(db_begin(access_db(f->s), &f->why));
	for (unsigned i = 0; i < n; i++) {
		snprintf(id, sizeof(id), "%016u", i);
		sha256(str_of(id), hash);
		struct db_value p[] = { DB_Z(id), DB_B(str_n((char *)hash, SHA256_BYTES)), DB_Z(k.tenant), DB_Z(k.name), DB_I(k.role), DB_I(k.created_at_us),
					DB_I(k.expires_at_us), DB_Z(""), DB_B(access_pack(f->mem, &k.base)) };

		assert_true(access_run(f->s, A_KEY_ADD, p, 9, NULL, NULL, &f->why));
		arena_reset(f->mem);
	}
	assert_true(db_commit(access_db(f->s), &f->why));
}

/* ACCESS_TEST_KEYS=100000 for the figures of docs/proofs.md. */
static void one_revocation_among_many_is_small_news(void **state)
{
	struct fixture *f = *state;
	const char *wanted = getenv("ACCESS_TEST_KEYS");
	uint64_t n = 5000;
	struct news *w;
	int64_t began_us, built_us, ended_us;
	size_t whole;
	bool changed;

	if (wanted)
		assert_true(str_u64(str_of(wanted), &n));
	many_keys(f, (unsigned)n);
	began_us = mono_us();
	w = news_new(f->s, NULL, t0, &f->why);
	built_us = mono_us();
	whole = news_last_bytes(w);
	assert_true(whole > n * 80);
	assert_int_equal(end_key(f, OWNER, "0000000000001234", &changed), ERR_OK);
	news_tell(w, &f->delta);
	ended_us = mono_us();
	assert_true(news_last_bytes(w) < 32);
	print_message("%llu keys: whole %zu bytes, made in %.1f ms; a revocation %zu bytes, %.2f ms\n", (unsigned long long)n, whole,
		      (double)(built_us - began_us) / 1e3, news_last_bytes(w), (double)(ended_us - built_us) / 1e3);
	assert_int_equal(heard(f, w)->n_keys, n - 1);
	news_free(w);
}

/* A subscriber that asks while the store is broken must not get the revoked key back. */
static void what_was_revoked_stays_away_when_the_store_breaks(void **state)
{
	struct fixture *f = *state;
	Corral__Key *gone = make(f, wish(CORRAL__ROLE__ROLE_USER, "")), *stays = make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	struct news *w = news_new(f->s, NULL, t0, &f->why);
	Corral__AccessSnapshot *s;
	uint64_t version;
	bool changed;

	assert_int_equal(end_key(f, OWNER, gone->id, &changed), ERR_OK);
	news_tell(w, &f->delta);
	sql(f, "ALTER TABLE tenants RENAME TO away");
	s = heard(f, w);
	assert_int_equal(s->n_keys, 1);
	assert_string_equal(s->keys[0]->id, stays->id);
	assert_int_equal(s->n_tenants, 1);
	sql(f, "ALTER TABLE away RENAME TO tenants");
	version = news_version(w);
	assert_int_equal(heard(f, w)->n_keys, 1);             /* another one asks first */
	news_time(w, t0);
	assert_true(news_version(w) > version);               /* those who got less hear all again */
	version = news_version(w);
	news_time(w, t0);
	assert_true(news_version(w) == version);
	news_free(w);
}

/* The key is revoked, and the answer to that is lost: whoever revokes it again is told that it is done. */
static void what_may_have_been_done_is_published(void **state)
{
	struct fixture *f = *state;
	Corral__Key *gone = make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	struct news *w = news_new(f->s, NULL, t0, &f->why);
	uint64_t version = news_version(w);
	bool changed;

	assert_int_equal(end_key(f, OWNER, gone->id, &changed), ERR_OK);
	assert_false(f->unsure);
	assert_int_equal(heard(f, w)->n_keys, 1);             /* nobody was told */
	news_doubt(w);
	news_time(w, t0);
	assert_true(news_version(w) > version);
	assert_int_equal(heard(f, w)->n_keys, 0);
	news_free(w);
}

static void a_commit_that_fails_is_unsure(void **state)
{
	struct fixture *f;
	Corral__Key *k;
	bool changed;

	SKIP_ON_SERVER();
	f = *state;
	k = make(f, wish(CORRAL__ROLE__ROLE_USER, ""));
	sql(f, "CREATE TABLE there (i INTEGER PRIMARY KEY)");
	sql(f, "CREATE TABLE asks (i INTEGER REFERENCES there DEFERRABLE INITIALLY DEFERRED)");
	sql(f, "CREATE TRIGGER asks_late AFTER UPDATE ON keys BEGIN INSERT INTO asks VALUES (1); END");
	assert_int_not_equal(end_key(f, OWNER, k->id, &changed), ERR_OK);
	assert_true(f->unsure);
	sql(f, "DROP TRIGGER asks_late");
	assert_int_equal(end_key(f, OWNER, k->id, &changed), ERR_OK);
	assert_true(changed && !f->unsure);
}

/* --- the log for others --- */

struct voice { struct herald *h; struct teller *t; };

static struct voice voice_of(struct fixture *f)
{
	const struct herald_opts o = { .root = arena_printf(f->mem, "%s/spool", f->dir), .service = "access", .name = "audit", .topic = "audit.v1" };
	struct voice v = { .h = herald_new(NULL, &o) };

	v.t = teller_new(f->s, v.h);
	return v;
}

static void voice_end(struct voice *v)
{
	teller_free(v->t);
	herald_free(v->h);
}

static int64_t told(struct fixture *f)
{
	return count(f, "SELECT seq FROM audit WHERE seq <= (SELECT seq FROM audit_told)");
}

static void tell_once(struct fixture *f, struct voice *v)
{
	bool more = true;

	while (more)
		assert_true(teller_tell(v->t, &more, &f->why));
}

/* Until audit_told says so. */
static void tell_all(struct fixture *f)
{
	struct voice v = voice_of(f);

	for (int i = 0; i < 2000 && (tell_once(f, &v), told(f) < count(f, "SELECT seq FROM audit")); i++)
		usleep(10000);            /* for the spool's own thread to bring it to the disk */
	assert_int_equal(told(f), count(f, "SELECT seq FROM audit"));
	voice_end(&v);
}

/* The events in the spool, in their order. */
static size_t events(struct fixture *f, Corral__AuditEvent **ret, size_t most)
{
	struct spool_reader *r = spool_reader_open(arena_printf(f->mem, "%s/spool/audit-0", f->dir), 0, &f->why);
	struct str payload;
	uint64_t at, next;
	uint8_t type;
	size_t n = 0;

	assert_non_null(r);
	while (spool_read(r, &type, &payload, &at, &next, &f->why) > 0) {
		assert_true(n < most);
		ret[n] = access_unpack(f->mem, &corral__audit_event__descriptor, payload);
		assert_non_null(ret[n]);
		assert_int_equal(ret[n++]->event_id.len, 16);
	}
	spool_reader_close(r);
	return n;
}

static void is_entry(const Corral__AuditEvent *v, const Corral__AuditEntry *e)
{
	assert_int_equal(v->seq, e->seq);
	assert_int_equal(v->occurred_at_us, e->at_us);
	const char *const pairs[][2] = { { v->actor, e->actor }, { v->role, e->role }, { v->tenant, e->tenant }, { v->address, e->address }, { v->action, e->action },
					 { v->object, e->object }, { v->outcome, e->outcome }, { v->detail, e->detail }, { v->request_id, e->request_id } };
	for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
		assert_string_equal(pairs[i][0], pairs[i][1]);
	assert_int_equal(v->hash.len, e->hash.len);
	assert_memory_equal(v->hash.data, e->hash.data, e->hash.len);
}

static void every_entry_is_told_as_it_is_asked(void **state)
{
	enum { MOST = 64 };
	struct fixture *f = *state;
	Corral__AuditEvent *v[MOST];
	Corral__AuditReply all;
	Corral__CreateKeyReply reply;
	bool changed;

	assert_int_equal(make_by(f, OWNER, wish(CORRAL__ROLE__ROLE_ADMIN, "first"), &reply), ERR_OK);
	assert_int_equal(end_key(f, OWNER, reply.key->id, &changed), ERR_OK);
	assert_int_not_equal(make_by(f, BY(reply.key), wish(CORRAL__ROLE__ROLE_USER, "second"), &reply), ERR_OK);
	tell_all(f);
	tell_all(f);                      /* by the next process: nothing is told twice */
	tenant(f, "other");
	tell_all(f);
	all = audit(f, "");
	assert_true(all.n_entries >= 4);
	assert_int_equal(events(f, v, MOST), all.n_entries);
	for (size_t i = 0; i < all.n_entries; i++) {
		struct bus_label label = { 0 };

		is_entry(v[i], all.entries[i]);
		assert_true(v[i]->event_id.data[6] >> 4 == 7 && v[i]->event_id.data[8] >> 6 == 2);
		teller_label(access_pack(f->mem, &v[i]->base), &label);
		assert_true(str_eq(label.key, str_of(v[i]->tenant)) && label.event_id.n == 16);
	}
	for (size_t i = 1; i < all.n_entries; i++)
		assert_memory_not_equal(v[i]->event_id.data, v[i - 1]->event_id.data, 16);
}

/* What is asked for is written down before it is found out to be nothing. */
static void a_long_text_is_cut_and_stops_nothing(void **state)
{
	enum { MOST = 16, LONG = 300 << 10 };
	struct fixture *f = *state;
	Corral__AuditEvent *v[MOST];
	Corral__Key k = wish(CORRAL__ROLE__ROLE_USER, "");
	Corral__CreateKeyReply reply;
	const Corral__AuditEntry *e;
	size_t n;

	k.tenant = arena_alloc(f->mem, LONG + 1);
	for (size_t i = 0; i < LONG; i++)
		k.tenant[i] = "\xe2\x82\xac"[i % 3];
	k.tenant[LONG] = '\0';
	assert_int_not_equal(make_by(f, OWNER, k, &reply), ERR_OK);
	e = last(f);
	assert_string_equal(e->action, "keys.create");
	assert_int_equal(strlen(e->object), 4095);        /* 4096, less what would be half a character */
	assert_true(str_utf8_valid(str_of(e->object)));
	tenant(f, "after");
	assert_true(verify(f, 3).ok);
	tell_all(f);
	n = events(f, v, MOST);
	assert_int_equal(n, count(f, "SELECT seq FROM audit"));
	assert_string_equal(v[n - 1]->object, "after");
}

/* One of before, or of another hand. */
static void an_entry_too_large_for_the_spool_stops_no_other(void **state)
{
	enum { MOST = 16 };
	struct fixture *f = *state;
	Corral__AuditEvent *v[MOST];
	size_t n;

	tenant(f, "one");
	if (test_db_is_server())
		sql(f, "UPDATE audit SET object = repeat('a', 300000) WHERE seq = (SELECT max(seq) FROM audit)");
	else
		sql(f, "UPDATE audit SET object = hex(zeroblob(150000)) WHERE seq = (SELECT max(seq) FROM audit)");
	tenant(f, "two");
	tell_all(f);
	n = events(f, v, MOST);
	assert_int_equal(n, count(f, "SELECT seq FROM audit") - 1);
	assert_string_equal(v[n - 1]->object, "two");
}

/* The spool keeps the newest of them, whatever goes through it. */
static void without_kafka_a_long_log_is_told_from_near_its_head(void **state)
{
	enum { ALL = 23000, NEWEST = 20000 };
	struct fixture *f = *state;
	Corral__AuditEvent **v = arena_array(f->mem, Corral__AuditEvent *, ALL + 10);

	sql(f, "DELETE FROM audit");
	sql(f, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 23000) "
	       "INSERT INTO audit SELECT i, i, 'a', '', '', '', 'x', '', 'ok', '', '', (SELECT hash FROM audit_head) FROM n");
	sql(f, "UPDATE audit_head SET seq = 23000");
	tell_all(f);
	assert_int_equal(events(f, v, ALL + 10), NEWEST);
	assert_int_equal(v[0]->seq, ALL - NEWEST + 1);
	tenant(f, "one");                         /* and from there on nothing is left out */
	tell_all(f);
	assert_int_equal(events(f, v, ALL + 10), NEWEST + 1);
}

static void who_takes_over_elsewhere_leaves_none_out(void **state)
{
	enum { MOST = 16 };
	struct fixture *f = *state;
	Corral__AuditEvent *first[MOST], *again[MOST];
	struct voice v = voice_of(f);
	size_t n;

	tenant(f, "one");
	tenant(f, "two");
	tell_once(f, &v);
	assert_int_equal(told(f), 0);             /* written, and not yet on the disk */
	n = events(f, first, MOST);
	voice_end(&v);
	v = voice_of(f);                          /* on the same machine: what lies there is not put there again */
	tell_once(f, &v);
	assert_int_equal(events(f, again, MOST), n);
	voice_end(&v);
	sql(f, "UPDATE audit_told SET seq = 0");
	nftw(arena_printf(f->mem, "%s/spool", f->dir), remove_one, 16, FTW_DEPTH | FTW_PHYS);
	tell_all(f);                              /* on another */
	assert_int_equal(events(f, again, MOST), n);
	for (size_t i = 0; i < n; i++)
		assert_memory_equal(first[i]->event_id.data, again[i]->event_id.data, 16);
	sql(f, "UPDATE audit_told SET seq = 0");
	sql(f, "UPDATE audit SET hash = x'00' WHERE seq = (SELECT max(seq) FROM audit)");     /* the spool is of another log than this one */
	tell_all(f);
	assert_int_equal(events(f, again, MOST), 2 * n);
}

static _Noreturn void tell_until_killed(struct fixture *f, int writes)
{
	struct voice v;

	reopen(f);
	v = voice_of(f);
	writes_until_kill = writes;
	for (int i = 0;; i++) {
		tenant(f, arena_printf(f->mem, "t%d-%d", writes, i));
		tell_once(f, &v);
		usleep(3000);
	}
}

static void kill_9_between_the_deed_and_its_telling_loses_none(void **state)
{
	enum { MOST = 20000 };
	struct fixture *f = *state;
	Corral__AuditEvent **v = arena_array(f->mem, Corral__AuditEvent *, MOST);
	size_t n, entries, seen = 0;

	for (int writes = 1; writes < 150; writes += 7)
		killed_in(f, tell_until_killed, writes);
	tell_all(f);
	entries = (size_t)count(f, "SELECT seq FROM audit");
	assert_true(entries > 30);
	n = events(f, v, MOST);
	Corral__AuditEvent **of = arena_array(f->mem, Corral__AuditEvent *, entries + 1);
	for (size_t i = 0; i <= entries; i++)
		of[i] = NULL;
	for (size_t i = 0; i < n; i++) {
		assert_in_range(v[i]->seq, 1, entries);
		if (of[v[i]->seq])
			assert_memory_equal(of[v[i]->seq]->event_id.data, v[i]->event_id.data, 16);
		else
			seen++;
		of[v[i]->seq] = v[i];
	}
	assert_int_equal(seen, entries);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_key_is_made_once_and_kept_as_a_hash),
		T(no_secret_is_in_the_store),
		T(a_name_is_used_once_in_a_tenant),
		T(what_is_no_key_is_refused),
		T(a_key_ends_when_its_time_is_over_and_not_by_a_wrong_clock),
		T(a_revoked_key_stays_revoked),
		T(a_rotated_key_lives_on_for_the_overlap),
		T(the_overlap_lengthens_no_life),
		T(keys_are_listed_in_pages), T(when_a_key_was_used_is_in_the_list), T(limits_are_changed_within_ones_own),
		T(a_key_is_no_stronger_than_its_maker),
		T(a_narrow_maker_makes_narrow_keys),
		T(nobody_rotates_into_more),
		T(another_tenants_key_does_not_exist),
		T(an_ended_key_makes_nothing),
		T(patterns_lie_within_patterns),
		T(tenants_come_change_and_go),
		T(the_log_is_asked_by_range_actor_and_action),
		T(a_line_of_others_is_checked), T(facts_are_taken_once),
		T(hands_in_the_log_are_noticed),
		T(a_shortened_log_is_told_by_a_remembered_head),
		T(one_process_holds_the_store),
		T(a_lock_in_the_database_fails_the_act_alone),
		T(a_full_disk_changes_nothing),
		T(kill_9_parts_no_act_from_its_line),
		T(the_bootstrap_key_is_installed_once),
		T(gateways_hear_live_keys_without_what_they_need_not),
		T(one_revocation_among_many_is_small_news),
		T(what_was_revoked_stays_away_when_the_store_breaks),
		T(what_may_have_been_done_is_published), T(a_commit_that_fails_is_unsure),
		T(every_entry_is_told_as_it_is_asked), T(a_long_text_is_cut_and_stops_nothing),
		T(an_entry_too_large_for_the_spool_stops_no_other), T(without_kafka_a_long_log_is_told_from_near_its_head),
		T(who_takes_over_elsewhere_leaves_none_out), T(kill_9_between_the_deed_and_its_telling_loses_none),
	};

	clock_init();
	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
