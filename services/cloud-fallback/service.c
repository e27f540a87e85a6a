/* service.c - cloud-fallback's table and life: providers configured, told of, and reached. See cloud.h. */
#include "services/cloud-fallback/service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/data/secret.h"
#include "common/io/snapshot.h"
#include "common/policy/authz.h"
#include "services/cloud-fallback/cloud.h"

enum { TICK_US = 1000000, MASTER_LEAST = 16, MASTER_MOST = 4096 };

static const struct metric_def metrics[M_COUNT] = {
	[M_REQUESTS] = { METRIC_COUNTER, "provider_requests_total", "Requests to a provider, by how they ended: ok, or an error code.", "provider,outcome" },
	[M_ACTIVE] = { METRIC_GAUGE, "provider_active", "Requests under way at a provider.", "provider" },
	[M_READY] = { METRIC_GAUGE, "provider_ready", "1 while a provider can be used.", "provider" },
	[M_KEYS] = { METRIC_GAUGE, "provider_keys", "Keys of a provider that can be used now.", "provider" },
	[M_FIRST_BYTE] = { METRIC_HISTOGRAM, "provider_first_byte_seconds", "From sending a request to the head of a provider's answer.", "provider" },
	[M_TOKENS] = { METRIC_COUNTER, "provider_tokens_total", "Tokens of finished requests, by kind (prompt, completion) and source (reported, estimated).", "provider,kind,source" },
	[M_RETRIES] = { METRIC_COUNTER, "provider_key_retries_total", "Requests that were sent again with another key.", "provider" },
	[M_REDACTED] = { METRIC_COUNTER, "redacted_total", "Places that were taken out of requests to providers, by rule, and requests that were refused for one.", "rule,outcome" },
	[M_FAULTS] = { METRIC_COUNTER, "provider_faults_total", "Attempts at a provider that failed, by what it was: auth, no_credit, rate_limited, overloaded, no_model, bad_request, "
		       "too_long, refused, broken, silent (nothing came in time), unreachable.", "provider,fault" },
	[M_CANCELS] = { METRIC_COUNTER, "provider_job_cancels_total", "Jobs in a provider's queue that were cancelled because nobody waited for them any more, by outcome: ok, failed.", "provider,outcome" },
	[M_DOUBTS] = { METRIC_COUNTER, "provider_doubts_total", "Jobs that were cancelled while their cost was in doubt, by what came of the doubt: nothing (it was cancelled before it ran), "
			"counted (it told what it used), stays (nobody says, and the most that it may have cost stays booked).", "provider,outcome" },
	[M_COLD_START] = { METRIC_GAUGE, "provider_cold_start_seconds", "What a request waits while no worker is up, as measured.", "provider" },
};

static struct cloud *of(Corral__Providers_Service *rpc) { return (struct cloud *)(void *)((char *)rpc - offsetof(struct cloud, rpc)); }

/* --- telling --- */

static const char *state_name(Corral__ProviderState s)
{
	static const char *const names[] = { "unknown", "ready", "not configured", "no budget", "cooling" };

	return names[s];
}

/* Once at the start, and whenever it is another. */
static void say(struct provider *p)
{
	struct standing s;

	provider_standing(p, &s);
	series_set(metrics_series(svc_metrics(p->cloud->svc), M_READY, p->set->name), s.state == CORRAL__PROVIDER_STATE__PROVIDER_READY);
	series_set(metrics_series(svc_metrics(p->cloud->svc), M_KEYS, p->set->name), (double)keyring_good(&p->keys, mono_us()));
	if (s.state == p->told && !strcmp(s.why, p->told_why))
		return;
	if (s.state == CORRAL__PROVIDER_STATE__PROVIDER_READY)
		LOG_INFO("provider is ready", LOG_S("provider", p->set->name), LOG_S("kind", provider_kind_name(p->set->kind)), LOG_I("keys", p->keys.n),
			 LOG_I("models", p->set->n_models));
	else
		LOG_WARN("provider cannot be used", LOG_S("provider", p->set->name), LOG_S("state", state_name(s.state)), LOG_S("why", s.why));
	p->told = s.state;
	memcpy(p->told_why, s.why, sizeof(p->told_why));
}

static void pack(struct cloud *c, int64_t made_at_us, struct arena *mem, struct str *ret)
{
	Corral__ProviderSnapshot s = CORRAL__PROVIDER_SNAPSHOT__INIT;
	Corral__ActiveModel model;
	uint8_t *bytes;

	cloud_fill(c, mem, &s.providers, &s.n_providers);
	active_get(c->active, mem, &model);
	s.active_model = &model;
	s.made_at_us = made_at_us;
	if (c->front) {
		s.token.data = (uint8_t *)(uintptr_t)c->asked_token;
		s.token.len = strlen(c->asked_token);
	}
	bytes = arena_alloc(mem, corral__provider_snapshot__get_packed_size(&s) + 1);
	*ret = str_n((char *)bytes, corral__provider_snapshot__pack(&s, bytes));
}

void cloud_changed(struct cloud *c)
{
	struct arena *mem = arena_new(0);
	struct str bytes;

	for (size_t i = 0; i < c->n; i++)
		say(&c->providers[i]);
	pack(c, 0, mem, &bytes);
	if (!c->published.p || !str_eq(bytes, buf_as_str(&c->published))) {
		buf_clear(&c->published);
		buf_str(&c->published, bytes);
		pack(c, wall_us(), mem, &bytes);
		snapshot_publish(c->pub, bytes);
	}
	arena_free(mem);
}

static void on_tick(struct loop_timer *t)
{
	struct cloud *c = list_entry(t, struct cloud, tick);
	struct arena *mem = arena_new(0);

	for (size_t i = 0; i < c->n; i++) {
		struct provider *p = &c->providers[i];

		if (keyring_load(&p->keys, p->set, mem))
			LOG_INFO("the keys of a provider were read again", LOG_S("provider", p->set->name), LOG_I("keys", p->keys.n));
		workers_look(p);
	}
	arena_free(mem);
	active_look(c->active);
	cloud_changed(c);
	loop_timer_set(c->loop, t, TICK_US, on_tick);
}

/* --- asks --- */

static enum err allowed(const Corral__Caller *caller, const char *action, struct why *why)
{
	static const Corral__Caller nobody = CORRAL__CALLER__INIT;
	const Corral__Caller *who = caller ? caller : &nobody;
	Corral__Key narrow = CORRAL__KEY__INIT;
	struct subject s = { .role = who->role, .key_id = str_of(who->key_id), .tenant = str_of(who->tenant), .key = &narrow };

	narrow.n_actions = who->n_actions;
	narrow.actions = who->actions;
	return authorise(&s, str_of(action), STR("providers"), str_of(who->tenant), why);
}

static void on_list(Corral__Providers_Service *rpc, const Corral__ListProvidersRequest *q, Corral__ListProvidersReply_Closure closure, void *data)
{
	struct cloud *c = of(rpc);
	Corral__ListProvidersReply r = CORRAL__LIST_PROVIDERS_REPLY__INIT;
	struct arena *mem = arena_new(0);
	Corral__ActiveModel model;
	struct why why;

	if (allowed(q->caller, "providers.read", &why)) {
		rpc_fail(data, why.code, why.text);
	} else {
		cloud_fill(c, mem, &r.providers, &r.n_providers);
		active_get(c->active, mem, &model);
		r.active_model = &model;
		closure(&r, data);
	}
	arena_free(mem);
}

struct setting { struct cloud *cloud; Corral__ActiveModel_Closure closure; void *data; };

static void on_model_set(void *arg, const Corral__SetActiveModelRequest *q, const struct why *why)
{
	struct setting *s = arg;
	struct arena *mem = arena_new(0);
	Corral__ActiveModel model;

	if (why->code) {
		rpc_fail(s->data, why->code, why->text);
	} else {
		LOG_INFO("administrative act", LOG_S("action", "settings.write"), LOG_S("object", "active_model"), LOG_S("model", q->model),
			 LOG_S("by", q->caller && q->caller->key_id[0] ? q->caller->key_id : "no key"), LOG_S("request_id", q->caller ? q->caller->request_id : ""));
		cloud_changed(s->cloud);
		active_get(s->cloud->active, mem, &model);
		s->closure(&model, s->data);
	}
	arena_free(mem);
	free(s);
}

static void on_set_model(Corral__Providers_Service *rpc, const Corral__SetActiveModelRequest *q, Corral__ActiveModel_Closure closure, void *data)
{
	struct cloud *c = of(rpc);
	struct setting *s = x_malloc(sizeof(*s));
	struct why why;

	*s = (struct setting){ c, closure, data };
	if (!allowed(q->caller, "settings.write", &why) && !active_set(c->active, q, on_model_set, s, &why))
		return;
	rpc_fail(data, why.code, why.text);
	free(s);
}

/* --- life --- */

static void stop(struct svc *svc)
{
	struct cloud *c = svc_state(svc);

	if (!c)
		return;
	loop_timer_del(&c->tick);
	spend_free(c->spend);
	counts_free(c->counts);
	offers_free(c->offers);
	errands_drop(c);
	endings_drop(c);
	for (size_t i = 0; i < c->n; i++) {
		workers_stop(&c->providers[i]);
		keyring_free(&c->providers[i].keys);
	}
	front_close(c);
	https_out_free(c->out);
	snapshot_pub_free(c->pub);
	active_close(c->active);
	buf_free(&c->published);
	secret_wipe(c->seal_key, sizeof(c->seal_key));
	free(c->providers);
	arena_free(c->mem);
	free(c);
	svc_set_state(svc, NULL);
}

/* The line that people put into a file ends with a newline that is not theirs. */
static bool read_master(struct cloud *c, char text[MASTER_MOST], struct str *ret, struct why *why)
{
	const char *path = c->cfg->master_key_file;
	FILE *f = fopen(path, "re");

	*ret = str_n(text, f ? fread(text, 1, MASTER_MOST, f) : 0);
	if (f)
		fclose(f);
	while (ret->n && (text[ret->n - 1] == '\n' || text[ret->n - 1] == '\r'))
		ret->n--;
	if (ret->n < MASTER_LEAST)
		err_field(why, ERR_INVALID, "master_key_file", "the master key file %.200s cannot be read, or holds less than %d bytes", path, MASTER_LEAST);
	return ret->n >= MASTER_LEAST;
}

/* *ret NULL: there is no master key, and nothing sealed can be opened. */
static bool make_seal_key(struct cloud *c, const uint8_t **ret, struct why *why)
{
	char text[MASTER_MOST];
	struct str master = str_of(c->cfg->cloud_master_key);
	bool ok = true;

	*ret = NULL;
	if (master.n && master.n < MASTER_LEAST)
		return err_field(why, ERR_INVALID, "cloud_master_key", "the master key has less than %d characters", MASTER_LEAST) == ERR_OK;
	if (!master.n && c->cfg->master_key_file[0])
		ok = read_master(c, text, &master, why);
	if (ok && master.n) {
		seal_key_of(master, c->seal_key);
		*ret = c->seal_key;
	}
	secret_wipe(text, sizeof(text));
	return ok;
}

static bool make_providers(struct cloud *c, struct why *why)
{
	struct provider_setting *list;
	const uint8_t *seal_key;

	if (cloud_settings_providers(c->cfg, c->mem, &list, &c->n, why) || !make_seal_key(c, &seal_key, why))
		return false;
	c->providers = x_calloc(c->n + 1, sizeof(*c->providers));
	for (size_t i = 0; i < c->n; i++) {
		c->providers[i].cloud = c;
		list_init(&c->providers[i].waiting);
		c->providers[i].set = &list[i];
		list[i].seal_key = seal_key;
		c->providers[i].began_on = list[i].enabled;
		breaker_init(&c->providers[i].breaker);
		(void)keyring_load(&c->providers[i].keys, &list[i], c->mem);
	}
	return true;
}

/* Without providers nothing listens, and the snapshot is empty. */
static bool begin(struct cloud *c, struct why *why)
{
	const struct https_out_opts out = { .ca_file = c->cfg->cloud_ca, .proxy = c->cfg->cloud_proxy };

	c->endpoint = "";
	c->catalogue = cloud_catalogue_load(c->mem, c->cfg->cloud_catalogue, why);
	if (!c->catalogue || redaction_open(c->cfg, c->mem, &c->redact, why) || !make_providers(c, why) || !(c->active = active_open(c, why)))
		return false;
	if (c->n && (!(c->out = https_out_new(c->loop, &out, why)) || !front_open(c, why)))
		return false;
	c->pub = snapshot_pub_new(c->loop, svc_rpc_server(c->svc), svc_pub_url(c->svc, svc_name(c->svc)), "providers", why);
	return c->pub != NULL;
}

static bool start(struct svc *svc, struct why *why)
{
	struct cloud *c = x_calloc(1, sizeof(*c));

	svc_set_state(svc, c);
	c->svc = svc;
	c->loop = svc_loop(svc);
	c->cfg = svc_config(svc);
	c->mem = arena_new(0);
	list_init(&c->errands);
	list_init(&c->endings);
	if (!begin(c, why)) {
		stop(svc);
		return false;
	}
	corral__providers__init(&c->rpc, NULL);
	c->rpc.list = on_list;
	c->rpc.set_active_model = on_set_model;
	rpc_server_add(svc_rpc_server(svc), &c->rpc.base);
	c->spend = spend_new(c);
	c->counts = counts_new(c);
	c->offers = offers_new(c);
	cloud_changed(c);
	loop_timer_set(c->loop, &c->tick, TICK_US, on_tick);
	return true;
}

static bool same_models(const struct provider_setting *a, const struct provider_setting *b)
{
	for (size_t i = 0; i < a->n_models && a->n_models == b->n_models; i++)
		if (strcmp(a->models[i], b->models[i]) != 0)
			return false;
	return a->n_models == b->n_models;
}

/* The rest was told to the usage-tracker at the start: limits, and the prices of models. One that was off then has not asked for its requests. */
static bool may_change(const struct provider *p, const struct provider_setting *is, struct why *why)
{
	const struct provider_setting *was = p->set;

	if ((p->began_on || !is->enabled) && same_models(was, is) && strcmp(was->name, is->name) == 0 && was->kind == is->kind && strcmp(was->url, is->url) == 0 &&
	    was->queue == is->queue && was->monthly_tokens == is->monthly_tokens && was->monthly_microusd == is->monthly_microusd &&
	    was->per_minute == is->per_minute && was->per_day == is->per_day)
		return true;
	err_field(why, ERR_INVALID, "providers", "%s changed in more than its slots, its keys and being switched off: that needs a restart", is->name);
	return false;
}

static bool reload_providers(struct cloud *c, const struct cloud_config *cfg, struct why *why)
{
	struct provider_setting *list;
	size_t n;

	if (cloud_settings_providers(cfg, c->mem, &list, &n, why))
		return false;
	if (n != c->n) {
		err_field(why, ERR_INVALID, "providers", "providers were added or taken away: that needs a restart");
		return false;
	}
	for (size_t i = 0; i < n; i++)
		if (!may_change(&c->providers[i], &list[i], why))
			return false;
	for (size_t i = 0; i < n; i++) {
		list[i].seal_key = c->providers[i].set->seal_key;
		c->providers[i].set = &list[i];
		c->providers[i].keys.loaded = false;          /* on_tick() reads them */
	}
	return true;
}

/* What was written once, and read again and again, lies in the configuration itself. */
static bool reload(struct svc *svc, struct why *why)
{
	struct cloud *c = svc_state(svc);
	const struct cloud_config *cfg = svc_config(svc);

	if (!reload_providers(c, cfg, why))
		return false;
	if (cfg->cloud_endpoint[0])
		c->endpoint = cfg->cloud_endpoint;
	if (cfg->cloud_token[0])
		c->asked_token = cfg->cloud_token;
	c->cfg = cfg;
	cloud_changed(c);
	svc_reloaded(svc);
	return true;
}

static void on_left(void *arg) { svc_drained(arg); }

static void leave(struct cloud *c)
{
	c->endings_over = NULL;
	counts_leave(c->counts, on_left, c->svc);
}

/* Jobs that were told to end are let hear it. */
static void on_idle(void *arg)
{
	struct cloud *c = svc_state(arg);

	endings_hurry(c);
	if (list_empty(&c->endings))
		leave(c);
	else
		c->endings_over = leave;
}

static void drain(struct svc *svc)
{
	struct cloud *c = svc_state(svc);

	c->draining = true;
	if (c->front)
		http_server_drain(c->front, on_idle, svc);
	else
		on_idle(svc);
}

const struct svc_def cloud_fallback_service = {
	.name = "cloud-fallback",
	.summary = "Providers in the cloud as one more backend: their keys, limits and state; sends only what may be spent.",
	.options = cloud_options,
	.databases = (const struct svc_db[]){ { "cloud_db", "cloud.db", cloud_migrations }, { 0 } },
	.config_size = sizeof(struct cloud_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8118,
	.rpc_port = 7118,
	.check = cloud_settings_check,
	.start = start,
	.reload = reload,
	.drain = drain,
	.stop = stop,
};
