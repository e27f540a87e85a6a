/* keys.c - `corral keys`: make, list, limit, replace and end keys; the first one without a running gateway (local.h). */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/policy/access_json.h"
#include "common/policy/apikey.h"
#include "common/policy/authz.h"
#include "services/corral/local.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct keys_opts {
	const char *role, *tenant, *team, *user, *expires, *models, *actions, *networks, *requests, *tokens, *concurrency, *overlap, *state_dir, *config;
	bool all, local_only;
};

#define O struct keys_opts
static const struct flag flags[] = {
	FLAG(O, role, 'r', "ROLE", "create: owner, admin, operator, auditor, developer, user or service. Default: user."),
	FLAG(O, tenant, 't', "NAME", "create: the tenant it belongs to; list: only this tenant's. Default: your own, or 'default'."),
	FLAG(O, team, 0, "NAME", "create: a team of the tenant."),
	FLAG(O, user, 'u', "NAME", "create: who uses it, for the ledger."),
	FLAG(O, expires, 'e', "TIME", "create: ends after 90d, 12h, 30m; or at a date, 2027-01-31. Default: never."),
	FLAG(O, models, 'm', "A,B", "create: only these models; * stands for any characters."),
	FLAG(O, actions, 0, "A,B", "create: only these of the role's actions, as 'inference,models.read'."),
	FLAG(O, local_only, 0, NULL, "create: no request with it goes to the cloud."),
	FLAG(O, networks, 0, "A,B", "create: only from these networks, as 10.0.0.0/8,2001:db8::/32."),
	{ "requests_per_minute", 0, "N", offsetof(O, requests), "create, limit: at most so many requests a minute; 0 = no limit." },
	{ "rpm", 0, "N", offsetof(O, requests), "The same, for short." },
	{ "tokens_per_minute", 0, "N", offsetof(O, tokens), "create, limit: at most so many tokens a minute, of prompts and answers; 0 = no limit." },
	{ "tpm", 0, "N", offsetof(O, tokens), "The same, for short." },
	FLAG(O, concurrency, 0, "N", "create, limit: at most so many requests at once; 0 = no limit."),
	FLAG(O, overlap, 0, "TIME", "rotate: how long the old key goes on. Default: 24h; 0 ends it now."),
	FLAG(O, all, 'a', NULL, "list: ended keys too."),
	FLAG(O, state_dir, 0, "DIR", "create, when no gateway runs: where 'corral serve' keeps its state."),
	FLAG(O, config, 0, "FILE", "create, when no gateway runs: the configuration of 'corral serve'."),
	{ 0 }
};
#undef O

/* --- values --- */

/* "90d", "12h", "30m", "45s", "0"; false: it is none. */
static bool seconds_of(const char *z, int64_t *ret)
{
	static const struct { char letter; int64_t s; } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
	struct str s = str_of(z);
	int64_t unit = 1;
	uint64_t n;

	for (size_t i = 0; s.n && i < sizeof(units) / sizeof(*units); i++)
		if (s.p[s.n - 1] == units[i].letter) {
			unit = units[i].s;
			s.n--;
			break;
		}
	if (!str_u64(s, &n) || n > 36500 * 86400u / (uint64_t)unit)
		return false;
	*ret = (int64_t)n * unit;
	return true;
}

static bool number_ok(struct cli *c, const char *name, const char *z, uint64_t *ret)
{
	*ret = 0;
	if (!*z || str_u64(str_of(z), ret))
		return true;
	cli_usage(c, "--%s: '%s' is not a number", name, z);
	return false;
}

static bool end_of(struct cli *c, const struct keys_opts *o, int64_t *ret_us)
{
	int64_t s;

	*ret_us = 0;
	if (!*o->expires)
		return true;
	if (seconds_of(o->expires, &s) && s > 0)
		*ret_us = wall_us() + s * 1000000;
	else if (!clock_parse_rfc3339(o->expires, ret_us)) {
		cli_usage(c, "--expires: '%s' is no time; write 90d, 12h, 30m or a date like 2027-01-31", o->expires);
		return false;
	}
	return true;
}

static size_t words(struct cli *c, const char *list, char ***ret)
{
	struct str rest = str_of(list), one;
	size_t n = 1, at = 0;

	for (const char *p = list; *p; p++)
		n += *p == ',';
	*ret = arena_array(c->mem, char *, n);
	while (*list && str_split(&rest, ',', &one)) {
		one = str_trim(one);
		if (one.n)
			(*ret)[at++] = arena_dup(c->mem, one.p, one.n);
	}
	return at;
}

/* Those that are said take the place of what is there. */
static bool limits_said(struct cli *c, const struct keys_opts *o, Corral__Limits *l)
{
	uint64_t requests, tokens, concurrency;

	if (!number_ok(c, "requests-per-minute", o->requests, &requests) || !number_ok(c, "tokens-per-minute", o->tokens, &tokens) ||
	    !number_ok(c, "concurrency", o->concurrency, &concurrency))
		return false;
	if (*o->requests)
		l->requests_per_minute = requests;
	if (*o->tokens)
		l->tokens_per_minute = tokens;
	if (*o->concurrency)
		l->concurrency = concurrency > UINT32_MAX ? UINT32_MAX : (uint32_t)concurrency;
	return true;
}

static bool wish(struct cli *c, const struct keys_opts *o, Corral__Key *k)
{
	Corral__Limits *l = arena_alloc(c->mem, sizeof(*l));

	corral__key__init(k);
	corral__limits__init(l);
	if (!role_parse(str_of(*o->role ? o->role : "user"), &k->role)) {
		cli_usage(c, "--role: there is no role '%s'; there are owner, admin, operator, auditor, developer, user and service", o->role);
		return false;
	}
	if (!end_of(c, o, &k->expires_at_us) || !limits_said(c, o, l))
		return false;
	if (l->requests_per_minute || l->tokens_per_minute || l->concurrency)
		k->limits = l;
	k->name = (char *)(c->n_args > 1 ? c->args[1] : "");
	k->tenant = (char *)o->tenant;
	k->team = (char *)o->team;
	k->user = (char *)o->user;
	k->n_models = words(c, o->models, &k->models);
	k->n_actions = words(c, o->actions, &k->actions);
	k->local_only = o->local_only;
	k->n_networks = words(c, o->networks, &k->networks);
	return true;
}

/* --- bodies --- */

static void add_text(struct json_out *jo, const char *name, const char *z)
{
	if (*z)
		jw_kv_strz(jo, name, z);
}

static void add_limits(struct json_out *jo, const Corral__Limits *l)
{
	if (!l)
		return;
	jw_key(jo, "limits");
	jw_obj(jo);
	json_limits_if_set(jo, l);
	jw_end(jo);
}

static struct str body_of(struct cli *c, const Corral__Key *k)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str s;
	char end[32];

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "role", role_name(k->role));
	add_text(&jo, "name", k->name);
	add_text(&jo, "tenant", k->tenant);
	add_text(&jo, "team", k->team);
	add_text(&jo, "user", k->user);
	if (k->expires_at_us) {
		clock_rfc3339(k->expires_at_us, 0, end, sizeof(end));
		jw_kv_strz(&jo, "expires_at", end);
	}
	json_list_if_any(&jo, "models", k->models, k->n_models);
	json_list_if_any(&jo, "actions", k->actions, k->n_actions);
	json_list_if_any(&jo, "networks", k->networks, k->n_networks);
	if (k->local_only)
		jw_kv_bool(&jo, "local_only", true);
	add_limits(&jo, k->limits);
	json_done(&jo);
	s = arena_str(c->mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

/* --- create --- */

/* The key alone goes to the output, so that KEY=$(corral keys create ci) has it; what it is goes to the error output. */
static int show_new(struct cli *c, const struct json *j)
{
	uint32_t k = json_get(j, 0, "key");
	const char *name = get_z(c, j, k, "name"), *end = get_z(c, j, k, "expires_at"), *old = get_z(c, j, k, "replaces");
	struct buf b = { 0 }, shown = { 0 };

	fprintf(c->out, "%s\n", get_z(c, j, 0, "secret"));
	buf_printf(&b, "key %s%s%s%s, role %s, tenant %s, ", get_z(c, j, k, "id"), *name ? " '" : "", name, *name ? "'" : "", get_z(c, j, k, "role"),
		   get_z(c, j, k, "tenant"));
	buf_printf(&b, "%s%s%s%s; it is shown this once", *end ? "ends at " : "has no end", end, *old ? ", replaces " : "", old);
	add_shown(&shown, buf_as_str(&b), false);
	fprintf(c->err, "%s\n", buf_z(&shown));
	buf_free(&b);
	buf_free(&shown);
	return EXIT_OK;
}

static int print_new(struct cli *c, const struct answer *a)
{
	if (!json_get(&a->doc, 0, "secret") || !json_get(&a->doc, 0, "key"))
		return cli_answer_failed(c, a);
	return c->json ? cli_print_raw(c, a) : show_new(c, &a->doc);
}

/* No gateway answers: the store of this machine, as `corral serve` will find it. */
static int create_here(struct cli *c, const struct keys_opts *o, const Corral__Key *k, const struct answer *a)
{
	struct local_place place = { o->state_dir, o->config };
	Corral__CreateKeyReply made;
	struct answer as_answer = { .status = 201, .is_json = true };
	const char *file = "";
	struct buf b = { 0 };
	struct json_out jo;
	struct why why;
	enum err e = local_make_key(c, &place, k, &made, &file, &why);

	if (e == ERR_CONFLICT && !why.field[0])
		return cli_fail(c, EXIT_UNREACHABLE, "the gateway at %s does not answer (%s), and %s; name its gateway with --url, or stop it first",
				remote_url(c->gateway), a->error, why.text);
	if (e)
		return cli_fail(c, EXIT_FAILED, "no gateway answers at %s, and here: %s", remote_url(c->gateway), why.text);
	fprintf(c->err, "no gateway runs at %s; the key was made in %s\n", remote_url(c->gateway), file ? file : "the store");
	json_begin(&jo, &b);
	json_new_key(&jo, &made);
	json_done(&jo);
	as_answer.body = arena_str(c->mem, buf_as_str(&b));
	buf_free(&b);
	if (json_parse(&as_answer.doc, c->mem, as_answer.body, NULL, &why))
		return cli_fail(c, EXIT_FAILED, "%s", why.text);
	return print_new(c, &as_answer);
}

static int create(struct cli *c, const struct keys_opts *o)
{
	struct remote *r = remote_gateway(c);
	struct answer a;
	Corral__Key k;

	if (!r || !wish(c, o, &k))
		return EXIT_USAGE;
	a = remote_ask(r, "POST", "/keys", body_of(c, &k), 15000);
	if (a.status == 0 && !*c->url && cli_n_services)
		return create_here(c, o, &k, &a);
	return a.status == 201 && a.is_json ? print_new(c, &a) : cli_answer_failed(c, &a);
}

/* --- generate --- */

static int generate(struct cli *c)
{
	char text[APIKEY_TEXT + 1], id[APIKEY_ID + 1];
	uint8_t hash[SHA256_BYTES];

	apikey_make(text, id, hash);
	if (c->json)
		fprintf(c->out, "{\"id\":\"%s\",\"secret\":\"%s\"}\n", id, text);
	else
		fprintf(c->out, "%s\n", text);
	secret_wipe(text, sizeof(text));
	return EXIT_OK;
}

/* --- list --- */

static void add_key(struct cli *c, struct table *t, const struct json *j, uint32_t k)
{
	struct str name = get_str(c, j, k, "name"), end = get_str(c, j, k, "expires_at"), models = get_list(c, j, k, "models");
	struct str used = get_str(c, j, k, "last_used_at");
	int64_t end_us;
	bool ended = end.n && clock_parse_rfc3339(arena_str(c->mem, end).p, &end_us) && end_us <= wall_us();

	table_cell(t, TONE_PLAIN, get_str(c, j, k, "id"));
	table_cell(t, TONE_PLAIN, name.n ? name : STR("-"));
	table_cell(t, TONE_PLAIN, get_str(c, j, k, "role"));
	table_cell(t, TONE_PLAIN, get_str(c, j, k, "tenant"));
	table_fmt(t, TONE_PLAIN, "%.10s", get_z(c, j, k, "created_at"));
	table_fmt(t, ended ? TONE_WARN : TONE_PLAIN, "%.16s", end.n ? arena_str(c->mem, end).p : "never");
	table_fmt(t, TONE_PLAIN, "%.16s", used.n ? arena_str(c->mem, used).p : "-");
	table_cell(t, TONE_PLAIN, models.n ? models : STR("all"));
}

static const char *list_path(struct cli *c, const struct keys_opts *o, const char *after)
{
	struct buf b = { 0 };
	const char *path;

	buf_addz(&b, "/keys");
	add_query(&b, "tenant", o->tenant);
	add_query(&b, "all", o->all ? "true" : "");
	add_query(&b, "after", after);
	path = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return path;
}

/* Pages are asked for until there are no more; --json gives each as it came. */
static int list(struct cli *c, const struct keys_opts *o)
{
	const char *after = "";
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t keys;

	table_init(&t, c->mem, "ID|~NAME|ROLE|~TENANT|CREATED|ENDS|USED|~MODELS");
	do {
		int status = cli_ask(c, "GET", list_path(c, o, after), STR(""), &a);

		if (status)
			return status;
		keys = json_get(&a.doc, 0, "keys");
		if (!keys)
			return cli_answer_failed(c, &a);
		for (uint32_t k = json_first(&a.doc, keys); k; k = json_next(&a.doc, keys, k))
			add_key(c, &t, &a.doc, k);
		after = get_z(c, &a.doc, 0, "next");
		if (c->json)
			cli_print_raw(c, &a);
	} while (*after);
	if (c->json)
		return EXIT_OK;
	if (t.rows)
		table_print(&t, &b, c->width, c->colour);
	else
		buf_addz(&b, "There are no keys. 'corral keys create --role owner' makes the first one.\n");
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* --- rotate and revoke --- */

static const char *key_path(struct cli *c, const char *after)
{
	struct buf b = { 0 };
	const char *path;
	struct str id = str_of(c->args[1]), of_secret;

	/* people paste the whole key; only its id may leave this machine in a path */
	if (apikey_parse(id, &of_secret))
		id = of_secret;
	buf_addz(&b, "/keys/");
	add_percent(&b, id);
	buf_addz(&b, after);
	path = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return path;
}

static int rotate(struct cli *c, const struct keys_opts *o)
{
	struct answer a;
	int64_t overlap_s;
	int status;

	if (!seconds_of(*o->overlap ? o->overlap : "24h", &overlap_s))
		return cli_usage(c, "--overlap: '%s' is no length of time; write 24h, 7d or 0", o->overlap);
	status = cli_ask(c, "POST", key_path(c, "/rotate"), arena_fmt(c->mem, "{\"overlap_s\":%lld}", (long long)overlap_s), &a);
	return status ? status : print_new(c, &a);
}

static int revoke(struct cli *c)
{
	struct answer a;
	int status = cli_ask(c, "DELETE", key_path(c, ""), STR(""), &a);

	if (status)
		return status;
	if (!json_get(&a.doc, 0, "revoked"))
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	fprintf(c->out, "%s is revoked.\n", get_z(c, &a.doc, 0, "id"));
	return EXIT_OK;
}

/* --- limit --- */

static Corral__Limits limits_in(struct cli *c, const struct json *j, uint32_t key)
{
	Corral__Limits l = CORRAL__LIMITS__INIT;
	uint32_t at = json_get(j, key, "limits");

	l.requests_per_minute = at ? (uint64_t)get_int(j, at, "requests_per_minute") : 0;
	l.tokens_per_minute = at ? (uint64_t)get_int(j, at, "tokens_per_minute") : 0;
	l.concurrency = at ? (uint32_t)get_int(j, at, "concurrency") : 0;
	return l;
}

/* The key with that id among those that the gateway lists, of which *ret is the page it is on; 0 and a status: it is not there. */
static uint32_t key_listed(struct cli *c, struct str id, struct answer *ret, int *ret_status)
{
	const struct keys_opts any = { .tenant = "" };
	const char *after = "";
	uint32_t keys;

	do {
		*ret_status = cli_ask(c, "GET", list_path(c, &any, after), STR(""), ret);
		keys = *ret_status ? 0 : json_get(&ret->doc, 0, "keys");
		if (!*ret_status && !keys)
			*ret_status = cli_answer_failed(c, ret);
		for (uint32_t k = keys ? json_first(&ret->doc, keys) : 0; k; k = json_next(&ret->doc, keys, k))
			if (str_eq(get_str(c, &ret->doc, k, "id"), id))
				return k;
		after = *ret_status ? "" : get_z(c, &ret->doc, 0, "next");
	} while (*after);
	if (!*ret_status)
		*ret_status = cli_fail(c, EXIT_FAILED, "there is no key '" STR_FMT "' that is good", STR_ARG(id));
	return 0;
}

static void add_limit(struct buf *b, uint64_t n, const char *what)
{
	if (n)
		buf_printf(b, "%s%llu %s", b->n ? ", " : "", (unsigned long long)n, what);
}

static int print_limits(struct cli *c, const char *id, const Corral__Limits *l)
{
	struct buf b = { 0 };

	add_limit(&b, l->requests_per_minute, "requests a minute");
	add_limit(&b, l->tokens_per_minute, "tokens a minute");
	add_limit(&b, l->concurrency, "requests at once");
	fprintf(c->out, "%s: %s\n", id, b.n ? buf_z(&b) : "no limits");
	buf_free(&b);
	return EXIT_OK;
}

static struct str limits_body(struct cli *c, const Corral__Limits *l)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str s;

	json_begin(&jo, &b);
	jw_obj(&jo);
	json_limits_member(&jo, l);
	json_done(&jo);
	s = arena_str(c->mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

/* What is not said stays as it is; with nothing said it shows what there is. */
static int limit(struct cli *c, const struct keys_opts *o)
{
	bool change = *o->requests || *o->tokens || *o->concurrency;
	struct str id = str_of(c->args[1]), of_secret;
	struct answer a;
	Corral__Limits l;
	uint32_t key;
	int status;

	if (apikey_parse(id, &of_secret))
		id = of_secret;
	key = key_listed(c, id, &a, &status);
	if (!key)
		return status;
	l = limits_in(c, &a.doc, key);
	if (!limits_said(c, o, &l))
		return EXIT_USAGE;
	if (change) {
		status = cli_ask(c, "PUT", key_path(c, ""), limits_body(c, &l), &a);
		key = status ? 0 : json_get(&a.doc, 0, "key");
		if (!key)
			return status ? status : cli_answer_failed(c, &a);
		l = limits_in(c, &a.doc, key);
	}
	if (c->json) {
		struct str body = limits_body(c, &l);

		fprintf(c->out, "{\"id\":\"" STR_FMT "\"," STR_FMT "\n", STR_ARG(id), STR_ARG(str_from(body, 1)));
		return EXIT_OK;
	}
	return print_limits(c, arena_str(c->mem, id).p, &l);
}

/* --- the command --- */

static bool is(struct cli *c, const char *word) { return c->n_args && strcmp(c->args[0], word) == 0; }

/* Options of another of the words would be ignored in silence. */
static bool options_fit(struct cli *c, const struct keys_opts *o)
{
	bool create_only = *o->role || *o->team || *o->user || *o->expires || *o->models || *o->actions || *o->networks || o->local_only || *o->state_dir || *o->config;
	bool limits = *o->requests || *o->tokens || *o->concurrency;
	bool wrong = (create_only && !is(c, "create")) || (limits && !is(c, "create") && !is(c, "limit")) || (*o->tenant && !is(c, "create") && !is(c, "list")) || (*o->overlap && !is(c, "rotate")) ||
		     (o->all && !is(c, "list"));

	if (wrong)
		cli_usage(c, "keys %s does not take all of these options", c->args[0]);
	return !wrong;
}

static int run(struct cli *c)
{
	const struct keys_opts *o = c->opts;

	if (!c->n_args)
		return cli_usage(c, "say what to do with keys: create, list, limit, rotate, revoke or generate");
	if (!options_fit(c, o))
		return EXIT_USAGE;
	if (is(c, "create"))
		return create(c, o);
	if ((is(c, "list") || is(c, "generate")) && c->n_args == 1)
		return is(c, "list") ? list(c, o) : generate(c);
	if ((is(c, "rotate") || is(c, "revoke")) && c->n_args == 2)
		return is(c, "rotate") ? rotate(c, o) : revoke(c);
	if (is(c, "limit") && c->n_args == 2)
		return limit(c, o);
	if (is(c, "rotate") || is(c, "revoke") || is(c, "limit"))
		return cli_usage(c, "keys %s needs the id of a key", c->args[0]);
	if (c->n_args > 1)
		return cli_usage(c, "'%s' is one word too many", c->args[1]);
	return cli_usage(c, "keys knows create, list, limit, rotate, revoke and generate, not '%s'", c->args[0]);
}

const struct command cmd_keys = {
	.name = "keys", .args = "create [NAME] | list | limit ID | rotate ID | revoke ID | generate", .summary = "Make, list, limit, replace and end API keys.",
	.flags = flags, .opts_size = sizeof(struct keys_opts), .max_args = 2, .run = run,
	.text = "create prints the key alone on the output, this once; only a hash of it is kept. While no gateway runs on this machine it makes the key in the "
		"store itself: a gateway that other machines can reach does not start before there is one.\n"
		"A key is no stronger than the one that makes it. rotate makes a new key with all that the old one has and lets the old one go on for the overlap. "
		"revoke is in force everywhere within seconds.\n"
		"limit changes the limits that are said and leaves the others; without one it shows them. In force within seconds, on open connections too.\n"
		"generate prints a key that nobody knows yet, for the file of bootstrap_key_file (CORRAL_BOOTSTRAP_KEY_FILE).",
	.examples = (const struct example[]){
		{ "corral keys create --role owner me", "The first key." },
		{ "corral keys create ci --expires 90d --models 'small-*' --requests-per-minute 60", "One for a program, narrow and for a while." },
		{ "corral keys list --all", "Also those that have ended." },
		{ "corral keys limit ID --rpm 60 --tpm 20000", "Other limits; --rpm 0 takes one away." },
		{ "corral keys rotate ID --overlap 7d", "A new one; the old one goes on for a week." },
		{ "corral keys generate >key && CORRAL_BOOTSTRAP_KEY_FILE=key corral serve", "Where the first key has to be there before the program." },
		{ 0 } },
};
