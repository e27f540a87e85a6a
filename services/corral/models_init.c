/* models_init.c - `corral models init`: the models to begin with on this machine, what they take, and after a yes their pulls. */
#include <unistd.h>

#include "services/corral/models_change.h"
#include "services/corral/table.h"
#include "services/corral/watch.h"

enum { MODELS_MOST = 64 };

struct wanted {
	const char *name, *job;       /* job: "" = none was started */
	uint32_t entry;               /* in the answer of /hardware; 0 = none: somebody named it */
	bool here;
};

struct init {
	struct cli *c;
	const struct change_opts *o;
	struct answer hardware, models;
	struct wanted all[MODELS_MOST];
	unsigned n, to_pull;
	int64_t bytes;
	bool all_known;               /* 'bytes' is the sum of all */
};

/* --- what is wanted, and what is there --- */

/* "x" is "x:latest", and case does not matter. */
static bool same_model(struct str a, struct str b)
{
	static const struct str latest = STR_INIT(":latest");

	if (str_ends(a, latest))
		a.n -= latest.n;
	if (str_ends(b, latest))
		b.n -= latest.n;
	return str_ieq(a, b);
}

static bool is_here(const struct init *in, struct str name)
{
	uint32_t list = json_get(&in->models.doc, 0, "models");

	for (uint32_t m = list ? json_first(&in->models.doc, list) : 0; m; m = json_next(&in->models.doc, list, m))
		if (same_model(get_str(in->c, &in->models.doc, m, "name"), name))
			return true;
	return false;
}

static void want(struct init *in, const char *name, uint32_t entry)
{
	struct wanted *w = &in->all[in->n];

	for (unsigned i = 0; i < in->n; i++)
		if (same_model(str_of(in->all[i].name), str_of(name)))
			return;
	if (in->n == MODELS_MOST)
		return;
	*w = (struct wanted){ .name = name, .job = "", .entry = entry, .here = is_here(in, str_of(name)) };
	in->n++;
	if (w->here)
		return;
	in->to_pull++;
	in->all_known &= entry != 0;
	in->bytes += entry ? get_int(&in->hardware.doc, entry, "download_bytes") : 0;
}

static uint32_t entry_of(const struct init *in, const char *name)
{
	uint32_t list = json_get(&in->hardware.doc, 0, "recommended_models");

	for (uint32_t m = list ? json_first(&in->hardware.doc, list) : 0; m; m = json_next(&in->hardware.doc, list, m))
		if (same_model(get_str(in->c, &in->hardware.doc, m, "name"), str_of(name)))
			return m;
	return 0;
}

/* Those that were named, else the first of each role. */
static void choose(struct init *in)
{
	const struct json *j = &in->hardware.doc;
	uint32_t list = json_get(j, 0, "recommended_models");

	in->all_known = true;
	for (unsigned i = 1; i < in->c->n_args; i++)
		want(in, in->c->args[i], entry_of(in, in->c->args[i]));
	if (in->c->n_args > 1)
		return;
	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m))
		if (get_bool(j, m, "first") && strcmp(get_z(in->c, j, m, "fits"), "no") != 0)
			want(in, get_z(in->c, j, m, "name"), m);
}

/* --- telling --- */

static void row(const struct init *in, struct table *t, const struct wanted *w)
{
	const struct json *j = &in->hardware.doc;

	table_cell(t, TONE_STRONG, str_of(w->name));
	table_fmt(t, TONE_PLAIN, "%s", w->entry ? get_z(in->c, j, w->entry, "role") : "-");
	table_fmt(t, TONE_PLAIN, "%s", w->entry ? get_z(in->c, j, w->entry, "fits") : "not known");
	if (w->here)
		table_cell(t, TONE_GOOD, STR("is here"));
	else
		table_fmt(t, TONE_PLAIN, "%s", w->entry ? bytes_text(in->c->mem, get_int(j, w->entry, "download_bytes")) : "-");
	table_fmt(t, TONE_FAINT, "%s", w->entry ? get_z(in->c, j, w->entry, "why") : "the catalogue does not have it");
}

static void print_plan(const struct init *in)
{
	struct buf b = { 0 };
	struct table t;

	table_init(&t, in->c->mem, "MODEL|ROLE|FITS|>DOWNLOAD|~WHY");
	for (unsigned i = 0; i < in->n; i++)
		row(in, &t, &in->all[i]);
	table_print(&t, &b, in->c->width, in->c->colour);
	fwrite(b.p, 1, b.n, in->c->out);
	buf_free(&b);
}

/* The most that any disk of that machine has; -1 = not known. */
static int64_t disk_free(const struct init *in)
{
	const struct json *j = &in->hardware.doc;
	uint32_t list = json_get(j, 0, "disks");
	int64_t most = -1;

	for (uint32_t d = list ? json_first(j, list) : 0; d; d = json_next(j, list, d))
		if (get_int(j, d, "free_bytes") > most)
			most = get_int(j, d, "free_bytes");
	return most;
}

static int print_json(const struct init *in)
{
	struct buf b = { 0 };
	struct json_out jo;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_i64(&jo, "download_bytes", in->bytes);
	jw_key(&jo, "models");
	jw_arr(&jo);
	for (unsigned i = 0; i < in->n; i++) {
		const struct wanted *w = &in->all[i];

		jw_obj(&jo);
		jw_kv_strz(&jo, "name", w->name);
		jw_kv_bool(&jo, "is_here", w->here);
		if (w->entry) {
			jw_kv_strz(&jo, "role", get_z(in->c, &in->hardware.doc, w->entry, "role"));
			jw_kv_strz(&jo, "fits", get_z(in->c, &in->hardware.doc, w->entry, "fits"));
			jw_kv_strz(&jo, "why", get_z(in->c, &in->hardware.doc, w->entry, "why"));
			jw_kv_i64(&jo, "download_bytes", get_int(&in->hardware.doc, w->entry, "download_bytes"));
		}
		jw_kv_strz(&jo, "job_id", *w->job ? w->job : NULL);
		jw_end(&jo);
	}
	json_done(&jo);
	buf_char(&b, '\n');
	fwrite(b.p, 1, b.n, in->c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* --- asking --- */

static bool said_yes(struct cli *c)
{
	char line[16];
	size_t n = 0;

	while (n < sizeof(line) && read(c->in_fd, &line[n], 1) == 1 && line[n] != '\n')
		n++;
	return (n == 1 && (line[0] == 'y' || line[0] == 'Y')) || (n == 3 && str_ieq(str_n(line, 3), STR("yes")));
}

static bool may_pull(const struct init *in, bool yes)
{
	struct cli *c = in->c;

	if (yes)
		return true;
	fprintf(c->out, "\nPull %u model%s%s%s? [y/N] ", in->to_pull, in->to_pull == 1 ? "" : "s", in->bytes ? in->all_known ? ", " : ", more than " : "",
		in->bytes ? bytes_text(c->mem, in->bytes) : "");
	fflush(c->out);
	if (said_yes(c))
		return true;
	fputs("Nothing was pulled.\n", c->out);
	return false;
}

/* All are asked for before the first is watched, so that Ctrl-C stops the watching and nothing else. */
static int pull_all(struct init *in)
{
	struct answer a;
	int status = EXIT_OK, one;

	for (unsigned i = 0; i < in->n; i++) {
		if (in->all[i].here)
			continue;
		one = cli_ask(in->c, "POST", "/models/pull", change_pull_body(in->c, in->all[i].name, in->o->backend), &a);
		if (one)
			status = one;
		else
			in->all[i].job = get_z(in->c, &a.doc, 0, "job_id");
	}
	if (in->c->json)
		return status ? status : print_json(in);
	for (unsigned i = 0; i < in->n; i++) {
		if (!*in->all[i].job)
			continue;
		if (!in->o->detach && in->to_pull > 1)
			fprintf(in->c->out, "%s\n", in->all[i].name);
		if (in->o->detach)
			fprintf(in->c->out, "%s: job %s\n", in->all[i].name, in->all[i].job);
		else if ((one = watch_job(in->c, in->all[i].job)) != EXIT_OK)
			status = one;
	}
	return status;
}

static int decide(struct init *in, bool yes)
{
	struct cli *c = in->c;
	int64_t free_bytes = disk_free(in);

	if (!in->n)
		return cli_fail(c, EXIT_FAILED, "no model of the catalogue fits this machine; 'corral hardware --all' shows what they would need, and "
				"'corral models init NAME' pulls one all the same");
	if (c->json && !yes)
		return print_json(in);
	if (!c->json)
		print_plan(in);
	if (!in->to_pull)
		return c->json ? print_json(in) : (fputs("\nAll of them are here.\n", c->out), EXIT_OK);
	if (free_bytes >= 0 && in->bytes > free_bytes)
		return cli_fail(c, EXIT_FAILED, "they need %s on the disk, and %s are free", bytes_text(c->mem, in->bytes), bytes_text(c->mem, free_bytes));
	if (!yes && !c->in_tty)
		return cli_usage(c, "nobody can be asked here; say --yes to pull them");
	return may_pull(in, yes) ? pull_all(in) : EXIT_OK;
}

int models_init(struct cli *c, const struct change_opts *o, bool yes)
{
	struct init in = { .c = c, .o = o };
	int status = cli_ask(c, "GET", c->n_args > 1 ? "/hardware?all=true" : "/hardware", STR(""), &in.hardware);

	if (!status)
		status = cli_ask(c, "GET", "/models", STR(""), &in.models);
	if (status)
		return status;
	choose(&in);
	return decide(&in, yes);
}
