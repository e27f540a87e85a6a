/* explain.c - `corral explain`: how a request was decided, or would be. */
#include "common/data/json_write.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct explain_opts { const char *prompt, *model, *policy, *task_type; };

static const struct flag flags[] = {
	FLAG(struct explain_opts, prompt, 'p', "TEXT", "Decide a request with this prompt now, without sending it to any model."),
	FLAG(struct explain_opts, model, 0, "NAME", "With --prompt: the model that would be asked for. Default: auto."),
	FLAG(struct explain_opts, policy, 0, "WORD", "With --prompt: balanced, quality, fast or cheap."),
	FLAG(struct explain_opts, task_type, 0, "WORD", "With --prompt: what it is about (BUG_FIX, SQL, CHAT ...), instead of what is found in its words."),
	{ 0 }
};

static void first_line(struct cli *c, const struct json *j, bool asked_now)
{
	uint32_t chosen = json_get(j, 0, "chosen");
	const char *reason = get_z(c, j, 0, "reason"), *error = get_z(c, j, 0, "error");

	if (asked_now)
		fprintf(c->out, "Now ");
	else
		fprintf(c->out, "Request %s, %s: ", get_z(c, j, 0, "request_id"), get_z(c, j, 0, "decided_at"));
	if (chosen && json_kind(j, chosen) == JSON_OBJECT)
		fprintf(c->out, "%s%s%s%s on %s (%s, confidence %.2f).\n", asked_now ? "this would go to " : "sent to ", tone_on(c->colour, TONE_STRONG),
			get_z(c, j, chosen, "model"), tone_off(c->colour, TONE_STRONG), get_z(c, j, chosen, "backend"), reason,
			get_double(j, 0, "confidence"));
	else
		fprintf(c->out, "no model fits: %s.\n", *error ? error : "none is there");
}

/* Nothing where the gateway decides anyway. */
static void decider_line(struct cli *c, const struct json *j)
{
	const char *why = get_z(c, j, 0, "not_asked");

	if (strcmp(get_z(c, j, 0, "decided_by"), "selector") == 0)
		fprintf(c->out, "Decided by the selector.\n");
	else if (*why)
		fprintf(c->out, "Decided by the gateway itself: %s.\n", why);
}

static void add_pair(struct buf *b, const char *label, struct str value)
{
	if (value.n)
		buf_printf(b, "%s%s " STR_FMT, b->n ? ", " : "", label, STR_ARG(value));
}

static void features_line(struct cli *c, const struct json *j)
{
	uint32_t f = json_get(j, 0, "features");
	struct buf b = { 0 }, shown = { 0 };

	if (!f)
		return;
	add_pair(&b, "task", get_str(c, j, f, "task_type"));
	if (get_double(j, f, "task_confidence") > 0)
		buf_printf(&b, " (sure by %.2f)", get_double(j, f, "task_confidence"));
	add_pair(&b, "complexity", get_str(c, j, f, "complexity"));
	add_pair(&b, "language", get_str(c, j, f, "language"));
	buf_printf(&b, ", %lld prompt tokens", (long long)get_int(j, f, "prompt_tokens"));
	if (get_int(j, f, "max_tokens"))
		buf_printf(&b, ", at most %lld to answer", (long long)get_int(j, f, "max_tokens"));
	add_pair(&b, "needs", get_list(c, j, f, "needs"));
	add_pair(&b, "policy", get_str(c, j, f, "policy"));
	add_pair(&b, "conversation held by", get_str(c, j, f, "conversation_model"));
	add_shown(&shown, buf_as_str(&b), false);
	fprintf(c->out, "It asks for '%s': %s.\n", get_z(c, j, f, "requested_model"), buf_z(&shown));
	buf_free(&b);
	buf_free(&shown);
}

static void candidates_table(struct cli *c, const struct json *j, struct buf *out)
{
	uint32_t list = json_get(j, 0, "candidates");
	struct table t;

	table_init(&t, c->mem, ">#|~MODEL|~BACKEND|>SCORE|>QUALITY|>LATENCY|>COST|>EXPECT|WARM|>CONTEXT");
	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m)) {
		uint32_t terms = json_get(j, m, "terms");
		enum tone tone = t.rows ? TONE_PLAIN : TONE_GOOD;

		table_fmt(&t, tone, "%u", t.rows + 1);
		table_cell(&t, tone, get_str(c, j, m, "model"));
		table_cell(&t, tone, get_str(c, j, m, "backend"));
		table_fmt(&t, tone, "%.4f", get_double(j, m, "score"));
		table_fmt(&t, TONE_PLAIN, "%.3f", terms ? get_double(j, terms, "quality") : 0);
		table_fmt(&t, TONE_PLAIN, "%.3f", terms ? get_double(j, terms, "latency") : 0);
		table_fmt(&t, TONE_PLAIN, "%.3f", terms ? get_double(j, terms, "cost") : 0);
		table_fmt(&t, TONE_PLAIN, "%.2f s", get_double(j, m, "expected_s"));
		table_cell(&t, TONE_PLAIN, get_bool(j, m, "warm") ? STR("yes") : STR("no"));
		table_fmt(&t, TONE_PLAIN, "%lld", (long long)get_int(j, m, "context_length"));
	}
	if (t.rows) {
		buf_addz(out, "\n");
		table_print(&t, out, c->width, c->colour);
	}
}

static void rejected_table(struct cli *c, const struct json *j, struct buf *out)
{
	uint32_t list = json_get(j, 0, "rejected");
	struct table t;

	table_init(&t, c->mem, "~NOT CHOSEN|~BACKEND|RULE|WHY");
	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m)) {
		table_cell(&t, TONE_PLAIN, get_str(c, j, m, "model"));
		table_cell(&t, TONE_PLAIN, get_str(c, j, m, "backend"));
		table_cell(&t, TONE_WARN, get_str(c, j, m, "rule"));
		table_cell(&t, TONE_PLAIN, get_str(c, j, m, "text"));
	}
	if (t.rows) {
		buf_addz(out, "\n");
		table_print(&t, out, c->width, c->colour);
	}
}

static void replay_line(struct cli *c, const struct json *j)
{
	const char *text = get_z(c, j, 0, "replay_text");

	if (get_bool(j, 0, "replayed"))
		fprintf(c->out, "\nReplayed: the same inputs give the same decision, bit for bit.\n");
	else
		fprintf(c->out, "\n%sNot replayed%s%s%s.\n", tone_on(c->colour, TONE_WARN), tone_off(c->colour, TONE_WARN), *text ? ": " : "", text);
}

static int print_explanation(struct cli *c, const struct json *j, bool asked_now)
{
	struct buf b = { 0 };

	first_line(c, j, asked_now);
	decider_line(c, j);
	features_line(c, j);
	candidates_table(c, j, &b);
	rejected_table(c, j, &b);
	fwrite(buf_z(&b), 1, b.n, c->out);
	buf_free(&b);
	if (!asked_now)
		replay_line(c, j);
	return EXIT_OK;
}

static struct str question(const struct explain_opts *o, struct buf *b)
{
	struct json_out jo;

	json_begin(&jo, b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", *o->model ? o->model : "auto");
	jw_kv_strz(&jo, "prompt", o->prompt);
	if (*o->policy)
		jw_kv_strz(&jo, "policy", o->policy);
	if (*o->task_type)
		jw_kv_strz(&jo, "task_type", o->task_type);
	json_done(&jo);
	return buf_as_str(b);
}

static int run(struct cli *c)
{
	const struct explain_opts *o = c->opts;
	struct buf text = { 0 };
	struct answer a;
	int status;

	if ((c->n_args == 1) == (*o->prompt != '\0'))
		return cli_usage(c, "explain needs the id of a request (X-Request-Id of its answer), or --prompt TEXT");
	if (c->n_args && (*o->model || *o->policy || *o->task_type))
		return cli_usage(c, "--model, --policy and --task-type go with --prompt only");
	if (c->n_args) {
		buf_addz(&text, "/explain/");
		add_percent(&text, str_of(c->args[0]));
		status = cli_ask(c, "GET", buf_z(&text), STR(""), &a);
	} else {
		status = cli_ask(c, "POST", "/explain", question(o, &text), &a);
	}
	buf_free(&text);
	if (status == EXIT_OK && !json_get(&a.doc, 0, "candidates"))
		return cli_answer_failed(c, &a);
	if (status)
		return status;
	return c->json ? cli_print_raw(c, &a) : print_explanation(c, &a.doc, c->n_args == 0);
}

const struct command cmd_explain = {
	.name = "explain", .args = "[ID]", .summary = "Say why a request went to its model, and why to no other.",
	.flags = flags, .opts_size = sizeof(struct explain_opts), .max_args = 1, .run = run,
	.text = "QUALITY, LATENCY and COST are what the SCORE is made of, 1 the best; EXPECT is how long the answer would take.\n\n"
		"ID is the request's id: chat prints it, and each answer of the gateway has it in X-Request-Id. The decision is computed "
		"again from what was known then, and the last line says whether the same came out.",
	.examples = (const struct example[]){
		{ "corral explain 019a0c1e-7d3b-7000-8000-2b1d5f3a9c10", "A request of the last 14 days." },
		{ "corral explain --prompt \"Fix this SQL: SELEC 1\"", "What would happen now; nothing is sent." },
		{ 0 } },
};
