/* breaker.c - see breaker.h. Sources: Nygard, Release It!; Envoy outlier detection (ratio over a minimum of calls). */
#include "common/policy/breaker.h"

enum { RATIO_WINDOW_US = 30 * 1000000, RATIO_CALLS = 20, CLOSE_AFTER = 2 };

void breaker_init(struct breaker *b)
{
	*b = (struct breaker){ .cause = "" };
	pthread_mutex_init(&b->lock, NULL);
}

enum breaker_state breaker_state(const struct breaker *b, int64_t now_us)
{
	int s = atomic_load_explicit(&b->state, memory_order_relaxed);

	if (s == BREAKER_OPEN && now_us >= atomic_load_explicit(&b->until_us, memory_order_relaxed))
		return BREAKER_HALF_OPEN;
	return (enum breaker_state)s;
}

const char *breaker_state_name(enum breaker_state s)
{
	static const char *const names[] = { "closed", "open", "half_open" };

	return names[s];
}

int64_t breaker_retry_us(const struct breaker *b, int64_t now_us)
{
	int64_t until = atomic_load_explicit(&b->until_us, memory_order_relaxed);

	return until > now_us ? until - now_us : 0;
}

bool breaker_is_open(const struct breaker *b, int64_t now_us)
{
	if (breaker_retry_us(b, now_us) > 0)
		return true;              /* resting, or paused by Retry-After */
	return atomic_load_explicit(&b->state, memory_order_relaxed) != BREAKER_CLOSED &&
	       atomic_load_explicit(&b->probing, memory_order_relaxed);
}

static uint32_t new_ticket(struct breaker *b)
{
	uint32_t t = atomic_fetch_add_explicit(&b->tickets, 1, memory_order_relaxed) + 1;

	return t ? t : new_ticket(b);
}

/* A call that began before the breaker opened may end while another one probes: it does not speak for that one. */
static void probe_over(struct breaker *b, uint32_t probe)
{
	if (probe)
		atomic_compare_exchange_strong(&b->probing, &probe, 0);
}

bool breaker_allow(struct breaker *b, const struct breaker_opts *o, int64_t now_us, uint32_t *ret_probe)
{
	uint32_t expected = 0, ticket;

	(void)o;
	*ret_probe = 0;
	if (breaker_retry_us(b, now_us) > 0)
		return false;
	if (atomic_load_explicit(&b->state, memory_order_relaxed) == BREAKER_CLOSED)
		return true;
	ticket = new_ticket(b);
	if (!atomic_compare_exchange_strong(&b->probing, &expected, ticket))
		return false;
	*ret_probe = ticket;
	atomic_store(&b->state, BREAKER_HALF_OPEN);
	return true;
}

static void window(struct breaker *b, int64_t now_us)
{
	if (now_us - b->window_us > RATIO_WINDOW_US) {
		b->window_us = now_us;
		b->calls = b->failed = 0;
	}
	b->calls++;
}

bool breaker_success(struct breaker *b, int64_t now_us, uint32_t probe)
{
	bool changed = false;

	if (atomic_load_explicit(&b->state, memory_order_relaxed) == BREAKER_CLOSED &&
	    atomic_load_explicit(&b->run, memory_order_relaxed) == 0 && b->failed == 0)
		return false;             /* the usual case takes no lock */
	pthread_mutex_lock(&b->lock);
	window(b, now_us);
	atomic_store(&b->run, 0);
	if (atomic_load(&b->state) != BREAKER_CLOSED && ++b->successes >= CLOSE_AFTER) {
		atomic_store(&b->state, BREAKER_CLOSED);
		b->opened = b->refused = b->successes = 0;
		b->calls = b->failed = 0;
		changed = true;
	}
	probe_over(b, probe);
	pthread_mutex_unlock(&b->lock);
	return changed;
}

static void open_breaker(struct breaker *b, const struct breaker_opts *o, int64_t now_us, bool refused)
{
	int64_t rest = refused ? o->refused_open_us : o->open_us;
	int64_t max = refused ? o->open_us : o->max_open_us;
	uint32_t *times = refused ? &b->refused : &b->opened;

	for (uint32_t i = 0; i < *times && rest < max; i++)
		rest *= 2;
	if (rest > max)
		rest = max;
	++*times;
	b->successes = 0;
	atomic_store(&b->until_us, now_us + rest);
	atomic_store(&b->state, BREAKER_OPEN);
}

bool breaker_failure(struct breaker *b, const struct breaker_opts *o, int64_t now_us, bool refused, const char *cause, uint32_t probe)
{
	int was;
	uint32_t run;
	bool changed = false;

	pthread_mutex_lock(&b->lock);
	window(b, now_us);
	b->failed++;
	b->cause = cause;
	was = atomic_load(&b->state);
	run = atomic_fetch_add(&b->run, 1) + 1;
	if (was != BREAKER_CLOSED || run >= o->failures || (b->calls >= RATIO_CALLS && b->failed * 2 >= b->calls)) {
		changed = was == BREAKER_CLOSED;
		open_breaker(b, o, now_us, refused);
	}
	probe_over(b, probe);
	pthread_mutex_unlock(&b->lock);
	return changed;
}

void breaker_neutral(struct breaker *b, uint32_t probe) { probe_over(b, probe); }

void breaker_pause(struct breaker *b, int64_t until_us)
{
	pthread_mutex_lock(&b->lock);
	if (until_us > atomic_load(&b->until_us))
		atomic_store(&b->until_us, until_us);
	pthread_mutex_unlock(&b->lock);
}
