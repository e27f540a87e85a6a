/* tenants.c - `corral tenants`: who shares this installation, and what each may use. */
#include "common/data/json_write.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct tenants_opts {
	const char *display_name, *models, *teams, *requests, *tokens, *concurrency;
	bool suspend, resume, local_only, may_leave;
};

#define O struct tenants_opts
static const struct flag flags[] = {
	FLAG(O, display_name, 'd', "TEXT", "What people call it."),
	FLAG(O, models, 'm', "A,B", "Only these models, of all its keys; * stands for any characters; '-' = all models."),
	FLAG(O, teams, 0, "A,B", "Its teams; '-' = none."),
	{ "requests_per_minute", 0, "N", offsetof(O, requests), "At most so many requests a minute, of all its keys together; 0 = no limit." },
	{ "rpm", 0, "N", offsetof(O, requests), "The same, for short." },
	{ "tokens_per_minute", 0, "N", offsetof(O, tokens), "At most so many tokens a minute; 0 = no limit." },
	{ "tpm", 0, "N", offsetof(O, tokens), "The same, for short." },
	FLAG(O, concurrency, 0, "N", "At most so many requests at once; 0 = no limit."),
	FLAG(O, suspend, 0, NULL, "set: its keys are refused until --resume."),
	FLAG(O, resume, 0, NULL, "set: its keys are good again."),
	FLAG(O, local_only, 0, NULL, "No request of its keys goes to the cloud."),
	FLAG(O, may_leave, 0, NULL, "set: they may go there again."),
	{ 0 }
};
#undef O

/* --- list --- */

static uint32_t limits_of(const struct json *j, uint32_t t) { return json_get(j, t, "limits"); }

static void limit_cell(struct table *t, const struct json *j, uint32_t limits, const char *key)
{
	int64_t n = limits ? get_int(j, limits, key) : 0;

	if (n)
		table_fmt(t, TONE_PLAIN, "%lld", (long long)n);
	else
		table_cell(t, TONE_PLAIN, STR("-"));
}

static void add_tenant(struct cli *c, struct table *t, const struct json *j, uint32_t at)
{
	struct str models = get_list(c, j, at, "models"), teams = get_list(c, j, at, "teams");
	uint32_t limits = limits_of(j, at);
	bool suspended = get_bool(j, at, "suspended");

	table_cell(t, TONE_PLAIN, get_str(c, j, at, "name"));
	table_cell(t, suspended ? TONE_WARN : TONE_PLAIN, suspended ? STR("suspended") : STR("active"));
	limit_cell(t, j, limits, "requests_per_minute");
	limit_cell(t, j, limits, "tokens_per_minute");
	limit_cell(t, j, limits, "concurrency");
	table_cell(t, TONE_PLAIN, models.n ? models : STR("all"));
	table_cell(t, TONE_PLAIN, teams.n ? teams : STR("-"));
	table_cell(t, TONE_PLAIN, get_str(c, j, at, "display_name"));
}

static int ask_all(struct cli *c, struct answer *ret, uint32_t *ret_list)
{
	int status = cli_ask(c, "GET", "/tenants", STR(""), ret);

	if (status)
		return status;
	*ret_list = json_get(&ret->doc, 0, "tenants");
	return *ret_list ? EXIT_OK : cli_answer_failed(c, ret);
}

static int list(struct cli *c)
{
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status = ask_all(c, &a, &all);

	if (status)
		return status;
	if (c->json)
		return cli_print_raw(c, &a);
	table_init(&t, c->mem, "NAME|STATE|>REQ/MIN|>TOKENS/MIN|>AT ONCE|~MODELS|~TEAMS|~CALLED");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i))
		add_tenant(c, &t, &a.doc, i);
	table_print(&t, &b, c->width, c->colour);
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* --- create and set: what is there, and what was said on top of it --- */

static void add_words(struct json_out *jo, const char *name, const char *said, const struct json *j, uint32_t old)
{
	struct str rest = str_of(said), one;
	uint32_t was = old ? json_get(j, old, name) : 0;

	if (!*said && was) {
		jw_kv_raw(jo, name, json_raw(j, was));
		return;
	}
	jw_key(jo, name);
	jw_arr(jo);
	while (*said && strcmp(said, "-") != 0 && str_split(&rest, ',', &one))
		if (str_trim(one).n)
			jw_str(jo, str_trim(one));
	jw_end(jo);
}

static bool add_limit(struct cli *c, struct json_out *jo, const char *name, const char *flag, const char *said, const struct json *j, uint32_t old)
{
	uint64_t n = old && limits_of(j, old) ? (uint64_t)get_int(j, limits_of(j, old), name) : 0;

	if (*said && !str_u64(str_of(said), &n)) {
		cli_usage(c, "--%s: '%s' is not a number", flag, said);
		return false;
	}
	jw_kv_u64(jo, name, n);
	return true;
}

static bool body_of(struct cli *c, const struct tenants_opts *o, const struct json *j, uint32_t old, struct buf *b)
{
	struct json_out jo;
	bool ok;

	json_begin(&jo, b);
	jw_obj(&jo);
	jw_kv_str(&jo, "display_name", *o->display_name ? str_of(o->display_name) : old ? get_str(c, j, old, "display_name") : STR(""));
	add_words(&jo, "models", o->models, j, old);
	add_words(&jo, "teams", o->teams, j, old);
	jw_kv_bool(&jo, "suspended", o->suspend || (!o->resume && old && get_bool(j, old, "suspended")));
	if (o->local_only || (!o->may_leave && old && get_bool(j, old, "local_only")))
		jw_kv_bool(&jo, "local_only", true);
	if (old && get_bool(j, old, "optimize_context"))
		jw_kv_bool(&jo, "optimize_context", true);
	jw_key(&jo, "limits");
	jw_obj(&jo);
	ok = add_limit(c, &jo, "requests_per_minute", "requests-per-minute", o->requests, j, old) &&
	     add_limit(c, &jo, "tokens_per_minute", "tokens-per-minute", o->tokens, j, old) &&
	     add_limit(c, &jo, "concurrency", "concurrency", o->concurrency, j, old);
	json_done(&jo);
	return ok;
}

static const char *path_of(struct cli *c)
{
	struct buf b = { 0 };
	const char *path;

	buf_addz(&b, "/tenants/");
	add_percent(&b, str_of(c->args[1]));
	path = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return path;
}

static uint32_t named(struct cli *c, const struct json *j, uint32_t all, const char *name)
{
	for (uint32_t i = json_first(j, all); i; i = json_next(j, all, i))
		if (str_eqz(get_str(c, j, i, "name"), name))
			return i;
	return 0;
}

static int put(struct cli *c, const struct tenants_opts *o, bool create)
{
	struct answer all, done;
	struct buf b = { 0 };
	uint32_t list_at, old;
	int status = ask_all(c, &all, &list_at);

	if (status)
		return status;
	old = named(c, &all.doc, list_at, c->args[1]);
	if (create && old)
		return cli_fail(c, EXIT_FAILED, "there is a tenant '%s' already; change it with 'corral tenants set'", c->args[1]);
	if (!create && !old)
		return cli_fail(c, EXIT_FAILED, "there is no tenant '%s'; make it with 'corral tenants create'", c->args[1]);
	status = body_of(c, o, &all.doc, old, &b) ? cli_ask(c, "PUT", path_of(c), buf_as_str(&b), &done) : EXIT_USAGE;
	buf_free(&b);
	if (status)
		return status;
	if (!json_get(&done.doc, 0, "name"))
		return cli_answer_failed(c, &done);
	if (c->json)
		return cli_print_raw(c, &done);
	fprintf(c->out, "%s is %s.\n", c->args[1], create ? "made; 'corral keys create --tenant' gives it keys" : get_bool(&done.doc, 0, "suspended") ? "suspended" : "set");
	return EXIT_OK;
}

static int drop(struct cli *c)
{
	struct answer a;
	int status = cli_ask(c, "DELETE", path_of(c), STR(""), &a);

	if (status)
		return status;
	if (c->json)
		return cli_print_raw(c, &a);
	fprintf(c->out, "%s is deleted.\n", c->args[1]);
	return EXIT_OK;
}

/* --- the command --- */

static bool says_limits(const struct tenants_opts *o) { return *o->requests || *o->tokens || *o->concurrency; }

static bool says_something(const struct tenants_opts *o)
{
	return *o->display_name || *o->models || *o->teams || says_limits(o) || o->suspend || o->resume || o->local_only || o->may_leave;
}

/* 'limit' is 'set' with limits only. */
static int limit(struct cli *c, const struct tenants_opts *o)
{
	if (*o->display_name || *o->models || *o->teams || o->suspend || o->resume || o->local_only || o->may_leave)
		return cli_usage(c, "tenants limit takes limits only; the rest is for tenants set");
	return says_limits(o) ? put(c, o, false) : cli_usage(c, "say which limit: --requests-per-minute, --tokens-per-minute or --concurrency");
}

static int run(struct cli *c)
{
	const struct tenants_opts *o = c->opts;
	const char *word = c->n_args ? c->args[0] : "list";
	bool limits = strcmp(word, "limit") == 0;
	bool change = strcmp(word, "create") == 0 || strcmp(word, "set") == 0 || limits, remove = strcmp(word, "delete") == 0;

	if (!change && !remove && strcmp(word, "list") != 0)
		return cli_usage(c, "tenants knows list, create, set, limit and delete, not '%s'", word);
	if (!change && says_something(o))
		return cli_usage(c, "tenants %s takes none of these options", word);
	if (!change && !remove)
		return c->n_args > 1 ? cli_usage(c, "'%s' is one word too many", c->args[1]) : list(c);
	if (c->n_args < 2)
		return cli_usage(c, "tenants %s needs a name", word);
	if (remove)
		return drop(c);
	if (limits)
		return limit(c, o);
	if (o->local_only && o->may_leave)
		return cli_usage(c, "--local-only and --may-leave exclude each other");
	if (o->suspend && o->resume)
		return cli_usage(c, "--suspend and --resume exclude each other");
	if (strcmp(word, "set") == 0 && !says_something(o))
		return cli_usage(c, "say what to set");
	return put(c, o, strcmp(word, "create") == 0);
}

const struct command cmd_tenants = {
	.name = "tenants", .args = "[list] | create NAME | set NAME | limit NAME | delete NAME", .summary = "List, make, change and delete tenants.",
	.flags = flags, .opts_size = sizeof(struct tenants_opts), .max_args = 2, .run = run,
	.text = "A tenant is who pays: its keys, its limits, its part of the ledger. Limits are for all its keys together. set changes what is said and leaves "
		"the rest; limit is set for limits alone. A tenant with keys is not deleted; suspend it, or revoke them first.",
	.examples = (const struct example[]){
		{ "corral tenants create acme --display-name 'Acme Ltd.' --requests-per-minute 600", "A new one." },
		{ "corral tenants set acme --models 'small-*,embed-*' --concurrency 8", "What it may use." },
		{ "corral tenants limit acme --rpm 600 --tpm 0", "Other limits; 0 takes one away, what is not said stays." },
		{ "corral tenants set acme --suspend", "Its keys are refused within seconds." },
		{ 0 } },
};
