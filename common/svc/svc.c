/* svc.c - see svc.h: from the command line to a running process and back. runtime.h says who does what. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/wire_tls.h"
#include "common/svc/runtime.h"

void svc_prepare(struct runtime *rt, const char *name, const char *summary, const struct svc_def *const *defs, unsigned n)
{
	*rt = (struct runtime){ .name = name, .summary = summary, .n = n, .mem = arena_new(16384), .started_us = mono_us() };
	rt->svcs = arena_array(rt->mem, struct svc, n);
	for (unsigned i = 0; i < n; i++) {
		rt->svcs[i].rt = rt;
		rt->svcs[i].def = defs[i];
		rt->svcs[i].lock_fd = -1;
		pthread_mutex_init(&rt->svcs[i].lock, NULL);
	}
	settings_prepare(rt);
}

void svc_release(struct runtime *rt)
{
	upgrade_free(rt);
	for (unsigned i = 0; i < rt->n; i++) {
		struct svc *s = &rt->svcs[i];
		struct need *n;

		reload_free(s);
		thread_unlock(s);
		upgrade_forget_offers(s);
		while ((n = s->needs)) {
			s->needs = n->next;
			free(n);
		}
		loop_free(s->loop);
		metrics_free(s->metrics);
		arena_free(s->mem);
		pthread_mutex_destroy(&s->lock);
	}
	free(rt->argv);
	http_server_free(rt->admin);
	loop_free(rt->loop);
	arena_free(rt->mem);
}

static void raise_descriptor_limit(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= r.rlim_max)
		return;
	r.rlim_cur = r.rlim_max < 1048576 ? r.rlim_max : 1048576;
	(void)setrlimit(RLIMIT_NOFILE, &r);       /* not allowed: then with what there is */
}

static void warn_of_environment(struct runtime *rt)
{
	struct opt_list texts;

	opt_unknown_env(rt->sets, rt->n + 1, rt->mem, &texts);
	for (size_t i = 0; i < texts.n; i++)
		LOG_WARN(texts.items[i]);
}

static void open_log(struct runtime *rt)
{
	enum log_level level = LOG_LEVEL_INFO;
	const char *f = rt->config.log_format;

	log_level_parse(rt->config.log_level, &level);
	log_init(level, strcmp(f, "json") == 0 ? LOG_FORMAT_JSON : strcmp(f, "text") == 0 ? LOG_FORMAT_TEXT : LOG_FORMAT_AUTO);
	log_thread_service(rt->name);
}

static void note_program(struct runtime *rt)
{
	ssize_t n = readlink("/proc/self/exe", rt->program, sizeof(rt->program) - 1);

	rt->program[n > 0 ? n : 0] = '\0';
}

static bool open_all(struct runtime *rt, bool upgrade, struct why *why)
{
	const struct wire_tls_files tls = { rt->config.tls_ca, rt->config.tls_cert, rt->config.tls_key };

	signal(SIGPIPE, SIG_IGN);
	umask(0077);
	raise_descriptor_limit();
	if (place_make_dir(rt->state_dir, why) != ERR_OK || wire_tls_set(&tls, why) != ERR_OK)
		return false;
	rt->loop = loop_new();
	for (unsigned i = 0; i < rt->n; i++) {
		struct svc *s = &rt->svcs[i];

		s->loop = loop_new();
		s->mem = arena_new(0);
		s->metrics = metrics_new(s->def->metrics, s->def->n_metrics);
	}
	note_program(rt);
	if (upgrade && upgrade_meet(rt, why) != ERR_OK)
		return false;
	if (admin_open(rt, why))
		return true;
	upgrade_failed(rt, why->text);
	return false;
}

static int print_config(struct runtime *rt)
{
	struct buf b = { 0 };
	bool ok;

	opt_print(&b, rt->sets, rt->n + 1);
	ok = fwrite(b.p, 1, b.n, stdout) == b.n && fflush(stdout) == 0;
	buf_free(&b);
	return ok ? 0 : 1;
}

/* What a program is to do besides serving; not options, because they belong in no file and no environment. */
struct errand { bool check, upgrade, migrate; const char *probe, *wait; };

static bool is_errand(const char *arg, struct errand *e)
{
	if (strcmp(arg, "--check-config") == 0)
		e->check = true;
	else if (strcmp(arg, "--upgrade") == 0)
		e->upgrade = true;
	else if (strncmp(arg, "--probe=", 8) == 0)
		e->probe = arg + 8;
	else if (strncmp(arg, "--wait=", 7) == 0)
		e->wait = arg + 7;
	else
		return false;
	return true;
}

/* Takes them out of the arguments. */
static struct errand take_errands(int *argc, char **argv, char **ret_argv)
{
	struct errand e = { 0 };
	int n = 0;

	for (int i = 0; i < *argc; i++)
		if (i == 1 && strcmp(argv[i], "migrate") == 0)
			e.migrate = true;
		else if (i == 0 || !is_errand(argv[i], &e))
			ret_argv[n++] = argv[i];
	ret_argv[n] = NULL;
	*argc = n;
	return e;
}

static int do_errand(struct runtime *rt, const struct errand *e)
{
	if (e->probe)
		return self_probe(rt, e->probe);
	return e->wait ? self_wait(rt, e->wait) : print_config(rt);
}

/* Keys and prompts are in memory: no core file, no crash handler and no other process of this user gets to read it. */
static void keep_memory_private(void)
{
	struct rlimit core;

	(void)prctl(PR_SET_DUMPABLE, 0);
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		core.rlim_cur = 0;
		(void)setrlimit(RLIMIT_CORE, &core);
	}
}

static int run(struct runtime *rt, int argc, char **argv)
{
	char **args = x_calloc((size_t)argc + 1, sizeof(*args));
	struct errand errand = take_errands(&argc, argv, args);
	struct why why;
	bool ok;

	keep_memory_private();
	ok = settings_load(rt, argc, args, &why) == ERR_OK;

	rt->argc = argc;
	rt->argv = args;
	if (ok && (errand.probe || errand.wait))
		return do_errand(rt, &errand);
	if (ok) {
		open_log(rt);
		warn_of_environment(rt);
	}
	if (ok && errand.check)
		return do_errand(rt, &errand);
	if (ok && errand.migrate)
		return databases_migrate(rt);
	ok = ok && open_all(rt, errand.upgrade, &why);
	if (!ok) {
		fprintf(stderr, "%s: %s\n", rt->name, why.text);
		return 1;
	}
	life_run(rt);
	return rt->status;
}

int svc_main_all(const char *name, const char *summary, const struct svc_def *const *defs, unsigned n, int argc, char **argv)
{
	struct runtime rt;
	int status;

	clock_init();
	svc_prepare(&rt, name, summary, defs, n);
	if (!help_asked(&rt, argc, argv, &status))
		status = run(&rt, argc, argv);
	svc_release(&rt);
	return status;
}

int svc_main(const struct svc_def *def, int argc, char **argv) { return svc_main_all(def->name, def->summary, &def, 1, argc, argv); }

/* --- without running --- */

static const struct svc *by_name(const struct runtime *rt, const char *service)
{
	for (unsigned i = 0; i < rt->n; i++)
		if (strcmp(rt->svcs[i].def->name, service) == 0)
			return &rt->svcs[i];
	return NULL;
}

static enum err look_at(struct runtime *rt, const char *service, enum err (*look)(void *, const void *, const char *, struct why *), void *arg,
			struct why *why)
{
	const struct svc *s = by_name(rt, service);
	const char *dir;
	enum err e;

	if (!s)
		return err_set(why, ERR_NOT_FOUND, "there is no service %s in this program", service);
	dir = arena_printf(rt->mem, "%s/%s", rt->state_dir, service);
	e = place_make_dir(dir, why);
	return e ? e : look(arg, s->config, dir, why);
}

enum err svc_look(const struct svc_def *const *defs, unsigned n, const char *service, int argc, char **argv,
		  enum err (*look)(void *arg, const void *config, const char *dir, struct why *), void *arg, struct why *why)
{
	struct runtime rt;
	enum err e;

	svc_prepare(&rt, service, "", defs, n);
	e = settings_fill(&rt, argc, argv, why);
	if (e == ERR_OK)
		e = look_at(&rt, service, look, arg, why);
	svc_release(&rt);
	return e;
}

static enum err show_to(struct runtime *rt, enum err (*look)(void *arg, const struct svc_settings *, struct why *), void *arg, struct why *why)
{
	struct svc_settings s = { .sets = rt->sets, .n = rt->n + 1, .state_dir = rt->state_dir, .file = rt->config.config };

	opt_unknown_env(rt->sets, rt->n + 1, rt->mem, &s.unknown);
	return look(arg, &s, why);
}

enum err svc_settings(const struct svc_def *const *defs, unsigned n, int argc, char **argv, bool check,
		      enum err (*look)(void *arg, const struct svc_settings *, struct why *), void *arg, struct why *why)
{
	struct runtime rt;
	enum err e;

	svc_prepare(&rt, "corral", "", defs, n);
	e = check ? settings_load(&rt, argc, argv, why) : settings_fill(&rt, argc, argv, why);
	if (e == ERR_OK)
		e = show_to(&rt, look, arg, why);
	svc_release(&rt);
	return e;
}

struct counted { void (*wrong)(void *arg, const struct why *); void *arg; unsigned n; };

static void count_wrong(void *arg, const struct why *why)
{
	struct counted *c = arg;

	c->n++;
	c->wrong(c->arg, why);
}

unsigned svc_settings_check(const struct svc_def *const *defs, unsigned n, int argc, char **argv, void (*wrong)(void *arg, const struct why *),
			    enum err (*look)(void *arg, const struct svc_settings *, struct why *), void *arg)
{
	struct counted c = { wrong, arg, 0 };
	struct runtime rt;
	struct why why;

	svc_prepare(&rt, "corral", "", defs, n);
	settings_check_all(&rt, argc, argv, count_wrong, &c);
	if (!c.n && show_to(&rt, look, arg, &why) != ERR_OK)
		count_wrong(&c, &why);
	svc_release(&rt);
	return c.n;
}
