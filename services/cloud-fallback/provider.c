/* provider.c - how a provider is, in one word and a sentence: the first condition that fails. See cloud.h. */
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/policy/price.h"
#include "services/cloud-fallback/cloud.h"

struct breaker_opts cloud_breaker_opts(const struct cloud *c)
{
	return (struct breaker_opts){ .failures = (uint32_t)c->cfg->breaker_failures, .open_us = c->cfg->breaker_open * 1000,
		.max_open_us = 300 * (int64_t)1000000, .refused_open_us = c->cfg->breaker_open < 1000 ? c->cfg->breaker_open * 1000 : 1000000 };
}

struct provider *cloud_provider(struct cloud *c, struct str name)
{
	for (size_t i = 0; i < c->n; i++)
		if (str_eqz(name, c->providers[i].set->name))
			return &c->providers[i];
	return NULL;
}

const char *provider_model(const struct provider *p, struct str model)
{
	for (size_t i = 0; i < p->set->n_models; i++)
		if (str_eqz(model, p->set->models[i]))
			return p->set->models[i];
	return NULL;
}

int64_t provider_cold_ms(const struct provider *p)
{
	if (p->set->kind != KIND_RUNPOD || !p->workers.known || p->workers.up)
		return 0;
	return p->workers.cold_start_us ? p->workers.cold_start_us / 1000 : p->cloud->cfg->cloud_cold_start;
}

/* --- standing --- */

static void say(struct standing *s, Corral__ProviderState state, int64_t ready_at_ms, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void say(struct standing *s, Corral__ProviderState state, int64_t ready_at_ms, const char *fmt, ...)
{
	va_list ap;

	s->state = state;
	s->ready_at_ms = ready_at_ms;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
}

static int64_t in_wall_ms(int64_t mono_at_us) { return (wall_us() + mono_at_us - mono_us()) / 1000; }

static bool is_configured(const struct provider *p, struct standing *s)
{
	const char *name = p->set->name;

	if (!p->set->enabled)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NOT_CONFIGURED, 0, "%s is switched off", name);
	else if (!p->keys.n)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NOT_CONFIGURED, 0, "%s: %s", name, p->keys.problem);
	else if (!p->set->n_models)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NOT_CONFIGURED, 0, "%s has no models: name them with models=a|b", name);
	else
		return true;
	return false;
}

static bool has_budget(const struct provider *p, struct standing *s)
{
	const struct spending *m = &p->spend;
	char words[WORDS];
	int64_t resets_us;

	if (!m->heard)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET, 0, "%s: the usage-tracker has not said yet what may be spent there", p->set->name);
	else if (!m->may)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET, m->until_us / 1000, "%s", m->why);
	else if (counts_used_up(p->cloud->counts, p, words, &resets_us))
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET, resets_us / 1000, "%s", words);
	else
		return true;
	return false;
}

static bool has_key(const struct provider *p, struct standing *s)
{
	const struct provider_key *k = keyring_first_back(&p->keys);
	int64_t at_ms = in_wall_ms(k->until_us);

	if (keyring_good(&p->keys, mono_us()))
		return true;
	if (k->state == KEY_REFUSED)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NOT_CONFIGURED, at_ms, "%s refuses its key", p->set->name);
	else if (k->state == KEY_NO_CREDIT)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET, at_ms, "%s says that its account has no credit left", p->set->name);
	else
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_COOLING, at_ms, "%s asked to be left alone for a while (429)", p->set->name);
	return false;
}

void provider_standing(const struct provider *p, struct standing *s)
{
	int64_t now_us = mono_us();

	*s = (struct standing){ .state = CORRAL__PROVIDER_STATE__PROVIDER_READY };
	if (!is_configured(p, s) || !has_budget(p, s) || !has_key(p, s))
		return;
	if (!breaker_is_open(&p->breaker, now_us))
		return;
	if (breaker_state(&p->breaker, now_us) == BREAKER_CLOSED)
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_COOLING, in_wall_ms(now_us + breaker_retry_us(&p->breaker, now_us)), "%s is overloaded and asked to be left alone for a while",
		    p->set->name);
	else
		say(s, CORRAL__PROVIDER_STATE__PROVIDER_COOLING, in_wall_ms(now_us + breaker_retry_us(&p->breaker, now_us)), "%s failed %lld times in a row",
		    p->set->name, (long long)p->cloud->cfg->breaker_failures);
}

/* --- for others --- */

/* By the ledger's price, which is what will be charged; by the catalogue's until that was heard. */
static void fill_price(const struct provider *p, const struct catalogue_row *r, struct arena *mem, Corral__ProviderModel *m)
{
	const struct price *said = offers_price(p->cloud->offers, p->set->name, m->name);

	m->price = arena_new_of(mem, Corral__ProviderPrice);
	corral__provider_price__init(m->price);
	if (said) {
		m->price->known = true;
		m->price->input = said->input;
		m->price->cached_input = said->cached_input;
		m->price->output = said->output;
		return;
	}
	if (!r || !r->priced)
		return;
	m->price->known = true;
	m->price->input = r->input;
	m->price->cached_input = r->cached_input;
	m->price->output = r->output;
}

/* What is not said of a model is what nearly all chat models can. */
static void fill_capabilities(const struct catalogue_row *r, struct arena *mem, Corral__ProviderModel *m)
{
	struct str rest = r && r->capabilities.n ? r->capabilities : STR("completion tools json"), word;

	m->capabilities = arena_array(mem, char *, rest.n);
	while (rest.n && str_split(&rest, ' ', &word))
		if (word.n)
			m->capabilities[m->n_capabilities++] = arena_dup(mem, word.p, word.n);
}

static void fill_rest(const struct provider *p, const char *model, struct arena *mem, Corral__ProviderModel *m)
{
	int64_t until_us = keyring_model_rests_wall_us(&p->keys, model, mono_us());
	char time[40];

	if (!until_us)
		return;
	clock_rfc3339(until_us, 0, time, sizeof(time));
	m->rests_until_ms = until_us / 1000;
	m->rests_why = arena_printf(mem, "%s allows no more requests of %s until %s", p->set->name, model, time);
}

static Corral__ProviderModel *fill_model(const struct provider *p, const char *model, struct arena *mem)
{
	const struct catalogue_row *r = cloud_catalogue_find(p->cloud->catalogue, str_of(provider_kind_name(p->set->kind)), str_of(p->set->name), str_of(model));
	Corral__ProviderModel *m = arena_new_of(mem, Corral__ProviderModel);

	corral__provider_model__init(m);
	m->name = arena_printf(mem, "%s/%s", p->set->name, model);
	m->remote_name = arena_dup(mem, model, strlen(model));
	if (r) {
		m->context_tokens = r->context_tokens;
		m->max_output_tokens = r->max_output_tokens;
	}
	fill_capabilities(r, mem, m);
	fill_price(p, r, mem, m);
	fill_rest(p, model, mem, m);
	return m;
}

static Corral__Provider *fill_one(const struct provider *p, struct arena *mem)
{
	Corral__Provider *o = arena_new_of(mem, Corral__Provider);
	struct standing s;

	provider_standing(p, &s);
	corral__provider__init(o);
	o->name = arena_dup(mem, p->set->name, strlen(p->set->name));
	o->kind = (char *)(uintptr_t)provider_kind_name(p->set->kind);
	o->state = s.state;
	o->why = arena_dup(mem, s.why, strlen(s.why));
	o->ready_at_ms = s.ready_at_ms;
	o->endpoint = (char *)(uintptr_t)p->cloud->endpoint;
	o->slots = p->set->slots;
	o->keys = (uint32_t)keyring_good(&p->keys, mono_us());
	o->budget_left_tokens = p->spend.left_tokens;
	o->budget_left_microusd = p->spend.left_microusd;
	o->cold_start_ms = (uint32_t)provider_cold_ms(p);
	o->models = arena_array(mem, Corral__ProviderModel *, p->set->n_models + 1);
	for (; o->n_models < p->set->n_models; o->n_models++)
		o->models[o->n_models] = fill_model(p, p->set->models[o->n_models], mem);
	return o;
}

void cloud_fill(struct cloud *c, struct arena *mem, Corral__Provider ***ret, size_t *ret_n)
{
	*ret = arena_array(mem, Corral__Provider *, c->n + 1);
	for (size_t i = 0; i < c->n; i++)
		(*ret)[i] = fill_one(&c->providers[i], mem);
	*ret_n = c->n;
}
