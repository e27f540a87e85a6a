/* settings.c - see settings.h. */
#include "services/model-registry/settings.h"

#include "common/io/tls.h"
#include "common/io/wire_tls.h"
#include "common/policy/caps.h"
#include "services/model-registry/strengths.h"

#define R(...) OPT(struct registry_config, __VA_ARGS__)

const struct opt registry_options[] = {
	R(LIST, backends, "", "Model servers, as name=kind+url: gpu1=ollama+http://10.0.0.5:11434; https:// is TLS. Kinds are ollama, llamacpp, openai; a url alone is asked "
	  "what it is. Without any, an Ollama at 127.0.0.1:11434 is tried.", .shape = "name=kind+url", .live = true),
	R(STRING, backend_ca, "", "PEM file with the authorities whose certificates are good for https:// addresses of backends; empty = those of the system."),
	R(STRING, ollama_host, "", "One more Ollama server, written as Ollama's own OLLAMA_HOST; it becomes the backend 'ollama'. 0.0.0.0 means loopback.",
	  .aliases = "OLLAMA_ENDPOINT,OLLAMA_BASE_URL,OLLAMA_HOST", .live = true),
	R(LIST, aliases, "", "Other names for models, as name=model.", .live = true),
	R(DURATION, sync_every, "5m", "How often every backend is asked for its models. One that is down is tried every residency_every.", .min = 1000, .max = 86400000, .live = true),
	R(DURATION, residency_every, "5s", "How often backends are asked whether they are there and what is in memory.", .min = 100, .max = 3600000, .live = true),
	R(DURATION, list_timeout, "5s", "How long a backend may take for each answer.", .min = 100, .max = 120000, .live = true),
	R(LIST, slots, "", "Requests at once, as backend=n for each of its models or backend/model=n. Else what llama.cpp says, else 1.", .live = true),
	R(INT, ollama_max_concurrent, "0", "Requests at once for each model of Ollama backends, as its OLLAMA_NUM_PARALLEL; 0 = 1 unless slots says more.",
	  .min = 0, .max = 4096, .aliases = "OLLAMA_MAX_CONCURRENT", .live = true),
	R(STRING, default_model, "", "The model for requests that name none.", .aliases = "OLLAMA_DEFAULT_MODEL", .live = true),
	R(LIST, protected, "", "Models that nobody may delete or replace through Corral.", .live = true),
	R(LIST, protected_dirs, "", "Model directories of Ollama (what holds 'manifests' and 'blobs') whose models nobody may delete or replace through Corral. "
	  "While one cannot be read from here, every model counts as being in it.", .aliases = "OLLAMA_MODELS_PATH", .live = true),
	R(LIST, pull_from, "registry.ollama.ai,hf.co,huggingface.co", "Registries that models may be pulled from; http://HOST:PORT allows plain HTTP there.", .live = true),
	R(LIST, push_to, "", "Registries that models may be pushed to; empty = none.", .live = true),
	R(DURATION, delete_grace, "10m", "How long a deleted model can be brought back before it leaves the disk; 0 = at once.", .max = 30LL * 86400000, .live = true),
	R(DURATION, load_timeout, "10m", "How long a backend may take to load a model that it was told to.", .min = 1000, .max = 86400000, .live = true),
	R(DURATION, hand_over_after, "10s", "How long a request waits for an Ollama to load its model before the other models there are held back until it begins to; 0 = without end.",
	  .max = 3600000, .live = true),
	R(DURATION, check_every, "1m", "How long an Ollama or llama.cpp rests after it was used before it is asked for one token, to see whether it still "
	  "generates; one that fails is asked again every 5 s. 0 = never.", .max = 86400000, .live = true),
	R(DURATION, check_timeout, "30s", "How long that token may take; also how long a backend may be unreachable before that counts as a failed check.", .min = 50, .max = 3600000, .live = true),
	R(DURATION, check_busy, "10m", "While requests are under way there, how long no byte may come before it is asked all the same.", .min = 50, .max = 86400000, .live = true),
	R(INT, check_failures, "3", "Failed checks in a row after which a backend is listed as down, restarted and replaced.", .min = 1, .max = 1000, .live = true),
	R(LIST, restart, "", "How a backend that fails its checks is restarted: NAME=unit:UNIT (systemctl restart UNIT), NAME=user-unit:UNIT, or NAME=/PROGRAM WORD… "
	  "The words are divided by blanks and seen by no shell.", .live = true),
	R(DURATION, restart_wait, "30s", "Pause after the first restart of a backend; doubles with each up to 30 minutes.", .min = 50, .max = 1800000, .live = true),
	R(DURATION, restart_timeout, "2m", "How long a restart command may run before it is killed.", .min = 50, .max = 3600000, .live = true),
	R(LIST, standby, "", "What is started in place of a backend while restarts do not help, and ended when it is well again: NAME=/PROGRAM WORD…, for example a "
	  "llama-server at the address of another entry of backends.", .live = true),
	R(INT, standby_after, "2", "Restarts of a backend that did not help before its standby is started; one without a restart command has it at once.", .max = 1000, .live = true),
	R(INT, preload_top, "2", "How many of the models that were used most lately are loaded at the start; 0 = none."),
	R(DURATION, preload_window, "7d", "What counts as lately there.", .min = 60000, .max = 3650LL * 86400000),
	R(BYTES, preload_memory, "0", "Memory that models loaded at the start may take on each backend; 0 = 80 % of what is free, where the backend is on the machine of the "
	  "hardware-probe, else no limit.", .max = INT64_C(1) << 50),
	R(LIST, hardware, "", "Which hardware-probe looks at a backend's machine, for the energy of its requests: NAME=tcp://HOST:7117 (tls+tcp://, ipc://), NAME=local for the one "
	  "that the registry has as its peer, or NAME=none. Else that of backends at loopback addresses is the peer, and that of others is not known.", .live = true),
	R(DURATION, power_every, "2s", "How often hardware-probes are asked what their machines draw.", .min = 100, .max = 3600000, .live = true),
	R(DURATION, jobs_keep, "7d", "How long jobs that have ended are listed.", .min = 60000, .max = 3650LL * 86400000, .live = true),
	R(STRING, jobs_db, "", "Database of jobs and marks; empty = as 'db' says, else sqlite:<state_dir>/model-registry/jobs.db."),
	R(LIST, strengths, "", "What models are good at, as model=TASK:score;TASK:score with scores from 0 to 1.", .live = true),
	R(LIST, capabilities, "", "What models can do, as model=word;word (completion tools vision embedding thinking insert audio), where their servers do not say it.", .live = true),
	R(STRING, families, "", "File with strengths by words of family and model names, instead of the built-in one.", .live = true),
	BUS_OPTIONS(struct registry_config, bus),
	OPT_END
};

static enum err check_pairs(const struct opt_list *, const char *field, const char *form, struct why *);
static enum err check_slots(const struct registry_config *, struct why *);
static enum err check_commands(const struct registry_config *, const struct opt_list *, const char *field, bool units, struct why *);
static enum err check_capabilities(const struct registry_config *, struct why *);
static enum err check_hardware(const struct registry_config *, struct why *);
static enum err add_backend(struct arena *, struct str item, struct backend_setting *list, size_t *n, struct why *);
static enum err add_ollama(const struct registry_config *, struct arena *, struct backend_setting *list, size_t *n, struct why *);

enum err settings_check(const void *arg, struct why *why)
{
	const struct registry_config *config = arg;
	struct arena *mem = arena_new(0);
	struct backend_setting *list;
	size_t n;
	enum err err = settings_backends(config, mem, &list, &n, why);

	arena_free(mem);
	if (!err)
		err = tls_trust_check(config->backend_ca, "backend_ca", why);
	if (!err)
		err = check_pairs(&config->aliases, "aliases", "name=model", why);
	if (!err)
		err = check_slots(config, why);
	if (!err)
		err = check_capabilities(config, why);
	if (!err)
		err = check_commands(config, &config->restart, "restart", true, why);
	if (!err)
		err = check_commands(config, &config->standby, "standby", false, why);
	if (!err)
		err = check_hardware(config, why);
	if (!err)
		err = strengths_check(&config->strengths, why);
	return err;
}

enum err settings_backends(const struct registry_config *config, struct arena *mem, struct backend_setting **ret, size_t *ret_n, struct why *why)
{
	struct backend_setting *list = arena_array(mem, struct backend_setting, config->backends.n + 2);
	size_t n = 0;
	enum err err = ERR_OK;

	for (size_t i = 0; i < config->backends.n && !err; i++)
		err = add_backend(mem, str_trim(str_of(config->backends.items[i])), list, &n, why);
	if (!err)
		err = add_ollama(config, mem, list, &n, why);
	if (err)
		return err;
	*ret = list;
	*ret_n = n;
	return ERR_OK;
}

enum err settings_ollama_url(struct str host, struct arena *mem, const char **ret_url, struct why *why)
{
	struct str rest = str_trim(host), path = STR("");
	uint64_t port = 11434, n;
	const char *p, *scheme = "http";

	if (str_starts(rest, STR("https://"))) {
		rest = str_from(rest, 8);
		port = 443;
		scheme = "https";
	} else if (str_starts(rest, STR("http://"))) {
		rest = str_from(rest, 7);
		port = 80;
	}
	p = str_find(rest, STR("/"));
	if (p) {
		path = str_n(p, (size_t)(rest.p + rest.n - p));
		rest.n = (size_t)(p - rest.p);
		while (path.n && path.p[path.n - 1] == '/')
			path.n--;
	}
	for (size_t i = rest.n; i > 0 && rest.p[i - 1] != ']'; i--) {
		if (rest.p[i - 1] != ':')
			continue;
		/* Ollama falls back to its own port when this is none; "::1" without brackets has no port. */
		if (str_find(str_n(rest.p, i - 1), STR(":")) && rest.p[0] != '[')
			break;
		if (str_u64(str_from(rest, i), &n) && n > 0 && n < 65536)
			port = n;
		rest.n = i - 1;
		break;
	}
	if (rest.n == 0 || str_eqz(rest, "0.0.0.0"))
		rest = STR("127.0.0.1");
	if (str_eqz(rest, "[::]") || str_eqz(rest, "::"))
		rest = STR("[::1]");
	*ret_url = arena_printf(mem, str_find(rest, STR(":")) && rest.p[0] != '[' ? "%s://[" STR_FMT "]:%u" STR_FMT : "%s://" STR_FMT ":%u" STR_FMT, scheme,
				STR_ARG(rest), (unsigned)port, STR_ARG(path));
	return ERR_OK;
}

bool settings_pair(const char *item, struct str *ret_name, struct str *ret_value)
{
	struct str rest = str_of(item), name;

	if (!strchr(item, '='))
		return false;
	(void)str_split(&rest, '=', &name);
	*ret_name = str_trim(name);
	*ret_value = str_trim(rest);
	return ret_name->n && ret_value->n;
}

uint32_t settings_slots(const struct registry_config *config, const char *backend, const struct kind *kind, struct str model)
{
	uint32_t of_backend = 0;
	struct str name, value, part;
	uint64_t n;

	for (size_t i = 0; i < config->slots.n; i++) {
		if (!settings_pair(config->slots.items[i], &name, &value) || !str_u64(value, &n))
			continue;
		if (str_eqz(name, backend))
			of_backend = (uint32_t)n;
		if (!str_find(name, STR("/")))
			continue;
		(void)str_split(&name, '/', &part);
		if (str_eqz(part, backend) && model_same(name, model))
			return (uint32_t)n;
	}
	if (!of_backend && kind == &kind_ollama)
		of_backend = (uint32_t)config->ollama_max_concurrent;
	return of_backend;
}

static enum err check_pairs(const struct opt_list *list, const char *field, const char *form, struct why *why)
{
	struct str name, value;

	for (size_t i = 0; i < list->n; i++)
		if (!settings_pair(list->items[i], &name, &value))
			return err_field(why, ERR_INVALID, field, "%s: '%.100s' is not of the form %s", field, list->items[i], form);
	return ERR_OK;
}

static enum err check_slots(const struct registry_config *config, struct why *why)
{
	struct str name, value;
	uint64_t n;

	for (size_t i = 0; i < config->slots.n; i++)
		if (!settings_pair(config->slots.items[i], &name, &value) || !str_u64(value, &n) || n < 1 || n > 4096)
			return err_field(why, ERR_INVALID, "slots", "slots: '%.100s' is not of the form backend=n or backend/model=n with n from 1 to 4096",
					 config->slots.items[i]);
	return ERR_OK;
}

static enum err check_capabilities(const struct registry_config *config, struct why *why)
{
	struct str name, value, word;

	for (size_t i = 0; i < config->capabilities.n; i++) {
		if (!settings_pair(config->capabilities.items[i], &name, &value))
			return err_field(why, ERR_INVALID, "capabilities", "capabilities: '%.100s' is not of the form model=word;word", config->capabilities.items[i]);
		while (str_split(&value, ';', &word))
			if (!llm_cap_parse(str_trim(word)))
				return err_field(why, ERR_INVALID, "capabilities", "capabilities: '" STR_FMT "' is not something a model can do", STR_ARG(word));
	}
	return ERR_OK;
}

/* --- commands --- */

static bool unit_of(struct str value, struct str *ret_unit, bool *ret_user)
{
	*ret_user = str_starts(value, STR("user-unit:"));
	if (!*ret_user && !str_starts(value, STR("unit:")))
		return false;
	*ret_unit = str_from(value, *ret_user ? 10 : 5);
	return true;
}

static bool unit_name_ok(struct str unit)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.@-\\";

	for (size_t i = 0; i < unit.n; i++)
		if (!unit.p[i] || !strchr(chars, unit.p[i]))
			return false;
	return unit.n && unit.p[0] != '-';
}

static const char *const *unit_words(struct str unit, bool user, struct arena *mem)
{
	const char **words = arena_array(mem, const char *, 6);
	size_t n = 0;

	words[n++] = "systemctl";
	if (user)
		words[n++] = "--user";
	words[n++] = "restart";
	words[n++] = "--";
	words[n] = arena_str(mem, unit).p;
	return words;
}

const char *const *settings_command(const struct opt_list *list, const char *backend, struct arena *mem)
{
	struct str name, value, unit, word;
	const char **words;
	size_t n = 0;
	bool user;

	for (size_t i = 0; i < list->n; i++) {
		if (!settings_pair(list->items[i], &name, &value) || !str_eqz(name, backend))
			continue;
		if (unit_of(value, &unit, &user))
			return unit_words(unit, user, mem);
		words = arena_array(mem, const char *, value.n + 2);
		while (str_split(&value, ' ', &word))
			if (word.n)
				words[n++] = arena_str(mem, word).p;
		return words;
	}
	return NULL;
}

static bool backend_exists(const struct registry_config *config, struct str name)
{
	struct arena *mem = arena_new(0);
	struct backend_setting *list;
	struct why why;
	size_t n;
	bool found = false;

	if (settings_backends(config, mem, &list, &n, &why) == ERR_OK)
		for (size_t i = 0; i < n; i++)
			found |= str_eqz(name, list[i].name);
	arena_free(mem);
	return found;
}

static enum err check_commands(const struct registry_config *config, const struct opt_list *list, const char *field, bool units, struct why *why)
{
	struct str name, value, unit;
	bool user;

	for (size_t i = 0; i < list->n; i++) {
		if (!settings_pair(list->items[i], &name, &value) || (!(units && unit_of(value, &unit, &user)) && value.p[0] != '/'))
			return err_field(why, ERR_INVALID, field, "%s: '%.100s' is not of the form NAME=/PROGRAM WORD…%s; the program is an absolute path", field,
					 list->items[i], units ? ", NAME=unit:UNIT or NAME=user-unit:UNIT" : "");
		if (!backend_exists(config, name))
			return err_field(why, ERR_INVALID, field, "%s: there is no backend '" STR_FMT "'", field, STR_ARG(name));
		if (units && unit_of(value, &unit, &user) && !unit_name_ok(unit))
			return err_field(why, ERR_INVALID, field, "%s: '" STR_FMT "' is not the name of a unit", field, STR_ARG(unit));
	}
	return ERR_OK;
}

/* --- hardware-probes --- */

bool settings_is_here(const char *url_text)
{
	return str_find(str_of(url_text), STR("://127.")) || str_find(str_of(url_text), STR("://localhost:")) || str_find(str_of(url_text), STR("://[::1]:"));
}

bool settings_probe(const struct registry_config *config, const char *backend, const char *url_text, char *ret_url, size_t size)
{
	struct str name, value, said = STR("");

	for (size_t i = 0; i < config->hardware.n; i++)
		if (settings_pair(config->hardware.items[i], &name, &value) && str_eqz(name, backend))
			said = value;
	if (str_eqz(said, "none") || (!said.n && !settings_is_here(url_text)))
		return false;
	return str_copy(ret_url, size, str_eqz(said, "local") ? STR("") : said);
}

/* Whether there are files for TLS is not known here; without them the probe is told of as one that does not answer. */
static enum err check_probe(struct str value, struct why *why)
{
	char url[512];
	struct why inner;

	if (str_eqz(value, "local") || str_eqz(value, "none"))
		return ERR_OK;
	if (!str_copy(url, sizeof(url), value) || str_starts(value, STR("inproc:")) || !str_find(value, STR("://")))
		return err_field(why, ERR_INVALID, "hardware", "hardware: '" STR_FMT "' is not of the form tcp://HOST:PORT, tls+tcp://HOST:PORT, ipc:///path, local or none",
				 STR_ARG(str_n(value.p, value.n < 100 ? value.n : 100)));
	return wire_check_url(url, true, &inner) ? err_field(why, ERR_INVALID, "hardware", "hardware: %s", inner.text) : ERR_OK;
}

static enum err check_hardware(const struct registry_config *config, struct why *why)
{
	struct str name, value;

	for (size_t i = 0; i < config->hardware.n; i++) {
		if (!settings_pair(config->hardware.items[i], &name, &value))
			return err_field(why, ERR_INVALID, "hardware", "hardware: '%.100s' is not of the form NAME=URL, NAME=local or NAME=none", config->hardware.items[i]);
		if (check_probe(value, why))
			return why->code;
		if (!backend_exists(config, name))
			return err_field(why, ERR_INVALID, "hardware", "hardware: there is no backend '" STR_FMT "'", STR_ARG(name));
	}
	return ERR_OK;
}

static bool name_taken(const struct backend_setting *list, size_t n, struct str name)
{
	for (size_t i = 0; i < n; i++)
		if (str_eqz(name, list[i].name))
			return true;
	return false;
}

/* Clients are told to write the base with /v1; here it is the server's root. */
static void drop_v1(struct http_url *url)
{
	size_t n = strlen(url->base);

	if (n >= 3 && !strcmp(url->base + n - 3, "/v1"))
		url->base[n - 3] = '\0';
}

static enum err put_backend(struct arena *mem, struct str name, const struct kind *kind, struct str url, struct backend_setting *list, size_t *n,
			    struct why *why)
{
	struct backend_setting *to = &list[*n];
	struct why inner;

	if (!http_url_parse(&to->url, url, &inner))
		return err_field(why, ERR_INVALID, "backends", "backends: '" STR_FMT "': %.300s", STR_ARG(url), inner.text);
	drop_v1(&to->url);
	to->url_text = arena_printf(mem, strchr(to->url.host, ':') ? "%s://[%s]:%u%s" : "%s://%s:%u%s", to->url.tls ? "https" : "http", to->url.host, to->url.port, to->url.base);
	to->name = name.n ? arena_str(mem, name).p : arena_printf(mem, "%s:%u", to->url.host, to->url.port);
	to->kind = kind;
	if (name_taken(list, *n, str_of(to->name)))
		return err_field(why, ERR_INVALID, "backends", "backends: the name '%s' is there twice", to->name);
	++*n;
	return ERR_OK;
}

/* "name=kind+url", "name=url", "kind+url" or "url". */
static enum err add_backend(struct arena *mem, struct str item, struct backend_setting *list, size_t *n, struct why *why)
{
	const struct kind *kind = &kind_probe;
	const char *scheme = str_find(item, STR("://")), *eq = str_find(item, STR("=")), *plus;
	struct str name = STR(""), url = item;

	if (item.n == 0)
		return ERR_OK;
	if (!scheme)
		return err_field(why, ERR_INVALID, "backends", "backends: '" STR_FMT "' is not of the form name=kind+url", STR_ARG(item));
	if (eq && eq < scheme) {
		name = str_trim(str_n(item.p, (size_t)(eq - item.p)));
		url = str_trim(str_from(item, (size_t)(eq - item.p) + 1));
	}
	plus = str_find(url, STR("+"));
	if (plus && plus < scheme) {
		struct str word = str_n(url.p, (size_t)(plus - url.p));

		kind = kind_find(word);
		if (!kind)
			return err_field(why, ERR_INVALID, "backends", "backends: '" STR_FMT "' is not a kind; there are ollama, llamacpp and openai", STR_ARG(word));
		url = str_from(url, word.n + 1);
	}
	return put_backend(mem, name, kind, url, list, n, why);
}

static enum err add_ollama(const struct registry_config *config, struct arena *mem, struct backend_setting *list, size_t *n, struct why *why)
{
	const char *url;
	enum err err;

	if (!config->ollama_host[0] && *n)
		return ERR_OK;
	err = settings_ollama_url(str_of(config->ollama_host), mem, &url, why);
	if (err)
		return err;
	/* The same server may be listed under its own name. */
	for (size_t i = 0; i < *n; i++)
		if (!strcmp(list[i].url_text, url) || !strcmp(list[i].name, "ollama"))
			return ERR_OK;
	return put_backend(mem, STR("ollama"), &kind_ollama, str_of(url), list, n, why);
}
