/* https_out.c - see https_out.h. The only file that knows libcurl.
 *
 * libcurl wants to be told as long as a descriptor is ready, our loop tells once: its descriptors lie in an epoll of their own, whose own
 * descriptor is in the loop. One look takes what is ready, at most some rounds, and looks again in the next turn when there was more.
 * libcurl must not be asked to end a call from inside its own callbacks: such a call is marked, and gone when libcurl has returned. */
#include "common/io/https_out.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/data/log.h"
#include "common/data/secret.h"

enum { READY = 32, ROUNDS = 16, HEAD_MAX = 64 * 1024, CONNECT_MS = 10000, MAX_IDLE = 32 };

struct https_out {
	struct loop *loop;
	CURLM *multi;
	struct loop_io io;
	int epoll;
	struct loop_timer timer;      /* libcurl's own */
	struct list calls;
	uint32_t active;
	char *ca_file, *proxy;
	bool inside;                  /* libcurl is running */
};

struct https_call {
	struct list link;
	struct https_out *out;
	CURL *easy;
	struct curl_slist *headers;
	struct https_ops ops;
	void *arg;
	size_t sent;                  /* of the body */
	struct buf body, head;        /* head: the lines of the answer, each ended by LF */
	struct loop_timer timer;      /* until the first byte, then between bytes */
	int64_t first_byte_ms, idle_ms;
	bool started;                 /* the answer's head is whole and was told */
	bool paused, cancelled, timed_out;
	char error[CURL_ERROR_SIZE];
};

static const char *const error_names[] = {
	[HTTPS_REFUSED] = "refused", [HTTPS_UNTRUSTED] = "untrusted", [HTTPS_CONNECT_TIMEOUT] = "connect_timeout", [HTTPS_BROKEN] = "broken",
	[HTTPS_FIRST_BYTE_TIMEOUT] = "first_byte_timeout", [HTTPS_IDLE_TIMEOUT] = "idle_timeout", [HTTPS_CUT] = "cut", [HTTPS_DEADLINE] = "deadline",
	[HTTPS_CANCELLED] = "cancelled",
};

const char *https_error_name(enum https_error e) { return error_names[e]; }

static void act(struct https_out *, curl_socket_t, int events);

/* --- the pool --- */

static void once(void)
{
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
		LOG_ERROR("libcurl cannot be initialised");
		abort();
	}
}

static void on_time(struct loop_timer *t)
{
	act(list_entry(t, struct https_out, timer), CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
	struct https_out *o = arg;

	if (ms < 0)
		loop_timer_del(&o->timer);
	else
		loop_timer_set(o->loop, &o->timer, ms * 1000, on_time);
	return 0;
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct https_out *o = arg;
	struct epoll_event e = { .data.fd = fd };

	if (what == CURL_POLL_REMOVE) {
		epoll_ctl(o->epoll, EPOLL_CTL_DEL, fd, &e);
		return 0;
	}
	e.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
	if (epoll_ctl(o->epoll, EPOLL_CTL_MOD, fd, &e) != 0 && epoll_ctl(o->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
		LOG_ERROR("a connection cannot be watched", LOG_S("error", strerror(errno)));
	return 0;
}

static void on_ready(struct loop_io *io, unsigned ready)
{
	struct https_out *o = list_entry(io, struct https_out, io);
	struct epoll_event e[READY];
	int n = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		n = epoll_wait(o->epoll, e, READY, 0);
		for (int i = 0; i < n; i++)
			act(o, e[i].data.fd, (e[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) | (e[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
				       (e[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_IN | CURL_CSELECT_OUT : 0));
		if (n <= 0)
			return;
	}
	loop_io_again(io, LOOP_READ);
}

struct https_out *https_out_new(struct loop *loop, const struct https_out_opts *opts, struct why *why)
{
	static pthread_once_t initialised = PTHREAD_ONCE_INIT;
	struct https_out *o;
	int fd = epoll_create1(EPOLL_CLOEXEC);

	pthread_once(&initialised, once);
	if (fd < 0) {
		err_set(why, ERR_UNAVAILABLE, "no descriptor is left for connections to providers: %s", strerror(errno));
		return NULL;
	}
	if (opts->ca_file && opts->ca_file[0] && access(opts->ca_file, R_OK) != 0) {
		err_set(why, ERR_INVALID, "the file of authorities '%.200s' cannot be read: %s", opts->ca_file, strerror(errno));
		close(fd);
		return NULL;
	}
	o = x_calloc(1, sizeof(*o));
	o->loop = loop;
	o->epoll = fd;
	o->ca_file = x_strdup(opts->ca_file ? opts->ca_file : "");
	o->proxy = x_strdup(opts->proxy ? opts->proxy : "");
	list_init(&o->calls);
	o->multi = curl_multi_init();
	curl_multi_setopt(o->multi, CURLMOPT_SOCKETFUNCTION, set_socket);
	curl_multi_setopt(o->multi, CURLMOPT_SOCKETDATA, o);
	curl_multi_setopt(o->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(o->multi, CURLMOPT_TIMERDATA, o);
	curl_multi_setopt(o->multi, CURLMOPT_MAXCONNECTS, (long)(opts->max_idle ? opts->max_idle : MAX_IDLE));
	curl_multi_setopt(o->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
	loop_io_add(loop, &o->io, fd, LOOP_READ, on_ready);
	return o;
}

uint32_t https_out_active(const struct https_out *o) { return o->active; }

bool https_url_ok(const char *url, struct why *why)
{
	CURLU *u = curl_url();
	char *scheme = NULL, *query = NULL;
	bool ok = curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER) == CURLUE_OK && curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
		  (strcmp(scheme, "https") == 0 || strcmp(scheme, "http") == 0) && curl_url_get(u, CURLUPART_QUERY, &query, 0) != CURLUE_OK;

	curl_free(scheme);
	curl_free(query);
	curl_url_cleanup(u);
	if (!ok)
		err_set(why, ERR_INVALID, "'%.200s' is no address of a provider; write https://host/path, without a user, a key or a query in it", url);
	return ok;
}

/* --- the end of calls --- */

static void slist_wipe(struct curl_slist *l)
{
	for (struct curl_slist *i = l; i; i = i->next)
		secret_wipe(i->data, strlen(i->data));
	curl_slist_free_all(l);
}

static void call_free(struct https_call *c)
{
	struct https_out *o = c->out;

	curl_multi_remove_handle(o->multi, c->easy);
	curl_easy_cleanup(c->easy);
	loop_timer_del(&c->timer);
	slist_wipe(c->headers);
	list_del(&c->link);
	o->active--;
	buf_free(&c->body);
	buf_free(&c->head);
	free(c);
}

void https_call_cancel(struct https_call *c)
{
	c->cancelled = true;
	loop_timer_del(&c->timer);
	if (!c->out->inside)                  /* else it is freed when libcurl has returned */
		call_free(c);
}

void https_out_free(struct https_out *o)
{
	if (!o)
		return;
	while (!list_empty(&o->calls)) {
		struct https_call *c = list_entry(o->calls.next, struct https_call, link);

		if (!c->cancelled)
			c->ops.on_error(c, HTTPS_CANCELLED, "shutting down", c->arg);
		call_free(c);
	}
	curl_multi_cleanup(o->multi);
	loop_timer_del(&o->timer);
	loop_io_del(&o->io);
	close(o->epoll);
	free(o->ca_file);
	free(o->proxy);
	free(o);
}

static enum https_error error_of(const struct https_call *c, CURLcode code)
{
	long connected = 0;

	if (c->timed_out)
		return c->started ? HTTPS_IDLE_TIMEOUT : HTTPS_FIRST_BYTE_TIMEOUT;
	switch (code) {
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_CONNECT:
		return HTTPS_REFUSED;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_CACERT_BADFILE:
		return HTTPS_UNTRUSTED;
	case CURLE_OPERATION_TIMEDOUT:
		curl_easy_getinfo(c->easy, CURLINFO_REQUEST_SIZE, &connected);
		return connected ? HTTPS_DEADLINE : HTTPS_CONNECT_TIMEOUT;
	default:
		return c->started ? HTTPS_CUT : HTTPS_BROKEN;
	}
}

static const char *text_of(const struct https_call *c, CURLcode code)
{
	if (c->timed_out)
		return c->started ? "it said nothing more for too long" : "no byte of an answer came in time";
	if (code == CURLE_SEND_FAIL_REWIND)
		return "it ended the connection before an answer";
	return c->error[0] ? c->error : curl_easy_strerror(code);
}

static bool tell_head(struct https_call *);

static void finish(struct https_call *c, CURLcode code)
{
	if (!c->cancelled && code == CURLE_OK && !c->started) {
		c->out->inside = true;        /* an answer without a body; who cancels now is not to free it under us */
		(void)tell_head(c);
		c->out->inside = false;
	}
	if (!c->cancelled && code == CURLE_OK && c->started)
		c->ops.on_end(c, c->arg);
	else if (!c->cancelled)
		c->ops.on_error(c, error_of(c, code), text_of(c, code), c->arg);
	call_free(c);
}

/* Those that libcurl says are over, and those that were cancelled inside of it. */
static void finish_some(struct https_out *o)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(o->multi, &left))) {
		struct https_call *c = NULL;

		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		finish(c, m->data.result);
	}
	list_each_safe(l, &o->calls) {
		struct https_call *c = list_entry(l, struct https_call, link);

		if (c->cancelled)
			call_free(c);
	}
}

static void act(struct https_out *o, curl_socket_t fd, int events)
{
	int running;

	o->inside = true;
	curl_multi_socket_action(o->multi, fd, events, &running);
	o->inside = false;
	finish_some(o);
}

/* --- what comes --- */

/* In a later turn: libcurl may be what called. */
static void on_silence(struct loop_timer *t)
{
	struct https_call *c = list_entry(t, struct https_call, timer);

	c->timed_out = true;
	finish(c, CURLE_OPERATION_TIMEDOUT);
}

static void watch_silence(struct https_call *c)
{
	int64_t ms = c->started ? c->idle_ms : c->first_byte_ms;

	if (ms && !c->paused && !c->cancelled)
		loop_timer_set(c->out->loop, &c->timer, ms * 1000, on_silence);
	else
		loop_timer_del(&c->timer);
}

/* The lines of the last head: status line first. */
static void parse_head(const struct https_call *c, struct http_head *h)
{
	struct str rest = buf_as_str(&c->head), line, name;
	long status = 0;

	memset(h, 0, sizeof(*h));
	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	h->status = (int)status;
	while (str_split(&rest, '\n', &line)) {
		struct str value = line;

		if (!str_split(&value, ':', &name) || !value.p || !name.n || h->n_headers == HTTP_MAX_HEADERS)
			continue;
		h->headers[h->n_headers++] = (struct http_header){ name, str_trim(value) };
	}
}

static bool tell_head(struct https_call *c)
{
	struct http_head h;

	parse_head(c, &h);
	c->started = true;
	watch_silence(c);
	c->ops.on_head(c, &h, c->arg);
	return !c->cancelled;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
	struct https_call *c = arg;
	struct str line = str_n(p, size * n);

	if (c->cancelled)
		return 0;
	if (str_starts(line, STR("HTTP/")))
		buf_clear(&c->head);          /* what was before was an interim answer, or a proxy's */
	if (c->head.n + line.n > HEAD_MAX)
		return 0;
	while (line.n && (line.p[line.n - 1] == '\r' || line.p[line.n - 1] == '\n'))
		line.n--;
	buf_str(&c->head, line);
	buf_char(&c->head, '\n');
	return size * n;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct https_call *c = arg;

	if (c->cancelled)
		return 0;
	if (c->paused)
		return CURL_WRITEFUNC_PAUSE;
	if (!c->started && !tell_head(c))
		return 0;
	if (c->paused)
		return CURL_WRITEFUNC_PAUSE;
	watch_silence(c);
	if (n && size)
		c->ops.on_data(c, str_n(p, size * n), c->arg);
	return c->cancelled ? 0 : size * n;
}

void https_call_pause(struct https_call *c)
{
	c->paused = true;
	loop_timer_del(&c->timer);
	if (!c->out->inside)
		curl_easy_pause(c->easy, CURLPAUSE_RECV);
}

/* libcurl may give at once what it holds: never from inside of it, and its ends are taken afterwards. */
static void on_resume(struct loop_timer *t)
{
	struct https_call *c = list_entry(t, struct https_call, timer);
	struct https_out *o = c->out;

	watch_silence(c);
	o->inside = true;
	curl_easy_pause(c->easy, CURLPAUSE_CONT);
	o->inside = false;
	act(o, CURL_SOCKET_TIMEOUT, 0);
}

void https_call_resume(struct https_call *c)
{
	if (!c->paused || c->cancelled)
		return;
	c->paused = false;
	loop_timer_set(c->out->loop, &c->timer, 0, on_resume);
}

/* --- a call --- */

static void add_header(struct https_call *c, struct str line)
{
	struct buf b = { 0 };

	buf_str(&b, line);
	if (http_value_ok(line))
		c->headers = curl_slist_append(c->headers, buf_z(&b));
	secret_wipe(b.p, b.n);
	buf_free(&b);
}

static size_t give_body(char *to, size_t size, size_t n, void *arg)
{
	struct https_call *c = arg;
	size_t left = c->body.n - c->sent;

	n = size * n < left ? size * n : left;
	if (n)
		memcpy(to, c->body.p + c->sent, n);
	c->sent += n;
	return n;
}

/* libcurl asks a second time, and up to five times more, when a kept connection ends before an answer. What was sent may have been done and be billed. */
static int once_only(void *arg, curl_off_t offset, int origin) { return CURL_SEEKFUNC_FAIL; }

static void set_request(struct https_call *c, const struct https_request *q)
{
	CURL *e = c->easy;

	for (unsigned i = 0; i < q->n_headers; i++)
		add_header(c, q->headers[i]);
	add_header(c, STR("Expect:"));
	for (unsigned i = 0; i < q->n_body; i++)
		buf_str(&c->body, q->body[i]);
	curl_easy_setopt(e, CURLOPT_URL, q->url);
	if (strcmp(q->method, "POST") == 0) {
		curl_easy_setopt(e, CURLOPT_POST, 1L);
		curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.n);
		curl_easy_setopt(e, CURLOPT_READFUNCTION, give_body);
		curl_easy_setopt(e, CURLOPT_READDATA, c);
		curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, once_only);
	}
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, c->headers);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(q->connect_ms ? q->connect_ms : CONNECT_MS));
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)q->total_ms);
}

static void set_rules(struct https_call *c)
{
	CURL *e = c->easy;

	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(e, CURLOPT_PROXY, c->out->proxy);
	curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	if (c->out->ca_file[0])
		curl_easy_setopt(e, CURLOPT_CAINFO, c->out->ca_file);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(e, CURLOPT_PRIVATE, c);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
}

struct https_call *https_call_start(struct https_out *o, const struct https_request *q, const struct https_ops *ops, void *arg)
{
	struct https_call *c = x_calloc(1, sizeof(*c));

	c->out = o;
	c->easy = curl_easy_init();
	c->ops = *ops;
	c->arg = arg;
	c->first_byte_ms = q->first_byte_ms;
	c->idle_ms = q->idle_ms;
	list_push(&o->calls, &c->link);
	o->active++;
	set_rules(c);
	set_request(c, q);
	watch_silence(c);
	curl_multi_add_handle(o->multi, c->easy);     /* begins by libcurl's timer, in a later turn */
	return c;
}

/* --- small questions --- */

struct https_fetch {
	struct https_call *call;
	struct buf body;
	size_t max_bytes;
	int status;
	bool too_long;
	void (*done)(void *arg, int status, struct str body, const char *error);
	void *arg;
};

static void fetch_free(struct https_fetch *f)
{
	buf_free(&f->body);
	free(f);
}

static void fetch_head(struct https_call *c, const struct http_head *h, void *arg) { ((struct https_fetch *)arg)->status = h->status; }

static void fetch_data(struct https_call *c, struct str data, void *arg)
{
	struct https_fetch *f = arg;

	f->too_long |= f->body.n + data.n > f->max_bytes;
	if (!f->too_long)
		buf_str(&f->body, data);
}

static void fetch_end(struct https_call *c, void *arg)
{
	struct https_fetch *f = arg;

	f->done(f->arg, f->too_long ? 0 : f->status, buf_as_str(&f->body), f->too_long ? "the answer is too long" : NULL);
	fetch_free(f);
}

static void fetch_error(struct https_call *c, enum https_error e, const char *text, void *arg)
{
	struct https_fetch *f = arg;

	if (e != HTTPS_CANCELLED)
		f->done(f->arg, 0, STR(""), text);
	fetch_free(f);
}

struct https_fetch *https_fetch(struct https_out *o, const struct https_request *q, size_t max_bytes,
				void (*done)(void *arg, int status, struct str body, const char *error), void *arg)
{
	static const struct https_ops ops = { fetch_head, fetch_data, fetch_end, fetch_error };
	struct https_fetch *f = x_calloc(1, sizeof(*f));

	f->max_bytes = max_bytes;
	f->done = done;
	f->arg = arg;
	f->call = https_call_start(o, q, &ops, f);
	return f;
}

void https_fetch_cancel(struct https_fetch *f)
{
	https_call_cancel(f->call);
	fetch_free(f);
}
