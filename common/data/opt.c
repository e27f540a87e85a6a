/* opt.c - see opt.h. Fills the tables from their four sources, each over the one before; opt_value.c reads single values,
 * opt_print.c shows tables. Within a source a name that stands in several tables is set in each of them. */
#include "common/data/opt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/data/config.h"
#include "common/data/opt_value.h"

extern char **environ;

enum { SECRET_FILE_MAX = 64 * 1024 };

struct loader {
	struct opt_set *sets;
	size_t n;
	struct arena *mem;
	struct why *why;
	const char *file;             /* NULL: none */
	void (*wrong)(void *arg, const struct why *);         /* NULL: the first mistake ends it */
	void *arg;
};

struct found {
	const struct opt *opt;        /* NULL: no such option */
	bool file;                    /* NAME_file of a secret */
};

/* --- names --- */

bool opt_name_eq(struct str a, const char *name)
{
	size_t i;

	for (i = 0; i < a.n && name[i]; i++)
		if ((a.p[i] == '-' ? '_' : a.p[i]) != name[i])
			return false;
	return i == a.n && !name[i];
}

static bool is_file_name(struct str name, const struct opt *o)
{
	return o->type == OPT_T_SECRET && name.n > 5 && opt_name_eq(str_from(name, name.n - 5), "_file") && opt_name_eq(str_n(name.p, name.n - 5), o->name);
}

static struct found find(const struct opt_set *sets, size_t n, struct str name)
{
	for (size_t i = 0; i < n; i++)
		for (const struct opt *o = sets[i].table; o && o->name; o++) {
			if (opt_name_eq(name, o->name))
				return (struct found){ o, false };
			if (is_file_name(name, o))
				return (struct found){ o, true };
		}
	return (struct found){ 0 };
}

/* "peer.selector": the keyed option 'peer', and the rest as *ret_key. */
static const struct opt *find_keyed(const struct opt_set *sets, size_t n, struct str name, char separator, struct str *ret_key)
{
	for (size_t i = 0; i < n; i++)
		for (const struct opt *o = sets[i].table; o && o->name; o++) {
			size_t len = strlen(o->name);

			if (!o->keyed || name.n <= len + 1 || name.p[len] != separator || !opt_name_eq(str_n(name.p, len), o->name))
				continue;
			*ret_key = str_from(name, len + 1);
			return o;
		}
	return NULL;
}

static const char *nearest(const struct opt_set *sets, size_t n, struct str name)
{
	unsigned best = (unsigned)(name.n < 5 ? 2 : name.n / 3 + 1);
	const char *ret = NULL;

	for (size_t i = 0; i < n; i++)
		for (const struct opt *o = sets[i].table; o && o->name; o++) {
			unsigned d = str_distance(name, str_of(o->name));

			if (d < best) {
				best = d;
				ret = o->name;
			}
		}
	return ret;
}

/* "CORRAL_BREAKER_OPEN" */
const char *opt_env_name(struct arena *a, const char *name, const char *suffix)
{
	char *p = arena_printf(a, "CORRAL_%s%s", name, suffix);

	for (char *c = p; *c; c++)
		*c = (char)toupper((unsigned char)*c);
	return p;
}

const char *opt_flag_name(struct arena *a, const char *name)
{
	char *p = arena_printf(a, "--%s", name);

	for (char *c = p; *c; c++)
		if (*c == '_')
			*c = '-';
	return p;
}

/* OK when somebody hears of it instead. */
static enum err told(struct loader *l, enum err e)
{
	if (e == ERR_OK || !l->wrong)
		return e;
	l->wrong(l->arg, l->why);
	return ERR_OK;
}

/* --- setting values --- */

static enum err read_secret(struct loader *l, const char *path, const char *where, const char **ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = arena_alloc(l->mem, SECRET_FILE_MAX + 1);
	ssize_t n = fd < 0 ? -1 : read(fd, text, SECRET_FILE_MAX + 1);
	int saved = errno;

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return err_set(l->why, ERR_INVALID, "%s: '%s' cannot be read: %s", where, path, strerror(saved));
	if (n > SECRET_FILE_MAX || memchr(text, 0, (size_t)n))
		return err_set(l->why, ERR_INVALID, "%s: '%s' is not a text of at most 64 KiB", where, path);
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	text[n] = '\0';
	*ret = text;
	return ERR_OK;
}

static enum err set_one(struct loader *l, struct opt_set *set, const struct opt *o, const char *text, const char *source, const char *where)
{
	const char **old = &set->sources[o - set->table];
	struct opt_list before = { 0 };
	enum err err;

	if (o->type == OPT_T_LIST && *old && (*old)[0] == '-' && source[0] == '-')
		before = *(struct opt_list *)opt_at(set->config, o);
	err = opt_value_parse(o, text, set->config, l->mem, where, l->why);
	if (err != ERR_OK)
		return err;
	if (before.n > 0)
		opt_list_join(l->mem, &before, opt_at(set->config, o));
	*old = source;
	return ERR_OK;
}

/* Adds key=text to a keyed list; '_' of the environment is '-' in a key. */
static void add_keyed(struct loader *l, const struct opt *o, struct str key, const char *text, const char *source)
{
	char *item = arena_printf(l->mem, STR_FMT "=%s", STR_ARG(key), text);

	for (size_t i = 0; i < key.n; i++)
		if (item[i] == '_')
			item[i] = '-';
	for (size_t i = 0; i < l->n; i++)
		for (const struct opt *p = l->sets[i].table; p && p->name; p++)
			if (strcmp(p->name, o->name) == 0) {
				struct opt_list *list = opt_at(l->sets[i].config, p), all = { 0 };

				opt_list_join(l->mem, list, &all);
				opt_list_add(l->mem, &all, item);
				*list = all;
				l->sets[i].sources[p - l->sets[i].table] = source;
			}
}

/* Sets 'name' in every table that has it. */
static enum err set_all(struct loader *l, struct found f, const char *text, const char *source, const char *where)
{
	enum err err = ERR_OK;

	if (f.file)
		err = read_secret(l, text, where, &text);
	for (size_t i = 0; i < l->n && err == ERR_OK; i++)
		for (const struct opt *o = l->sets[i].table; o && o->name && err == ERR_OK; o++)
			if (strcmp(o->name, f.opt->name) == 0)
				err = set_one(l, &l->sets[i], o, text, source, where);
	return err;
}

static enum err load_defaults(struct loader *l)
{
	enum err err = ERR_OK;

	for (size_t i = 0; i < l->n; i++) {
		size_t n_opts = 0;

		while (l->sets[i].table && l->sets[i].table[n_opts].name)
			n_opts++;
		l->sets[i].sources = arena_array(l->mem, const char *, n_opts + 1);
		for (size_t k = 0; k < n_opts && err == ERR_OK; k++) {
			const struct opt *o = &l->sets[i].table[k];
			struct str text = str_of(o->dflt ? o->dflt : "");
			const char *missing;

			if (o->type == OPT_T_STRING && !config_expand(l->mem, text, &text, &missing))
				return err_set(l->why, ERR_INVALID, "%s: the environment has no %s, which the default needs", o->name, missing);
			err = set_one(l, &l->sets[i], o, text.n ? text.p : "", "default", arena_printf(l->mem, "default of %s", o->name));
		}
	}
	return err;
}

/* --- file --- */

static enum err unknown_in_file(struct loader *l, const struct config_node *n)
{
	const char *near = nearest(l->sets, l->n, str_of(n->key));

	if (near)
		return err_field(l->why, ERR_INVALID, n->key, "%s:%u:%u: unknown option '%s'; did you mean '%s'?", l->file, n->key_line, n->key_column, n->key, near);
	return err_field(l->why, ERR_INVALID, n->key, "%s:%u:%u: unknown option '%s'; --help lists them", l->file, n->key_line, n->key_column, n->key);
}

static enum err set_list(struct loader *l, const struct opt *o, const struct config_node *n, const char *source, const char *where)
{
	struct opt_list items;
	enum err err = opt_list_from_yaml(o, n, l->file, l->mem, &items, l->why);

	(void)where;
	if (err != ERR_OK)
		return err;
	for (size_t i = 0; i < l->n; i++)
		for (const struct opt *p = l->sets[i].table; p && p->name; p++)
			if (strcmp(p->name, o->name) == 0 && p->type == OPT_T_LIST) {
				*(struct opt_list *)opt_at(l->sets[i].config, p) = items;
				l->sets[i].sources[p - l->sets[i].table] = source;
			}
	return ERR_OK;
}

static enum err set_from_file(struct loader *l, const struct config_node *n)
{
	struct found f = find(l->sets, l->n, str_of(n->key));
	const char *source = arena_printf(l->mem, "%s:%u", l->file, n->line);
	const char *where = arena_printf(l->mem, "%s:%u:%u: %s", l->file, n->line, n->column, n->key);

	if (!f.opt)
		return unknown_in_file(l, n);
	if (strcmp(f.opt->name, "config") == 0)
		return err_field(l->why, ERR_INVALID, n->key, "%s: a file cannot name another file", where);
	if (n->kind == CONFIG_SCALAR)
		return n->null ? ERR_OK : set_all(l, f, n->text, source, where);
	if (f.opt->type != OPT_T_LIST)
		return err_field(l->why, ERR_INVALID, n->key, "%s: expected one value, not a %s", where, n->kind == CONFIG_MAP ? "mapping" : "list");
	return set_list(l, f.opt, n, source, where);
}

/* The same option under another spelling. */
static enum err set_before(struct loader *l, const struct config_node *top, const struct config_node *n)
{
	const struct opt *o = find(l->sets, l->n, str_of(n->key)).opt;

	for (const struct config_node *m = top->first; o && m != n; m = m->next)
		if (find(l->sets, l->n, str_of(m->key)).opt == o)
			return err_field(l->why, ERR_INVALID, n->key, "%s:%u:%u: '%s' and '%s' (line %u) are the same option", l->file, n->key_line,
					 n->key_column, n->key, m->key, m->key_line);
	return ERR_OK;
}

static enum err load_file(struct loader *l)
{
	struct config_node *top = NULL;
	enum err err;

	if (!l->file)
		return ERR_OK;
	err = told(l, config_load(l->mem, l->file, &top, l->why));
	for (const struct config_node *n = err == ERR_OK && top ? top->first : NULL; n && err == ERR_OK; n = n->next) {
		err = told(l, set_from_file(l, n));
		if (err == ERR_OK)
			err = told(l, set_before(l, top, n));
	}
	return err;
}

/* --- environment --- */

static const char *env_get(const char *name)
{
	const char *v = getenv(name);

	return v && v[0] ? v : NULL;
}

/* The first of CORRAL_NAME, CORRAL_NAME_FILE and the aliases that is set; NULL when none is. */
static const char *env_of(struct loader *l, const struct opt *o, bool *ret_file)
{
	const char *name = opt_env_name(l->mem, o->name, ""), *file = o->type == OPT_T_SECRET ? opt_env_name(l->mem, o->name, "_FILE") : NULL;
	struct str rest = str_of(o->aliases), part;

	*ret_file = false;
	if (env_get(name))
		return name;
	if (file && env_get(file)) {
		*ret_file = true;
		return file;
	}
	while (rest.n > 0 && str_split(&rest, ',', &part)) {
		part = str_trim(part);
		name = arena_dup(l->mem, part.p, part.n);
		if (env_get(name))
			return name;
	}
	return NULL;
}

static enum err load_env(struct loader *l)
{
	enum err err = ERR_OK;

	for (size_t i = 0; i < l->n; i++)
		for (const struct opt *o = l->sets[i].table; o && o->name && err == ERR_OK; o++) {
			bool file;
			const char *name = env_of(l, o, &file), *text, *where;

			if (!name)
				continue;
			text = env_get(name);
			where = arena_printf(l->mem, "environment %s", name);
			if (file)
				err = read_secret(l, text, where, &text);
			if (err == ERR_OK)
				err = set_one(l, &l->sets[i], o, text, where, where);
			err = told(l, err);
		}
	return err;
}

static struct str lower(struct arena *a, struct str s)
{
	char *p = arena_dup(a, s.p, s.n);

	for (size_t i = 0; i < s.n; i++)
		p[i] = (char)tolower((unsigned char)p[i]);
	return str_n(p, s.n);
}

/* CORRAL_PEER_SELECTOR */
static void load_keyed_env(struct loader *l)
{
	for (char **e = environ; e && *e; e++) {
		const char *eq = strchr(*e, '=');
		const struct opt *o;
		struct str name, key;

		if (!eq || !eq[1] || strncmp(*e, "CORRAL_", 7) != 0)
			continue;
		name = lower(l->mem, str_n(*e + 7, (size_t)(eq - *e) - 7));
		if (find(l->sets, l->n, name).opt || !(o = find_keyed(l->sets, l->n, name, '_', &key)))
			continue;
		add_keyed(l, o, key, eq + 1, arena_printf(l->mem, "environment %.*s", (int)(eq - *e), *e));
	}
}

static bool reserved(struct str name)
{
	static const char *const names[] = {
		"CORRAL_URL", "CORRAL_API_KEY", "CORRAL_CONFIG", "CORRAL_BIN",         /* client, runtime, tests */
		"CORRAL_CACHE_DIR", "CORRAL_DEBIAN_MIRROR", "CORRAL_LLAMA_SUITE"       /* scripts */
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (str_eqz(name, names[i]))
			return true;
	if (str_starts(name, STR("CORRAL_PROVIDER_")) || str_starts(name, STR("CORRAL_TEST_")))
		return true;
	/* what Kubernetes adds for a service whose name begins with "corral" */
	return str_find(name, STR("_SERVICE_HOST")) || str_find(name, STR("_SERVICE_PORT")) || str_find(name, STR("_PORT_")) || str_ends(name, STR("_PORT"));
}

static bool is_alias(const struct opt_set *sets, size_t n, struct str name)
{
	for (size_t i = 0; i < n; i++)
		for (const struct opt *o = sets[i].table; o && o->name; o++) {
			struct str rest = str_of(o->aliases), part;

			while (rest.n > 0 && str_split(&rest, ',', &part))
				if (str_eq(str_trim(part), name))
					return true;
		}
	return false;
}

static void warn_about(const struct opt_set *sets, size_t n, struct str name, struct arena *a, struct opt_list *ret)
{
	struct str option = lower(a, str_from(name, 7));
	const char *near;

	struct str key;

	if (reserved(name) || is_alias(sets, n, name) || find(sets, n, option).opt || find_keyed(sets, n, option, '_', &key))
		return;
	near = nearest(sets, n, option);
	if (near)
		opt_list_add(a, ret, arena_printf(a, "nothing reads " STR_FMT " of the environment; did you mean %s?", STR_ARG(name), opt_env_name(a, near, "")));
	else
		opt_list_add(a, ret, arena_printf(a, "nothing reads " STR_FMT " of the environment", STR_ARG(name)));
}

void opt_unknown_env(const struct opt_set *sets, size_t n, struct arena *a, struct opt_list *ret)
{
	*ret = (struct opt_list){ 0 };
	for (char **e = environ; e && *e; e++) {
		const char *eq = strchr(*e, '=');

		if (eq && strncmp(*e, "CORRAL_", 7) == 0 && eq > *e + 7)
			warn_about(sets, n, str_n(*e, (size_t)(eq - *e)), a, ret);
	}
}

/* --- flags --- */

struct args {
	char **argv;
	int argc, at;                 /* the next one to be looked at */
};

static enum err unknown_flag(struct loader *l, struct str name, const char *arg)
{
	const char *near = nearest(l->sets, l->n, name);
	struct str shown = str_of(arg);
	const char *eq = memchr(shown.p, '=', shown.n);

	if (eq)
		shown.n = (size_t)(eq - shown.p);
	if (near)
		return err_set(l->why, ERR_INVALID, "unknown option '" STR_FMT "'; did you mean '%s'?", STR_ARG(shown), opt_flag_name(l->mem, near));
	return err_set(l->why, ERR_INVALID, "unknown option '" STR_FMT "'; --help lists them", STR_ARG(shown));
}

/* "--no-name" of a boolean. */
static struct found find_negated(struct loader *l, struct str name)
{
	struct found f = { 0 };

	if (name.n > 3 && opt_name_eq(str_n(name.p, 3), "no_"))
		f = find(l->sets, l->n, str_from(name, 3));
	if (f.opt && f.opt->type != OPT_T_BOOL)
		f.opt = NULL;
	return f;
}

/* What follows "=", or is the next argument; NULL when there is none. */
static const char *flag_value(struct args *args, const char *eq)
{
	if (eq)
		return eq + 1;
	return args->at < args->argc && strncmp(args->argv[args->at], "--", 2) != 0 ? args->argv[args->at++] : NULL;
}

/* --peer.selector=URL; false when it is no such flag. */
static bool set_keyed_flag(struct loader *l, struct args *args, struct str name, const char *eq, enum err *ret)
{
	struct str key;
	const struct opt *o = find_keyed(l->sets, l->n, name, '.', &key);
	const char *value, *where = arena_printf(l->mem, "--" STR_FMT, STR_ARG(name));

	if (!o)
		return false;
	value = flag_value(args, eq);
	if (value)
		add_keyed(l, o, key, value, where);
	*ret = value ? ERR_OK : err_field(l->why, ERR_INVALID, o->name, "%s: a value is missing (write %s=VALUE)", where, where);
	return true;
}

static enum err set_flag(struct loader *l, struct args *args)
{
	enum err err;
	const char *arg = args->argv[args->at++], *eq = strchr(arg, '='), *value = eq ? eq + 1 : NULL, *where;
	struct str name = str_from(eq ? str_n(arg, (size_t)(eq - arg)) : str_of(arg), 2);
	struct found f = find(l->sets, l->n, name);

	where = arena_printf(l->mem, "--" STR_FMT, STR_ARG(name));
	if (!f.opt && !eq) {
		f = find_negated(l, name);
		value = f.opt ? "false" : NULL;
	}
	if (!f.opt && opt_name_eq(name, "config")) {      /* read before; no table has it */
		args->at += !eq;
		return ERR_OK;
	}
	if (!f.opt && set_keyed_flag(l, args, name, eq, &err))
		return err;
	if (!f.opt)
		return unknown_flag(l, name, arg);
	if (!value && f.opt->type == OPT_T_BOOL)
		value = "true";
	if (!value)
		value = flag_value(args, NULL);
	if (!value)
		return err_field(l->why, ERR_INVALID, f.opt->name, "%s: a value is missing (write %s=VALUE)", where, where);
	return set_all(l, f, value, where, where);
}

static enum err load_flags(struct loader *l, int argc, char **argv, struct opt_list *ret_args)
{
	struct args args = { argv, argc, 1 };
	enum err err = ERR_OK;

	while (args.at < argc && err == ERR_OK) {
		const char *arg = argv[args.at];

		if (strcmp(arg, "--") == 0) {
			while (++args.at < argc)
				opt_list_add(l->mem, ret_args, argv[args.at]);
		} else if (arg[0] == '-' && arg[1] == '-') {
			err = told(l, set_flag(l, &args));
		} else if (arg[0] == '-' && arg[1]) {
			err = told(l, unknown_flag(l, str_from(str_of(arg), 1), arg));
			args.at++;
		} else {
			opt_list_add(l->mem, ret_args, arg);
			args.at++;
		}
	}
	return err;
}

/* The file has to be known before the flags are read in their turn. */
static enum err find_file(struct loader *l, int argc, char **argv)
{
	l->file = env_get("CORRAL_CONFIG");
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strncmp(argv[i], "--config=", 9) == 0)
			l->file = argv[i] + 9;
		else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			l->file = argv[++i];
		else if (strcmp(argv[i], "--config") == 0)
			return err_field(l->why, ERR_INVALID, "config", "--config: a value is missing (write --config=FILE)");
	}
	return ERR_OK;
}

enum err opt_load(struct opt_set *sets, size_t n, int argc, char **argv, struct arena *a, struct opt_list *ret_args, struct why *why)
{
	return opt_load_all(sets, n, argc, argv, a, ret_args, NULL, NULL, why);
}

bool opt_reset(struct opt_set *set, const char *name, struct arena *a)
{
	struct why why;
	struct loader l = { .sets = set, .n = 1, .mem = a, .why = &why };

	for (const struct opt *o = set->table; o && o->name; o++) {
		if (strcmp(o->name, name) != 0)
			continue;
		if (strcmp(set->sources[o - set->table], "default") == 0)
			return false;
		return set_one(&l, set, o, o->dflt ? o->dflt : "", "default", "default") == ERR_OK;
	}
	return false;
}

enum err opt_load_all(struct opt_set *sets, size_t n, int argc, char **argv, struct arena *a, struct opt_list *ret_args,
		      void (*wrong)(void *arg, const struct why *), void *arg, struct why *why)
{
	struct loader l = { sets, n, a, why, NULL, wrong, arg };
	struct opt_list args = { 0 };
	enum err err = find_file(&l, argc, argv);

	if (err == ERR_OK)
		err = load_defaults(&l);
	if (err == ERR_OK)
		err = load_file(&l);
	if (err == ERR_OK)
		err = load_env(&l);
	if (err == ERR_OK)
		load_keyed_env(&l);
	if (err == ERR_OK)
		err = load_flags(&l, argc, argv, &args);
	if (err == ERR_OK && ret_args)
		*ret_args = args;
	return err;
}
