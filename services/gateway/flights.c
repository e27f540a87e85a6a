/* flights.c - see flights.h. One lock; it is held for a look at a short chain. */
#include "services/gateway/flights.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/list.h"

enum { BUCKETS = 1024, FOLLOWERS_MOST = 4096 };
enum place_state { LEADS, FOLLOWS, TOLD /* news are on their way */ };

struct flight {
	struct flight *next;
	uint8_t key[CACHE_KEY_BYTES];
	struct list followers;        /* who waits longest is first */
	unsigned n;
};

struct flight_place {
	struct list node;             /* among the followers */
	struct list all;
	struct flights *flights;
	struct flight *flight;        /* NULL once it has landed */
	struct loop *loop;
	flight_fn *fn;
	void *arg;                    /* NULL: left while news were on their way */
	enum place_state state;
	enum flight_news news;
	struct cached *answer;
};

struct flights {
	pthread_mutex_t lock;
	struct flight *buckets[BUCKETS];
	struct list places;
};

struct flights *flights_new(void)
{
	struct flights *f = x_calloc(1, sizeof(*f));

	pthread_mutex_init(&f->lock, NULL);
	list_init(&f->places);
	return f;
}

static struct flight **find(struct flights *f, const uint8_t key[CACHE_KEY_BYTES])
{
	uint32_t hash;
	struct flight **at;

	memcpy(&hash, key + 8, sizeof(hash));
	for (at = &f->buckets[hash % BUCKETS]; *at && memcmp((*at)->key, key, CACHE_KEY_BYTES) != 0;)
		at = &(*at)->next;
	return at;
}

static void end_flight(struct flights *f, struct flight *flight)
{
	struct flight **at = find(f, flight->key);

	*at = flight->next;
	free(flight);
}

static void end_place(struct flight_place *p)
{
	list_del(&p->all);
	free(p);
}

void flights_free(struct flights *f)
{
	if (!f)
		return;
	list_each_safe(it, &f->places) {
		struct flight_place *p = list_entry(it, struct flight_place, all);

		cached_unref(p->answer);
		end_place(p);
	}
	for (unsigned i = 0; i < BUCKETS; i++)
		while (f->buckets[i])
			end_flight(f, f->buckets[i]);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

/* --- news, under the lock --- */

static void tell(void *arg);

static void post(struct flight_place *p, enum flight_news news, struct cached *answer)
{
	list_del(&p->node);
	p->state = TOLD;
	p->news = news;
	p->answer = answer ? cached_ref(answer) : NULL;
	loop_post(p->loop, tell, p);
}

static void next_leads(struct flights *f, struct flight *flight)
{
	if (list_empty(&flight->followers)) {
		end_flight(f, flight);
		return;
	}
	flight->n--;
	post(list_entry(flight->followers.next, struct flight_place, node), FLIGHT_LEAD, NULL);
}

/* On the loop of who waits. */
static void tell(void *arg)
{
	struct flight_place *p = arg;
	struct flights *f = p->flights;
	struct flight_place was = *p;

	pthread_mutex_lock(&f->lock);
	if (p->news == FLIGHT_LEAD && p->arg) {
		p->state = LEADS;
	} else {
		if (p->news == FLIGHT_LEAD)
			next_leads(f, p->flight);
		end_place(p);
	}
	pthread_mutex_unlock(&f->lock);
	if (was.arg)
		was.fn(was.arg, was.news, was.answer);
	else
		cached_unref(was.answer);
}

/* --- places --- */

static struct flight *take_off(struct flight **at, const uint8_t key[CACHE_KEY_BYTES])
{
	struct flight *flight = x_calloc(1, sizeof(*flight));

	memcpy(flight->key, key, CACHE_KEY_BYTES);
	list_init(&flight->followers);
	*at = flight;
	return flight;
}

struct flight_place *flight_join(struct flights *f, const uint8_t key[CACHE_KEY_BYTES], struct loop *loop, flight_fn *fn, void *arg, bool *ret_leads)
{
	struct flight_place *p = NULL;
	struct flight **at;

	pthread_mutex_lock(&f->lock);
	at = find(f, key);
	*ret_leads = !*at;
	if (!*at || (*at)->n < FOLLOWERS_MOST) {
		p = x_calloc(1, sizeof(*p));
		*p = (struct flight_place){ .flights = f, .flight = *at ? *at : take_off(at, key), .loop = loop, .fn = fn, .arg = arg,
					    .state = *ret_leads ? LEADS : FOLLOWS };
		list_init(&p->node);
		list_push(&f->places, &p->all);
		if (!*ret_leads) {
			list_push(&p->flight->followers, &p->node);
			p->flight->n++;
		}
	}
	pthread_mutex_unlock(&f->lock);
	return p;
}

void flight_landed(struct flight_place *p, struct cached *answer)
{
	struct flights *f = p->flights;
	struct flight *flight = p->flight;

	pthread_mutex_lock(&f->lock);
	while (!list_empty(&flight->followers)) {
		struct flight_place *follower = list_entry(flight->followers.next, struct flight_place, node);

		follower->flight = NULL;
		post(follower, answer ? FLIGHT_ANSWER : FLIGHT_ALONE, answer);
	}
	end_flight(f, flight);
	end_place(p);
	pthread_mutex_unlock(&f->lock);
}

void flight_leave(struct flight_place *p)
{
	struct flights *f;

	if (!p)
		return;
	f = p->flights;
	pthread_mutex_lock(&f->lock);
	if (p->state == TOLD) {
		p->arg = NULL;            /* tell() does the rest */
	} else {
		if (p->state == LEADS)
			next_leads(f, p->flight);
		else
			p->flight->n--, list_del(&p->node);
		end_place(p);
	}
	pthread_mutex_unlock(&f->lock);
}
