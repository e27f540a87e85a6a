/* help.c - what a program tells about itself without running: --help, --version, and the reference pages of --dump. */
#include <stdio.h>

#include "common/data/log.h"
#include "common/llm/exchange.h"
#include "common/policy/authz.h"
#include "common/svc/runtime.h"

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* "corral serve" when it was called with its subcommand in the place of its name. */
static void add_command(struct buf *b, const struct runtime *rt, const char *arg0)
{
	if (arg0 && strchr(arg0, ' ')) {
		buf_addz(b, arg0);            /* that is the whole of it already */
		return;
	}
	buf_addz(b, rt->name);
	if (arg0 && !strchr(arg0, '/') && strcmp(arg0, rt->name) != 0)
		buf_printf(b, " %s", base_name(arg0));
}

static void help(const struct runtime *rt, const char *arg0, struct buf *b)
{
	struct buf cmd = { 0 };

	add_command(&cmd, rt, arg0);
	buf_printf(b, "%s\n\nUsage: %s [--option=value ...]\n", rt->summary, buf_z(&cmd));
	opt_help(b, rt->sets, rt->n + 1);
	buf_addz(b, "\nalso:\n"
		 "  migrate                     The word first, then options: bring the schemas on the database server up to date, and end.\n"
		 "  --help, --version\n"
		 "  --check-config              Print the values in effect and where each comes from, and end.\n"
		 "  --probe=livez|readyz|startupz   Ask the program that runs with this configuration; status 0 when it says yes.\n"
		 "  --upgrade                   Take the place of the one that runs with this state_dir; it finishes what is open. SIGUSR2 makes it start such a one.\n"
		 "  --wait=TIME                 Do nothing for a time, and end: a preStop hook where there is no shell.\n"
		 "  --dump=config|metrics|routes|errors|fields|roles   Print a reference page (Markdown), and end.\n"
		 "\nEnvironment: each option is read from CORRAL_<OPTION> too, for example CORRAL_ADMIN_LISTEN; --config names a YAML\n"
		 "file with the same names (admin_listen: ...). A flag wins over the environment, the environment over the file.\n"
		 "SIGHUP reads them again: what is changed takes effect at once, but for options marked \"restart\". A file with an error changes\n"
		 "nothing, and the log says where it is.\n"
		 "\nExamples:\n");
	buf_printf(b, "  %s --log-level=debug\n", cmd.p);
	buf_printf(b, "  %s --config corral.yaml --check-config\n", cmd.p);
	buf_printf(b, "  CORRAL_STATE_DIR=/var/lib/corral %s\n", cmd.p);
	buf_free(&cmd);
}

/* --- --dump --- */

static void dump_config(const struct runtime *rt, struct buf *b)
{
	buf_printf(b, "# Options of %s\n\n"
		   "A later source wins: default, file (`--config FILE` or `CORRAL_CONFIG`, YAML, by option name), environment, flag\n"
		   "(`--option=value`; `-` and `_` are equal). A variable that is set but empty counts as not set. `${NAME}` and\n"
		   "`${NAME:-default}` in the file are replaced from the environment.\n"
		   "`SIGHUP` reads all of it again. What can be changed by it takes effect at once; a changed option that needs a restart is named in the log and keeps\n"
		   "its value; a file with an error changes nothing, and the log says where it is.\n"
		   "Durations: `500ms`, `30s`, `5m`, `24h`, `7d`; a bare number is seconds. Sizes: `64k`, `8m`, `1g`, binary.\n", rt->name);
	opt_dump(b, rt->sets, rt->n + 1);
}

static void add_metric(struct buf *b, const struct metric_def *m)
{
	buf_printf(b, "| `%s%s` | %s | %s%s%s | %s |\n", metric_prefix(m), m->name, metric_type(m), m->labels && m->labels[0] ? "`" : "",
		   m->labels && m->labels[0] ? m->labels : "–", m->labels && m->labels[0] ? "`" : "", m->help);
}

static void dump_metrics(const struct runtime *rt, struct buf *b)
{
	static const struct metric_def own[] = {
		{ METRIC_GAUGE, "build_info", "Always 1; the labels say what runs.", "version", NULL },
		{ METRIC_COUNTER, "config_reloads_total", "Times the configuration was read again, by result: ok, failed.", "result", NULL },
		{ METRIC_COUNTER, "log_lines_total", "Log lines by level.", "level", NULL },
		{ METRIC_COUNTER, "log_lines_dropped_total", "Log lines that nobody read in time.", "", NULL },
		{ METRIC_COUNTER, "metric_series_folded_total", "Look-ups answered with label value \"other\", because the metric has 2,000 series.", "metric", NULL },
	};
	static const char head[] = "\n| metric | kind | labels | what it counts |\n|---|---|---|---|\n";

	buf_printf(b, "# Metrics of %s\n\n`GET /metrics` on the admin port, Prometheus text. Each series of a service has the label\n"
		   "`service`, in a process of its own too. Beside these there are `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`,\n"
		   "`process_max_fds` and `process_start_time_seconds`.\n", rt->name);
	for (unsigned i = 0; i < rt->n; i++) {
		const struct svc_def *d = rt->svcs[i].def;

		if (d->n_metrics == 0)
			continue;
		buf_printf(b, "\n## %s\n%s", d->name, head);
		for (unsigned k = 0; k < d->n_metrics; k++)
			add_metric(b, &d->metrics[k]);
	}
	buf_printf(b, "\n## every program\n%s", head);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		add_metric(b, &own[i]);
}

static void dump_routes(const struct runtime *rt, struct buf *b)
{
	static const char head[] = "\n| method | path | action | what it does |\n|---|---|---|---|\n";

	buf_printf(b, "# HTTP routes of %s\n\nThe action is what a key must be allowed to do.\n", rt->name);
	for (unsigned i = 0; i < rt->n; i++) {
		const struct svc_def *d = rt->svcs[i].def;

		if (!d->routes || !d->routes[0].path)
			continue;
		buf_printf(b, "\n## %s, port %u\n%s", d->name, d->public_port, head);
		for (const struct svc_route *r = d->routes; r->path; r++)
			buf_printf(b, "| %s | `%s` | %s | %s |\n", r->method, r->path, r->action && r->action[0] ? r->action : "–", r->summary);
	}
	buf_printf(b, "\n## admin port\n%s"
		   "| GET | `/livez` | – | 200 while the loops of all services turn. |\n"
		   "| GET | `/readyz` | – | 200 when every need is met; the body names them, met or not. |\n"
		   "| GET | `/startupz` | – | 200 once all services have started. |\n"
		   "| GET | `/metrics` | – | Prometheus text format. |\n"
		   "| GET | `/version` | – | Name, version, build. |\n", head);
}

static void dump_errors(const struct runtime *rt, struct buf *b)
{
	buf_addz(b, "# Error codes\n\nThe `error_code` of answers, the label of metrics and the column of the ledger. They are stable.\n\n"
		 "| code | status | meaning |\n|---|---|---|\n");
	for (enum err e = ERR_OK + 1; e < ERR_COUNT; e++)
		buf_printf(b, "| `%s` | %d | %s |\n", err_name(e), err_status(e), err_help(e));
}

static void dump_fields(const struct runtime *rt, struct buf *b)
{
	(void)rt;
	llm_dump_fields(b);
}

static void dump_roles(const struct runtime *rt, struct buf *b)
{
	(void)rt;
	authz_dump(b);
}

static bool dump(const struct runtime *rt, const char *what, struct buf *b)
{
	static const struct { const char *name; void (*fn)(const struct runtime *, struct buf *); } kinds[] = {
		{ "config", dump_config }, { "metrics", dump_metrics }, { "routes", dump_routes }, { "errors", dump_errors },
		{ "fields", dump_fields }, { "roles", dump_roles },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (what && strcmp(what, kinds[i].name) == 0) {
			kinds[i].fn(rt, b);
			return true;
		}
	fprintf(stderr, "%s: --dump: '%s' is not one of: config metrics routes errors fields roles\n", rt->name, what ? what : "");
	return false;
}

static bool answer(const struct runtime *rt, char **argv, int i, struct buf *b, int *ret_status)
{
	const char *arg = argv[i];

	if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)
		help(rt, argv[0], b);
	else if (strcmp(arg, "--version") == 0)
		buf_printf(b, "%s %s\n", rt->name, CORRAL_VERSION);
	else if (strncmp(arg, "--dump=", 7) == 0 || strcmp(arg, "--dump") == 0)
		*ret_status = dump(rt, arg[6] ? arg + 7 : argv[i + 1], b) ? 0 : 1;
	else
		return false;
	return true;
}

bool help_asked(struct runtime *rt, int argc, char **argv, int *ret_status)
{
	struct buf b = { 0 };

	*ret_status = 0;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (answer(rt, argv, i, &b, ret_status)) {
			if (fwrite(b.p ? b.p : "", 1, b.n, stdout) != b.n || fflush(stdout) != 0)
				*ret_status = 1;
			buf_free(&b);
			return true;
		}
	return false;
}
