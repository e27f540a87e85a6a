/* usage.c - `corral usage`: what was asked of which model, from the ledger. */
#include <math.h>

#include "services/corral/remote.h"
#include "services/corral/table.h"

struct usage_opts {
	const char *by, *group_by, *from, *to, *tenant;
	bool csv;
};

static const struct flag flags[] = {
	FLAG(struct usage_opts, by, 0, "A,B", "Grouped by these: model, day, backend, tenant, key, provider, task_type, dialect, status. Default: model."),
	FLAG(struct usage_opts, group_by, 0, "A,B", "The same."),
	FLAG(struct usage_opts, from, 0, "TIME", "From then on: 2026-11-21, or 2026-11-21T09:00:00Z."),
	FLAG(struct usage_opts, to, 0, "TIME", "Until then, not included."),
	FLAG(struct usage_opts, tenant, 't', "NAME", "Of this tenant alone."),
	FLAG(struct usage_opts, csv, 0, NULL, "Comma-separated values with a header line, for spreadsheets."),
	{ 0 }
};

static void number_cells(struct table *t, const struct json *j, uint32_t row, bool costs)
{
	static const char *const keys[] = { "requests", "attempts", "errors", "prompt_tokens", "completion_tokens" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		table_fmt(t, strcmp(keys[i], "errors") == 0 && get_int(j, row, keys[i]) ? TONE_WARN : TONE_PLAIN, "%lld",
			  (long long)get_int(j, row, keys[i]));
	table_fmt(t, TONE_PLAIN, "%.0f ms", get_double(j, row, "latency_p50_ms"));
	table_fmt(t, TONE_PLAIN, "%.0f ms", get_double(j, row, "latency_p95_ms"));
	table_fmt(t, TONE_PLAIN, "%.1f %%", floor(get_double(j, row, "success_rate") * 1000) / 10);
	if (costs)
		table_fmt(t, TONE_PLAIN, "$%.4f", (double)get_int(j, row, "cost_microusd") / 1e6);
}

static void group_cells(struct cli *c, struct table *t, const struct json *j, uint32_t row, const char *by, const char *label)
{
	struct str rest = str_of(by), name;

	while (rest.p && str_split(&rest, ',', &name)) {
		struct str v = get_str(c, j, row, arena_str(c->mem, str_trim(name)).p);

		table_cell(t, label ? TONE_STRONG : TONE_PLAIN, label ? str_of(label) : v.n ? v : STR("-"));
		label = label ? "" : NULL;
	}
}

static const char *columns(struct cli *c, const char *by, bool costs)
{
	struct buf b = { 0 };
	const char *z;

	for (const char *p = by; *p; p++)
		if (*p != ' ')
			buf_char(&b, *p == ',' ? '|' : *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p);
	buf_addz(&b, "|>REQUESTS|>ATTEMPTS|>ERRORS|>IN|>OUT|>P50|>P95|>SUCCESS");
	buf_addz(&b, costs ? "|>COST" : "");
	z = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return z;
}

/* Models of one's own cost nothing that the ledger knows of: no column of zeros. */
static bool any_cost(const struct json *j, uint32_t rows)
{
	for (uint32_t r = json_first(j, rows); r; r = json_next(j, rows, r))
		if (get_int(j, r, "cost_microusd"))
			return true;
	return false;
}

static int print_usage(struct cli *c, const struct json *j, const char *by)
{
	const struct usage_opts *o = c->opts;
	uint32_t rows = json_get(j, 0, "rows"), totals = json_get(j, 0, "totals");
	struct buf b = { 0 };
	struct table t;
	bool costs;

	if (!rows || json_count(j, rows) == 0) {
		fprintf(c->out, "The ledger has no requests%s%s%s.\n", *o->tenant ? " of the tenant " : "", o->tenant, *o->from || *o->to ? " of that time" : " yet");
		return EXIT_OK;
	}
	costs = any_cost(j, rows);
	table_init(&t, c->mem, columns(c, by, costs));
	for (uint32_t r = json_first(j, rows); r; r = json_next(j, rows, r)) {
		group_cells(c, &t, j, r, by, NULL);
		number_cells(&t, j, r, costs);
	}
	if (json_count(j, rows) > 1 && totals && json_kind(j, totals) == JSON_OBJECT) {
		group_cells(c, &t, j, totals, by, "all");
		number_cells(&t, j, totals, costs);
	}
	table_print(&t, &b, c->width, c->colour);
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

static int run(struct cli *c)
{
	const struct usage_opts *o = c->opts;
	const char *by = *o->by ? o->by : *o->group_by ? o->group_by : "model";
	struct buf path = { 0 };
	struct remote *r;
	struct answer a;

	if (*o->by && *o->group_by)
		return cli_usage(c, "--by and --group-by are one");
	if (o->csv && c->json)
		return cli_usage(c, "--csv and --json exclude each other");
	r = remote_gateway(c);
	if (!r)
		return EXIT_USAGE;
	buf_addz(&path, "/usage");
	add_query(&path, "group_by", by);
	add_query(&path, "from", o->from);
	add_query(&path, "to", o->to);
	add_query(&path, "tenant", o->tenant);
	add_query(&path, "format", o->csv ? "csv" : "");
	a = remote_ask(r, "GET", buf_z(&path), STR(""), 30000);
	buf_free(&path);
	if (a.status != 200 || (!o->csv && !(a.is_json && json_get(&a.doc, 0, "rows"))))
		return cli_answer_failed(c, &a);
	return o->csv || c->json ? cli_print_raw(c, &a) : print_usage(c, &a.doc, by);
}

const struct command cmd_usage = {
	.name = "usage", .args = "", .summary = "Show what was used: requests, tokens, latency and cost, grouped.",
	.flags = flags, .opts_size = sizeof(struct usage_opts), .run = run,
	.text = "Every request that was sent to a model is in the ledger, failed ones too. IN and OUT are tokens of prompts and answers; P50 and P95 are "
		"the times that half and nineteen of twenty requests took at most; SUCCESS is the share that was answered to its end.",
	.examples = (const struct example[]){
		{ "corral usage", "By model, since the beginning." },
		{ "corral usage --by day,model --from 2026-11-01", "One row a day and model." },
		{ "corral usage --by tenant --csv >usage.csv", "For a spreadsheet." },
		{ 0 } },
};
