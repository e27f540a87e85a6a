/* budgets.c - `corral budgets`: what may be used in a period, and what is. */
#include "common/data/json_write.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct budgets_opts { const char *period, *tokens, *usd, *tenant, *mode; bool unlimited; };

#define O struct budgets_opts
static const struct flag flags[] = {
	FLAG(O, period, 'p', "PERIOD", "month (the default), day, minute, or rolling: with 1m to 366d behind it, as in rolling:30d."),
	FLAG(O, tokens, 't', "N", "set: so many tokens, prompt and answer; 0 = nothing, none = no limit."),
	FLAG(O, usd, 0, "AMOUNT", "set: so many US dollars, as in 12.50; 0 = nothing, none = no limit."),
	FLAG(O, mode, 0, "MODE", "set: enforce (the default), or shadow: refuse nothing, say what would have been refused."),
	FLAG(O, unlimited, 'u', NULL, "set: no limit at all, instead of --tokens and --usd. A provider in the cloud is used only when it has a limit or this is written."),
	FLAG(O, tenant, 0, "NAME", "set, rm: whose team, key or user it is; yours if it is not said. list: only this tenant's."),
	{ 0 }
};
#undef O

/* --- list --- */

static bool is_given(const struct json *j, uint32_t row, const char *key)
{
	uint32_t v = json_get(j, row, key);

	return v && json_kind(j, v) != JSON_NULL;
}

static void amount_cell(struct table *t, enum tone tone, int64_t n, bool money)
{
	if (money)
		table_fmt(t, tone, "$%.2f", (double)n / 1e6);
	else
		table_fmt(t, tone, "%lld", (long long)n);
}

static void kind_row(struct cli *c, struct table *t, const struct json *j, uint32_t row, bool money)
{
	const char *const keys[2][4] = { { "limit_tokens", "used_tokens", "held_tokens", "in_doubt_tokens" },
					 { "limit_microusd", "used_microusd", "held_microusd", "in_doubt_microusd" } };
	int64_t limit = get_int(j, row, keys[money][0]), used = get_int(j, row, keys[money][1]);
	enum tone tone = !is_given(j, row, keys[money][0]) ? TONE_PLAIN : used >= limit ? TONE_BAD : used >= limit / 5 * 4 ? TONE_WARN : TONE_PLAIN;
	struct str resets = get_str(c, j, row, "resets_at"), tenant = get_str(c, j, row, "tenant");

	table_cell(t, TONE_PLAIN, get_str(c, j, row, "scope"));
	table_cell(t, TONE_PLAIN, tenant.n ? tenant : STR("-"));
	table_cell(t, TONE_PLAIN, get_str(c, j, row, "period"));
	table_cell(t, TONE_PLAIN, get_str(c, j, row, "mode"));
	if (is_given(j, row, keys[money][0]))
		amount_cell(t, TONE_PLAIN, limit, money);
	else
		table_cell(t, TONE_PLAIN, get_bool(j, row, "unlimited") ? STR("unlimited") : STR("none"));
	for (unsigned i = 1; i < 4; i++)
		amount_cell(t, i == 1 ? tone : TONE_PLAIN, get_int(j, row, keys[money][i]), money);
	table_cell(t, TONE_PLAIN, resets.n ? resets : STR("-"));
}

static void add_budget(struct cli *c, struct table *t, const struct json *j, uint32_t row)
{
	bool money = is_given(j, row, "limit_microusd");

	if (is_given(j, row, "limit_tokens") || !money)
		kind_row(c, t, j, row, false);
	if (money)
		kind_row(c, t, j, row, true);
}

static const char *with_query(struct cli *c, const char *const *pairs)
{
	struct buf b = { 0 };
	const char *path;

	buf_addz(&b, "/budgets");
	for (unsigned n = 0; *pairs; pairs += 2)
		if (*pairs[1]) {
			buf_char(&b, n++ ? '&' : '?');
			buf_addz(&b, pairs[0]);
			buf_char(&b, '=');
			add_percent(&b, str_of(pairs[1]));
		}
	path = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return path;
}

static int list(struct cli *c)
{
	const struct budgets_opts *o = c->opts;
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t rows;
	int status = cli_ask(c, "GET", with_query(c, (const char *const[]){ "tenant", o->tenant, NULL }), STR(""), &a);

	if (status)
		return status;
	rows = json_get(&a.doc, 0, "rows");
	if (!rows)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	if (!json_count(&a.doc, rows)) {
		fputs("There is no budget; 'corral budgets set tenant:NAME --tokens N' makes one.\n", c->out);
		return EXIT_OK;
	}
	table_init(&t, c->mem, "~BUDGET|~TENANT|PERIOD|MODE|>LIMIT|>USED|>HELD|>IN DOUBT|RESETS");
	for (uint32_t i = json_first(&a.doc, rows); i; i = json_next(&a.doc, rows, i))
		add_budget(c, &t, &a.doc, i);
	table_print(&t, &b, c->width, c->colour);
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* --- set --- */

/* "12.5" dollars are 12500000 micro-dollars; no floating point touches money. */
static bool microusd(struct str s, uint64_t *ret)
{
	struct str rest = s, whole, part = STR("");
	uint64_t n = 0, cents = 0;

	if (!str_split(&rest, '.', &whole) || !str_u64(whole, &n) || n > 1000000000)
		return false;
	if (rest.p) {
		part = rest;
		if (!part.n || part.n > 6 || !str_u64(part, &cents))
			return false;
		for (size_t i = part.n; i < 6; i++)
			cents *= 10;
	}
	*ret = n * 1000000 + cents;
	return true;
}

static bool add_limit(struct cli *c, struct json_out *jo, const char *key, const char *flag, const char *said, bool money)
{
	uint64_t n;

	if (!*said)
		return true;
	jw_key(jo, key);
	if (strcmp(said, "none") == 0) {
		jw_null(jo);
		return true;
	}
	if (!(money ? microusd(str_of(said), &n) : str_u64(str_of(said), &n))) {
		cli_usage(c, "--%s: '%s' is no %s", flag, said, money ? "amount of dollars" : "number");
		return false;
	}
	jw_u64(jo, n);
	return true;
}

static int set(struct cli *c)
{
	const struct budgets_opts *o = c->opts;
	struct buf b = { 0 };
	struct json_out jo;
	struct answer a;
	int status = EXIT_USAGE;

	if (!*o->tokens && !*o->usd && !o->unlimited)
		return cli_usage(c, "say --tokens or --usd; 0 = nothing, none = no limit; or --unlimited");
	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "scope", c->args[1]);
	jw_kv_strz(&jo, "period", *o->period ? o->period : "month");
	jw_kv_strz(&jo, "mode", *o->mode ? o->mode : "enforce");
	if (*o->tenant)
		jw_kv_strz(&jo, "tenant", o->tenant);
	if (o->unlimited)
		jw_kv_bool(&jo, "unlimited", true);
	if (add_limit(c, &jo, "tokens", "tokens", o->tokens, false) && add_limit(c, &jo, "microusd", "usd", o->usd, true)) {
		json_done(&jo);
		status = cli_ask(c, "PUT", "/budgets", buf_as_str(&b), &a);
	}
	buf_free(&b);
	if (status)
		return status;
	if (!json_get(&a.doc, 0, "scope"))
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	fprintf(c->out, "The budget of %s is set; gateways know it within a second or two.\n", c->args[1]);
	return EXIT_OK;
}

static int drop(struct cli *c)
{
	const struct budgets_opts *o = c->opts;
	const char *const query[] = { "scope", c->args[1], "period", *o->period ? o->period : "month", "tenant", o->tenant, NULL };
	struct answer a;
	int status = cli_ask(c, "DELETE", with_query(c, query), STR(""), &a);

	if (status)
		return status;
	if (c->json)
		return cli_print_raw(c, &a);
	fprintf(c->out, "The budget of %s is removed.\n", c->args[1]);
	return EXIT_OK;
}

/* --- the command --- */

static int run(struct cli *c)
{
	const struct budgets_opts *o = c->opts;
	const char *word = c->n_args ? c->args[0] : "list";
	bool sets = strcmp(word, "set") == 0, removes = strcmp(word, "rm") == 0;

	if (!sets && !removes && strcmp(word, "list") != 0)
		return cli_usage(c, "budgets knows list, set and rm, not '%s'", word);
	if (!sets && (*o->tokens || *o->usd || *o->mode || o->unlimited))
		return cli_usage(c, "budgets %s takes no limits", word);
	if (!sets && !removes)
		return c->n_args > 1 ? cli_usage(c, "'%s' is one word too many", c->args[1]) : list(c);
	if (c->n_args < 2)
		return cli_usage(c, "budgets %s needs a scope, such as tenant:acme", word);
	return sets ? set(c) : drop(c);
}

const struct command cmd_budgets = {
	.name = "budgets", .args = "[list] | set SCOPE | rm SCOPE", .summary = "List, set and remove budgets of tokens and money.",
	.flags = flags, .opts_size = sizeof(struct budgets_opts), .max_args = 2, .run = run,
	.text = "A budget bounds what a scope may use in a period: organisation:NAME (all of this installation), team:NAME, tenant:NAME, key:ID, user:NAME or provider:NAME "
		"(ollama, llamacpp, openai, or a provider in the cloud). A request is taken from every budget that covers it, or refused with 402. HELD is lent to gateways for requests under way, IN "
		"DOUBT was lent to a gateway that fell silent; both count.",
	.examples = (const struct example[]){
		{ "corral budgets set tenant:acme --tokens 5000000", "Five million tokens a month." },
		{ "corral budgets set team:research --period rolling:7d --tokens 1000000 --mode shadow", "Only say what it would have refused." },
		{ "corral budgets set provider:acme-cloud --usd 20", "Twenty dollars a month in the cloud; without a budget of its own a provider there is not used." },
		{ "corral budgets rm tenant:acme", "No limit any more." },
		{ 0 } },
};
