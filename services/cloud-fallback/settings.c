/* settings.c - see settings.h. */
#include "services/cloud-fallback/settings.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/io/https_out.h"
#include "services/cloud-fallback/catalogue.h"

enum { NAME_MAX_BYTES = 40, SLOTS_MOST = 10000 };

#define C(...) OPT(struct cloud_config, __VA_ARGS__)

const struct opt cloud_options[] = {
	C(LIST, providers, "", "Providers in the cloud, as name=kind+url: oa=openai+https://api.openai.com/v1. Kinds are openai, anthropic, gemini, openrouter, runpod, compatible; "
	  "name=kind alone takes the usual address. Behind it, each with a semicolon before it, models=a|b, key_file=PATH, key_env=NAME, enabled=no, monthly_tokens=N, "
	  "monthly_microusd=N, per_minute=N, per_day=N, slots=N, api=openai|queue (runpod). CORRAL_PROVIDER_<NAME>_KEY, _KEY_FILE, _MODELS, _MONTHLY_TOKENS and _MONTHLY_MICROUSD say the same. "
	  "A provider without a budget is not used: give one, or write 'unlimited'.",
	  .shape = "name=kind;url;models;key_file;key_env;enabled;monthly_tokens;monthly_microusd;per_minute;per_day;slots;api", .live = true),
	C(STRING, cloud_listen, "", "Where gateways send what goes to providers; empty = 127.0.0.1:8101, or any free port where that is taken. On another address than loopback it "
	  "needs cloud_token."),
	C(STRING, cloud_endpoint, "", "How gateways reach that, as a URL; empty = the address that it listens at."),
	C(SECRET, cloud_token, "", "What gateways have to show there, 16 characters at least; they hear it from cloud-fallback itself. Empty = a new one at each start, for loopback only."),
	C(SECRET, cloud_master_key, "", "Opens provider keys that 'corral providers seal' has sealed, 16 characters at least; empty = what master_key_file holds."),
	C(STRING, master_key_file, "", "File with the installation's secret, at least 32 bytes, for sealed provider keys."),
	C(STRING, cloud_ca, "", "PEM file with the authorities whose certificates are good for providers; empty = those of the system."),
	C(STRING, cloud_proxy, "", "HTTP proxy on the way to providers, as http://host:port; empty = none. The environment's proxies are not used."),
	C(STRING, cloud_catalogue, "", "File of contexts and prices of providers' models, read before the built-in one (services/cloud-fallback/catalogue.tsv, which says its columns)."),
	C(STRING, cloud_db, "", "Database of the active model; empty = as 'db' says, else sqlite:<state_dir>/cloud-fallback/cloud.db."),
	C(STRING, cloud_redact, "", "File of rules of what must not leave for a provider, one on a line: 'redact email', 'refuse api_key', 'redact NAME pattern REGEX', 'refuse NAME text WORDS'. "
	  "Built in are email, card and api_key. Read at the start. Empty = nothing is looked for."),
	C(INT, cloud_slots, "8", "Requests at once for each provider that has no slots of its own; one more waits for two seconds, and is refused with 503 then.", .min = 1, .max = SLOTS_MOST),
	C(DURATION, cloud_connect, "10s", "How long connecting to a provider may take.", .min = 100, .max = 120000, .live = true),
	C(DURATION, cloud_first_byte, "60s", "How long a provider may take to begin its answer.", .min = 100, .max = 3600000, .live = true),
	C(DURATION, cloud_idle, "60s", "How long a provider may be silent in the middle of an answer.", .min = 100, .max = 3600000, .live = true),
	C(DURATION, cloud_time, "10m", "The most that a request may take in all, when the gateway says no shorter time.", .min = 1000, .max = 86400000, .live = true),
	C(DURATION, cloud_recheck, "10m", "How long a key rests that a provider refused, or that has no credit left, before one request may try it again.", .min = 1000, .max = 86400000, .live = true),
	C(DURATION, cloud_cold_start, "60s", "What a request to RunPod waits while no worker is up, until that was measured.", .min = 0, .max = 3600000, .live = true),
	C(INT, breaker_failures, "5", "Failures in a row that open the breaker of a provider.", .min = 1, .max = 1000, .live = true),
	C(DURATION, breaker_open, "30s", "How long an open breaker rests before one request may try; doubles up to 5 minutes.", .min = 10, .max = 3600000, .live = true),
	OPT_END
};

static const struct { const char *name, *url; } kinds[KINDS] = {
	[KIND_OPENAI] = { "openai", "https://api.openai.com/v1" }, [KIND_ANTHROPIC] = { "anthropic", "https://api.anthropic.com/v1" },
	[KIND_GEMINI] = { "gemini", "https://generativelanguage.googleapis.com/v1beta" }, [KIND_OPENROUTER] = { "openrouter", "https://openrouter.ai/api/v1" },
	[KIND_RUNPOD] = { "runpod", "" }, [KIND_COMPATIBLE] = { "compatible", "" },
};

const char *provider_kind_name(enum provider_kind k) { return kinds[k].name; }

bool settings_is_near(const char *listen)
{
	static const char *const near[] = { "127.", "[::1]:", "localhost:", "unix:", ":" };

	for (size_t i = 0; i < sizeof(near) / sizeof(*near); i++)
		if (strncmp(listen, near[i], strlen(near[i])) == 0)
			return true;
	return !listen[0];
}

const char *settings_env(const char *provider, const char *word, struct arena *mem)
{
	char *name = arena_printf(mem, "CORRAL_PROVIDER_%s_%s", provider, word);
	const char *v;

	for (char *p = name; *p; p++)
		*p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
	v = getenv(name);
	return v && v[0] ? v : NULL;
}

/* --- one item --- */

static enum err wrong(const struct provider_setting *p, struct why *why, const char *text, const char *value)
{
	return err_field(why, ERR_INVALID, "providers", "providers: %.40s: %s '%.100s'", p->name, text, value);
}

static bool name_ok(struct str s)
{
	if (!s.n || s.n > NAME_MAX_BYTES || !isalnum((unsigned char)s.p[0]))
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (!islower((unsigned char)s.p[i]) && !isdigit((unsigned char)s.p[i]) && s.p[i] != '-' && s.p[i] != '_')
			return false;
	return true;
}

/* Budgets and prices of a backend of one's own are those of its kind, provider:ollama. 'openai' is one too, and the usual name of a provider: beside
 * one that is called so those of the house are local-openai. */
static bool is_kind_at_home(struct str name)
{
	return str_eqz(name, "ollama") || str_eqz(name, "llamacpp") || str_eqz(name, "vllm") || str_eqz(name, "local-openai");
}

static bool read_kind(struct str s, enum provider_kind *ret)
{
	for (unsigned k = 0; k < KINDS; k++)
		if (str_eqz(s, kinds[k].name)) {
			*ret = (enum provider_kind)k;
			return true;
		}
	return false;
}

static enum err read_cap(const struct provider_setting *p, const char *text, int64_t *ret, struct why *why)
{
	int64_t n;

	if (!strcmp(text, "unlimited"))
		*ret = CAP_UNLIMITED;
	else if (str_i64(str_of(text), &n) && n >= 0)
		*ret = n;
	else
		return wrong(p, why, "a limit is a number, or 'unlimited', not", text);
	return ERR_OK;
}

static enum err read_models(struct provider_setting *p, const char *text, struct arena *mem, struct why *why)
{
	struct str rest = str_of(text), one;
	size_t most = 1;

	for (const char *c = text; *c; c++)
		most += *c == '|';
	p->models = arena_array(mem, const char *, most);
	p->n_models = 0;
	while (rest.n && str_split(&rest, '|', &one)) {
		one = str_trim(one);
		if (memchr(one.p, ' ', one.n))
			return wrong(p, why, "a model's name has no blanks:", arena_str(mem, one).p);
		if (one.n)
			p->models[p->n_models++] = arena_str(mem, one).p;
	}
	return ERR_OK;
}

static enum err read_enabled(struct provider_setting *p, const char *v, struct why *why)
{
	if (strcmp(v, "yes") != 0 && strcmp(v, "true") != 0 && strcmp(v, "no") != 0 && strcmp(v, "false") != 0)
		return wrong(p, why, "enabled is yes or no, not", v);
	p->enabled = v[0] == 'y' || v[0] == 't';
	return ERR_OK;
}

static enum err read_api(struct provider_setting *p, const char *v, struct why *why)
{
	p->queue = strcmp(v, "queue") == 0;
	if (!p->queue && strcmp(v, "openai") != 0)
		return wrong(p, why, "api is openai or queue, not", v);
	if (p->queue && p->kind != KIND_RUNPOD)
		return wrong(p, why, "only runpod has a queue; this is of the kind", kinds[p->kind].name);
	return ERR_OK;
}

static enum err read_slots(struct provider_setting *p, const char *v, struct why *why)
{
	uint64_t n;

	if (!str_u64(str_of(v), &n) || n < 1 || n > SLOTS_MOST)
		return wrong(p, why, "slots is a number from 1, not", v);
	p->slots = (uint32_t)n;
	return ERR_OK;
}

static enum err read_pair(struct provider_setting *p, struct str key, const char *v, struct arena *mem, struct why *why)
{
	const struct { const char *key; int64_t *cap; } caps[] = { { "monthly_tokens", &p->monthly_tokens }, { "monthly_microusd", &p->monthly_microusd },
								   { "per_minute", &p->per_minute }, { "per_day", &p->per_day } };
	const struct { const char *key; const char **text; } texts[] = { { "url", &p->url }, { "key_file", &p->key_file }, { "key_env", &p->key_env } };

	for (size_t i = 0; i < sizeof(caps) / sizeof(*caps); i++)
		if (str_eqz(key, caps[i].key))
			return read_cap(p, v, caps[i].cap, why);
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		if (str_eqz(key, texts[i].key)) {
			*texts[i].text = v;
			return ERR_OK;
		}
	if (str_eqz(key, "models"))
		return read_models(p, v, mem, why);
	if (str_eqz(key, "enabled"))
		return read_enabled(p, v, why);
	if (str_eqz(key, "api"))
		return read_api(p, v, why);
	if (str_eqz(key, "slots"))
		return read_slots(p, v, why);
	return wrong(p, why, "nothing is known of", arena_str(mem, key).p);
}

/* What the environment says beside the item wins, as everywhere. */
static enum err read_env(struct provider_setting *p, struct arena *mem, struct why *why)
{
	static const char *const words[][2] = { { "KEY_FILE", "key_file" }, { "MODELS", "models" }, { "MONTHLY_TOKENS", "monthly_tokens" },
						{ "MONTHLY_MICROUSD", "monthly_microusd" }, { "PER_MINUTE", "per_minute" }, { "PER_DAY", "per_day" } };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		const char *v = settings_env(p->name, words[i][0], mem);
		enum err e = v ? read_pair(p, str_of(words[i][1]), arena_dup(mem, v, strlen(v)), mem, why) : ERR_OK;

		if (e)
			return e;
	}
	return ERR_OK;
}

static enum err check_url(struct provider_setting *p, struct arena *mem, struct why *why)
{
	size_t n;

	if (!p->url[0])
		p->url = kinds[p->kind].url;
	if (!p->url[0])
		return wrong(p, why, "its address has to be said; there is no usual one for the kind", kinds[p->kind].name);
	if (!https_url_ok(p->url, why)) {
		snprintf(why->field, sizeof(why->field), "providers");
		return why->code;
	}
	n = strlen(p->url);
	while (n && p->url[n - 1] == '/')
		n--;
	p->url = arena_dup(mem, p->url, n);
	return ERR_OK;
}

static enum err read_item(const char *item, struct provider_setting *p, uint32_t slots, struct arena *mem, struct why *why)
{
	struct str rest = str_of(item), head, name, kind, pair, key;
	enum err e = ERR_OK;

	*p = (struct provider_setting){ .name = "", .url = "", .key_file = "", .key_env = "", .enabled = true, .monthly_tokens = CAP_NOT_SAID,
					.monthly_microusd = CAP_NOT_SAID, .per_minute = CAP_NOT_SAID, .per_day = CAP_NOT_SAID, .slots = slots };
	str_split(&rest, ';', &head);
	if (!str_split(&head, '=', &name) || !head.p || !name_ok(str_trim(name)))
		return err_field(why, ERR_INVALID, "providers", "'%.60s' is no provider; write name=kind+url with a name of small letters, digits, '-' and '_'", item);
	p->name = arena_str(mem, str_trim(name)).p;
	if (is_kind_at_home(str_of(p->name)))
		return err_field(why, ERR_INVALID, "providers", "a provider cannot be called '%s': so are backends of one's own, which would share its budget and its prices; give it another name",
				 p->name);
	str_split(&head, '+', &kind);
	if (!read_kind(str_trim(kind), &p->kind))
		return wrong(p, why, "kinds are openai, anthropic, gemini, openrouter, runpod and compatible, not", arena_str(mem, kind).p);
	if (head.p)
		p->url = arena_str(mem, str_trim(head)).p;
	while (e == ERR_OK && rest.n && str_split(&rest, ';', &pair)) {
		str_split(&pair, '=', &key);
		e = pair.p ? read_pair(p, str_trim(key), arena_str(mem, str_trim(pair)).p, mem, why) : wrong(p, why, "a value is missing behind", arena_str(mem, key).p);
	}
	if (e == ERR_OK)
		e = read_env(p, mem, why);
	return e ? e : check_url(p, mem, why);
}

/* --- all --- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct provider_setting *)a)->name, ((const struct provider_setting *)b)->name);
}

enum err cloud_settings_providers(const struct cloud_config *c, struct arena *mem, struct provider_setting **ret, size_t *ret_n, struct why *why)
{
	struct provider_setting *list = arena_array(mem, struct provider_setting, c->providers.n + 1);

	for (size_t i = 0; i < c->providers.n; i++) {
		enum err e = read_item(c->providers.items[i], &list[i], (uint32_t)c->cloud_slots, mem, why);

		if (e)
			return e;
	}
	qsort(list, c->providers.n, sizeof(*list), by_name);
	for (size_t i = 1; i < c->providers.n; i++)
		if (!strcmp(list[i - 1].name, list[i].name))
			return wrong(&list[i], why, "there are two providers of the name", list[i].name);
	*ret = list;
	*ret_n = c->providers.n;
	return ERR_OK;
}

static enum err check_door(const struct cloud_config *c, struct why *why)
{
	if (c->cloud_token[0] && strlen(c->cloud_token) < 16)
		return err_field(why, ERR_INVALID, "cloud_token", "cloud_token is too short; 16 characters at least, for example from 'openssl rand -hex 24'");
	if (!settings_is_near(c->cloud_listen) && !c->cloud_token[0])
		return err_field(why, ERR_INVALID, "cloud_token", "cloud_listen is %.100s, which others can reach: give what gateways have to show there with cloud_token", c->cloud_listen);
	if ((strncmp(c->cloud_listen, "0.0.0.0", 7) == 0 || strncmp(c->cloud_listen, "[::]", 4) == 0) && !c->cloud_endpoint[0])
		return err_field(why, ERR_INVALID, "cloud_endpoint", "cloud_listen is every address of this machine: say with cloud_endpoint how gateways reach it, as http://host:8101");
	if (c->cloud_endpoint[0] && !https_url_ok(c->cloud_endpoint, why)) {
		snprintf(why->field, sizeof(why->field), "cloud_endpoint");
		return why->code;
	}
	return ERR_OK;
}

enum err cloud_settings_check(const void *config, struct why *why)
{
	const struct cloud_config *c = config;
	struct provider_setting *list;
	struct arena *mem = arena_new(0);
	const struct redact *rules;
	size_t n;
	enum err e = cloud_settings_providers(c, mem, &list, &n, why);

	if (e == ERR_OK && n)
		e = check_door(c, why);
	if (e == ERR_OK && !cloud_catalogue_load(mem, c->cloud_catalogue, why))
		e = why->code;
	if (e == ERR_OK)
		e = redaction_open(c, mem, &rules, why);
	arena_free(mem);
	return e;
}
