/* models.c - `corral models`: what can be asked; `corral models sync`: look again now; the other words are in models_change.c. */
#include "services/corral/models_change.h"
#include "services/corral/table.h"

struct models_opts {
	bool available, detach, yes;
	const char *backend, *family, *capability, *grace, *days;
};

static const struct flag flags[] = {
	FLAG(struct models_opts, backend, 'b', "NAME", "Only models that this backend has; the backend that is to pull, load or delete."),
	FLAG(struct models_opts, family, 'f', "NAME", "Only models of this family."),
	FLAG(struct models_opts, capability, 'c', "WORD", "Only models that can do this: completion, tools, vision, embedding, thinking, insert or audio."),
	FLAG(struct models_opts, available, 'a', NULL, "Only models that a backend can answer with now."),
	FLAG(struct models_opts, grace, 'g', "SECONDS", "rm: how long it can be brought back; 0 = not at all. Else as the option delete_grace says."),
	FLAG(struct models_opts, days, 0, "N", "unused: not asked for in so many days. Default: 30."),
	FLAG(struct models_opts, yes, 'y', NULL, "init: pull without asking."),
	FLAG(struct models_opts, detach, 'd', NULL, "Ask, and do not wait for the end."),
	{ 0 }
};

static const char *known(const char *text) { return *text ? text : "-"; }

/* 16384 is 16k, 131072 is 128k, as people name context lengths. */
static void context_cell(struct table *t, int64_t n)
{
	if (n <= 0)
		table_cell(t, TONE_PLAIN, STR("-"));
	else if (n >= 1024 && n % 1024 == 0)
		table_fmt(t, TONE_PLAIN, "%lldk", (long long)n / 1024);
	else
		table_fmt(t, TONE_PLAIN, "%lld", (long long)n);
}

static void list_cell(struct table *t, struct str list) { table_cell(t, TONE_PLAIN, list.n ? list : STR("-")); }

static void add_model(struct cli *c, struct table *t, const struct json *j, uint32_t m)
{
	bool on = get_bool(j, m, "is_available"), is_auto = str_eqz(get_str(c, j, m, "name"), "auto");

	table_cell(t, on ? TONE_PLAIN : TONE_FAINT, get_str(c, j, m, "name"));
	table_fmt(t, TONE_PLAIN, "%s", is_auto ? "-" : known(get_z(c, j, m, "family")));
	table_fmt(t, TONE_PLAIN, "%s", known(get_z(c, j, m, "parameters")));
	table_fmt(t, TONE_PLAIN, "%s", known(get_z(c, j, m, "quantization")));
	context_cell(t, get_int(j, m, "context_length"));
	list_cell(t, get_list(c, j, m, "capabilities"));
	if (is_auto)
		table_cell(t, TONE_FAINT, STR("(the best for each request)"));
	else if (on)
		list_cell(t, get_list(c, j, m, "backends"));
	else
		table_fmt(t, TONE_WARN, STR_FMT " (down)", STR_ARG(get_list(c, j, m, "backends")));
	list_cell(t, get_list(c, j, m, "loaded_on"));
}

static int print_models(struct cli *c, const struct json *j)
{
	uint32_t list = json_get(j, 0, "models");
	struct buf b = { 0 };
	struct table t;

	table_init(&t, c->mem, "~NAME|FAMILY|>PARAMS|QUANT|>CONTEXT|~CAPABILITIES|~BACKENDS|~LOADED");
	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m))
		add_model(c, &t, j, m);
	if (t.rows)
		table_print(&t, &b, c->width, c->colour);
	else
		buf_addz(&b, "No model fits. 'corral models' without options lists all of them; 'corral models sync' looks at the backends again.\n");
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* llama.cpp answers GET /models too, with "models" of its own. */
static bool is_our_list(const struct json *j)
{
	uint32_t list = json_get(j, 0, "models"), first = list ? json_first(j, list) : 0;

	return list && (!first || json_get(j, first, "backends"));
}

static int list_models(struct cli *c, const struct models_opts *o)
{
	struct buf path = { 0 };
	struct answer a;
	int status;

	buf_addz(&path, "/models");
	add_query(&path, "backend", o->backend);
	add_query(&path, "family", o->family);
	add_query(&path, "capability", o->capability);
	add_query(&path, "available", o->available ? "true" : "");
	status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status == EXIT_OK && !is_our_list(&a.doc))
		return cli_answer_failed(c, &a);
	if (status)
		return status;
	return c->json ? cli_print_raw(c, &a) : print_models(c, &a.doc);
}

/* --- unused --- */

static void add_unused(struct cli *c, struct table *t, const struct json *j, uint32_t m)
{
	bool stays = !get_bool(j, m, "proposed");

	table_cell(t, stays ? TONE_FAINT : TONE_PLAIN, get_str(c, j, m, "name"));
	table_fmt(t, TONE_PLAIN, "%.1f GB", (double)get_int(j, m, "size_bytes") / 1e9);
	table_fmt(t, TONE_PLAIN, "%.10s", get_z(c, j, m, "first_seen_at"));
	list_cell(t, get_list(c, j, m, "backends"));
	table_cell(t, stays ? TONE_FAINT : TONE_PLAIN, get_bool(j, m, "is_protected") ? STR("protected") : stays ? STR("pinned") : STR("corral models rm"));
}

static int print_unused(struct cli *c, const struct json *j)
{
	uint32_t list = json_get(j, 0, "models");
	long long days = (long long)get_int(j, 0, "days");
	struct buf b = { 0 };
	struct table t;

	table_init(&t, c->mem, "~NAME|>SIZE|KNOWN SINCE|~BACKENDS|REMOVE IT WITH");
	for (uint32_t m = json_first(j, list); m; m = json_next(j, list, m))
		add_unused(c, &t, j, m);
	if (t.rows) {
		table_print(&t, &b, c->width, c->colour);
		buf_printf(&b, "Not asked for in %lld days; %.1f GB that nobody protects. Nothing is removed by itself.\n", days,
			   (double)get_int(j, 0, "proposed_bytes") / 1e9);
	} else {
		buf_printf(&b, "Every model that was known for %lld days was asked for.\n", days);
	}
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

static int unused_models(struct cli *c, const struct models_opts *o)
{
	struct buf path = { 0 };
	struct answer a;
	int status;

	if (o->backend[0] || o->family[0] || o->capability[0] || o->available)
		return cli_usage(c, "unused takes --days and no filter");
	buf_addz(&path, "/models/unused");
	add_query(&path, "days", o->days);
	status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status)
		return status;
	if (!json_get(&a.doc, 0, "models") || !json_get(&a.doc, 0, "proposed_bytes"))
		return cli_answer_failed(c, &a);
	return c->json ? cli_print_raw(c, &a) : print_unused(c, &a.doc);
}

static int print_sync(struct cli *c, const struct json *j)
{
	uint32_t list = json_get(j, 0, "backends");
	unsigned down = 0;

	for (uint32_t b = list ? json_first(j, list) : 0; b; b = json_next(j, list, b)) {
		bool up = get_bool(j, b, "up");
		const char *reason = get_z(c, j, b, "reason");

		down += !up;
		if (!up)
			fprintf(c->out, "%s could not be listed%s%s; its models stay as they were.\n", get_z(c, j, b, "name"), *reason ? ": " : "", reason);
	}
	fprintf(c->out, "%lld model%s; %lld new, %lld gone.\n", (long long)get_int(j, 0, "models"), get_int(j, 0, "models") == 1 ? "" : "s",
		(long long)get_int(j, 0, "added"), (long long)get_int(j, 0, "removed"));
	return down ? EXIT_FAILED : EXIT_OK;
}

static int sync_models(struct cli *c, const struct models_opts *o)
{
	struct remote *r = remote_gateway(c);
	struct buf path = { 0 };
	struct answer a;

	if (o->family[0] || o->capability[0] || o->available)
		return cli_usage(c, "sync takes --backend and no other filter");
	if (!r)
		return EXIT_USAGE;
	buf_addz(&path, "/models/sync");
	add_query(&path, "backend", o->backend);
	a = remote_ask(r, "POST", buf_z(&path), STR(""), 60000);
	buf_free(&path);
	if (a.status != 200 || !a.is_json)
		return cli_answer_failed(c, &a);
	return c->json ? cli_print_raw(c, &a) : print_sync(c, &a.doc);
}

static int run(struct cli *c)
{
	const struct models_opts *o = c->opts;
	struct change_opts change = { o->backend, o->grace, o->detach };

	if (o->days[0] && !(c->n_args && strcmp(c->args[0], "unused") == 0))
		return cli_usage(c, "--days is for models unused");
	if (c->n_args && strcmp(c->args[0], "init") == 0)
		return models_init(c, &change, o->yes);
	if (c->n_args > 2)
		return cli_usage(c, "'%s' is one word too many", c->args[2]);
	if (c->n_args == 0 || (c->n_args == 1 && strcmp(c->args[0], "list") == 0))
		return list_models(c, o);
	if (change_is_verb(c->args[0]))
		return change_model(c, c->args[0], c->n_args > 1 ? c->args[1] : NULL, &change);
	if (strcmp(c->args[0], "unused") == 0)
		return c->n_args > 1 ? cli_usage(c, "'%s' is one word too many", c->args[1]) : unused_models(c, o);
	if (strcmp(c->args[0], "sync") == 0)
		return c->n_args > 1 ? cli_usage(c, "'%s' is one word too many", c->args[1]) : sync_models(c, o);
	return cli_usage(c, "models knows list, unused, sync, init, pull, rm, undelete, preload, unload, pin, unpin, protect and unprotect, not '%s'", c->args[0]);
}

const struct command cmd_models = {
	.name = "models", .args = "[WORD [NAME ...]]", .summary = "List models; pull, remove, load, pin and protect them.",
	.flags = flags, .opts_size = sizeof(struct models_opts), .max_args = 64, .run = run,
	.text = "WORD is list (which may be left out), unused (proposals for removal), sync (look at all backends again), init (pull the models to begin with on "
		"this machine, or those that are named, after a yes), pull, rm, undelete, preload, unload, pin (keep in memory), unpin, "
		"protect (nobody may delete it) or unprotect. What takes time is a job that goes on whether or not this command waits for it (corral jobs).\n"
		"CONTEXT is in tokens, k = 1024. LOADED names the backends that have the model in memory. '-' is not known, or none.",
	.examples = (const struct example[]){
		{ "corral models", "All of them." },
		{ "corral models --capability tools --available", "Those that can call tools, now." },
		{ "corral models --json | jq -r '.models[].name'", "Their names only." },
		{ "corral models init", "The first models for this machine: which, how large, why; then a question." },
		{ "corral models init --yes", "For scripts; --json without --yes shows the plan and pulls nothing." },
		{ "corral models unused --days 90", "What nobody asked for in three months." },
		{ "corral models sync", "After a model was added to a backend." },
		{ "corral models pull NAME", "With a bar; Ctrl-C leaves the pull running." },
		{ "corral models rm NAME", "It tells until when 'corral models undelete' brings it back." },
		{ "corral models pin NAME", "It stays in memory, whatever clients say." },
		{ 0 } },
};
