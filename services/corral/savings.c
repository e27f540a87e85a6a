/* savings.c - `corral savings`: what one's own machines saved in a month. */
#include "services/corral/money.h"
#include "services/corral/remote.h"

struct savings_opts { const char *against, *provider, *month, *tenant; };

static const struct flag flags[] = {
	FLAG(struct savings_opts, against, 'a', "MODEL", "The model whose price is compared with; 'corral prices' shows those that are known."),
	FLAG(struct savings_opts, provider, 'p', "NAME", "Whose price, where several providers have that model."),
	FLAG(struct savings_opts, month, 0, "YYYY-MM", "In UTC. Default: this month."),
	FLAG(struct savings_opts, tenant, 't', "NAME", "Of this tenant alone."),
	{ 0 }
};

static void line(struct cli *c, const char *what, int64_t microusd, const char *more)
{
	fprintf(c->out, "%-34s %14s  %s\n", what, money(c->mem, microusd), more);
}

static double percent(const struct json *j, const char *key) { return get_double(j, 0, key) * 100; }

static int print_savings(struct cli *c, const struct json *j, const char *against)
{
	struct buf b = { 0 };
	int64_t saved = get_int(j, 0, "savings_microusd"), unpriced = get_int(j, 0, "unpriced_tokens");

	fprintf(c->out, "%.10s to %.10s, in dollars\n\n", get_z(c, j, 0, "from"), get_z(c, j, 0, "to"));
	buf_printf(&b, "%lld requests, %lld tokens in, %lld out", (long long)get_int(j, 0, "requests"), (long long)get_int(j, 0, "prompt_tokens"),
		   (long long)get_int(j, 0, "completion_tokens"));
	line(c, arena_fmt(c->mem, "all of it from %s", against).p, get_int(j, 0, "would_cost_microusd"), buf_z(&b));
	buf_clear(&b);
	buf_printf(&b, "%.1f GPU-hours, %.2f kWh", get_double(j, 0, "gpu_s") / 3600, get_double(j, 0, "energy_j") / 3.6e6);
	line(c, "one's own machines", get_int(j, 0, "infrastructure_microusd"), buf_z(&b));
	buf_clear(&b);
	buf_printf(&b, "%.1f %% of requests and %.1f %% of tokens stayed at home", percent(j, "local_request_share"), percent(j, "local_token_share"));
	line(c, "bought", get_int(j, 0, "cloud_microusd"), buf_z(&b));
	line(c, saved < 0 ? "more than that" : "saved", saved < 0 ? -saved : saved, "");
	if (unpriced)
		fprintf(c->out, "\n%lld tokens are of times at which the ledger has no price of %s: they are not in the first line.\n"
			"'corral prices set --from' sets a price from an earlier time on.\n", (long long)unpriced, against);
	buf_free(&b);
	return EXIT_OK;
}

static int run(struct cli *c)
{
	const struct savings_opts *o = c->opts;
	struct buf path = { 0 };
	struct answer a;
	int status;

	if (!*o->against)
		return cli_usage(c, "savings needs --against, a model with a price; 'corral prices' shows which there are");
	buf_addz(&path, "/savings");
	add_query(&path, "against", o->against);
	add_query(&path, "provider", o->provider);
	add_query(&path, "month", o->month);
	add_query(&path, "tenant", o->tenant);
	status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status)
		return status;
	if (!json_get(&a.doc, 0, "savings_microusd"))
		return cli_answer_failed(c, &a);
	return c->json ? cli_print_raw(c, &a) : print_savings(c, &a.doc, o->against);
}

const struct command cmd_savings = {
	.name = "savings", .args = "", .summary = "Show what one's own machines saved.",
	.flags = flags, .opts_size = sizeof(struct savings_opts), .run = run,
	.text = "What the month's answers would have cost at a cloud model's price, less what one's own machines (GPU time in use and energy, at their prices) "
		"and what was bought did cost. Idle hours of machines are not in it.",
	.examples = (const struct example[]){
		{ "corral savings --against gpt-x", "This month." },
		{ "corral savings --against gpt-x --month 2026-10 --json", "For a program." },
		{ 0 } },
};
