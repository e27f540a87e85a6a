/* help.c - the commands' tables as people read them: `corral help`, `corral help COMMAND`, and the reference page; and the
 * commands that need nothing else: help, version, and serve's entry. */
#include "services/corral/cli.h"

enum { HELP_COLUMN = 26, HELP_WIDTH = 100 };

static const char exit_codes[] =
	"    0  done\n"
	"    1  it failed, or something is not well\n"
	"    2  the command line is wrong (serve says 1)\n"
	"    3  the gateway cannot be reached\n"
	"  130  interrupted by Ctrl-C\n";

/* The words of 'rest' from column 'at' on, wrapped under 'indent'. */
static void add_wrapped(struct buf *b, struct str rest, unsigned at, unsigned indent)
{
	struct str word;

	while (str_split(&rest, ' ', &word)) {
		if (at > indent && at + 1 + word.n > HELP_WIDTH) {
			buf_printf(b, "\n%*s", (int)indent, "");
			at = indent;
		} else if (at > indent) {
			buf_char(b, ' ');
			at++;
		}
		buf_str(b, word);
		at += (unsigned)word.n;
	}
	buf_char(b, '\n');
}

/* Lines of 'text', each a paragraph after an empty line. */
static void add_paragraphs(struct buf *b, const char *text)
{
	struct str rest = str_of(text), line;

	while (str_split(&rest, '\n', &line)) {
		if (!line.n)
			continue;
		buf_char(b, '\n');
		add_wrapped(b, line, 0, 0);
	}
}

static void add_row(struct buf *b, struct str left, const char *text)
{
	buf_printf(b, "  " STR_FMT, STR_ARG(left));
	if (left.n + 4 > HELP_COLUMN)
		buf_printf(b, "\n%*s", HELP_COLUMN, "");
	else
		buf_printf(b, "%*s", (int)(HELP_COLUMN - 2 - left.n), "");
	add_wrapped(b, str_of(text), HELP_COLUMN, HELP_COLUMN);
}

static void add_flags(struct buf *b, const struct flag *flags)
{
	struct buf left = { 0 };

	for (const struct flag *f = flags; f && f->name; f++) {
		buf_clear(&left);
		if (f->letter)
			buf_printf(&left, "-%c, ", f->letter);
		buf_addz(&left, "--");
		for (const char *p = f->name; *p; p++)
			buf_char(&left, *p == '_' ? '-' : *p);
		if (f->value)
			buf_printf(&left, "=%s", f->value);
		add_row(b, buf_as_str(&left), f->help);
	}
	buf_free(&left);
}

void help_command(struct buf *b, const struct command *c)
{
	buf_printf(b, "Usage: corral %s [OPTION ...]%s%s\n\n%s\n", c->name, *c->args ? " " : "", c->args, c->summary);
	add_paragraphs(b, c->text);
	if (c != &cmd_serve && c != &cmd_migrate && c != &cmd_runpod_worker) {
		buf_addz(b, "\nOptions:\n");
		add_flags(b, c->flags);
		add_flags(b, common_flags);
	}
	if (!c->examples)
		return;
	buf_addz(b, "\nExamples:\n");
	for (const struct example *e = c->examples; e->line; e++)
		buf_printf(b, "  %s\n      %s\n", e->line, e->text);
}

void help_overview(struct buf *b)
{
	buf_addz(b, "Usage: corral COMMAND [OPTION ...]\n\nOne front door for the language models that you run yourself.\n\nCommands:\n");
	for (const struct command *const *p = commands; *p; p++) {
		struct buf left = { 0 };

		buf_printf(&left, "%s%s%s", (*p)->name, *(*p)->args ? " " : "", (*p)->args);
		add_row(b, buf_as_str(&left), (*p)->summary);
		buf_free(&left);
	}
	buf_addz(b, "\nOptions of every command but serve:\n");
	add_flags(b, common_flags);
	buf_printf(b, "\nExit status:\n%s", exit_codes);
	buf_addz(b, "\nColours appear on terminals only, and not when NO_COLOR is set.\n\n"
		    "First steps:\n"
		    "  corral serve --backends gpu=ollama+http://127.0.0.1:11434\n"
		    "  corral doctor\n"
		    "  corral chat \"What can you do?\"\n");
}

void help_markdown(struct buf *b)
{
	buf_addz(b, "# The command line\n\n"
		    "`corral serve` runs the services; all other commands ask a running gateway over HTTP, here or\n"
		    "elsewhere. `corral help --markdown` prints this page; the options of `serve` are on a page of their\n"
		    "own, [configuration](configuration.md).\n\n```text\n");
	help_overview(b);
	buf_addz(b, "```\n");
	for (const struct command *const *p = commands; *p; p++) {
		buf_printf(b, "\n## corral %s\n\n```text\n", (*p)->name);
		help_command(b, *p);
		buf_addz(b, "```\n");
	}
}

/* --- help --- */

struct help_opts { bool markdown; };

static const struct flag help_flags[] = {
	FLAG(struct help_opts, markdown, 0, NULL, "Print the reference page of all commands."),
	{ 0 }
};

static const struct command *named(const char *name)
{
	for (const struct command *const *p = commands; *p; p++)
		if (strcmp((*p)->name, name) == 0)
			return *p;
	return NULL;
}

static int help_run(struct cli *c)
{
	const struct help_opts *o = c->opts;
	const struct command *about = c->n_args ? named(c->args[0]) : NULL;
	struct buf b = { 0 };

	if (c->n_args && !about)
		return cli_usage(c, "there is no command '%s'", c->args[0]);
	if (o->markdown)
		help_markdown(&b);
	else if (about)
		help_command(&b, about);
	else
		help_overview(&b);
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

const struct command cmd_help = {
	.name = "help", .args = "[COMMAND]", .summary = "Print this overview, or what a command does.", .max_args = 1,
	.flags = help_flags, .opts_size = sizeof(struct help_opts), .run = help_run,
	.examples = (const struct example[]){ { "corral help chat", "The options of chat, with examples." }, { 0 } },
};

/* --- version --- */

static int version_run(struct cli *c)
{
	fprintf(c->out, c->json ? "{\"name\":\"corral\",\"version\":\"%s\"}\n" : "corral %s\n", CORRAL_VERSION);
	return EXIT_OK;
}

const struct command cmd_version = { .name = "version", .args = "", .summary = "Print the version of this program.", .run = version_run };

/* --- serve: its help here is a pointer, its options are the services' own --- */

static int serve_run(struct cli *c) { return cli_fail(c, EXIT_FAILED, "this program was built without its services"); }

const struct command cmd_serve = {
	.name = "serve", .args = "", .summary = "Run the gateway and the services behind it, until SIGTERM or Ctrl-C.", .run = serve_run,
	.text = "Clients reach it at 127.0.0.1:8100 and operators at 127.0.0.1:8110 unless it is told otherwise. It takes the options of "
		"the services alone: corral serve --help lists them. --check-config prints the values in effect and where "
		"each comes from; --dump=config|metrics|routes|errors|fields|roles prints reference pages.",
	.examples = (const struct example[]){
		{ "corral serve --backends gpu=ollama+http://127.0.0.1:11434", "One Ollama on this machine." },
		{ "corral serve --config corral.yaml", "What is written in a file." },
		{ "corral serve --config corral.yaml --check-config", "Only look whether the file is right." },
		{ 0 } },
};

/* --- migrate: the same --- */

const struct command cmd_migrate = {
	.name = "migrate", .args = "", .summary = "Bring the schemas of all services on the database server up to date, and end.", .run = serve_run,
	.text = "With db: postgresql://… a service refuses to start on a schema that is older than it, and this is what makes or changes it: once, before a new "
		"version starts. It takes the options of 'corral serve' and does nothing to a database that is a file of SQLite, for that is brought up to date "
		"when its service starts. Several at once wait for each other. Each service's program has the same command for itself.",
	.examples = (const struct example[]){
		{ "corral migrate --config corral.yaml", "What the services of this file need." },
		{ "CORRAL_DB=postgresql://corral@db.example/corral corral migrate", "A server that the environment names." },
		{ 0 } },
};

/* --- runpod-worker: the same --- */

const struct command cmd_runpod_worker = {
	.name = "runpod-worker", .args = "", .summary = "Serve a job queue of RunPod with a gateway, until SIGTERM.", .run = serve_run,
	.text = "It takes jobs, has the gateway do them, and hands in what comes of them, piece by piece where a stream was asked for. What it needs to know RunPod has "
		"set for its workers: RUNPOD_WEBHOOK_GET_JOB and RUNPOD_WEBHOOK_POST_OUTPUT (both needed), RUNPOD_WEBHOOK_POST_STREAM, RUNPOD_WEBHOOK_PING, "
		"RUNPOD_PING_INTERVAL, RUNPOD_AI_API_KEY, RUNPOD_POD_ID. The gateway is CORRAL_URL, else http://127.0.0.1:8100, and its key CORRAL_API_KEY. "
		"'corral runpod-worker --help' lists its options.",
	.examples = (const struct example[]){
		{ "corral runpod-worker", "In a container of RunPod, beside 'corral serve'." },
		{ "corral runpod-worker --url http://10.0.0.5:8100 --jobs 8", "A gateway elsewhere, eight jobs at once." },
		{ 0 } },
};
