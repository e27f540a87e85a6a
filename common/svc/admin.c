/* admin.c - the admin port: is it alive, is it ready, what does it count, what is it. Runs on the main loop. */
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "common/svc/runtime.h"

enum { STILL_US = 30 * 1000 * 1000 };     /* a loop that has not turned for so long is stuck */

struct page {
	const char *path, *type;
	int (*fill)(struct runtime *, struct buf *);      /* returns the status */
};

static const char json_type[] = "application/json";

/* --- health --- */

bool svc_ready(struct svc *s)
{
	bool ok = true;

	pthread_mutex_lock(&s->lock);
	for (const struct need *n = s->needs; n; n = n->next)
		ok &= n->ok || n->wanted;
	pthread_mutex_unlock(&s->lock);
	return ok;
}

static const char *status_of(struct runtime *rt)
{
	if (rt->ending)
		return "draining";
	for (unsigned i = 0; i < rt->n; i++)
		if (atomic_load(&rt->svcs[i].standby))
			return "standby";
	if (!rt->started)
		return "starting";
	for (unsigned i = 0; i < rt->n; i++)
		if (!svc_ready(&rt->svcs[i]))
			return "not ready";
	return "ready";
}

static void add_needs(struct json_out *j, struct svc *s)
{
	char since[32];

	pthread_mutex_lock(&s->lock);
	for (const struct need *n = s->needs; n; n = n->next) {
		jw_obj(j);
		jw_kv_strz(j, "service", s->def->name);
		jw_kv_strz(j, "need", n->name);
		jw_kv_bool(j, "ok", n->ok);
		jw_kv_bool(j, "required", !n->wanted);
		clock_rfc3339(n->since_us, 3, since, sizeof(since));
		jw_kv_strz(j, "since", since);
		jw_kv_strz(j, "text", n->text);
		jw_end(j);
	}
	pthread_mutex_unlock(&s->lock);
}

/* All that waits, waits behind a writer: what the operator may call ready. */
static bool stands_by(struct runtime *rt)
{
	bool all = rt->config.standby_ready && !rt->ending;

	for (unsigned i = 0; i < rt->n; i++)
		all &= !atomic_load(&rt->svcs[i].standby) || atomic_load(&rt->svcs[i].spare);
	return all;
}

static int readyz(struct runtime *rt, struct buf *b)
{
	const char *status = status_of(rt);
	struct json_out j;

	json_begin(&j, b);
	jw_obj(&j);
	jw_kv_strz(&j, "status", status);
	jw_key(&j, "needs");
	jw_arr(&j);
	for (unsigned i = 0; i < rt->n; i++)
		add_needs(&j, &rt->svcs[i]);
	json_done(&j);
	return strcmp(status, "ready") == 0 || (strcmp(status, "standby") == 0 && stands_by(rt)) ? 200 : 503;
}

static void one_status(struct buf *b, const char *status, const char *service)
{
	struct json_out j;

	json_begin(&j, b);
	jw_obj(&j);
	jw_kv_strz(&j, "status", status);
	if (service)
		jw_kv_strz(&j, "service", service);
	json_done(&j);
}

/* One that waits for its turn is not to be restarted for it. */
static int startupz(struct runtime *rt, struct buf *b)
{
	bool standby = false;

	for (unsigned i = 0; i < rt->n; i++)
		standby |= atomic_load(&rt->svcs[i].standby);
	one_status(b, rt->started ? "started" : standby ? "standby" : "starting", NULL);
	return rt->started || standby ? 200 : 503;
}

/* This answer shows that the main loop turns; the others' have to be looked at. */
static int livez(struct runtime *rt, struct buf *b)
{
	for (unsigned i = 0; i < rt->n; i++) {
		int64_t beat = atomic_load(&rt->svcs[i].beat_us);

		if (beat && rt->svcs[i].phase >= SVC_RUNNING && rt->svcs[i].phase <= SVC_DRAINED && mono_us() - beat > STILL_US) {
			one_status(b, "a service has not turned its loop for more than 30 s", rt->svcs[i].def->name);
			return 503;
		}
	}
	one_status(b, "alive", NULL);
	return 200;
}

static int version(struct runtime *rt, struct buf *b)
{
	struct json_out j;

	json_begin(&j, b);
	jw_obj(&j);
	jw_kv_strz(&j, "name", rt->name);
	jw_kv_strz(&j, "version", CORRAL_VERSION);
	jw_kv_strz(&j, "build", "C11, compiler " __VERSION__);
	json_done(&j);
	return 200;
}

/* --- metrics --- */

static unsigned open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n > 3 ? n - 3 : 0;         /* ".", ".." and the one that reads them */
}

static uint64_t resident_bytes(void)
{
	unsigned long long total = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f) {
		if (fscanf(f, "%llu %llu", &total, &resident) != 2)
			resident = 0;
		fclose(f);
	}
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void add_process(struct buf *b, const struct runtime *rt)
{
	struct rusage u;
	struct rlimit r;

	getrusage(RUSAGE_SELF, &u);
	getrlimit(RLIMIT_NOFILE, &r);
	metrics_print_head(b, "process_cpu_seconds_total", "counter", "User and system CPU time of the process.");
	buf_printf(b, "process_cpu_seconds_total %.6f\n", (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
	metrics_print_head(b, "process_resident_memory_bytes", "gauge", "Memory of the process that is resident.");
	buf_printf(b, "process_resident_memory_bytes %llu\n", (unsigned long long)resident_bytes());
	metrics_print_head(b, "process_open_fds", "gauge", "Open file descriptors.");
	buf_printf(b, "process_open_fds %u\n", open_descriptors());
	metrics_print_head(b, "process_max_fds", "gauge", "Most file descriptors that may be open.");
	buf_printf(b, "process_max_fds %llu\n", (unsigned long long)r.rlim_cur);
	metrics_print_head(b, "process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.");
	buf_printf(b, "process_start_time_seconds %.3f\n", (double)(wall_us() - (mono_us() - rt->started_us)) / 1e6);
}

/* What /readyz says, for alarms. */
static void add_met(struct buf *b, struct runtime *rt)
{
	metrics_print_head(b, "corral_need_met", "gauge", "1 when what a service needs or wants is there, 0 when it is missed.");
	for (unsigned i = 0; i < rt->n; i++) {
		pthread_mutex_lock(&rt->svcs[i].lock);
		for (const struct need *n = rt->svcs[i].needs; n; n = n->next)
			buf_printf(b, "corral_need_met{service=\"%s\",need=\"%s\"} %d\n", rt->svcs[i].def->name, n->name, n->ok);
		pthread_mutex_unlock(&rt->svcs[i].lock);
	}
}

static void add_own(const struct runtime *rt, struct buf *b)
{
	metrics_print_head(b, "corral_build_info", "gauge", "Always 1; the labels say what runs.");
	buf_printf(b, "corral_build_info{version=\"%s\"} 1\n", CORRAL_VERSION);
	metrics_print_head(b, "corral_config_reloads_total", "counter", "Times the configuration was read again, by result: ok, failed.");
	buf_printf(b, "corral_config_reloads_total{result=\"ok\"} %u\ncorral_config_reloads_total{result=\"failed\"} %u\n", rt->reloads, rt->reloads_failed);
	metrics_print_head(b, "corral_log_lines_total", "counter", "Log lines by level.");
	for (enum log_level l = LOG_LEVEL_DEBUG; l <= LOG_LEVEL_ERROR; l++)
		buf_printf(b, "corral_log_lines_total{level=\"%s\"} %llu\n", log_level_name(l), (unsigned long long)log_written(l));
	metrics_print_head(b, "corral_log_lines_dropped_total", "counter", "Log lines that nobody read in time.");
	buf_printf(b, "corral_log_lines_dropped_total %llu\n", (unsigned long long)log_dropped());
}

static int metrics(struct runtime *rt, struct buf *b)
{
	struct metrics **all = x_calloc(rt->n, sizeof(*all));
	const char **names = x_calloc(rt->n, sizeof(*names));

	for (unsigned i = 0; i < rt->n; i++) {
		all[i] = rt->svcs[i].metrics;
		names[i] = rt->svcs[i].def->name;
	}
	metrics_print(b, all, names, rt->n);
	add_own(rt, b);
	add_met(b, rt);
	add_process(b, rt);
	free(all);
	free(names);
	return 200;
}

/* --- HTTP --- */

static const struct page pages[] = {
	{ "/livez", json_type, livez },
	{ "/readyz", json_type, readyz },
	{ "/startupz", json_type, startupz },
	{ "/metrics", "text/plain; version=0.0.4; charset=utf-8", metrics },
	{ "/version", json_type, version },
};

static void reply(struct http_xchg *x, int status, const char *type, const char *more, const struct buf *body)
{
	struct buf head = { 0 };

	buf_printf(&head, "Content-Type: %s\r\nCache-Control: no-store\r\n%s", type, more);
	http_reply(x, status, buf_as_str(&head), buf_as_str(body));
	buf_free(&head);
}

static void reply_error(struct http_xchg *x, enum err code, const char *more, const char *text)
{
	struct buf b = { 0 };
	struct json_out j;
	char ts[32];

	clock_rfc3339(wall_us(), 3, ts, sizeof(ts));
	json_begin(&j, &b);
	jw_obj(&j);
	jw_kv_bool(&j, "success", false);
	jw_kv_strz(&j, "error", text);
	jw_kv_strz(&j, "error_code", err_name(code));
	jw_kv_strz(&j, "timestamp", ts);
	json_done(&j);
	reply(x, err_status(code), json_type, more, &b);
	buf_free(&b);
}

static const struct page *page_at(struct str path)
{
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		if (str_eqz(path, pages[i].path))
			return &pages[i];
	return NULL;
}

static void on_request(struct http_xchg *x, void *arg)
{
	const struct page *p = page_at(x->path);
	struct buf b = { 0 };
	int status;

	if (!p) {
		reply_error(x, ERR_NOT_FOUND, "", "the admin port has /livez, /readyz, /startupz, /metrics and /version");
		return;
	}
	if (!str_eqz(x->head.method, "GET") && !str_eqz(x->head.method, "HEAD")) {
		reply_error(x, ERR_METHOD_NOT_ALLOWED, "Allow: GET, HEAD\r\n", "the admin port is only read: GET or HEAD");
		return;
	}
	status = p->fill(arg, &b);
	reply(x, status, p->type, "", &b);
	buf_free(&b);
}

static size_t on_head(struct http_xchg *x, void *arg) { return 4096; }

static void on_refused(struct http_xchg *x, const struct why *why, void *arg) { reply_error(x, why->code, "", why->text); }

bool admin_open(struct runtime *rt, struct why *why)
{
	const struct http_handler handler = { .on_head = on_head, .on_request = on_request, .on_refused = on_refused, .arg = rt };
	int given = upgrade_take(rt, "-", "admin_listen");
	const struct http_server_opts opts = { .max_body = 4096, .max_conns = 100, .paused = rt->upgrade != NULL };
	const struct http_listen at = { .address = rt->config.admin_listen, .given = given >= 0, .fd = given };

	rt->admin = http_server_new(rt->loop, NULL, &handler, &opts, why);
	return http_server_listen(rt->admin, &at, why);
}
