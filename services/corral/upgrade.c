/* upgrade.c - `corral upgrade`: the program that runs starts its successor, from the file on disk, and hands over to it. */
#include "services/corral/cli.h"

#include "services/corral/local.h"

struct upgrade_opts { const char *state_dir, *config, *program; };

static const struct flag flags[] = {
	FLAG(struct upgrade_opts, state_dir, 0, "DIR", "Where the program keeps its state. Default: as 'corral serve' has it."),
	FLAG(struct upgrade_opts, config, 0, "FILE", "The configuration of 'corral serve', for its state_dir."),
	FLAG(struct upgrade_opts, program, 0, "NAME", "Which program: corral, or a service that runs apart, as gateway. Default: corral."),
	{ 0 }
};

static int run(struct cli *c)
{
	const struct upgrade_opts *o = c->opts;
	const struct local_place place = { .state_dir = o->state_dir ? o->state_dir : "", .config = o->config ? o->config : "" };
	const char *program = o->program && o->program[0] ? o->program : "corral";
	struct why why;

	if (local_upgrade(c, &place, program, &why))
		return cli_fail(c, EXIT_FAILED, "%s", why.text);
	fprintf(c->out, "%s\n", c->json ? "{\"upgraded\":true}" : "The successor has taken over; what was open is finished by the one before.");
	return EXIT_OK;
}

const struct command cmd_upgrade = {
	.name = "upgrade", .args = "", .summary = "Replace the program that runs by the one on disk, without a failed request.",
	.text = "The program that runs starts the file that it was started from, as it is on disk now, with the same arguments and environment; the configuration is read "
		"again. The successor gets the listening sockets and takes over when it is ready. Open answers are finished by the one before, for as long as 'drain' "
		"allows. A successor that cannot start, or is not ready within a minute, changes nothing; this command then says why and ends with status 1.",
	.flags = flags, .opts_size = sizeof(struct upgrade_opts), .run = run,
	.examples = (const struct example[]){
		{ "corral upgrade", "After the program's file or its configuration was replaced." },
		{ "corral upgrade --program gateway", "A gateway that runs apart." },
		{ 0 } },
};
