/* providers.c - `corral providers`: which providers in the cloud can be used, and why others cannot. */
#include "services/corral/money.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct providers_opts { bool models; };

static const struct flag flags[] = {
	FLAG(struct providers_opts, models, 'm', NULL, "Their models, with contexts and prices for a million tokens."),
	{ 0 }
};

static enum tone tone_of(struct str state)
{
	return str_eqz(state, "ready") ? TONE_GOOD : str_eqz(state, "cooling") ? TONE_WARN : TONE_BAD;
}

static bool is_given(const struct json *j, uint32_t at, const char *key)
{
	uint32_t v = json_get(j, at, key);

	return v && json_kind(j, v) != JSON_NULL;
}

static void number_cell(struct table *t, const struct json *j, uint32_t at, const char *key)
{
	if (is_given(j, at, key))
		table_fmt(t, TONE_PLAIN, "%lld", (long long)get_int(j, at, key));
	else
		table_cell(t, TONE_FAINT, STR("-"));
}

static void money_cell(struct cli *c, struct table *t, const struct json *j, uint32_t at, const char *key)
{
	table_cell(t, TONE_PLAIN, is_given(j, at, key) ? str_of(money(c->mem, get_int(j, at, key))) : STR("-"));
}

static void add_provider(struct cli *c, struct table *t, const struct json *j, uint32_t p)
{
	struct str state = get_str(c, j, p, "state"), reason = get_str(c, j, p, "reason");

	table_cell(t, TONE_PLAIN, get_str(c, j, p, "name"));
	table_cell(t, TONE_PLAIN, get_str(c, j, p, "kind"));
	table_cell(t, tone_of(state), state);
	number_cell(t, j, p, "keys");
	table_fmt(t, TONE_PLAIN, "%u", json_count(j, json_get(j, p, "models")));
	number_cell(t, j, p, "left_tokens");
	money_cell(c, t, j, p, "left_microusd");
	table_cell(t, TONE_FAINT, reason.n ? reason : STR("-"));
}

static void add_models(struct cli *c, struct table *t, const struct json *j, uint32_t p)
{
	uint32_t list = json_get(j, p, "models");

	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m)) {
		table_cell(t, TONE_PLAIN, get_str(c, j, m, "name"));
		number_cell(t, j, m, "context_tokens");
		number_cell(t, j, m, "max_output_tokens");
		money_cell(c, t, j, m, "input_microusd");
		money_cell(c, t, j, m, "cached_input_microusd");
		money_cell(c, t, j, m, "output_microusd");
		table_cell(t, TONE_PLAIN, get_list(c, j, m, "capabilities"));
	}
}

static int run(struct cli *c)
{
	const struct providers_opts *o = c->opts;
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status = cli_ask(c, "GET", "/providers", STR(""), &a);

	if (status)
		return status;
	all = json_get(&a.doc, 0, "providers");
	if (!all)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	if (!json_count(&a.doc, all)) {
		fputs("There is no provider; the option 'providers' of cloud-fallback names them.\n", c->out);
		return EXIT_OK;
	}
	table_init(&t, c->mem, o->models ? "~MODEL|>CONTEXT|>MOST OUTPUT|>INPUT/M|>CACHED/M|>OUTPUT/M|~CAN" : "PROVIDER|KIND|STATE|>KEYS|>MODELS|>TOKENS LEFT|>MONEY LEFT|~WHY");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i)) {
		if (o->models)
			add_models(c, &t, &a.doc, i);
		else
			add_provider(c, &t, &a.doc, i);
	}
	table_print(&t, &b, c->width, c->colour);
	fwrite(b.p ? b.p : "", 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

const struct command cmd_providers = {
	.name = "providers", .args = "", .summary = "Show the providers in the cloud, and why one cannot be used.",
	.flags = flags, .opts_size = sizeof(struct providers_opts), .run = run,
	.text = "STATE is ready, not configured, no budget or cooling; WHY says which condition failed. What a '-' stands for is not limited, or not known.",
	.examples = (const struct example[]){
		{ "corral providers", "Which can be used." },
		{ "corral providers --models", "What their models cost." },
		{ "corral providers --json | jq -r '.providers[] | select(.state != \"ready\") | .reason'", "What is to be done." },
		{ 0 } },
};
