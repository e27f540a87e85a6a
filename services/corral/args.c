/* args.c - the words after a command: options in any order and place, the rest arguments. */
#include "services/corral/cli.h"

#define COMMON(member, letter, value, help) FLAG(struct cli, member, letter, value, help)

const struct flag common_flags[] = {
	COMMON(json, 0, NULL, "Print what a machine reads: JSON."),
	COMMON(url, 0, "URL", "Where the gateway is. Else CORRAL_URL; else http://127.0.0.1:8100."),
	COMMON(api_key, 0, "KEY", "Sent as bearer token. Else CORRAL_API_KEY, which other users of this machine cannot see."),
	COMMON(help, 'h', NULL, "Print this, and end."),
	{ 0 }
};

static bool same_name(struct str given, const char *name)
{
	if (given.n != strlen(name))
		return false;
	for (size_t i = 0; i < given.n; i++)
		if (given.p[i] != name[i] && !(strchr("-_", given.p[i]) && strchr("-_", name[i])))
			return false;
	return true;
}

struct place { const struct flag *flag; char *base; };

static struct place in_table(const struct flag *table, void *base, struct str name, char letter)
{
	for (const struct flag *f = table; f && f->name; f++)
		if (letter ? f->letter == letter : same_name(name, f->name))
			return (struct place){ f, base };
	return (struct place){ NULL, NULL };
}

static struct place find(struct cli *c, struct str name, char letter)
{
	struct place p = in_table(c->cmd->flags, c->opts, name, letter);

	return p.flag ? p : in_table(common_flags, c, name, letter);
}

static void nearer(const struct flag *table, struct str name, const char **best, unsigned *best_distance)
{
	for (const struct flag *f = table; f && f->name; f++) {
		unsigned d = str_distance(name, str_of(f->name));

		if (d < *best_distance)
			*best = f->name, *best_distance = d;
	}
}

static bool unknown(struct cli *c, struct str name)
{
	const char *best = NULL;
	unsigned distance = 3;
	char *dashed;

	nearer(c->cmd->flags, name, &best, &distance);
	nearer(common_flags, name, &best, &distance);
	if (!best) {
		cli_usage(c, "%s has no option '--" STR_FMT "'", c->cmd->name, STR_ARG(name));
		return false;
	}
	dashed = arena_dup(c->mem, best, strlen(best));
	for (char *p = dashed; *p; p++)
		*p = *p == '_' ? '-' : *p;
	cli_usage(c, "%s has no option '--" STR_FMT "'; did you mean --%s?", c->cmd->name, STR_ARG(name), dashed);
	return false;
}

/* Stores one option. 'value' NULL: none was written with it; then *taken tells that the next word was used. */
static bool store(struct cli *c, struct place p, const char *arg, const char *value, const char *next, bool *taken)
{
	void *to = p.base + p.flag->offset;

	if (!p.flag->value) {
		if (value) {
			cli_usage(c, "%s takes no value", arg);
			return false;
		}
		*(bool *)to = true;
		return true;
	}
	if (!value) {
		*taken = true;
		value = next;
	}
	if (!value) {
		cli_usage(c, "%s needs a value: %s", arg, p.flag->value);
		return false;
	}
	*(const char **)to = value;
	return true;
}

/* "--url=X", "--json": the name, and what follows the '=' or NULL. */
static struct str long_name(const char *arg, const char **ret_value)
{
	const char *eq = strchr(arg, '=');

	*ret_value = eq ? eq + 1 : NULL;
	return eq ? str_n(arg + 2, (size_t)(eq - arg - 2)) : str_of(arg + 2);
}

bool args_is_common(const char *arg, bool *ret_takes_next)
{
	const char *value;
	struct str name;
	struct place p;

	if (strncmp(arg, "--", 2) != 0)
		return false;
	name = long_name(arg, &value);
	p = in_table(common_flags, NULL, name, 0);
	*ret_takes_next = p.flag && p.flag->value && !value;
	return p.flag && !same_name(name, "help");
}

static bool read_long(struct cli *c, const char *arg, const char *next, bool *taken)
{
	const char *value;
	struct str name = long_name(arg, &value);
	struct place p = find(c, name, 0);

	if (!p.flag)
		return unknown(c, name);
	return store(c, p, arena_printf(c->mem, "--" STR_FMT, STR_ARG(name)), value, next, taken);
}

/* "-m TEXT", "-mTEXT"; switches with one letter stand alone. */
static bool read_short(struct cli *c, const char *arg, const char *next, bool *taken)
{
	struct place p = find(c, STR(""), arg[1]);

	if (!p.flag) {
		cli_usage(c, "%s has no option '-%c'", c->cmd->name, arg[1]);
		return false;
	}
	return store(c, p, arg, arg[2] ? arg + 2 : NULL, next, taken);
}

static void set_defaults(struct cli *c)
{
	for (const struct flag *f = c->cmd->flags; f && f->name; f++)
		if (f->value)
			*(const char **)((char *)c->opts + f->offset) = "";
}

bool args_read(struct cli *c, int argc, char **argv)
{
	bool only_args = false;

	c->opts = arena_zero(c->mem, c->cmd->opts_size ? c->cmd->opts_size : 1);
	c->args = arena_array(c->mem, const char *, argc + 1);
	c->n_args = 0;
	set_defaults(c);
	for (int i = 0; i < argc; i++) {
		const char *arg = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
		bool taken = false;

		if (only_args || arg[0] != '-' || !arg[1])
			c->args[c->n_args++] = arg;
		else if (strcmp(arg, "--") == 0)
			only_args = true;
		else if (!(arg[1] == '-' ? read_long(c, arg, next, &taken) : read_short(c, arg, next, &taken)))
			return false;
		i += taken;
	}
	if (c->n_args <= c->cmd->max_args || c->help)
		return true;
	if (c->cmd->max_args)
		cli_usage(c, "'%s' is one word too many", c->args[c->cmd->max_args]);
	else
		cli_usage(c, "%s takes no arguments, but got '%s'", c->cmd->name, c->args[0]);
	return false;
}
