/* cli.h - the command line for people: commands as constant tables, and what they share.
 *
 * A command is one table (its options, its texts, its function); command.c finds it, reads the arguments (args.c), and runs it.
 * Its answers go to cli->out, what goes wrong to cli->err, one sentence each. remote.c asks the gateway; table.c prints columns.
 * One thread; everything lives in cli->mem. */
#ifndef CORRAL_CORRAL_CLI_H
#define CORRAL_CORRAL_CLI_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/str.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3, EXIT_INTERRUPTED = 130 };

/* An option of a command. '-' and '_' are one in its name; a switch (no value) is a bool, all others a const char *. */
struct flag {
	const char *name;
	char letter;                  /* 'm' for -m; 0 = none */
	const char *value;            /* "NAME", for the help; NULL = a switch */
	size_t offset;                /* into the command's option struct */
	const char *help;
};
#define FLAG(cfg, member, letter_, value_, help_) { #member, letter_, value_, offsetof(cfg, member), help_ }

struct example { const char *line, *text; };

struct cli;

struct command {
	const char *name, *args, *summary;    /* args: "ID", "[TEXT ...]"; "" = takes none */
	const char *text;             /* paragraphs of the help, each a line; wrapped there; may be NULL */
	const struct flag *flags;     /* ended by an empty one; may be NULL */
	size_t opts_size;
	const struct example *examples;       /* ended by an empty one; may be NULL */
	unsigned max_args;
	int (*run)(struct cli *);     /* the exit status; NULL: command.c does it itself */
};

struct loop;
struct remote;

struct cli {
	const struct command *cmd;
	struct arena *mem;
	FILE *out, *err;
	int in_fd;                    /* standard input */
	bool in_tty, out_tty;         /* a person types there, reads there */
	bool colour, colour_err;      /* out and err take colours */
	unsigned width;               /* of the terminal that out is; 0 = none */
	bool json;                    /* --json */
	bool help;
	const char *url, *api_key;    /* as given or from the environment; never NULL, "" = none */
	void *opts;                   /* the command's own */
	const char **args;            /* what is no option */
	unsigned n_args;
	struct loop *loop;            /* made by the first question, and so is the gateway */
	struct remote *gateway;
};

/* The services of `corral serve`, for commands that work on their files (local.h); main() sets them. */
struct svc_def;
extern const struct svc_def *const *cli_services;
extern unsigned cli_n_services;

/* Runs a command line and gives the exit status. 'serve' runs the services; it gets "serve" in the place of the program's name. So does the worker, "corral
 * runpod-worker". */
int cli_main(int argc, char **argv, int (*serve)(int argc, char **argv), int (*runpod_worker)(int argc, char **argv));
/* The same with the streams and the terminal given: what cli_main() and the tests call. */
int cli_run(struct cli *, int argc, char **argv);

/* Fills cli->opts and the rest from argv (the command's own words only). False with a sentence on err. */
bool args_read(struct cli *, int argc, char **argv);

/* "--url", "--url=X", "--json" (not --help): an option that every command has; and whether its value is the next word. */
bool args_is_common(const char *arg, bool *ret_takes_next);

/* The help of one command, of all, and the reference page. */
void help_command(struct buf *, const struct command *);
void help_overview(struct buf *);
void help_markdown(struct buf *);
extern const struct flag common_flags[];
extern const struct command *const commands[];        /* ended by NULL */

/* "corral: sentence\n" on err, and the status given. */
int cli_fail(struct cli *, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same with "; see corral COMMAND --help" unless fmt ends with a question, status 2. */
int cli_usage(struct cli *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* --- colours: what a word means, not how it looks; nothing is added where there is no terminal --- */
enum tone { TONE_PLAIN, TONE_GOOD, TONE_WARN, TONE_BAD, TONE_FAINT, TONE_STRONG };
const char *tone_on(bool colour, enum tone);
const char *tone_off(bool colour, enum tone);
enum tone tone_of_state(struct str word);     /* up, ok: good; down: bad; … */

/* Appends text from elsewhere without what a terminal would obey: control characters become spaces, or vanish where 'lines'
 * keeps LF and tab. */
void add_shown(struct buf *, struct str, bool lines);

extern const struct command cmd_serve, cmd_status, cmd_models, cmd_jobs, cmd_chat, cmd_usage, cmd_events, cmd_prices, cmd_savings, cmd_quality, cmd_tests, cmd_explain,
	cmd_doctor, cmd_hardware, cmd_providers, cmd_settings, cmd_keys, cmd_tenants, cmd_budgets, cmd_audit, cmd_config, cmd_migrate, cmd_upgrade,
	cmd_runpod_worker, cmd_help, cmd_version;
#endif
