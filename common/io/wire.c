/* wire.c - see wire.h.
 *
 * A wire has targets (the URLs given), a target has ends (nng dialers, one an address; or the one listener). One timer turns every
 * 2 s: looks at the TLS files, looks names up again, tries again what could not be made. */
#include "common/io/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <nng/supplemental/tls/tls.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/key_pair.h"
#include "common/io/resolve.h"
#include "common/io/wire_tls.h"

enum {
	TURN_US = 2 * 1000 * 1000,
	LOOK_UP_EVERY = 5,            /* turns */
	RECONNECT_MIN_MS = 50,
	RECONNECT_MAX_MS = 250,       /* a lease of slots is shorter than two seconds: who lives has to be back before (model-registry, slots.h) */
	CLOSE_MS = 2000,          /* and once a socket hung, for each further one */
	CLOSE_NEXT_MS = 100,
	PROBE_MS = 50,            /* to connect to ourselves: the kernel does that, but when its queue is full */
	HOST_MAX = 256
};

struct end {
	char url[HOST_MAX + 32];      /* with an address instead of the name; "" = none */
	nng_dialer dialer;
	uint64_t tried;               /* as of the last turn: watch_end() */
};

struct target {
	struct target *next;
	struct wire *wire;
	const char *url;
	char host[HOST_MAX];          /* "" = nothing to look up */
	uint16_t port;
	bool tls;
	struct resolver *resolver;
	unsigned turns;               /* since the last look-up */
	bool failed;                  /* the last look-up; said once */
	struct end ends[RESOLVE_MAX];
};

struct wire {
	struct loop *loop;
	nng_socket socket;
	struct target *targets;
	char *urls;                   /* what the targets point into */
	bool listens, listening;
	nng_listener listener;
	uint64_t accepted, failed;    /* as far as they are explained: watch_listener() */
	bool probing;
	int probe;                    /* while probing */
	unsigned tls_turn;            /* of the files in use */
	struct loop_timer timer;
};

static void turn(struct loop_timer *);
static void target_add(struct wire *, const char *url);
static void target_dial(struct target *);
static enum err listen_now(struct wire *, struct why *);
static nng_tls_config *tls_config(enum nng_tls_mode, const char *server_name, struct why *);
static unsigned tls_turn(void);

struct wire *wire_listen(struct loop *loop, nng_socket socket, const char *url, struct why *why)
{
	struct wire *w = x_calloc(1, sizeof *w);

	w->loop = loop;
	w->socket = socket;
	w->listens = true;
	w->urls = x_strdup(url);
	target_add(w, w->urls);
	w->tls_turn = tls_turn();
	if (listen_now(w, why)) {
		wire_free(w);
		return NULL;
	}
	if (strncmp(url, "inproc", 6) != 0)
		loop_timer_set(loop, &w->timer, TURN_US, turn);
	return w;
}

struct wire *wire_dial(struct loop *loop, nng_socket socket, const char *urls)
{
	struct wire *w = x_calloc(1, sizeof *w);
	char *at, *comma;

	w->loop = loop;
	w->socket = socket;
	w->urls = at = x_strdup(urls);
	w->tls_turn = tls_turn();
	(void)nng_socket_set_ms(socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
	(void)nng_socket_set_ms(socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
	for (; at; at = comma ? comma + 1 : NULL) {
		comma = strchr(at, ',');
		if (comma)
			*comma = '\0';
		if (*at)
			target_add(w, at);
	}
	for (struct target *t = w->targets; t; t = t->next)
		target_dial(t);
	loop_timer_set(loop, &w->timer, TURN_US, turn);
	return w;
}

static void end_drop(struct end *);

void wire_redial(struct wire *w)
{
	for (struct target *t = w->targets; t; t = t->next) {
		for (unsigned e = 0; e < RESOLVE_MAX; e++)
			if (t->ends[e].url[0])
				end_drop(&t->ends[e]);
		if (!t->resolver)
			target_dial(t);
	}
}

void wire_free(struct wire *w)
{
	struct target *t;

	if (!w)
		return;
	loop_timer_del(&w->timer);
	if (w->probing)
		(void)close(w->probe);
	while ((t = w->targets)) {
		w->targets = t->next;
		resolve_cancel(t->resolver);
		free(t);
	}
	free(w->urls);
	free(w);
}

static void *close_it(void *arg)
{
	nng_socket socket = { .id = (uint32_t)(uintptr_t)arg };

	(void)nng_close(socket);
	return NULL;
}

bool wire_close(nng_socket socket)
{
	static atomic_bool one_hung;
	int64_t wait_ms = atomic_load(&one_hung) ? CLOSE_NEXT_MS : CLOSE_MS;
	struct timespec end;
	pthread_t thread;

	if (pthread_create(&thread, NULL, close_it, (void *)(uintptr_t)socket.id))
		return nng_close(socket) == 0;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += wait_ms % 1000 * 1000000;
	end.tv_sec += wait_ms / 1000 + end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &end) == 0)
		return true;
	pthread_detach(thread);
	atomic_store(&one_hung, true);
	LOG_WARN("a socket did not close in time; it is left", LOG_I("waited_ms", wait_ms));
	return false;
}

/* --- targets --- */

/* "tls+tcp://name:7111" has a name to look up; "[::1]:7111", "127.0.0.1:7111", ipc and inproc have none. */
static void target_split(struct target *t)
{
	const char *rest = strstr(t->url, "://"), *colon = strrchr(t->url, ':');
	struct addresses literal;
	uint64_t port;

	t->tls = strncmp(t->url, "tls+tcp", 7) == 0;
	if (!rest || !strstr(t->url, "tcp") || !colon || colon < rest + 3 || rest[3] == '[' || !str_u64(str_of(colon + 1), &port) || port > 65535)
		return;
	str_copy(t->host, sizeof t->host, str_n(rest + 3, (size_t)(colon - rest - 3)));
	t->port = (uint16_t)port;
	if (resolve_literal(t->host, t->port, &literal))
		t->host[0] = '\0';
}

static void target_add(struct wire *w, const char *url)
{
	struct target *t = x_calloc(1, sizeof *t);

	t->wire = w;
	t->url = url;
	t->next = w->targets;
	w->targets = t;
	target_split(t);
}

/* What the server's certificate has to be for: the host as the URL names it. */
static void server_name(const struct target *t, char *ret, size_t cap)
{
	const char *rest = strstr(t->url, "://") + 3, *end = strrchr(t->url, ':');

	if (*rest == '[') {
		rest++;
		end = strchr(rest, ']') ? strchr(rest, ']') : end;
	}
	str_copy(ret, cap, str_n(rest, end > rest ? (size_t)(end - rest) : 0));
}

static bool dialer_make(const struct target *t, const char *url, nng_dialer *ret)
{
	nng_tls_config *config = NULL;
	char name[HOST_MAX];
	struct why why;
	int rv;

	if (t->tls) {
		server_name(t, name, sizeof name);
		config = tls_config(NNG_TLS_MODE_CLIENT, name, &why);
		if (!config)
			return false;
	}
	rv = nng_dialer_create(ret, t->wire->socket, url);
	if (!rv && config)
		rv = nng_dialer_set_ptr(*ret, NNG_OPT_TLS_CONFIG, config);
	if (!rv)
		rv = nng_dialer_start(*ret, NNG_FLAG_NONBLOCK);
	if (config)
		nng_tls_config_free(config);
	return rv == 0;
}

static void end_add(struct target *t, const char *url)
{
	for (unsigned i = 0; i < RESOLVE_MAX; i++)
		if (!t->ends[i].url[0]) {
			t->ends[i].tried = 0;
			if (dialer_make(t, url, &t->ends[i].dialer))
				str_copy(t->ends[i].url, sizeof t->ends[i].url, str_of(url));
			return;
		}
}

static void end_drop(struct end *e)
{
	(void)nng_dialer_close(e->dialer);
	e->url[0] = '\0';
}

static bool has_end(const struct target *t, const char *url)
{
	for (unsigned i = 0; i < RESOLVE_MAX; i++)
		if (strcmp(t->ends[i].url, url) == 0)
			return true;
	return false;
}

/* "tcp://" and the address as text. */
static void address_url(const struct target *t, const struct address *a, char *ret, size_t cap)
{
	char text[INET6_ADDRSTRLEN] = "";
	bool v6 = a->sa.ss_family == AF_INET6;

	if (v6)
		(void)inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)&a->sa)->sin6_addr, text, sizeof text);
	else
		(void)inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)&a->sa)->sin_addr, text, sizeof text);
	(void)snprintf(ret, cap, "%s://%s%s%s:%u", t->tls ? "tls+tcp" : "tcp", v6 ? "[" : "", text, v6 ? "]" : "", t->port);
}

static void on_addresses(void *arg, const struct addresses *found, const char *error)
{
	struct target *t = arg;
	char urls[RESOLVE_MAX][sizeof t->ends[0].url];

	t->resolver = NULL;
	if (found->n == 0 && !t->failed)
		LOG_WARN("the address of a peer is not known; it is looked up again", LOG_S("url", t->url), LOG_S("error", error));
	t->failed = found->n == 0;
	if (t->failed)
		return;           /* those that were known stay */
	for (unsigned i = 0; i < found->n; i++)
		address_url(t, &found->list[i], urls[i], sizeof urls[i]);
	for (unsigned e = 0; e < RESOLVE_MAX; e++) {
		bool still = false;

		for (unsigned i = 0; i < found->n; i++)
			still |= strcmp(t->ends[e].url, urls[i]) == 0;
		if (t->ends[e].url[0] && !still)
			end_drop(&t->ends[e]);
	}
	for (unsigned i = 0; i < found->n; i++)
		if (!has_end(t, urls[i]))
			end_add(t, urls[i]);
}

static void target_dial(struct target *t)
{
	t->turns = 0;
	if (t->host[0])
		t->resolver = resolve_start(t->wire->loop, t->host, t->port, on_addresses, t);
	else if (!t->ends[0].url[0])
		end_add(t, t->url);
}

/* --- listening --- */

static enum err listen_now(struct wire *w, struct why *why)
{
	const char *url = w->targets->url;
	nng_tls_config *config = NULL;
	int rv;

	if (w->targets->tls && !(config = tls_config(NNG_TLS_MODE_SERVER, NULL, why)))
		return ERR_INVALID;
	rv = nng_listener_create(&w->listener, w->socket, url);
	if (!rv && config)
		rv = nng_listener_set_ptr(w->listener, NNG_OPT_TLS_CONFIG, config);
	if (!rv && !strncmp(url, "ipc://", 6))
		(void)nng_listener_set_int(w->listener, NNG_OPT_IPC_PERMISSIONS, 0600);
	if (!rv && (rv = nng_listener_start(w->listener, 0)))
		(void)nng_listener_close(w->listener);
	if (config)
		nng_tls_config_free(config);
	w->listening = rv == 0;
	w->accepted = w->failed = 0;
	return rv ? err_set(why, ERR_UNAVAILABLE, "cannot listen at %s: %s", url, nng_strerror(rv)) : ERR_OK;
}

/* --- once in a while --- */

/* New files that cannot be read are not taken: the old ones stay in use. */
static void renew(struct wire *w, unsigned now)
{
	nng_tls_config *config;
	struct why why;

	w->tls_turn = now;
	config = tls_config(w->listens ? NNG_TLS_MODE_SERVER : NNG_TLS_MODE_CLIENT, NULL, &why);
	if (!config) {
		LOG_ERROR("the TLS files have changed and cannot be used; the old ones stay in use", LOG_S("error", why.text));
		return;
	}
	nng_tls_config_free(config);
	LOG_INFO("the TLS files have changed; connecting anew", LOG_S("url", w->targets->url));
	if (w->listening)
		(void)nng_listener_close(w->listener);
	w->listening = false;
	for (struct target *t = w->targets; t && !w->listens; t = t->next)
		for (unsigned e = 0; e < RESOLVE_MAX; e++)
			if (t->tls && t->ends[e].url[0])
				end_drop(&t->ends[e]);
}

/* --- what nng gives up ---
 *
 * When the other side hangs up in the middle of the greeting, as one that is killed does, nng 1.5 takes the ECLOSED that it gets for the end of its own listener or
 * dialer, over ipc and tcp: it accepts nobody, or dials nobody, from then on, and tells nobody. What can be seen is in its statistics. */

/* nng_stat_find_listener() and nng_stat_find_dialer() give the first of all, whichever was asked for (1.5.2). */
static nng_stat *stat_of(nng_stat *all, const char *kind, int id)
{
	for (nng_stat *s = nng_stat_child(all); s; s = nng_stat_next(s))
		for (nng_stat *c = strcmp(nng_stat_name(s), kind) ? NULL : nng_stat_child(s); c; c = nng_stat_next(c))
			if (strcmp(nng_stat_name(c), "id") == 0 && nng_stat_value(c) == (uint64_t)id)
				return s;
	return NULL;
}

static uint64_t counted(nng_stat *of, const char *const *names)
{
	uint64_t n = 0;

	for (nng_stat *s = of ? nng_stat_child(of) : NULL; s; s = nng_stat_next(s))
		for (const char *const *name = names; *name; name++)
			n += strcmp(nng_stat_name(s), *name) == 0 ? nng_stat_value(s) : 0;
	return n;
}

static const char *const accepted_names[] = { "accept", NULL }, *const failed_names[] = { "other", NULL }, *const pipes_names[] = { "pipes", NULL },
			 *const tried_names[] = { "connect", "refused", "disconnect", "canceled", "other", "timeout", "proto", "auth", "oom", "reject", NULL };

/* Its length; 0 = it cannot be told. */
static socklen_t own_address(const struct wire *w, struct sockaddr_storage *ret)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)ret;
	struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)ret;
	struct sockaddr_un *path = (struct sockaddr_un *)(void *)ret;
	nng_sockaddr at;

	*ret = (struct sockaddr_storage){ 0 };
	if (nng_listener_get_addr(w->listener, NNG_OPT_LOCADDR, &at))
		return 0;
	switch (at.s_family) {
	case NNG_AF_IPC:
		path->sun_family = AF_UNIX;
		return str_copy(path->sun_path, sizeof path->sun_path, str_of(at.s_ipc.sa_path)) ? sizeof *path : 0;
	case NNG_AF_INET:
		*v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = at.s_in.sa_port, .sin_addr.s_addr = at.s_in.sa_addr };
		return sizeof *v4;
	case NNG_AF_INET6:
		*v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = at.s_in6.sa_port };
		memcpy(&v6->sin6_addr, at.s_in6.sa_addr, sizeof v6->sin6_addr);
		return sizeof *v6;
	default:
		return 0;
	}
}

/* Connects and greets as a peer of this endpoint does: eight bytes with its kind (nanomsg RFC sp-tcp-mapping-01, which ipc follows). Without nng, for it leaves
 * connections of other kinds than the served one lying about, and a socket of its that has just connected may never close. False: it could not be tried. */
static bool probe_start(struct wire *w)
{
	struct timeval soon = { .tv_usec = PROBE_MS * 1000 };
	struct sockaddr_storage to;
	socklen_t n = own_address(w, &to);
	int peer;

	if (!n || nng_socket_get_int(w->socket, NNG_OPT_PEER, &peer) || (w->probe = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
		return false;
	(void)setsockopt(w->probe, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
	if (connect(w->probe, (struct sockaddr *)(void *)&to, n) == 0)
		(void)send(w->probe, (uint8_t[]){ 0, 'S', 'P', 0, (uint8_t)(peer >> 8), (uint8_t)peer, 0, 0 }, 8, MSG_NOSIGNAL);
	return true;
}

/* After a failure: whether a connection of our own is accepted until the next turn. Its end counts as a failure too, by the turn after that. */
static void watch_listener(struct wire *w, nng_stat *all)
{
	nng_stat *of = stat_of(all, "listener", nng_listener_id(w->listener));
	uint64_t accepted = counted(of, accepted_names), failed = counted(of, failed_names);
	bool deaf = w->probing && of && accepted == w->accepted;

	if (w->probing) {
		w->probing = false;
		(void)close(w->probe);
		w->failed++;
	} else {
		if (failed > w->failed)
			w->probing = probe_start(w);
		w->failed = failed;
	}
	w->accepted = accepted;
	if (!deaf)
		return;
	LOG_WARN("an endpoint of this service accepted nobody any more; it is opened again", LOG_S("url", w->targets->url));
	(void)nng_listener_close(w->listener);
	w->listening = false;
}

/* One that failed, has no connection, and tried nothing in a whole turn. A connection that takes longer is only begun anew. */
static void watch_end(struct target *t, struct end *e, nng_stat *all)
{
	nng_stat *of = stat_of(all, "dialer", nng_dialer_id(e->dialer));
	uint64_t tried = counted(of, tried_names);
	char url[sizeof e->url];

	if (!of || counted(of, pipes_names) || !counted(of, failed_names) || tried != e->tried) {
		e->tried = tried;
		return;
	}
	memcpy(url, e->url, sizeof url);
	end_drop(e);
	end_add(t, url);
}

static void watch(struct wire *w)
{
	nng_stat *all;

	if (!w->targets || strncmp(w->targets->url, "inproc", 6) == 0 || nng_stats_get(&all))
		return;
	if (w->listens && w->listening && !w->targets->tls)
		watch_listener(w, all);
	for (struct target *t = w->listens ? NULL : w->targets; t; t = t->next)
		for (unsigned e = 0; e < RESOLVE_MAX; e++)
			if (t->ends[e].url[0])
				watch_end(t, &t->ends[e], all);
	nng_stats_free(all);
}

static void turn(struct loop_timer *timer)
{
	struct wire *w = list_entry(timer, struct wire, timer);
	unsigned now = tls_turn();
	struct why why;

	loop_timer_set(w->loop, timer, TURN_US, turn);
	if (now != w->tls_turn)
		renew(w, now);
	watch(w);
	if (w->listens) {
		if (!w->listening && listen_now(w, &why))
			LOG_ERROR("an endpoint of this service is closed; it is opened again", LOG_S("error", why.text));
		return;
	}
	for (struct target *t = w->targets; t; t = t->next) {
		bool none = true;

		for (unsigned e = 0; e < RESOLVE_MAX; e++)
			none &= !t->ends[e].url[0];
		if (!t->resolver && (none || (t->host[0] && ++t->turns >= LOOK_UP_EVERY)))
			target_dial(t);
	}
}

/* --- TLS --- */

static struct wire_tls_files files;
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;

static void file_mark(const char *path, struct buf *to)
{
	struct stat st;

	if (stat(path, &st) == 0)
		buf_printf(to, "%llu.%lld.%ld.%lld ", (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (long long)st.st_size);
}

/* Goes up when the files are seen to have changed. */
static unsigned tls_turn(void)
{
	static char seen[256];
	static unsigned turns;
	struct buf now = { 0 };
	unsigned ret;

	if (!files.cert || !files.cert[0])
		return 0;
	file_mark(files.ca, &now);
	file_mark(files.cert, &now);
	file_mark(files.key, &now);
	pthread_mutex_lock(&files_lock);
	if (strcmp(seen, buf_z(&now)) != 0)
		turns++;
	str_copy(seen, sizeof seen, buf_as_str(&now));
	ret = turns;
	pthread_mutex_unlock(&files_lock);
	buf_free(&now);
	return ret;
}

static enum err read_pem(const char *what, const char *path, struct buf *ret, struct why *why)
{
	FILE *f = fopen(path, "re");
	char part[4096];
	size_t n;

	if (!f)
		return err_field(why, ERR_INVALID, what, "%s: '%s' cannot be read: %s", what, path, strerror(errno));
	while ((n = fread(part, 1, sizeof part, f)) > 0 && ret->n < 1 << 20)
		buf_add(ret, part, n);
	(void)fclose(f);
	if (!strstr(buf_z(ret), "-----BEGIN "))
		return err_field(why, ERR_INVALID, what, "%s: '%s' is not a PEM file", what, path);
	return ERR_OK;
}

static enum err tls_fill(nng_tls_config *config, const struct wire_tls_files *of, const char *name, struct why *why)
{
	struct buf ca = { 0 }, cert = { 0 }, key = { 0 };
	struct why pair;
	enum err err;
	int rv;

	if ((err = read_pem("tls_ca", of->ca, &ca, why)) || (err = read_pem("tls_cert", of->cert, &cert, why)) ||
	    (err = read_pem("tls_key", of->key, &key, why)))
		;
	else if (key_pair_check(buf_as_str(&cert), buf_as_str(&key), &pair))
		err = err_field(why, ERR_INVALID, "tls_cert", "tls_cert '%s' and tls_key '%s' cannot be used together: %s", of->cert, of->key, pair.text);
	else if ((rv = nng_tls_config_ca_chain(config, buf_z(&ca), NULL)))
		err = err_field(why, ERR_INVALID, "tls_ca", "tls_ca: '%s' has no usable certificate: %s", of->ca, nng_strerror(rv));
	else if ((rv = nng_tls_config_own_cert(config, buf_z(&cert), buf_z(&key), NULL)))
		err = err_field(why, ERR_INVALID, "tls_cert", "tls_cert '%s' and tls_key '%s' cannot be used together: %s", of->cert, of->key,
				nng_strerror(rv));
	else if ((name && (rv = nng_tls_config_server_name(config, name))) || (rv = nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED)))
		err = err_set(why, ERR_INTERNAL, "TLS cannot be set up: %s", nng_strerror(rv));
	buf_free(&ca);
	buf_free(&cert);
	buf_free(&key);
	return err;
}

static bool given(const struct wire_tls_files *f) { return f->cert && f->cert[0]; }

static nng_tls_config *tls_config_of(const struct wire_tls_files *of, enum nng_tls_mode mode, const char *name, struct why *why)
{
	nng_tls_config *config;
	int rv;

	if (!given(of)) {
		err_field(why, ERR_INVALID, "tls_cert", "tls+tcp:// needs tls_ca, tls_cert and tls_key");
		return NULL;
	}
	rv = nng_tls_config_alloc(&config, mode);
	if (rv) {
		err_set(why, ERR_NOT_IMPLEMENTED, "this libnng cannot do TLS: %s", nng_strerror(rv));
		return NULL;
	}
	if (!tls_fill(config, of, name, why))
		return config;
	nng_tls_config_free(config);
	return NULL;
}

static nng_tls_config *tls_config(enum nng_tls_mode mode, const char *name, struct why *why) { return tls_config_of(&files, mode, name, why); }

enum err wire_tls_check(const struct wire_tls_files *of, struct why *why)
{
	const char *all[3] = { of->ca, of->cert, of->key };
	static const char *const names[3] = { "tls_ca", "tls_cert", "tls_key" };
	nng_tls_config *config;
	unsigned n = 0;

	for (unsigned i = 0; i < 3; i++)
		n += all[i] && all[i][0];
	for (unsigned i = 0; n && i < 3; i++)
		if (!all[i] || !all[i][0])
			return err_field(why, ERR_INVALID, names[i], "%s is not given; TLS between services needs tls_ca, tls_cert and tls_key", names[i]);
	if (!n)
		return ERR_OK;
	config = tls_config_of(of, NNG_TLS_MODE_SERVER, NULL, why);
	if (!config)
		return why->code;
	nng_tls_config_free(config);
	return ERR_OK;
}

enum err wire_tls_set(const struct wire_tls_files *of, struct why *why)
{
	enum err err = wire_tls_check(of, why);

	if (!err)
		files = *of;
	return err;
}

enum err wire_check_url(const char *url, bool tls_given, struct why *why)
{
	const char *rest = strstr(url, "://"), *colon = strrchr(url, ':');
	bool tls = strncmp(url, "tls+tcp://", 10) == 0;
	uint64_t port;

	if (strncmp(url, "inproc://", 9) == 0 || strncmp(url, "ipc:///", 7) == 0)
		return rest[3] && (rest[3] != '/' || rest[4]) ? ERR_OK : err_set(why, ERR_INVALID, "'%s' names nothing after '://'", url);
	if (!tls && strncmp(url, "tcp://", 6) != 0)
		return err_set(why, ERR_INVALID, "'%s' is not of the form tcp://HOST:PORT, tls+tcp://HOST:PORT, ipc:///path or inproc://name", url);
	if (colon <= rest + 3 || !str_u64(str_of(colon + 1), &port) || port == 0 || port > 65435)
		return err_set(why, ERR_INVALID, "'%s' needs a host and a port from 1 to 65435 (snapshots go out on the port 100 above)", url);
	if (tls && !tls_given)
		return err_field(why, ERR_INVALID, "tls_cert", "'%s' needs tls_ca, tls_cert and tls_key", url);
	return ERR_OK;
}
