/* quality.c - `corral quality`: how good answers are, by model, task type and language. */
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct quality_opts { const char *from, *to, *tenant; };

static const struct flag flags[] = {
	FLAG(struct quality_opts, from, 0, "DAY", "From that day on. Default: the last thirty days."),
	FLAG(struct quality_opts, to, 0, "DAY", "Until the day before that."),
	FLAG(struct quality_opts, tenant, 't', "NAME", "Of this tenant alone."),
	{ 0 }
};

static bool known(const struct json *j, uint32_t row, const char *key)
{
	uint32_t at = json_get(j, row, key);

	return at && json_kind(j, at) != JSON_NULL;
}

static void cell(struct table *t, const struct json *j, uint32_t row, const char *key, double unit, const char *fmt_tail)
{
	if (known(j, row, key))
		table_fmt(t, TONE_PLAIN, "%.*f%s", unit == 1 ? 1 : 0, get_double(j, row, key) * unit, fmt_tail);
	else
		table_cell(t, TONE_PLAIN, STR("-"));
}

static void add_row(struct cli *c, struct table *t, const struct json *j, uint32_t row)
{
	static const char *const words[] = { "model", "task_type", "language" }, *const counts[] = { "answers", "aborted", "regenerated", "asked_again", "feedback" };

	for (int i = 0; i < 3; i++) {
		struct str word = get_str(c, j, row, words[i]);

		table_cell(t, TONE_PLAIN, word.n ? word : STR("-"));
	}
	cell(t, j, row, "quality", 100, " %");
	cell(t, j, row, "success_rate", 100, " %");
	cell(t, j, row, "rating", 1, "");
	for (int i = 0; i < 5; i++)
		table_fmt(t, TONE_PLAIN, "%lld", (long long)get_int(j, row, counts[i]));
	cell(t, j, row, "latency_ms", 1, " ms");
	cell(t, j, row, "tokens_per_s", 1, "");
}

static int run(struct cli *c)
{
	const struct quality_opts *o = c->opts;
	struct buf path = { 0 }, b = { 0 };
	struct answer a;
	struct table t;
	uint32_t rows;
	int status;

	buf_addz(&path, "/quality");
	add_query(&path, "from", o->from);
	add_query(&path, "to", o->to);
	add_query(&path, "tenant", o->tenant);
	status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status)
		return status;
	rows = json_get(&a.doc, 0, "rows");
	if (!rows)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	table_init(&t, c->mem, "~MODEL|TASK|LANGUAGE|>QUALITY|>SUCCESS|>RATING|>ANSWERS|>ABORTED|>AGAIN|>ALIKE|>SAID|>LATENCY|>TOKENS/S");
	for (uint32_t i = json_first(&a.doc, rows); i; i = json_next(&a.doc, rows, i))
		add_row(c, &t, &a.doc, i);
	if (json_count(&a.doc, rows))
		table_print(&t, &b, c->width, c->colour);
	else
		buf_addz(&b, "There are no answers of that time.\n");
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

const struct command cmd_quality = {
	.name = "quality", .args = "", .summary = "Show how good answers are, by model, task and language.",
	.flags = flags, .opts_size = sizeof(struct quality_opts), .run = run,
	.text = "QUALITY weighs what is known of each answer: tests first, then what people said, then whether they left, asked the same (AGAIN) or nearly the same "
		"(ALIKE) again within ten minutes, then whether it ended well. SAID counts feedback. docs/quality.md defines each.",
	.examples = (const struct example[]){ { "corral quality --from 2026-11-01", "Since then." }, { 0 } },
};
