/* jobs.c - `corral jobs`: what is being done to models, and what was. */
#include "services/corral/table.h"
#include "services/corral/watch.h"

struct jobs_opts { bool active; };

static const struct flag flags[] = {
	FLAG(struct jobs_opts, active, 'a', NULL, "Only jobs that wait or run."),
	{ 0 }
};

static enum tone tone_of_job(struct str state)
{
	if (str_eqz(state, "failed"))
		return TONE_BAD;
	return str_eqz(state, "done") ? TONE_GOOD : str_eqz(state, "cancelled") ? TONE_FAINT : TONE_PLAIN;
}

static void add_job(struct cli *c, struct table *t, const struct json *j, uint32_t job)
{
	struct str state = get_str(c, j, job, "state"), error = get_str(c, j, job, "error");

	table_cell(t, TONE_PLAIN, get_str(c, j, job, "id"));
	table_cell(t, TONE_PLAIN, get_str(c, j, job, "kind"));
	table_cell(t, TONE_PLAIN, get_str(c, j, job, "model"));
	table_cell(t, tone_of_job(state), state);
	table_cell(t, TONE_PLAIN, error.n ? error : str_of(job_line(c, j, job)));
}

static int list(struct cli *c, const struct jobs_opts *o)
{
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status = cli_ask(c, "GET", o->active ? "/jobs?active=true" : "/jobs", STR(""), &a);

	if (status)
		return status;
	all = json_get(&a.doc, 0, "jobs");
	if (!all)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	table_init(&t, c->mem, "JOB|KIND|~MODEL|STATE|~PROGRESS");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i))
		add_job(c, &t, &a.doc, i);
	if (t.rows)
		table_print(&t, &b, c->width, c->colour);
	else
		buf_addz(&b, o->active ? "No job waits or runs.\n" : "There are no jobs. 'corral models pull NAME' makes one.\n");
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

static int one(struct cli *c, const char *method, const char *id)
{
	static const char *const keys[] = { "id", "kind", "model", "backend", "state", "phase", "created_at", "started_at", "ended_at", "removes_at", "error" };
	struct buf path = { 0 };
	struct answer a;
	int status;

	buf_addz(&path, "/jobs/");
	add_percent(&path, str_of(id));
	status = cli_ask(c, method, buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status)
		return status;
	if (c->json)
		return cli_print_raw(c, &a);
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		if (get_str(c, &a.doc, 0, keys[i]).n)
			fprintf(c->out, "%-11s %s\n", keys[i], get_z(c, &a.doc, 0, keys[i]));
	fprintf(c->out, "%-11s %s\n", "progress", job_line(c, &a.doc, 0));
	return EXIT_OK;
}

static int run(struct cli *c)
{
	const char *verb = c->n_args ? c->args[0] : "list";

	if (strcmp(verb, "list") == 0 && c->n_args < 2)
		return list(c, c->opts);
	if (strcmp(verb, "show") != 0 && strcmp(verb, "cancel") != 0 && strcmp(verb, "watch") != 0)
		return cli_usage(c, "jobs knows the words list, show, cancel and watch, not '%s'", verb);
	if (c->n_args < 2)
		return cli_usage(c, "which job? 'corral jobs' lists them; corral jobs %s ID", verb);
	if (strcmp(verb, "watch") == 0)
		return watch_job(c, c->args[1]);
	return one(c, strcmp(verb, "cancel") == 0 ? "DELETE" : "GET", c->args[1]);
}

const struct command cmd_jobs = {
	.name = "jobs", .args = "[list|show ID|cancel ID|watch ID]", .summary = "Show, watch and cancel what is being done to models.",
	.flags = flags, .opts_size = sizeof(struct jobs_opts), .max_args = 2, .run = run,
	.text = "Jobs are kept on disk: they go on after a restart, and whether or not anybody watches. Cancelling a deletion that waits brings the "
		"model back. watch draws a bar in a terminal and prints plain lines elsewhere; its status is 0 when the job is done, else 1.",
	.examples = (const struct example[]){
		{ "corral jobs --active", "What waits or runs." },
		{ "corral jobs watch 01a1fe18-fa46-72f6-9f48-0e06e8418bbd", "Until it ends." },
		{ "corral jobs --json | jq -r '.jobs[] | select(.state==\"failed\").error'", "Why some failed." },
		{ 0 } },
};
