/* cache_redis.c - the cache in a Redis (or Valkey): one connection for each seat on the seat's own loop, what one turn asks goes out in one write.
 *
 *   resting ──rest over──▶ calling ──AUTH, SELECT, PING answered──▶ ready
 *      ▲                      │ 2 s, refused                         │ broken; 5 answers late in a row; nothing said for 2 s
 *      └──────────────────────┴──────────────────────────────────────┘      each rest twice as long, up to 10 s; a PONG begins anew
 *
 * Only while ready is it asked. A stopped server still takes connections, hence the PING. RESP2 and the API of hiredis 0.14, which newer ones
 * have too. Its context is freed by itself when the connection breaks: f->ac is NULL from the callback that says so on. */
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/data/secret.h"
#include "common/io/resolve.h"
#include "common/store/cache_driver.h"

enum { REST_LEAST_US = 100 * 1000, REST_MOST_US = 10 * 1000000, CALL_US = 2 * 1000000, SILENCE_US = 2 * 1000000, WATCH_US = 500 * 1000, LATE_MOST = 5,
       PUT_BYTES = 8 << 20, ASKED_MOST = 20000, NAME_BYTES = 7 + 2 * CACHE_KEY_BYTES };
enum state { RESTING, CALLING, READY };

struct place {
	char *host;                   /* or a path, when port is 0 */
	uint16_t port;
	char *user, *password;        /* "" = none */
	unsigned db;
};

struct cache_far {
	struct loop *loop;
	struct place place;
	_Atomic uint64_t *events;
	enum state state;
	redisAsyncContext *ac;        /* NULL: none */
	struct loop_io io;
	struct loop_deferred flush;
	struct loop_timer timer;      /* the end of a rest, or of a call's time */
	struct loop_timer watch;
	struct resolver *resolver;
	bool wants_write, told, refused;
	int64_t rest_us, heard_us;
	unsigned late_in_a_row, asked;
	size_t put_bytes;             /* values that are on their way */
};

/* --- the URL --- */

static char *decoded(struct str s)
{
	char *out = x_malloc(s.n + 1), *at = out;

	for (size_t i = 0; i < s.n; i++) {
		unsigned v;

		if (s.p[i] == '%' && i + 2 < s.n && sscanf(s.p + i + 1, "%2x", &v) == 1) {
			*at++ = (char)v;
			i += 2;
		} else {
			*at++ = s.p[i];
		}
	}
	*at = '\0';
	return out;
}

static void place_free(struct place *p)
{
	if (p->password)
		secret_wipe(p->password, strlen(p->password));
	free(p->host);
	free(p->user);
	free(p->password);
}

static void read_user(struct place *p, struct str *authority)
{
	const char *at = memrchr(authority->p, '@', authority->n), *colon;
	struct str info = { authority->p, at ? (size_t)(at - authority->p) : 0 };

	colon = info.n ? memchr(info.p, ':', info.n) : NULL;
	p->user = decoded(str_n(info.p, colon ? (size_t)(colon - info.p) : info.n));
	p->password = decoded(colon ? str_n(colon + 1, (size_t)(info.p + info.n - colon - 1)) : STR(""));
	if (!colon) {                             /* redis://secret@host: as redis-cli reads it */
		free(p->password);
		p->password = p->user;
		p->user = x_strdup("");
	}
	if (at)
		*authority = str_from(*authority, info.n + 1);
}

static bool read_host(struct place *p, struct str host)
{
	const char *colon = memrchr(host.p, ':', host.n), *bracket = memrchr(host.p, ']', host.n);
	uint64_t port = 6379;

	if (colon && (!bracket || colon > bracket)) {
		if (!str_u64(str_n(colon + 1, (size_t)(host.p + host.n - colon - 1)), &port) || !port || port > 65535)
			return false;
		host.n = (size_t)(colon - host.p);
	}
	if (host.n > 1 && host.p[0] == '[' && host.p[host.n - 1] == ']')
		host = str_n(host.p + 1, host.n - 2);
	p->port = (uint16_t)port;
	p->host = decoded(host.n ? host : STR("127.0.0.1"));
	return true;
}

static bool read_db(struct place *p, struct str text)
{
	uint64_t db = 0;

	if (text.n && (!str_u64(text, &db) || db > 65535))
		return false;
	p->db = (unsigned)db;
	return true;
}

static bool place_read(struct place *p, const char *url)
{
	bool is_unix = strncmp(url, "redis+unix:", 11) == 0;
	struct str rest = str_of(strchr(url, ':') + 1), authority, path;
	const char *slash, *query;

	*p = (struct place){ 0 };
	if (!str_starts(rest, STR("//")))
		return false;
	rest = str_from(rest, 2);
	slash = memchr(rest.p, '/', rest.n);
	authority = str_n(rest.p, slash ? (size_t)(slash - rest.p) : rest.n);
	path = slash ? str_n(slash, (size_t)(rest.p + rest.n - slash)) : STR("");
	read_user(p, &authority);
	if (!is_unix)
		return read_host(p, authority) && read_db(p, path.n ? str_from(path, 1) : path);
	query = memchr(path.p ? path.p : "", '?', path.n);
	p->host = decoded(query ? str_n(path.p, (size_t)(query - path.p)) : path);
	if (query && !str_starts(str_of(query), STR("?db=")))
		return false;
	return authority.n == 0 && path.n > 1 && strlen(p->host) < 108 && read_db(p, query ? str_of(query + 4) : STR(""));
}

static bool check(const char *url, struct why *why)
{
	struct place p;
	bool ok = place_read(&p, url);

	place_free(&p);
	if (!ok)
		err_set(why, ERR_INVALID, "the cache's URL cannot be read: write redis://[user:password@]host[:port][/db] or redis+unix:///path[?db=N]");
	return ok;
}

/* --- states --- */

static void call(struct cache_far *);

static void rest_is_over(struct loop_timer *t) { call(list_entry(t, struct cache_far, timer)); }

/* Whoever waits for an answer is told that there is none: from inside redisAsyncFree(). */
static void rest(struct cache_far *f, const char *why)
{
	redisAsyncContext *ac = f->ac;

	if (f->state == RESTING)
		return;
	if (!f->told)
		LOG_WARN("the cache's Redis is not asked for now", LOG_S("cause", why), LOG_I("rest_ms", f->rest_us / 1000));
	f->told = true;
	cache_note(f->events, CACHE_BROKEN);
	f->state = RESTING;
	f->ac = NULL;
	f->late_in_a_row = 0;
	resolve_cancel(f->resolver);
	f->resolver = NULL;
	loop_timer_del(&f->watch);
	loop_undefer(&f->flush);
	loop_timer_set(f->loop, &f->timer, f->rest_us, rest_is_over);
	f->rest_us = f->rest_us * 2 > REST_MOST_US ? REST_MOST_US : f->rest_us * 2;
	if (ac)
		redisAsyncFree(ac);
}

static void not_answered(struct loop_timer *t) { rest(list_entry(t, struct cache_far, timer), "it does not answer a connection"); }

static void watch(struct loop_timer *t)
{
	struct cache_far *f = list_entry(t, struct cache_far, watch);

	if (f->asked && loop_now_us(f->loop) - f->heard_us > SILENCE_US) {
		rest(f, "it says nothing");
		return;
	}
	loop_timer_set(f->loop, t, WATCH_US, watch);
}

static void refused(struct loop_timer *t) { rest(list_entry(t, struct cache_far, timer), "it refuses the connection's user, password or database"); }

/* --- the descriptor: hiredis is told of readiness, and says when it has something to write --- */

static void flush(struct loop_deferred *d)
{
	struct cache_far *f = list_entry(d, struct cache_far, flush);

	if (f->ac && f->wants_write && f->state != RESTING && (f->ac->c.flags & REDIS_CONNECTED))
		redisAsyncHandleWrite(f->ac);
}

static void add_write(void *arg)
{
	struct cache_far *f = arg;

	f->wants_write = true;
	loop_defer(f->loop, &f->flush, LOOP_PHASE_SEND, flush);
}

static void del_write(void *arg) { ((struct cache_far *)arg)->wants_write = false; }
static void add_read(void *arg) { (void)arg; }        /* readiness is always told */
static void cleanup(void *arg) { loop_io_del(&((struct cache_far *)arg)->io); }

static bool has_bytes(int fd)
{
	int n = 0;

	return ioctl(fd, FIONREAD, &n) == 0 && n > 0;
}

/* Readiness is told once: it is read until nothing is left. */
static void on_ready(struct loop_io *io, unsigned ready)
{
	struct cache_far *f = list_entry(io, struct cache_far, io);
	redisAsyncContext *ac = f->ac;
	bool again = (ready & LOOP_HUP) != 0;

	if (ac && (ready & LOOP_WRITE) && (f->wants_write || !(ac->c.flags & REDIS_CONNECTED)))
		redisAsyncHandleWrite(ac);
	if (!ac || f->ac != ac || !(ready & (LOOP_READ | LOOP_HUP)))
		return;
	do {
		redisAsyncHandleRead(ac);
		if (f->ac != ac)
			return;
		if (!has_bytes(io->fd)) {
			if (!again)
				return;
			again = false;
		}
	} while (true);
}

/* --- the beginning of a connection --- */

static void heard(struct cache_far *f)
{
	f->heard_us = loop_now_us(f->loop);
	f->asked--;
}

static void asks(struct cache_far *f)
{
	if (!f->asked++)
		f->heard_us = loop_now_us(f->loop);
}

static void on_greeting(redisAsyncContext *ac, void *r, void *arg)
{
	struct cache_far *f = ac->data;
	const redisReply *reply = r;

	heard(f);
	if (f->ac != ac || !reply)
		return;
	if (reply->type == REDIS_REPLY_ERROR) {
		LOG_DEBUG("the cache's Redis refuses", LOG_S("error", reply->str));
		f->refused = true;
		loop_timer_set(f->loop, &f->timer, 0, refused);      /* not from inside this call */
	}
	if (!arg || f->refused || f->state != CALLING)
		return;
	loop_timer_del(&f->timer);
	f->state = READY;
	f->rest_us = REST_LEAST_US;
	loop_timer_set(f->loop, &f->watch, WATCH_US, watch);
	if (f->told)
		LOG_INFO("the cache's Redis is asked again");
	f->told = false;
}

static void greet(struct cache_far *f)
{
	const struct place *p = &f->place;

	if (p->password[0]) {
		asks(f);
		if (p->user[0])
			(void)redisAsyncCommand(f->ac, on_greeting, NULL, "AUTH %s %s", p->user, p->password);
		else
			(void)redisAsyncCommand(f->ac, on_greeting, NULL, "AUTH %s", p->password);
	}
	if (p->db) {
		asks(f);
		(void)redisAsyncCommand(f->ac, on_greeting, NULL, "SELECT %u", p->db);
	}
	asks(f);
	(void)redisAsyncCommand(f->ac, on_greeting, f, "PING");
}

static void on_connect(const redisAsyncContext *ac, int status)
{
	struct cache_far *f = ac->data;

	if (f->ac != ac)
		return;
	if (status == REDIS_OK) {
		greet(f);
		return;
	}
	f->ac = NULL;                     /* hiredis frees it */
	rest(f, "it cannot be connected to");
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
	struct cache_far *f = ac->data;

	if (f->ac != ac)
		return;
	f->ac = NULL;
	rest(f, "the connection broke");
}

static void take(struct cache_far *f, redisAsyncContext *ac)
{
	if (!ac || ac->err) {
		if (ac)
			redisAsyncFree(ac);
		rest(f, "it cannot be connected to");
		return;
	}
	f->ac = ac;
	f->asked = 0;
	f->put_bytes = 0;
	f->wants_write = f->refused = false;
	ac->data = f;
	ac->ev.data = f;
	ac->ev.addRead = add_read;
	ac->ev.delRead = add_read;
	ac->ev.addWrite = add_write;
	ac->ev.delWrite = del_write;
	ac->ev.cleanup = cleanup;
	loop_io_add(f->loop, &f->io, ac->c.fd, LOOP_READ | LOOP_WRITE, on_ready);
	(void)redisAsyncSetConnectCallback(ac, on_connect);
	(void)redisAsyncSetDisconnectCallback(ac, on_disconnect);
}

static void resolved(void *arg, const struct addresses *a, const char *error)
{
	struct cache_far *f = arg;
	char text[NI_MAXHOST];

	f->resolver = NULL;
	if (!a || !a->n || getnameinfo((const struct sockaddr *)&a->list[0].sa, a->list[0].len, text, sizeof(text), NULL, 0, NI_NUMERICHOST) != 0)
		rest(f, "its name is not found");
	else
		take(f, redisAsyncConnect(text, f->place.port));
}

static void call(struct cache_far *f)
{
	struct addresses literal;

	f->state = CALLING;
	loop_timer_set(f->loop, &f->timer, CALL_US, not_answered);
	if (!f->place.port)
		take(f, redisAsyncConnectUnix(f->place.host));
	else if (resolve_literal(f->place.host, f->place.port, &literal))
		take(f, redisAsyncConnect(f->place.host, f->place.port));
	else if (!(f->resolver = resolve_start(f->loop, f->place.host, f->place.port, resolved, f)))
		rest(f, "its name cannot be looked up");
}

/* --- the driver --- */

static void first_call(struct loop_timer *t) { call(list_entry(t, struct cache_far, timer)); }

static struct cache_far *open_seat(const char *url, void *shared, struct loop *loop, _Atomic uint64_t *events)
{
	struct cache_far *f = x_calloc(1, sizeof(*f));

	(void)place_read(&f->place, url);         /* it was checked */
	f->loop = loop;
	f->events = events;
	f->io.fd = -1;
	f->rest_us = REST_LEAST_US;
	f->state = RESTING;
	loop_timer_set(loop, &f->timer, 0, first_call);
	return f;
}

static void close_seat(struct cache_far *f)
{
	redisAsyncContext *ac = f->ac;

	loop_timer_del(&f->timer);
	loop_timer_del(&f->watch);
	loop_undefer(&f->flush);
	resolve_cancel(f->resolver);
	f->state = RESTING;
	f->ac = NULL;
	if (ac)
		redisAsyncFree(ac);
	loop_undefer(&f->flush);
	place_free(&f->place);
	free(f);
}

static void name_of(const uint8_t key[CACHE_KEY_BYTES], char out[NAME_BYTES])
{
	static const char hex[] = "0123456789abcdef";

	memcpy(out, "corral:", 7);
	for (unsigned i = 0; i < CACHE_KEY_BYTES; i++) {
		out[7 + 2 * i] = hex[key[i] >> 4];
		out[8 + 2 * i] = hex[key[i] & 15];
	}
}

static void on_value(redisAsyncContext *ac, void *r, void *arg)
{
	struct cache_far *f = ac->data;
	const redisReply *reply = r;
	bool found = reply && reply->type == REDIS_REPLY_STRING;

	heard(f);
	if (reply && cache_pending_waits(arg))
		f->late_in_a_row = 0;
	if (reply && reply->type == REDIS_REPLY_ERROR)
		cache_note(f->events, CACHE_BROKEN);
	cache_answer(arg, found, found ? str_n(reply->str, (size_t)reply->len) : STR(""));
}

static bool get(struct cache_far *f, const uint8_t key[CACHE_KEY_BYTES], struct cache_pending *p)
{
	char name[NAME_BYTES];
	const char *argv[] = { "GET", name };
	const size_t lengths[] = { 3, NAME_BYTES };

	if (f->state != READY || f->asked >= ASKED_MOST)
		return false;
	name_of(key, name);
	if (redisAsyncCommandArgv(f->ac, on_value, p, 2, argv, lengths) != REDIS_OK)
		return false;
	asks(f);
	return true;
}

static void on_stored(redisAsyncContext *ac, void *r, void *arg)
{
	struct cache_far *f = ac->data;
	const redisReply *reply = r;

	heard(f);
	f->put_bytes -= (size_t)(uintptr_t)arg;
	if (reply && reply->type == REDIS_REPLY_ERROR)
		cache_note(f->events, CACHE_DROPPED);
}

static void put(struct cache_far *f, const uint8_t key[CACHE_KEY_BYTES], int64_t ttl_ms, struct str bytes)
{
	char name[NAME_BYTES], ttl[24];
	const char *argv[] = { "SET", name, bytes.p, "PX", ttl };
	size_t lengths[] = { 3, NAME_BYTES, bytes.n, 2, 0 };

	lengths[4] = (size_t)snprintf(ttl, sizeof(ttl), "%lld", (long long)ttl_ms);
	name_of(key, name);
	if (f->state != READY || f->put_bytes + bytes.n > PUT_BYTES || f->asked >= ASKED_MOST ||
	    redisAsyncCommandArgv(f->ac, on_stored, (void *)(uintptr_t)bytes.n, 5, argv, lengths) != REDIS_OK) {
		cache_note(f->events, CACHE_DROPPED);
		return;
	}
	asks(f);
	f->put_bytes += bytes.n;
}

static void late(struct cache_far *f)
{
	if (++f->late_in_a_row >= LATE_MOST)
		rest(f, "it answers late");
}

static bool is_ready(const struct cache_far *f) { return f->state == READY; }

const struct cache_driver cache_redis = { "redis", check, NULL, NULL, open_seat, get, put, late, is_ready, close_seat };
const struct cache_driver cache_redis_unix = { "redis+unix", check, NULL, NULL, open_seat, get, put, late, is_ready, close_seat };
