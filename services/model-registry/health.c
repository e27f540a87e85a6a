/* health.c - see health.h. */
#include "services/model-registry/health.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "common/policy/caps.h"
#include "services/model-registry/acts.h"
#include "services/model-registry/child.h"

enum { TICK_US = 200 * 1000, FRESH_US = 1000 * 1000, GATEWAYS_BACK_US = 2000 * 1000, GATEWAYS_MOST = 64, RECHECK_MS = 5000, TOLD_US = 5000000,
       ANSWER_MAX = 1 << 20, RESTART_WAIT_MOST_MS = 30 * 60000,
       FORGIVEN_US = 600 * 1000000, KILL_AFTER_US = 10 * 1000000, STANDBY_AGAIN_MOST_S = 60, STOP_TRIES = 50, STOP_STEP_US = 100 * 1000 };

/* One backend, known by its name. */
struct ward {
	struct ward *next;
	struct health *health;
	char name[128];
	struct backend *backend;      /* NULL: not configured any more */

	/* what gateways tell; mono */
	uint32_t in_use;
	int64_t told_us, last_us;     /* when; when the last byte came, or the first request went there */
	char used_model[256];
	bool used;                    /* since the last check that passed */

	/* checks */
	struct http_fetch *fetch;
	struct buf body;
	char model[256];              /* that is asked, or failed */
	uint32_t context;             /* in force when it was asked; 0 = not known */
	int64_t began_us, next_us, down_us;
	unsigned failures;            /* in a row */
	bool sick;
	char why[160];
	int64_t well_us;              /* since when */
	struct series *ok, *failed;

	/* its restart */
	pid_t restarter;              /* 0 = none runs */
	int64_t restarter_us, restart_us;     /* began; not again before */
	unsigned restarts;

	/* its standby */
	pid_t standby;
	int64_t standby_us, standby_again_us, kill_us;
	unsigned falls;
	struct series *standby_up;
};

/* Who may use the backends: what it has not told yet is not known. */
struct teller { uint8_t id[16]; int64_t told_us; };

struct health {
	struct registry *registry;
	char *dir;
	struct ward *wards;
	struct loop_timer timer;
	struct teller tellers[GATEWAYS_MOST];
	unsigned n_tellers;
	int64_t began_us;
	bool awaits;                  /* a check waits for what gateways tell next */
};

static void tick(struct loop_timer *);

/* --- life --- */

static struct ward *ward_of(struct health *h, const char *name)
{
	for (struct ward *w = h->wards; w; w = w->next)
		if (strcmp(w->name, name) == 0)
			return w;
	return NULL;
}

static struct ward *ward_new(struct health *h, const char *name)
{
	struct ward *w = x_calloc(1, sizeof(*w));
	struct metrics *m = h->registry->metrics;

	w->health = h;
	(void)str_copy(w->name, sizeof(w->name), str_of(name));
	w->used = true;                   /* nothing is known of it yet */
	w->last_us = w->well_us = mono_us();
	w->ok = metrics_series(m, M_CHECKS, name, "ok");
	w->failed = metrics_series(m, M_CHECKS, name, "failed");
	w->standby_up = metrics_series(m, M_STANDBY, name);
	w->next = h->wards;
	h->wards = w;
	return w;
}

static const struct registry_config *config_of(const struct ward *w) { return w->health->registry->config; }

static bool has_command(const struct opt_list *commands, const struct ward *w)
{
	struct arena *mem = arena_new(0);
	bool yes = settings_command(commands, w->name, mem) != NULL;

	arena_free(mem);
	return yes;
}

/* It is there from the start of a standby until the backend is well, and outlives us. */
static const char *standby_file(const struct ward *w, struct arena *mem) { return arena_printf(mem, "%s/standby-%s.needed", w->health->dir, w->name); }

static void mark_standby(const struct ward *w, bool on)
{
	struct arena *mem = arena_new(0);
	const char *path = standby_file(w, mem);
	int fd = on ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd >= 0)
		close(fd);
	else if (on)
		LOG_WARN("that a standby is needed cannot be noted; after a restart it comes later", LOG_S("backend", w->name), LOG_S("file", path));
	else
		(void)unlink(path);
	arena_free(mem);
}

/* It had a standby when the one before us ended, which took that along: it has one again at once, until a check passes. */
static void go_on(struct ward *w)
{
	struct arena *mem = arena_new(0);
	bool needed = access(standby_file(w, mem), F_OK) == 0;

	arena_free(mem);
	if (!needed || !config_of(w)->check_every || !has_command(&config_of(w)->standby, w))
		return;
	w->sick = true;
	w->failures = (unsigned)config_of(w)->check_failures;
	w->restarts = (unsigned)config_of(w)->standby_after;
	(void)str_copy(w->why, sizeof(w->why), STR("it could not generate when this service ended, and is checked again"));
}

void health_set_registry(struct health *h, struct registry *registry)
{
	for (struct ward *w = h->wards; w; w = w->next) {
		http_fetch_cancel(w->fetch);
		w->fetch = NULL;
		w->backend = NULL;
	}
	h->registry = registry;
	for (size_t i = 0; i < registry->n; i++) {
		struct backend *b = &registry->backends[i];
		struct ward *w = ward_of(h, b->name);

		if (!w) {
			w = ward_new(h, b->name);
			go_on(w);
		}
		w->backend = b;
		if (w->sick)
			registry_set_sick(b, w->why);
	}
}

struct health *health_new(struct registry *registry, const char *dir)
{
	struct health *h = x_calloc(1, sizeof(*h));

	h->dir = x_strdup(dir);
	h->began_us = mono_us();
	h->registry = registry;
	health_set_registry(h, registry);
	loop_timer_set(registry->loop, &h->timer, TICK_US, tick);
	return h;
}

/* At the end of the process there is no loop any more that could wait. */
static void end_now(pid_t pid)
{
	int status;

	if (!pid)
		return;
	child_signal(pid, SIGTERM);
	for (unsigned i = 0; i < STOP_TRIES; i++) {
		if (child_ended(pid, &status))
			return;
		(void)usleep(STOP_STEP_US);
	}
	child_signal(pid, SIGKILL);
	while (!child_ended(pid, &status))
		(void)usleep(STOP_STEP_US);
}

void health_free(struct health *h)
{
	if (!h)
		return;
	loop_timer_del(&h->timer);
	while (h->wards) {
		struct ward *w = h->wards;

		h->wards = w->next;
		http_fetch_cancel(w->fetch);
		end_now(w->restarter);
		end_now(w->standby);
		buf_free(&w->body);
		free(w);
	}
	free(h->dir);
	free(h);
}

static void note_teller(struct health *h, const Corral__LeaseRequest *r, int64_t now)
{
	unsigned at = 0;

	for (unsigned i = 0; i < h->n_tellers; i++)       /* who is silent has ended */
		if (now - h->tellers[i].told_us < TOLD_US)
			h->tellers[at++] = h->tellers[i];
	h->n_tellers = at;
	if (r->gateway.len != sizeof(h->tellers->id))
		return;
	for (at = 0; at < h->n_tellers && memcmp(h->tellers[at].id, r->gateway.data, r->gateway.len) != 0; at++)
		;
	if (at == GATEWAYS_MOST)
		return;                   /* as many as slots are lent to */
	h->n_tellers += at == h->n_tellers;
	memcpy(h->tellers[at].id, r->gateway.data, r->gateway.len);
	h->tellers[at].told_us = now;
}

/* Of all that gateways sent until then it is known. After a start those that live come back first. */
static bool is_told_until(const struct health *h, int64_t us, int64_t now)
{
	bool any = false;

	for (unsigned i = 0; i < h->n_tellers; i++) {
		if (now - h->tellers[i].told_us >= TOLD_US)
			continue;
		any = true;
		if (h->tellers[i].told_us <= us)
			return false;
	}
	return any || now - h->began_us > GATEWAYS_BACK_US;
}

void health_hear(struct health *h, const Corral__LeaseRequest *r)
{
	int64_t now = mono_us();

	note_teller(h, r, now);
	if (h->awaits)
		loop_timer_set(h->registry->loop, &h->timer, 0, tick);
	for (size_t i = 0; i < r->n_active; i++) {
		const Corral__SlotActivity *a = r->active[i];
		struct ward *w = ward_of(h, a->backend);
		int64_t last = now - (int64_t)(a->quiet_ms < 86400000 ? a->quiet_ms : 86400000) * 1000;

		if (!w)
			continue;
		/* several models and gateways: what is in use is told again and again, so the largest of a while counts */
		if (a->in_use >= w->in_use || now - w->told_us > TOLD_US || !w->in_use)
			w->in_use = a->in_use;
		w->told_us = now;
		w->last_us = last > w->last_us ? last : w->last_us;
		w->used = true;
		(void)str_copy(w->used_model, sizeof(w->used_model), str_of(a->model));
	}
}

static int64_t recheck_us(const struct ward *w)
{
	int64_t ms = config_of(w)->check_timeout;

	return (ms < RECHECK_MS ? ms : RECHECK_MS) * 1000;
}

/* --- what a check says --- */

static void passed(struct ward *w)
{
	series_inc(w->ok);
	w->failures = 0;
	w->down_us = 0;
	if (!w->sick)
		return;
	w->sick = false;
	mark_standby(w, false);
	w->well_us = mono_us();
	LOG_INFO("a backend generates again", LOG_S("backend", w->name), LOG_I("restarts", w->restarts));
	registry_set_sick(w->backend, NULL);
}

static void failed(struct ward *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void failed(struct ward *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(w->why, sizeof(w->why), fmt, ap);
	va_end(ap);
	series_inc(w->failed);
	w->failures++;
	LOG_AT(w->sick ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, "a backend fails its generation check", LOG_S("backend", w->name), LOG_S("why", w->why), LOG_I("in_a_row", w->failures),
		 LOG_S("then", w->failures < config_of(w)->check_failures ? "it is checked again" : "it is listed as down"));
	if (w->sick || w->failures < config_of(w)->check_failures)
		return;
	w->sick = true;
	registry_set_sick(w->backend, w->why);
}

static void on_checked(void *arg, int status, struct str body, const char *error)
{
	struct ward *w = arg;

	w->fetch = NULL;
	w->next_us = mono_us() + recheck_us(w);
	/* what it refuses it can answer; 503 is a queue that is full, or a model that loads */
	if ((status >= 200 && status < 500) || status == 501 || status == 503) {
		w->used = w->last_us > w->began_us;
		passed(w);
	} else if (status) {
		failed(w, "asked for one token of '%s' it answers %d", w->model, status);     /* for all who read of it; what it said is not for them */
		LOG_AT(w->failures == 1 ? LOG_LEVEL_WARN : LOG_LEVEL_DEBUG, "what it said", LOG_S("backend", w->name), LOG_STR("answer", str_n(body.p, body.n < 80 ? body.n : 80)));
	} else {
		failed(w, "asked for one token of '%s' it does not answer: %s", w->model, error);
	}
}

/* --- asking --- */

static bool in_memory(const struct backend *b, const struct found *f) { return f->loaded || (b->kind == &kind_llamacpp && !b->held->router); }

/* What was used last, or else anything that is in memory; while it is failing also what has left memory since. */
static const struct found *to_ask(const struct ward *w)
{
	const struct found *f = held_model(w->backend, str_of(w->failures ? w->model : w->used_model));

	if (f && (in_memory(w->backend, f) || w->failures))
		return f;
	for (size_t i = 0; i < w->backend->held->n; i++)
		if (in_memory(w->backend, &w->backend->held->models[i]))
			return &w->backend->held->models[i];
	return NULL;
}

/* With another context than the one in force an Ollama would load the model anew. */
static void write_options(struct json_out *jo, uint32_t context, bool embeds)
{
	if (embeds && !context)
		return;
	jw_key(jo, "options");
	jw_obj(jo);
	if (!embeds)
		jw_kv_i64(jo, "num_predict", 1);
	if (context)
		jw_kv_i64(jo, "num_ctx", context);
	jw_end(jo);
}

static const char *write_request(struct ward *w, const struct found *f)
{
	bool is_ollama = w->backend->kind == &kind_ollama, embeds = (f->caps & LLM_CAP_EMBEDDING) && !(f->caps & LLM_CAP_COMPLETION);
	struct json_out jo;

	buf_clear(&w->body);
	json_begin(&jo, &w->body);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", f->remote_name);
	jw_kv_strz(&jo, embeds ? "input" : "prompt", "1");
	if (!embeds)
		jw_kv_bool(&jo, "stream", false);
	if (is_ollama)
		write_options(&jo, w->context, embeds);
	else if (!embeds)
		jw_kv_i64(&jo, "max_tokens", 1);
	jw_end(&jo);
	return is_ollama ? embeds ? "/api/embed" : "/api/generate" : embeds ? "/v1/embeddings" : "/v1/completions";
}

/* It is asked what is in memory, and does not say: so does one that hangs. */
static bool keeps_silent(const struct ward *w, int64_t now)
{
	int64_t since = w->backend->untold_us;

	return since > w->last_us && now - since > config_of(w)->check_timeout * 1000;
}

/* What was unloaded a moment ago would be loaded again by the question, and so would a model that its last request gave another context.
 * So what is in memory has to be known: asked after the last use, told not long ago, and all gateways have said since that nothing went there.
 * One that fails, or keeps silent, is asked with what was known last. */
static bool is_known(struct ward *w, int64_t now)
{
	const struct backend *b = w->backend;
	int64_t used_us = w->last_us > b->moved_us ? w->last_us : b->moved_us;
	bool looked = now - b->looked_us < FRESH_US && b->looked_us > w->last_us;

	if (looked && w->failures)
		return true;
	if (!looked || (b->resident_us <= used_us && !keeps_silent(w, now))) {
		registry_look(w->health->registry, w->backend);
		return false;
	}
	if (is_told_until(w->health, b->looked_us, now))
		return true;
	w->health->awaits = true;
	return false;
}

static void check(struct ward *w)
{
	const struct found *f = to_ask(w);
	const char *path;
	int64_t ms = config_of(w)->check_timeout;

	if (!f) {                         /* nothing there could hang */
		w->used = false;
		if (w->failures)
			passed(w);
		return;
	}
	if (f->context_in_force || strcmp(w->model, f->name) != 0)        /* while it fails it may have left memory: it comes back as it was */
		w->context = f->context_in_force;
	(void)str_copy(w->model, sizeof(w->model), str_of(f->name));
	if (!in_memory(w->backend, f) && ms < config_of(w)->load_timeout)
		ms = config_of(w)->load_timeout;
	path = write_request(w, f);
	w->began_us = mono_us();
	w->fetch = http_fetch(w->backend->pool, "POST", str_of(path), STR("Content-Type: application/json\r\n"), buf_as_str(&w->body), ms, ANSWER_MAX,
			      on_checked, w);
}

/* Answers flow there, or may still: it is not asked. */
static bool is_busy(const struct ward *w, int64_t now)
{
	return w->in_use && now - w->told_us < TOLD_US && now - w->last_us < config_of(w)->check_busy * 1000;
}

static bool is_due(const struct ward *w, int64_t now)
{
	if (now < w->next_us || is_busy(w, now))
		return false;
	return w->failures || (w->used && now - w->last_us >= config_of(w)->check_every * 1000);
}

/* Nobody answers at its address: as good as a check that fails. */
static void look_whether_down(struct ward *w, int64_t now)
{
	if (!w->backend->down_reason[0]) {
		w->down_us = 0;
		return;
	}
	if (!w->down_us)
		w->down_us = now;
	if (now - w->down_us < config_of(w)->check_timeout * 1000 || now < w->next_us)
		return;
	w->next_us = now + recheck_us(w);
	failed(w, "it cannot be reached: %s", w->backend->down_reason);
}

static void look_after(struct ward *w, int64_t now)
{
	const struct kind *kind = w->backend->kind;

	if (w->fetch || !config_of(w)->check_every)
		return;
	if (w->backend->down_reason[0] || (kind != &kind_ollama && kind != &kind_llamacpp))
		look_whether_down(w, now);
	else if (w->backend->visited && is_due(w, now) && is_known(w, now))
		check(w);
	if (w->failures && w->backend->visited && !w->backend->down_reason[0] && kind != &kind_ollama && kind != &kind_llamacpp)
		passed(w);                /* it can be reached again, and that is all that is asked of it */
}

/* --- commands --- */

static pid_t start(struct ward *w, const struct opt_list *commands, const char *what)
{
	struct arena *mem = arena_new(0);
	const char *const *argv = settings_command(commands, w->name, mem);
	struct why why = { 0 };
	pid_t pid = child_start(argv, arena_printf(mem, "%s/%s-%s.log", w->health->dir, what, w->name), &why);

	if (pid < 0)
		LOG_ERROR("a command for a backend cannot be run", LOG_S("backend", w->name), LOG_S("what", what), LOG_S("error", why.text));
	else
		LOG_WARN("a command for a backend is run", LOG_S("backend", w->name), LOG_S("what", what), LOG_S("program", argv[0]), LOG_I("pid", pid),
			 LOG_S("why", w->why));
	arena_free(mem);
	return pid;
}

static void count_restart(struct ward *w, const char *outcome)
{
	series_inc(metrics_series(w->health->registry->metrics, M_RESTARTS, w->name, outcome));
}

static void mind_restart(struct ward *w, int64_t now)
{
	int status;

	if (!w->restarter)
		return;
	if (child_ended(w->restarter, &status)) {
		LOG_INFO("the restart command of a backend has ended", LOG_S("backend", w->name), LOG_I("status", status),
			 LOG_I("took_ms", (now - w->restarter_us) / 1000));
		count_restart(w, status ? "failed" : "ok");
		w->restarter = 0;
		w->next_us = now;         /* it is looked at once */
		if (w->backend)
			registry_look(w->health->registry, w->backend);
	} else if (now - w->restarter_us > config_of(w)->restart_timeout * 1000) {
		LOG_ERROR("the restart command of a backend does not end and is killed", LOG_S("backend", w->name));
		child_signal(w->restarter, SIGKILL);
		w->restarter_us = now;
	}
}

static void restart(struct ward *w, int64_t now)
{
	int64_t wait_ms = config_of(w)->restart_wait << (w->restarts < 16 ? w->restarts : 16);
	pid_t pid;

	if (w->restarter || now < w->restart_us || !has_command(&config_of(w)->restart, w))
		return;
	w->restart_us = now + (wait_ms < RESTART_WAIT_MOST_MS ? wait_ms : RESTART_WAIT_MOST_MS) * 1000;
	w->restarts++;
	pid = start(w, &config_of(w)->restart, "restart");
	if (pid < 0) {
		count_restart(w, "failed");
		return;
	}
	w->restarter = pid;
	w->restarter_us = now;
}

/* --- another in its place --- */

static void mind_standby(struct ward *w, int64_t now)
{
	unsigned pause_s;
	int status;

	if (!w->standby)
		return;
	if (child_ended(w->standby, &status)) {
		pause_s = w->falls >= 6 ? STANDBY_AGAIN_MOST_S : 1u << w->falls;
		w->falls = now - w->standby_us > FORGIVEN_US ? 0 : w->falls + 1;
		w->standby_again_us = now + pause_s * INT64_C(1000000);
		LOG_AT(w->kill_us ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "the standby of a backend has ended", LOG_S("backend", w->name), LOG_I("status", status));
		w->standby = 0;
		w->kill_us = 0;
		series_set(w->standby_up, 0);
	} else if (w->kill_us && now > w->kill_us) {
		child_signal(w->standby, SIGKILL);
		w->kill_us = now + KILL_AFTER_US;
	}
}

static void end_standby(struct ward *w, int64_t now)
{
	if (!w->standby || w->kill_us)
		return;
	LOG_INFO("the standby of a backend is not needed any more", LOG_S("backend", w->name));
	child_signal(w->standby, SIGTERM);
	w->kill_us = now + KILL_AFTER_US;
	w->falls = 0;
}

static bool restarts_did_not_help(const struct ward *w, int64_t now)
{
	return !has_command(&config_of(w)->restart, w) || (w->restarts >= (unsigned)config_of(w)->standby_after && now >= w->restart_us);
}

static void start_standby(struct ward *w, int64_t now)
{
	pid_t pid;

	if (w->standby || now < w->standby_again_us || !has_command(&config_of(w)->standby, w) || !restarts_did_not_help(w, now))
		return;
	pid = start(w, &config_of(w)->standby, "standby");
	w->standby_us = now;
	w->standby_again_us = now + STANDBY_AGAIN_MOST_S * INT64_C(1000000);
	if (pid < 0)
		return;
	w->standby = pid;
	mark_standby(w, true);
	series_set(w->standby_up, 1);
}

/* --- time --- */

static void act(struct ward *w, int64_t now)
{
	mind_restart(w, now);
	mind_standby(w, now);
	if (!w->backend || !config_of(w)->check_every) {
		end_standby(w, now);
		if (w->backend && w->sick) {      /* checks were switched off: what they said last is no verdict for ever */
			w->sick = false;
			mark_standby(w, false);
			w->failures = 0;
			registry_set_sick(w->backend, NULL);
		}
		return;
	}
	look_after(w, now);
	if (w->sick) {
		start_standby(w, now);    /* before the next restart: its pause is over, and it did not help */
		restart(w, now);
		return;
	}
	end_standby(w, now);
	if (w->restarts && now - w->well_us > FORGIVEN_US)
		w->restarts = 0;
}

static void tick(struct loop_timer *t)
{
	struct health *h = list_entry(t, struct health, timer);
	int64_t now = mono_us();

	loop_timer_set(h->registry->loop, t, TICK_US, tick);
	h->awaits = false;
	for (struct ward *w = h->wards; w; w = w->next) {
		if (now - w->told_us > TOLD_US)
			w->in_use = 0;
		act(w, now);
	}
}
