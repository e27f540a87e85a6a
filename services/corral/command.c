/* command.c - which command is meant, and how it is run: the table of all commands, and what they have in common. */
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "services/corral/cli.h"
#include "services/corral/remote.h"

const struct command *const commands[] = {
	&cmd_serve, &cmd_status, &cmd_models, &cmd_jobs, &cmd_chat, &cmd_usage, &cmd_events, &cmd_prices, &cmd_savings, &cmd_quality, &cmd_tests, &cmd_explain,
	&cmd_doctor, &cmd_hardware, &cmd_providers, &cmd_settings,
	&cmd_keys, &cmd_tenants, &cmd_budgets, &cmd_audit, &cmd_config, &cmd_migrate, &cmd_upgrade, &cmd_runpod_worker, &cmd_help, &cmd_version, NULL
};

static int say(struct cli *c, int status, const char *before, const char *fmt, va_list ap, const char *after)
{
	struct buf text = { 0 }, shown = { 0 };

	buf_vprintf(&text, fmt, ap);
	add_shown(&shown, buf_as_str(&text), false);
	fprintf(c->err, "%s%s%s\n", before, buf_z(&shown), after);
	buf_free(&text);
	buf_free(&shown);
	return status;
}

int cli_fail(struct cli *c, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, status, "corral: ", fmt, ap, "");
	va_end(ap);
	return status;
}

int cli_usage(struct cli *c, const char *fmt, ...)
{
	char after[80] = "; see corral help";
	va_list ap;

	if (c->cmd)
		snprintf(after, sizeof(after), "; see corral %s --help", c->cmd->name);
	va_start(ap, fmt);
	/* a question is an answer already */
	say(c, EXIT_USAGE, "corral: ", fmt, ap, str_ends(str_of(fmt), STR("?")) ? "" : after);
	va_end(ap);
	return EXIT_USAGE;
}

/* --- finding the command --- */

static const struct command *named(const char *name)
{
	for (const struct command *const *p = commands; *p; p++)
		if (strcmp((*p)->name, name) == 0)
			return *p;
	return NULL;
}

static const char *nearest(const char *name)
{
	const char *best = NULL;
	unsigned least = 4;

	for (const struct command *const *p = commands; *p; p++) {
		unsigned d = str_distance(str_of(name), str_of((*p)->name));

		if (str_starts(str_of((*p)->name), str_of(name)))
			d = 1;
		if (d < least && d < strlen((*p)->name))
			best = (*p)->name, least = d;
	}
	return best;
}

static int unknown_command(struct cli *c, const char *name)
{
	const char *near = nearest(name);

	if (near)
		return cli_usage(c, "there is no command '%s'; did you mean '%s'?", name, near);
	return cli_usage(c, "there is no command '%s'", name);
}

/* --- running one --- */

static const char *from_environment(const char *given, const char *variable)
{
	const char *value = given ? given : getenv(variable);

	return value ? value : "";
}

/* What was written must have arrived: a full disk or a closed pipe is a failure, not a success. */
static int flushed(struct cli *c, int status)
{
	if (fflush(c->out) == 0 && !ferror(c->out))
		return status;
	return status ? status : cli_fail(c, EXIT_FAILED, "the output could not be written");
}

static int run_command(struct cli *c, int argc, char **argv)
{
	int status;

	if (!args_read(c, argc, argv))
		return EXIT_USAGE;
	if (c->help) {
		struct buf b = { 0 };

		help_command(&b, c->cmd);
		fwrite(b.p, 1, b.n, c->out);
		buf_free(&b);
		return EXIT_OK;
	}
	c->url = from_environment(c->url, "CORRAL_URL");
	c->api_key = from_environment(c->api_key, "CORRAL_API_KEY");
	status = c->cmd->run(c);
	remote_free(c->gateway);
	loop_free(c->loop);
	c->gateway = NULL;
	c->loop = NULL;
	return status;
}

static int print_overview(struct cli *c, int status)
{
	struct buf b = { 0 };

	help_overview(&b);
	fwrite(b.p, 1, b.n, status ? c->err : c->out);
	buf_free(&b);
	return status;
}

static const char *as_command(const char *word)
{
	if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
		return "version";
	return word;
}

/* Options that all commands have may stand before the command too: they are moved behind it. */
static void reorder(int argc, char **argv)
{
	bool takes_next;
	int n = 1;
	char *word;

	while (n < argc && argv[n][0] == '-' && args_is_common(argv[n], &takes_next))
		n += 1 + takes_next;
	if (n == 1 || n >= argc)
		return;
	word = argv[n];
	memmove(argv + 2, argv + 1, sizeof(*argv) * (size_t)(n - 1));
	argv[1] = word;
}

int cli_run(struct cli *c, int argc, char **argv)
{
	const char *word;
	int status;

	c->mem = arena_new(0);
	reorder(argc, argv);
	word = argc > 1 ? as_command(argv[1]) : NULL;
	if (!word)
		status = print_overview(c, EXIT_USAGE);
	else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
		status = print_overview(c, EXIT_OK);
	else if ((c->cmd = named(word)))
		status = run_command(c, argc - 2, argv + 2);
	else if (word[0] == '-')
		status = cli_usage(c, "there is no option '%s' before a command", word);
	else
		status = unknown_command(c, word);
	status = flushed(c, status);
	arena_free(c->mem);
	c->mem = NULL;
	return status;
}

/* --- the process --- */

static bool colours_on(FILE *f)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fileno(f)) && !(no && no[0]) && term && strcmp(term, "dumb") != 0;
}

static unsigned width_of(FILE *f)
{
	struct winsize w;

	return isatty(fileno(f)) && ioctl(fileno(f), TIOCGWINSZ, &w) == 0 ? w.ws_col : 0;
}

/* The services' own options, also without the word serve: `corral --check-config` asks the same as `corral serve --check-config`. */
static bool is_for_serve(const char *word)
{
	return strcmp(word, "serve") == 0 || strcmp(word, "migrate") == 0 || strncmp(word, "--dump", 6) == 0 || strcmp(word, "--check-config") == 0;
}

static int run_program(int argc, char **argv, char *name, const char *word, int (*program)(int argc, char **argv))
{
	char **words = x_calloc((size_t)argc + 2, sizeof(*words));
	int n = 0, status;

	words[n++] = name;
	for (int i = strcmp(argv[1], word) == 0 ? 2 : 1; i < argc; i++)
		words[n++] = argv[i];
	status = program(n, words);
	free(words);
	return status;
}

int cli_main(int argc, char **argv, int (*serve)(int argc, char **argv), int (*runpod_worker)(int argc, char **argv))
{
	char as_serve[] = "serve", as_worker[] = "corral runpod-worker";
	struct cli c = { .out = stdout, .err = stderr, .in_fd = STDIN_FILENO, .in_tty = isatty(STDIN_FILENO), .out_tty = isatty(STDOUT_FILENO) };

	if (argc > 1 && is_for_serve(argv[1]))
		return run_program(argc, argv, as_serve, "serve", serve);
	if (argc > 1 && strcmp(argv[1], "runpod-worker") == 0)
		return run_program(argc, argv, as_worker, "runpod-worker", runpod_worker);
	clock_init();
	c.colour = colours_on(stdout);
	c.colour_err = colours_on(stderr);
	c.width = width_of(stdout);
	return cli_run(&c, argc, argv);
}
