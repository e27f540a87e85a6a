/* config.c - `corral config`: what the services would run with and why, whether a file is right, and backups of all state. On this machine's files. */
#include <time.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/corral/backup.h"
#include "services/corral/cli.h"

struct config_opts { const char *state_dir, *config; bool changed, verify; };

#define O struct config_opts
static const struct flag flags[] = {
	FLAG(O, config, 'c', "FILE", "The configuration file of 'corral serve'. Else CORRAL_CONFIG."),
	FLAG(O, state_dir, 0, "DIR", "Where 'corral serve' keeps its state. Else as it would find it."),
	FLAG(O, changed, 0, NULL, "show: only what is not a default."),
	FLAG(O, verify, 0, NULL, "restore: look whether the backup is whole and fits; change nothing."),
	{ 0 }
};
#undef O

/* The command line of a `corral serve` with the same files. */
static int command_line(struct cli *c, const char *config, char *argv[4])
{
	const struct config_opts *o = c->opts;
	int argc = 1;

	argv[0] = (char *)"corral";
	if (o->state_dir[0])
		argv[argc++] = arena_printf(c->mem, "--state-dir=%s", o->state_dir);
	if (config[0])
		argv[argc++] = arena_printf(c->mem, "--config=%s", config);
	argv[argc] = NULL;
	return argc;
}

static enum err look(struct cli *c, const char *config, enum err (*fn)(void *, const struct svc_settings *, struct why *), void *arg, struct why *why)
{
	char *argv[4];
	int argc = command_line(c, config, argv);

	*why = (struct why){ 0 };
	return svc_settings(cli_services, cli_n_services, argc, argv, false, fn, arg, why);
}

static void print(struct cli *c, const struct buf *b) { fwrite(b->p, 1, b->n, c->out); }

/* --- show --- */

/* Lines of opt_print() that end in "# default", and heads with nothing below. */
static void print_changed(struct cli *c, struct str text)
{
	struct str line, head = STR("");

	while (text.n && str_split(&text, '\n', &line)) {
		if (str_starts(line, STR("# ")) && !str_find(line, STR("# default")) && !str_find(line, STR(": "))) {
			head = line;
			continue;
		}
		if (str_ends(line, STR("# default")))
			continue;
		if (head.n)
			fprintf(c->out, STR_FMT "\n", STR_ARG(head));
		head = STR("");
		fprintf(c->out, STR_FMT "\n", STR_ARG(line));
	}
}

static void warn(struct cli *c, const struct svc_settings *s)
{
	for (size_t i = 0; i < s->unknown.n; i++)
		fprintf(c->err, "corral: warning: %s\n", s->unknown.items[i]);
}

static enum err show_settings(void *arg, const struct svc_settings *s, struct why *why)
{
	struct cli *c = arg;
	const struct config_opts *o = c->opts;
	struct buf b = { 0 };

	(void)why;
	warn(c, s);
	if (c->json) {
		opt_print_json(&b, s->sets, s->n);
		buf_char(&b, '\n');
		print(c, &b);
	} else {
		opt_print(&b, s->sets, s->n);
		if (o->changed)
			print_changed(c, buf_as_str(&b));
		else
			print(c, &b);
	}
	buf_free(&b);
	return ERR_OK;
}

static int show(struct cli *c)
{
	const struct config_opts *o = c->opts;
	struct why why;

	return look(c, o->config, show_settings, c, &why) == ERR_OK ? EXIT_OK : cli_fail(c, EXIT_FAILED, "%s", why.text);
}

/* --- check --- */

struct checking { struct cli *cli; struct buf errors; struct json_out jo; struct why first; };

static enum err say_right(void *arg, const struct svc_settings *s, struct why *why)
{
	struct cli *c = ((struct checking *)arg)->cli;

	(void)why;
	warn(c, s);
	if (!c->json)
		fprintf(c->out, "%s is right.\n", *s->file ? s->file : "The configuration");
	return ERR_OK;
}

static void say_wrong(void *arg, const struct why *why)
{
	struct checking *k = arg;

	if (!k->first.code)
		k->first = *why;
	if (!k->cli->json)
		fprintf(k->cli->err, "corral: %s\n", why->text);
	jw_obj(&k->jo);
	jw_kv_strz(&k->jo, "error", why->text);
	jw_kv_strz(&k->jo, "field", why->field[0] ? why->field : NULL);
	jw_end(&k->jo);
}

/* Everything that is wrong, and not the first of it alone. */
static int check(struct cli *c)
{
	const struct config_opts *o = c->opts;
	struct checking k = { .cli = c };
	char *argv[4];
	int argc = command_line(c, c->n_args > 1 ? c->args[1] : o->config, argv);
	unsigned n;

	json_begin(&k.jo, &k.errors);
	jw_arr(&k.jo);
	n = svc_settings_check(cli_services, cli_n_services, argc, argv, say_wrong, say_right, &k);
	json_done(&k.jo);
	if (c->json) {
		struct buf b = { 0 };
		struct json_out jo;

		json_begin(&jo, &b);
		jw_obj(&jo);
		jw_kv_bool(&jo, "ok", n == 0);
		jw_kv_strz(&jo, "error", n ? k.first.text : NULL);
		jw_kv_strz(&jo, "field", n && k.first.field[0] ? k.first.field : NULL);
		jw_kv_raw(&jo, "errors", buf_as_str(&k.errors));
		json_done(&jo);
		buf_char(&b, '\n');
		print(c, &b);
		buf_free(&b);
	}
	buf_free(&k.errors);
	return n ? EXIT_FAILED : EXIT_OK;
}

/* --- backup --- */

struct backing { struct cli *cli; const char *to; struct backup_sum sum; };

static void note(void *arg, const char *text) { fprintf(((struct cli *)arg)->err, "corral: note: %s\n", text); }

static enum err back_up(void *arg, const struct svc_settings *s, struct why *why)
{
	struct backing *b = arg;

	return backup_make(s, cli_services, cli_n_services, b->to, &b->sum, note, b->cli, why);
}

static void sum_json(struct json_out *jo, const struct backup_sum *s)
{
	jw_kv_u64(jo, "files", s->files);
	jw_kv_u64(jo, "databases", s->databases);
	jw_kv_u64(jo, "bytes", s->bytes);
}

static const char *default_name(struct cli *c)
{
	time_t now = (time_t)(wall_us() / 1000000);
	char stamp[32];
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	return arena_printf(c->mem, "corral-backup-%s.tar", stamp);
}

static int backup(struct cli *c)
{
	const struct config_opts *o = c->opts;
	struct backing b = { .cli = c, .to = c->n_args > 1 ? c->args[1] : default_name(c) };
	struct buf out = { 0 };
	struct json_out jo;
	struct why why;

	if (look(c, o->config, back_up, &b, &why) != ERR_OK)
		return cli_fail(c, EXIT_FAILED, "%s", why.text);
	if (!c->json) {
		fprintf(c->out, "%s: %u files, %u databases, %llu bytes. It holds keys' hashes, answers of jobs, and the secrets of the configuration file: keep it safe.\n",
			b.to, b.sum.files, b.sum.databases, (unsigned long long)b.sum.bytes);
		return EXIT_OK;
	}
	json_begin(&jo, &out);
	jw_obj(&jo);
	jw_kv_strz(&jo, "file", b.to);
	sum_json(&jo, &b.sum);
	jw_end(&jo);
	buf_char(&out, '\n');
	print(c, &out);
	buf_free(&out);
	return EXIT_OK;
}

/* --- restore --- */

struct restoring { struct cli *cli; const char *from, *state_dir; bool verify; struct restore_result result; };

static enum err restore_all(void *arg, const struct svc_settings *s, struct why *why)
{
	struct restoring *r = arg;

	r->state_dir = arena_printf(r->cli->mem, "%s", s->state_dir);
	return backup_restore(s, cli_services, cli_n_services, r->from, r->verify, &r->result, why);
}

static void tell_restored(struct cli *c, const struct restoring *r)
{
	const struct restore_result *res = &r->result;

	fprintf(c->out, "%s of %s, by Corral %s: %u files, %u databases, all as they were written.\n", r->from, res->made_at, res->program, res->sum.files,
		res->sum.databases);
	if (r->verify)
		return;
	fprintf(c->out, "The state is in %s.\n", r->state_dir);
	if (res->kept[0])
		fprintf(c->out, "What was there before is in %s; remove it when it is no longer needed.\n", res->kept);
	if (res->databases[0])
		fprintf(c->out, "Databases that were outside it before are in %s.\n", res->databases);
	if (res->config[0])
		fprintf(c->out, "The configuration file of the backup is %s.\n", res->config);
}

static int restore(struct cli *c)
{
	const struct config_opts *o = c->opts;
	struct restoring r = { .cli = c, .from = c->n_args > 1 ? c->args[1] : "", .verify = o->verify };
	struct buf out = { 0 };
	struct json_out jo;
	struct why why;

	if (!*r.from)
		return cli_usage(c, "which backup? corral config restore FILE");
	if (look(c, o->config, restore_all, &r, &why) != ERR_OK)
		return cli_fail(c, EXIT_FAILED, "%s", why.text);
	if (!c->json) {
		tell_restored(c, &r);
		return EXIT_OK;
	}
	json_begin(&jo, &out);
	jw_obj(&jo);
	jw_kv_strz(&jo, "made_at", r.result.made_at);
	jw_kv_strz(&jo, "program", r.result.program);
	sum_json(&jo, &r.result.sum);
	jw_kv_strz(&jo, "state_dir", r.state_dir);
	jw_kv_strz(&jo, "kept", r.result.kept[0] ? r.result.kept : NULL);
	jw_kv_strz(&jo, "kept_databases", r.result.databases[0] ? r.result.databases : NULL);
	jw_kv_strz(&jo, "config", r.result.config[0] ? r.result.config : NULL);
	jw_end(&jo);
	buf_char(&out, '\n');
	print(c, &out);
	buf_free(&out);
	return EXIT_OK;
}

static int run(struct cli *c)
{
	static const struct { const char *verb; int (*run)(struct cli *); unsigned most; } verbs[] = {
		{ "show", show, 1 }, { "check", check, 2 }, { "backup", backup, 2 }, { "restore", restore, 2 },
	};
	const char *verb = c->n_args ? c->args[0] : "show";

	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (strcmp(verb, verbs[i].verb) == 0)
			return c->n_args <= verbs[i].most ? verbs[i].run(c) : cli_usage(c, "config %s takes no '%s'", verb, c->args[verbs[i].most]);
	return cli_usage(c, "config knows the words show, check, backup and restore, not '%s'", verb);
}

const struct command cmd_config = {
	.name = "config", .args = "[show|check [FILE]|backup [FILE]|restore FILE]", .summary = "Show and check the configuration; back up and restore all state.",
	.flags = flags, .opts_size = sizeof(struct config_opts), .max_args = 2, .run = run,
	.text = "show prints every option with where its value comes from: a line of the file, a variable of the environment, or the default; what is printed can "
		"be used as a file, but for the secrets. It reads what a 'corral serve' started here and now would read, and asks no running one.\n"
		"check says what is wrong with a file, at which line, and starts nothing.\n"
		"backup makes one tar file of all state, while the services run: databases, spools, snapshots, and the configuration file.\n"
		"restore puts it back when nothing runs: it unpacks and checks everything first, then exchanges the state directory in one step. What was there before "
		"is kept beside it.",
	.examples = (const struct example[]){
		{ "corral config show --changed", "What differs from the defaults, and why." },
		{ "corral config check /etc/corral.yaml", "Before a SIGHUP." },
		{ "corral config backup /backups/corral.tar", "All state, from a running Corral." },
		{ "corral config restore /backups/corral.tar --verify", "Whether a backup is good." },
		{ 0 } },
};
