/* tests.c - `corral tests`: experiments on models, parameters and prompts; what came of them, as figures and as a picture. */
#include <math.h>

#include "common/data/json_write.h"
#include "services/corral/plot.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct tests_opts {
	const char *model_a, *model_b, *arms, *task_type, *language, *tenant, *traffic, *unit, *namespace, *metric, *guards, *days, *arm, *reason;
	bool no_promote, shadow, running;
};

#define O struct tests_opts
static const struct flag flags[] = {
	FLAG(O, running, 'r', NULL, "list: only those that run."),
	FLAG(O, model_a, 'a', "NAME", "create: the model that the other one is compared with."),
	FLAG(O, model_b, 'b', "NAME", "create: the other model."),
	FLAG(O, arms, 0, "JSON", "create: instead of two models, an array of {name, model, weight, parameters, prompt_template}; the first one is what the others are compared with."),
	FLAG(O, traffic, 0, "PERCENT", "create: of the units; 10 if it is not said."),
	FLAG(O, unit, 0, "KIND", "create: whose arm stays the same: user (if it is not said), session or conversation."),
	FLAG(O, metric, 0, "NAME", "create: what decides: success (if it is not said), rating, latency or cost."),
	FLAG(O, guards, 0, "LIST", "create: what must not become worse, by how much: success:0.05,latency:0.2 (five points of a hundred, a fifth more). none = no guards."),
	FLAG(O, task_type, 0, "NAME", "create: only requests of this task type."),
	FLAG(O, language, 0, "NAME", "create: only requests in this language."),
	FLAG(O, tenant, 0, "NAME", "create: only this tenant's requests."),
	FLAG(O, namespace, 0, "NAME", "create: experiments of one namespace never share a unit."),
	FLAG(O, days, 0, "N", "create: it ends then; if it is not said, when it is decided."),
	FLAG(O, no_promote, 0, NULL, "create: a winner is reported and not made the champion."),
	FLAG(O, shadow, 0, NULL, "create: clients are answered by the first model; the other one is asked the same where a slot is free, and answers nobody."),
	FLAG(O, arm, 0, "NAME", "promote: that arm; if it is not said, the one that is ahead for sure."),
	FLAG(O, reason, 0, "TEXT", "stop, promote, rollback: why, for whoever reads it later."),
	{ 0 }
};
#undef O

/* A member that is null or missing, or infinite on its way here, is no number. */
static double number(const struct json *j, uint32_t object, const char *key)
{
	uint32_t v = json_get(j, object, key);

	return v && json_kind(j, v) == JSON_NUMBER ? get_double(j, object, key) : NAN;
}

static void number_cell(struct table *t, const char *before, double v, int places, const char *after)
{
	if (!isfinite(v))
		table_cell(t, TONE_PLAIN, STR("-"));
	else
		table_fmt(t, TONE_PLAIN, "%s%.*f%s", before, places, v, after);
}

static void signed_cell(struct table *t, double v) { number_cell(t, v >= 0 ? "+" : "", v, 1, ""); }

static enum tone tone_of_test(struct str state)
{
	return str_eqz(state, "running") || str_eqz(state, "promoted") ? TONE_GOOD : str_eqz(state, "rolled_back") ? TONE_BAD : TONE_FAINT;
}

static void print(struct cli *c, struct buf *b)
{
	fwrite(b->p, 1, b->n, c->out);
	buf_free(b);
}

/* --- list --- */

static void add_test(struct cli *c, struct table *t, const struct json *j, uint32_t test)
{
	struct str state = get_str(c, j, test, "state"), task = get_str(c, j, test, "task_type_filter"), reason = get_str(c, j, test, "reason");

	table_cell(t, TONE_PLAIN, get_str(c, j, test, "id"));
	table_cell(t, TONE_PLAIN, get_str(c, j, test, "name"));
	table_cell(t, tone_of_test(state), state);
	table_cell(t, TONE_PLAIN, get_bool(j, test, "shadow") ? STR("shadow") : STR("answers"));
	table_cell(t, TONE_PLAIN, get_str(c, j, test, "model_a"));
	table_cell(t, TONE_PLAIN, get_str(c, j, test, "model_b"));
	table_cell(t, TONE_PLAIN, task.n ? task : STR("all"));
	table_fmt(t, TONE_PLAIN, "%g %%", get_double(j, test, "traffic_percent"));
	table_cell(t, TONE_PLAIN, reason.n ? reason : STR("-"));
}

static int list(struct cli *c, const struct tests_opts *o)
{
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status = cli_ask(c, "GET", o->running ? "/tests?running=true" : "/tests", STR(""), &a);

	if (status)
		return status;
	all = json_get(&a.doc, 0, "tests");
	if (!all)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	table_init(&t, c->mem, "TEST|~NAME|STATE|KIND|~A|~B|TASK|>TRAFFIC|~REASON");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i))
		add_test(c, &t, &a.doc, i);
	if (t.rows)
		table_print(&t, &b, c->width, c->colour);
	else
		buf_addz(&b, o->running ? "No experiment runs.\n" : "There are no experiments; 'corral tests create NAME --model-a M --model-b N' begins one.\n");
	print(c, &b);
	return EXIT_OK;
}

/* --- show --- */

static void arms_table(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t arms = json_get(j, 0, "arms");
	struct table t;

	table_init(&t, c->mem, "ARM|~MODEL|>UNITS|>REQUESTS|>SUCCESS|>LATENCY|>RATING|>COST|>BEST|>COMPOSITE");
	for (uint32_t i = json_first(j, arms); i; i = json_next(j, arms, i)) {
		table_cell(&t, TONE_PLAIN, get_str(c, j, i, "arm"));
		table_cell(&t, TONE_PLAIN, get_str(c, j, i, "model"));
		number_cell(&t, "", number(j, i, "units"), 0, "");
		number_cell(&t, "", number(j, i, "total_requests"), 0, "");
		number_cell(&t, "", number(j, i, "success_rate") * 100, 1, " %");
		number_cell(&t, "", number(j, i, "avg_latency_ms"), 0, " ms");
		number_cell(&t, "", number(j, i, "avg_rating"), 2, "");
		number_cell(&t, "$", number(j, i, "avg_cost_microusd") / 1e6, 6, "");
		number_cell(&t, "", number(j, i, "probability_best") * 100, 1, " %");
		number_cell(&t, "", number(j, i, "composite"), 3, "");
	}
	table_print(&t, b, c->width, c->colour);
}

/* Points of a hundred, percent, or stars: what people read. */
static double shown(struct str metric, double v)
{
	if (isfinite(v) && (str_eqz(metric, "latency") || str_eqz(metric, "cost")))
		return expm1(v) * 100;
	return str_eqz(metric, "rating") ? v : v * 100;
}

static const char *unit_of(struct str metric)
{
	if (str_eqz(metric, "latency") || str_eqz(metric, "cost"))
		return "%";
	return str_eqz(metric, "rating") ? "points of 5" : "points of 100";
}

static double bound(const struct json *j, uint32_t object, int side)
{
	uint32_t pair = json_get(j, object, "interval"), v = json_first(j, pair);
	double d = NAN;

	if (side && v)
		v = json_next(j, pair, v);
	return v && json_kind(j, v) == JSON_NUMBER && json_double(j, v, &d) ? d : side ? INFINITY : -INFINITY;
}

static void comparisons_table(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t rows = json_get(j, 0, "comparisons");
	struct table t;

	table_init(&t, c->mem, "ARM|METRIC|>BETTER BY|>AT LEAST|>AT MOST|UNIT|>E-VALUE|>LEFT|GUARD");
	for (uint32_t i = json_first(j, rows); i; i = json_next(j, rows, i)) {
		struct str metric = get_str(c, j, i, "metric");
		bool guard = get_bool(j, i, "guard"), broken = get_bool(j, i, "breached");

		table_cell(&t, TONE_PLAIN, get_str(c, j, i, "arm"));
		table_cell(&t, TONE_PLAIN, metric);
		signed_cell(&t, shown(metric, number(j, i, "estimate")));
		signed_cell(&t, shown(metric, bound(j, i, 0)));
		signed_cell(&t, shown(metric, bound(j, i, 1)));
		table_cell(&t, TONE_PLAIN, str_of(unit_of(metric)));
		number_cell(&t, "", number(j, i, "e_value"), 1, "");
		number_cell(&t, "", number(j, i, "expected_samples_left"), 0, "");
		table_cell(&t, broken ? TONE_BAD : TONE_PLAIN, !guard ? STR("-") : broken ? STR("broken") : STR("watched"));
	}
	table_print(&t, b, c->width, c->colour);
}

static struct plot_point point(const struct json *j, uint32_t object, struct str metric)
{
	return (struct plot_point){ number(j, object, "samples"), shown(metric, bound(j, object, 0)), shown(metric, number(j, object, "estimate")),
				    shown(metric, bound(j, object, 1)) };
}

/* Its history, and how it stands now. */
static void picture(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t history = json_get(j, 0, "history"), now = json_first(j, json_get(j, 0, "comparisons"));
	size_t n = 0;
	struct plot_point *points = arena_array(c->mem, struct plot_point, json_count(j, history) + 1);
	struct str metric = get_str(c, j, 0, "metric");
	const struct plot look = { arena_printf(c->mem, "how much better the second arm is in " STR_FMT ", in %s; | is between which bounds for sure",
						STR_ARG(metric), unit_of(metric)), "outcomes", c->width ? c->width : 80, 15 };

	for (uint32_t i = json_first(j, history); i; i = json_next(j, history, i))
		points[n++] = point(j, i, metric);
	if (now)
		points[n++] = point(j, now, metric);
	plot_bounds(b, &look, points, n);
}

/* What its figures mean, for nobody sees the answers of the other arms. */
static void say_shadow(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t arms = json_get(j, 0, "arms"), first = json_first(j, arms);
	struct str a = get_str(c, j, first, "arm");
	int64_t clients = get_int(j, first, "total_requests"), shadows = -clients;

	for (uint32_t i = first; i; i = json_next(j, arms, i))
		shadows += get_int(j, i, "total_requests");
	buf_addz(b, "A shadow: clients are answered by '");
	add_shown(b, a, false);
	buf_printf(b, "' alone. Of their %lld requests %lld were asked of another arm too, where a slot was free, and that answer was thrown away.\n"
		      "So success means that it was answered, the latency of the others has no time in a queue, which that of '", (long long)clients, (long long)shadows);
	add_shown(b, a, false);
	buf_addz(b, "' has, and nothing is promoted by itself.\n\n");
}

static int show(struct cli *c, const char *id)
{
	struct buf path = { 0 }, b = { 0 };
	struct answer a;
	int status;

	buf_addz(&path, "/tests/");
	add_percent(&path, str_of(id));
	buf_addz(&path, "/analysis");
	status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status)
		return status;
	if (!json_get(&a.doc, 0, "test_id"))
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	add_shown(&b, get_str(c, &a.doc, 0, "state"), false);
	buf_addz(&b, ": ");
	add_shown(&b, get_str(c, &a.doc, 0, "verdict"), false);
	buf_addz(&b, "\n\n");
	if (get_bool(&a.doc, 0, "shadow"))
		say_shadow(c, &a.doc, &b);
	arms_table(c, &a.doc, &b);
	buf_char(&b, '\n');
	comparisons_table(c, &a.doc, &b);
	if (get_bool(&a.doc, 0, "sample_ratio_alarm"))
		buf_addz(&b, "\nThe units did not come in the proportion of the weights: do not trust the comparison.\n");
	buf_char(&b, '\n');
	picture(c, &a.doc, &b);
	print(c, &b);
	return EXIT_OK;
}

/* --- create --- */

static bool add_number(struct cli *c, struct json_out *jo, const char *key, const char *flag, const char *said_it)
{
	double v;

	if (!*said_it)
		return true;
	if (!str_double(str_of(said_it), &v)) {
		cli_usage(c, "--%s: '%s' is no number", flag, said_it);
		return false;
	}
	jw_kv_double(jo, key, v);
	return true;
}

static void add_word(struct json_out *jo, const char *key, const char *said_it)
{
	if (*said_it)
		jw_kv_strz(jo, key, said_it);
}

/* "success:0.05,latency": a margin may be left to the server. */
static bool add_guards(struct cli *c, struct json_out *jo, const char *said_it)
{
	struct str rest = str_of(strcmp(said_it, "none") ? said_it : ""), one, metric;

	if (!*said_it)
		return true;
	jw_key(jo, "guards");
	jw_arr(jo);
	while (rest.n && str_split(&rest, ',', &one)) {
		double margin;

		(void)str_split(&one, ':', &metric);
		if (one.p && !str_double(one, &margin)) {
			cli_usage(c, "--guards: '" STR_FMT "' is no number", STR_ARG(one));
			return false;
		}
		if (!one.p) {
			jw_str(jo, metric);
			continue;
		}
		jw_obj(jo);
		jw_kv_str(jo, "metric", metric);
		jw_kv_double(jo, "margin", margin);
		jw_end(jo);
	}
	jw_end(jo);
	return true;
}

static bool add_arms(struct cli *c, struct json_out *jo, const char *said_it)
{
	struct why why = { 0 };
	struct json doc;

	if (!*said_it)
		return true;
	if (json_parse(&doc, c->mem, str_of(said_it), NULL, &why) != ERR_OK) {
		cli_usage(c, "--arms: %s", why.text);
		return false;
	}
	jw_kv_raw(jo, "arms", str_of(said_it));
	return true;
}

static bool add_body(struct cli *c, const struct tests_opts *o, struct json_out *jo)
{
	jw_kv_strz(jo, "name", c->args[1]);
	add_word(jo, "model_a", o->model_a);
	add_word(jo, "model_b", o->model_b);
	add_word(jo, "task_type_filter", o->task_type);
	add_word(jo, "language_filter", o->language);
	add_word(jo, "tenant_filter", o->tenant);
	add_word(jo, "unit", o->unit);
	add_word(jo, "namespace", o->namespace);
	add_word(jo, "metric", o->metric);
	if (o->no_promote)
		jw_kv_bool(jo, "auto_promote", false);
	if (o->shadow)
		jw_kv_bool(jo, "shadow", true);
	return add_number(c, jo, "traffic_percent", "traffic", o->traffic) && add_number(c, jo, "duration_days", "days", o->days) &&
	       add_guards(c, jo, o->guards) && add_arms(c, jo, o->arms);
}

/* The experiment as it is now, in one line. */
static int done(struct cli *c, const struct answer *a)
{
	struct str reason = get_str(c, &a->doc, 0, "reason");
	struct buf b = { 0 };

	if (!json_get(&a->doc, 0, "id"))
		return cli_answer_failed(c, a);
	if (c->json)
		return cli_print_raw(c, a);
	add_shown(&b, get_str(c, &a->doc, 0, "id"), false);
	buf_char(&b, ' ');
	add_shown(&b, get_str(c, &a->doc, 0, "state"), false);
	buf_addz(&b, reason.n ? ": " : "");
	add_shown(&b, reason, false);
	buf_char(&b, '\n');
	print(c, &b);
	return EXIT_OK;
}

static int create(struct cli *c, const struct tests_opts *o)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct answer a;
	int status = EXIT_USAGE;

	if (!*o->arms && !(*o->model_a && *o->model_b))
		return cli_usage(c, "say --model-a and --model-b, or --arms");
	json_begin(&jo, &b);
	jw_obj(&jo);
	if (add_body(c, o, &jo)) {
		json_done(&jo);
		status = cli_ask(c, "POST", "/tests", buf_as_str(&b), &a);
	}
	buf_free(&b);
	return status ? status : done(c, &a);
}

/* --- pause, resume, stop, promote, rollback --- */

static int change(struct cli *c, const struct tests_opts *o, const char *act, const char *id)
{
	struct buf b = { 0 }, path = { 0 };
	struct json_out jo;
	struct answer a;
	int status;

	buf_addz(&path, "/tests/");
	add_percent(&path, str_of(id));
	buf_printf(&path, "/%s", act);
	json_begin(&jo, &b);
	jw_obj(&jo);
	add_word(&jo, "arm", o->arm);
	add_word(&jo, "reason", o->reason);
	json_done(&jo);
	status = cli_ask(c, "POST", buf_z(&path), buf_as_str(&b), &a);
	buf_free(&b);
	buf_free(&path);
	return status ? status : done(c, &a);
}

static bool is_act(const char *word)
{
	static const char *const acts[] = { "pause", "resume", "stop", "promote", "rollback" };

	for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
		if (strcmp(word, acts[i]) == 0)
			return true;
	return false;
}

static int run(struct cli *c)
{
	const char *word = c->n_args ? c->args[0] : "list";
	bool creates = strcmp(word, "create") == 0, shows = strcmp(word, "show") == 0;

	if (strcmp(word, "list") == 0)
		return c->n_args > 1 ? cli_usage(c, "'%s' is one word too many", c->args[1]) : list(c, c->opts);
	if (!creates && !shows && !is_act(word))
		return cli_usage(c, "tests knows list, create, show, pause, resume, stop, promote and rollback, not '%s'", word);
	if (c->n_args < 2)
		return creates ? cli_usage(c, "what is it called? corral tests create NAME") :
				 cli_usage(c, "which experiment? 'corral tests' lists them; corral tests %s ID", word);
	return creates ? create(c, c->opts) : shows ? show(c, c->args[1]) : change(c, c->opts, word, c->args[1]);
}

const struct command cmd_tests = {
	.name = "tests", .args = "[list] | create NAME | show|pause|resume|stop|promote|rollback ID",
	.summary = "Compare models, parameters and prompts on part of the traffic.",
	.flags = flags, .opts_size = sizeof(struct tests_opts), .max_args = 2, .run = run,
	.text = "A user, session or conversation keeps its arm while the experiment runs. What show says holds however often one looks: the bounds on a difference are "
		"right at every look, but for one experiment in twenty. KIND is answers, or shadow: then clients get the first model's answers, and the other's are thrown away. A winner that keeps all guards becomes the champion by itself, and an arm that breaks one is rolled back.",
	.examples = (const struct example[]){
		{ "corral tests create bigger --model-a small:7b --model-b big:70b --task-type BUG_FIX --traffic 20", "Is the bigger model better at bugs?" },
		{ "corral tests create unseen --model-a small:7b --model-b big:70b --shadow", "How it would do, before anybody gets its answers." },
		{ "corral tests create cool --arms '[{\"model\":\"m\"},{\"model\":\"m\",\"parameters\":{\"temperature\":0.2}}]'", "One model, two temperatures." },
		{ "corral tests show 01a1fe18-fa46-72f6-9f48-0e06e8418bbd", "Every figure, and how the bounds closed in." },
		{ "corral tests stop 01a1fe18-fa46-72f6-9f48-0e06e8418bbd --reason enough", "Without a winner." },
		{ 0 } },
};
