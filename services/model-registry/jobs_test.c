/* jobs_test.c - jobs and marks against an Ollama that is scripted: joining, breaking, restarts, grace times, protection. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/http_server.h"
#include "common/store/db_test.h"
#include "services/model-registry/acts.h"
#include "services/model-registry/preload.h"

/* --- an Ollama --- */

struct ollama {
	struct http_server *server;
	uint16_t port;
	bool has_tiny, loaded;
	struct http_xchg *pull;       /* one that waits for the test's lines */
	unsigned pulls, deletes, generates, unloads;
	const char *pull_says;        /* answered at once instead */
	int delete_status;
	char asked[512];
};

static void pull_gone(struct http_xchg *x, const char *why) { ((struct ollama *)x->user)->pull = NULL; }

static void json_reply(struct http_xchg *x, int status, const char *body) { http_reply(x, status, STR("Content-Type: application/json\r\n"), str_of(body)); }

static void on_pull(struct ollama *o, struct http_xchg *x)
{
	o->pulls++;
	http_reply_start(x, 200, STR("Content-Type: application/x-ndjson\r\n"), -1);
	if (o->pull_says) {
		http_reply_data(x, str_of(o->pull_says));
		http_reply_end(x);
		return;
	}
	x->user = o;
	x->on_gone = pull_gone;
	o->pull = x;
	http_reply_data(x, STR("{\"status\":\"pulling manifest\"}\n"));
}

static void on_request(struct http_xchg *x, void *arg)
{
	struct ollama *o = arg;
	bool unload = str_find(x->body, STR("\"keep_alive\":0"));

	if (x->body.n)
		(void)str_copy(o->asked, sizeof(o->asked), x->body);
	if (str_eqz(x->path, "/api/version")) {
		json_reply(x, 200, "{\"version\":\"0.34.2\"}");
	} else if (str_eqz(x->path, "/api/tags")) {
		json_reply(x, 200, o->has_tiny ? "{\"models\":[{\"name\":\"tiny:latest\",\"digest\":\"d1\",\"size\":10}]}" : "{\"models\":[]}");
	} else if (str_eqz(x->path, "/api/ps")) {
		json_reply(x, 200, o->loaded ? "{\"models\":[{\"name\":\"tiny:latest\",\"size\":10,\"expires_at\":\"2318-01-01T00:00:00Z\"}]}" : "{\"models\":[]}");
	} else if (str_eqz(x->path, "/api/show")) {
		json_reply(x, 200, "{\"capabilities\":[\"completion\"]}");
	} else if (str_eqz(x->path, "/api/pull")) {
		on_pull(o, x);
	} else if (str_eqz(x->path, "/api/generate")) {
		o->generates += !unload;
		o->unloads += unload;
		o->loaded = !unload;
		json_reply(x, 200, "{\"done\":true}");
	} else if (str_eqz(x->path, "/api/delete")) {
		o->deletes++;
		o->has_tiny &= o->delete_status != 200;
		json_reply(x, o->delete_status, o->delete_status == 200 ? "" : "{\"error\":\"no\"}");
	} else {
		json_reply(x, 404, "{}");
	}
}

static void pull_line(struct ollama *o, const char *line)
{
	assert_non_null(o->pull);
	http_reply_data(o->pull, str_of(line));
}

/* --- the world --- */

struct world {
	struct loop *loop;
	struct ollama o;
	struct registry_config config;
	struct metrics *metrics;
	struct registry *registry;
	struct jobs *jobs;
	Corral__ModelSnapshot *now;
	char dir[64], db[256], listen[64], backend[80];
	const char *backends[1];
};

static void on_snapshot(void *arg, struct str packed)
{
	struct world *w = arg;

	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	w->now = corral__model_snapshot__unpack(NULL, packed.n, (const uint8_t *)packed.p);
}

static void registry_up(struct world *w)
{
	struct why why = { 0 };

	w->registry = registry_new(w->loop, &w->config, w->metrics, STR(""), on_snapshot, NULL, w, &why);
	if (!w->registry)
		fail_msg("%s", why.text);
	w->jobs = w->registry->jobs = jobs_new(w->registry, w->db, &why);
	if (!w->jobs)
		fail_msg("%s", why.text);
}

static void registry_down(struct world *w)
{
	jobs_free(w->jobs);
	registry_free(w->registry);
	w->jobs = NULL;
}

static void server_up(struct world *w)
{
	struct http_handler handler = { .on_request = on_request, .arg = &w->o };
	struct why why = { 0 };

	(void)snprintf(w->listen, sizeof(w->listen), "127.0.0.1:%u", w->o.port);
	w->o.server = http_server_new(w->loop, w->listen, &handler, NULL, &why);
	if (!w->o.server)
		fail_msg("%s", why.text);
	w->o.port = http_server_port(w->o.server);
}

static struct world *world_up(void **state)
{
	struct world *w = *state;

	server_up(w);
	(void)snprintf(w->backend, sizeof(w->backend), "o=ollama+http://127.0.0.1:%u", w->o.port);
	w->backends[0] = w->backend;
	w->config.backends = (struct opt_list){ w->backends, 1 };
	registry_up(w);
	return w;
}

static int setup(void **state)
{
	static const char *from[] = { "registry.ollama.ai", "http://127.0.0.1:5000" };
	struct world *w = x_calloc(1, sizeof(*w));

	w->loop = loop_new();
	w->metrics = metrics_new(registry_metrics, M_COUNT);
	w->config = (struct registry_config){ .ollama_host = "", .default_model = "", .families = "", .jobs_db = "", .sync_every = 3600000, .residency_every = 50,
					      .list_timeout = 5000, .delete_grace = 600000, .jobs_keep = 86400000, .load_timeout = 5000,
					      .pull_from = { from, 2 } };
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/corral-jobs-test-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	test_db(w->dir, "jobs.db", jobs_migrations, w->db, sizeof(w->db));
	w->o.has_tiny = true;
	w->o.delete_status = 200;
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int teardown(void **state)
{
	struct world *w = *state;

	registry_down(w);
	http_server_free(w->o.server);
	metrics_free(w->metrics);
	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	loop_free(w->loop);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

static void on_alarm(struct loop_timer *timer) { loop_stop(timer->loop); }

static void turn_ms(struct world *w, int64_t ms)
{
	struct loop_timer alarm = { 0 };

	loop_timer_set(w->loop, &alarm, ms * 1000, on_alarm);
	loop_run(w->loop);
	loop_timer_del(&alarm);
}

/* Turns the loop until it holds; 20 s at most. */
#define until(w, condition) \
	do { \
		int64_t end_ms_ = mono_ms() + 20000; \
		while (!(condition)) { \
			if (mono_ms() > end_ms_) \
				fail_msg("never: %s", #condition); \
			turn_ms(w, 5); \
		} \
	} while (0)

static bool listed(const struct world *w)
{
	return w->now && w->now->n_models == 1 && strcmp(w->now->models[0]->name, "tiny:latest") == 0;
}

static struct why last;
static bool joined;

static struct job *act(struct world *w, const char *action, const char *model)
{
	last = (struct why){ 0 };
	return jobs_act(w->jobs, str_of(action), str_of(model), STR(""), -1, &joined, &last);
}

static void refused(struct world *w, const char *action, const char *model, enum err code)
{
	if (act(w, action, model))
		fail_msg("%s of %s was not refused", action, model);
	if (last.code != code)
		fail_msg("%s of %s: %s: %s", action, model, err_name(last.code), last.text);
}

static void a_pull_is_told_joined_and_done(void **state)
{
	struct world *w = world_up(state);
	struct job *j;
	Corral__Job pb;
	struct arena *mem = arena_new(0);

	until(w, listed(w));
	j = act(w, "pull", "other:1b");
	assert_non_null(j);
	assert_ptr_equal(act(w, "pull", "OTHER:1b"), j);
	assert_true(joined && j->asked == 2);
	until(w, w->o.pull);
	pull_line(&w->o, "{\"status\":\"pulling aaaaaaaaaaaa\",\"digest\":\"sha256:aaaaaaaaaaaa\",\"total\":1000}\n");
	pull_line(&w->o, "{\"status\":\"pulling aaaaaaaaaaaa\",\"digest\":\"sha256:aaaaaaaaaaaa\",\"total\":1000,\"comp");
	turn_ms(w, 20);
	pull_line(&w->o, "leted\":250}\n");
	until(w, j->bytes_done == 250);
	job_pb(j, mem, &pb);
	assert_string_equal(pb.phase, "downloading");
	assert_true(pb.percent == 25 && pb.bytes_total == 1000 && pb.n_layers == 1);
	pull_line(&w->o, "{\"status\":\"verifying sha256 digest\"}\n{\"status\":\"success\"}\n");
	http_reply_end(w->o.pull);
	until(w, j->state == JOB_DONE);
	assert_int_equal(j->bytes_done, 1000);
	assert_int_equal(w->o.pulls, 1);
	arena_free(mem);
}

static void a_pull_goes_on_after_a_restart_and_a_break(void **state)
{
	struct world *w = world_up(state);
	struct job *j = act(w, "pull", "other:1b");
	char id[37];

	(void)str_copy(id, sizeof(id), str_of(j->id));
	until(w, w->o.pull);
	registry_down(w);                 /* what is on disk is what kill -9 would leave: every state was written before it was told */
	registry_up(w);
	j = jobs_find(w->jobs, str_of(id));
	assert_non_null(j);
	until(w, w->o.pulls == 2 && w->o.pull);
	http_reply_abort(w->o.pull);
	until(w, j->state == JOB_WAITING && j->tries == 1);
	assert_true(j->error[0]);
	until(w, w->o.pulls == 3 && w->o.pull);
	pull_line(&w->o, "{\"status\":\"success\"}\n");
	http_reply_end(w->o.pull);
	until(w, j->state == JOB_DONE);
	assert_string_equal(j->error, "");
}

static void a_pull_that_cannot_be_fails(void **state)
{
	struct world *w = world_up(state);
	struct job *j;

	w->o.pull_says = "{\"status\":\"pulling manifest\"}\n{\"error\":\"pull model manifest: file does not exist\"}\n";
	j = act(w, "pull", "other");
	until(w, j->state == JOB_FAILED);
	assert_non_null(strstr(j->error, "file does not exist"));
	assert_int_equal(w->o.pulls, 1);
	/* an end without 'success' is none */
	w->o.pull_says = "{\"status\":\"pulling manifest\"}\n";
	j = act(w, "pull", "other");
	until(w, j->tries == 1);
	assert_int_equal(jobs_cancel(w->jobs, j, &last), ERR_OK);
	assert_int_equal(j->state, JOB_CANCELLED);
	assert_int_equal(jobs_cancel(w->jobs, j, &last), ERR_CONFLICT);
}

/* --- on disk, as kill -9 would find it --- */

static bool keep_text(void *arg, const struct db_row *row)
{
	(void)str_copy(arg, 64, db_str(row, 0));
	return true;
}

static void phase_on_disk(struct world *w, const char *id, char ret[64])
{
	static const char *const sql[] = { "SELECT phase FROM jobs WHERE id = ?1" };
	struct why why = { 0 };
	struct db *db = db_open(w->db, sql, 1, jobs_migrations, &why);

	ret[0] = '\0';
	if (!db || !db_run(db, 0, (struct db_value[]){ DB_Z(id) }, 1, keep_text, ret, NULL, &why))
		fail_msg("%s", why.text);
	db_close(db);
}

static void a_cancellation_is_on_disk_when_it_is_told(void **state)
{
	struct world *w = world_up(state);
	struct job *j;
	char phase[64];

	until(w, listed(w));
	for (unsigned i = 0; i < 50; i++) {
		j = act(w, "delete", "tiny");
		assert_non_null(j);
		if (i % 2)
			store_load_time(w->jobs, "tiny", "o", i);         /* something else is to be written before it */
		assert_int_equal(jobs_cancel(w->jobs, j, &last), ERR_OK);
		phase_on_disk(w, j->id, phase);
		assert_string_equal(phase, "cancelled");
	}
}

static void what_could_not_be_written_is_written_later(void **state)
{
	struct world *w = world_up(state);
	struct job *j = act(w, "pull", "other");
	char phase[64];

	until(w, w->o.pull);
	turn_ms(w, 50);
	assert_false(j->unkept);
	for (unsigned i = 0; i < 1000; i++) {     /* more than may wait */
		(void)snprintf(j->phase, sizeof(j->phase), "step %u", i);
		(void)store_put(w->jobs, j, NULL);
	}
	assert_true(j->unkept);
	turn_ms(w, 50);
	assert_true(j->unkept);           /* those that were taken say nothing of the last */
	until(w, !j->unkept);
	phase_on_disk(w, j->id, phase);
	assert_string_equal(phase, "step 999");
}

static void names_and_registries_are_checked(void **state)
{
	static const char *const bad[] = { "../x", "a/../b", "a/.b/c", "-x", "a b", "a\nb", "a//b", "a/b/c/d/e", "a:b:c", "a:", "x\xff", "a;rm", "a?b", "sha256:" };
	static const char *const good[] = { "a", "a:b", "ns/a:b", "registry.ollama.ai/ns/a:b", "127.0.0.1:5000/library/x" };
	struct world *w = world_up(state);
	bool insecure;

	until(w, listed(w));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		refused(w, "pull", bad[i], ERR_INVALID);
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		if (model_name_fault(str_of(good[i])))
			fail_msg("%s: %s", good[i], model_name_fault(str_of(good[i])));
	refused(w, "pull", "evil.example/ns/x", ERR_FORBIDDEN);
	refused(w, "pull", "127.0.0.1:5001/ns/x", ERR_FORBIDDEN);
	refused(w, "pull", "http://127.0.0.1:5001/ns/x", ERR_FORBIDDEN);
	assert_int_equal(registry_allowed(&w->config, STR("127.0.0.1:5000/ns/x"), &insecure, &last), ERR_OK);
	assert_true(insecure);
	assert_int_equal(registry_allowed(&w->config, STR("ns/x"), &insecure, &last), ERR_OK);
	assert_false(insecure);
	refused(w, "dance", "tiny", ERR_INVALID);
	refused(w, "preload", "nobody", ERR_MODEL_NOT_FOUND);
	assert_null(jobs_act(w->jobs, STR("pull"), STR("x"), STR("nowhere"), -1, &joined, &last));
	assert_int_equal(last.code, ERR_NOT_FOUND);
}

static void a_deletion_waits_hides_and_can_be_undone(void **state)
{
	struct world *w = world_up(state);
	struct job *j;

	until(w, listed(w));
	j = act(w, "delete", "tiny");
	assert_non_null(j);
	assert_true(j->removes_at_us > wall_us() + 590 * INT64_C(1000000));
	until(w, w->now->n_models == 0);
	refused(w, "preload", "tiny", ERR_MODEL_NOT_FOUND);
	assert_ptr_equal(act(w, "delete", "tiny:latest"), j);
	assert_true(joined);

	registry_down(w);
	registry_up(w);
	until(w, w->registry->backends[0].held->n == 1);
	turn_ms(w, 100);
	assert_int_equal(w->now->n_models, 0);
	assert_non_null(act(w, "undelete", "tiny"));
	until(w, listed(w));
	assert_int_equal(w->o.deletes, 0);
	refused(w, "undelete", "tiny", ERR_MODEL_NOT_FOUND);

	j = jobs_act(w->jobs, STR("delete"), STR("tiny"), STR(""), 300, &joined, &last);
	until(w, j->state == JOB_DONE);
	assert_int_equal(w->o.deletes, 1);
	assert_non_null(strstr(w->o.asked, "tiny:latest"));
	until(w, w->registry->backends[0].held->n == 0 && w->now->n_models == 0);
}

static void what_is_loaded_leaves_memory_before_the_disk(void **state)
{
	struct world *w = world_up(state);
	struct job *j;

	w->o.loaded = true;
	until(w, listed(w) && w->registry->backends[0].held->models[0].loaded);
	w->o.delete_status = 500;
	j = jobs_act(w->jobs, STR("delete"), STR("tiny"), STR(""), 0, &joined, &last);
	until(w, j->tries == 1);
	assert_int_equal(w->o.unloads, 1);
	assert_non_null(strstr(j->error, "500"));
	w->o.delete_status = 404;         /* somebody else was quicker */
	until(w, j->state == JOB_DONE);
}

static void nobody_deletes_what_is_protected(void **state)
{
	struct world *w = world_up(state);
	char dir[128], path[300];
	const char *dirs[1] = { dir }, *text, *names[1] = { "TINY" };
	Corral__AdminCheck check = CORRAL__ADMIN_CHECK__INIT;
	Corral__AdminTarget target;
	struct arena *mem = arena_new(0);

	until(w, listed(w));
	assert_non_null(act(w, "protect", "tiny"));
	refused(w, "delete", "tiny:latest", ERR_FORBIDDEN);
	refused(w, "pull", "tiny", ERR_FORBIDDEN);
	check.action = "copy";
	check.model = "tiny";
	check.source = "tiny";
	assert_int_equal(jobs_check(w->jobs, &check, mem, &target, &last), ERR_FORBIDDEN);
	until(w, w->now->models[0]->is_protected);
	registry_down(w);
	registry_up(w);
	until(w, w->registry->backends[0].held->n == 1 && listed(w) && w->now->models[0]->is_protected);
	refused(w, "delete", "tiny", ERR_FORBIDDEN);
	assert_non_null(act(w, "unprotect", "tiny"));
	assert_false(jobs_protected(w->registry, STR("tiny"), &text));

	w->config.protected = (struct opt_list){ names, 1 };
	refused(w, "delete", "tiny", ERR_FORBIDDEN);
	refused(w, "unprotect", "tiny", ERR_CONFLICT);
	w->config.protected.n = 0;

	/* A directory that cannot be read protects everything; one that can, what lies in it. */
	(void)snprintf(dir, sizeof(dir), "%s/models", w->dir);
	w->config.protected_dirs = (struct opt_list){ dirs, 1 };
	refused(w, "delete", "tiny", ERR_FORBIDDEN);
	(void)snprintf(path, sizeof(path), "%s", dir);
	for (const char *const *part = (const char *const[]){ "", "/manifests", "/registry.ollama.ai", "/library", "/tiny", NULL }; *part; part++) {
		(void)snprintf(path + strlen(path), sizeof(path) - strlen(path), "%s", *part);
		assert_int_equal(mkdir(path, 0700), 0);
		assert_int_equal(jobs_protected(w->registry, STR("tiny"), &text), !*part || !strcmp(*part, ""));
	}
	(void)snprintf(path + strlen(path), sizeof(path) - strlen(path), "/latest");
	fclose(fopen(path, "w"));
	assert_true(jobs_protected(w->registry, STR("tiny:latest"), &text));
	assert_false(jobs_protected(w->registry, STR("tiny:other"), &text));
	refused(w, "delete", "tiny", ERR_FORBIDDEN);
	w->config.protected_dirs.n = 0;
	assert_int_equal(w->o.deletes, 0);
	arena_free(mem);
}

static enum err check(struct world *w, const char *action, const char *model, const char *source)
{
	Corral__AdminCheck q = CORRAL__ADMIN_CHECK__INIT;
	Corral__AdminTarget target;
	struct arena *mem = arena_new(0);
	enum err err;

	q.action = (char *)(uintptr_t)action;
	q.model = (char *)(uintptr_t)model;
	q.source = (char *)(uintptr_t)source;
	err = jobs_check(w->jobs, &q, mem, &target, &last);
	arena_free(mem);
	return err;
}

static unsigned n_jobs(const struct world *w)
{
	unsigned n = 0;

	list_each(it, &w->jobs->all)
		n++;
	return n;
}

/* Taking the mark off what the configuration protects too would change nothing but look as if it had. */
static void what_the_configuration_protects_stays_so(void **state)
{
	static const char *names[1] = { "TINY" };
	struct world *w = world_up(state);
	const char *text;

	until(w, listed(w));
	assert_non_null(act(w, "protect", "tiny"));
	w->config.protected = (struct opt_list){ names, 1 };
	refused(w, "unprotect", "tiny", ERR_CONFLICT);
	assert_int_equal(n_jobs(w), 1);
	w->config.protected.n = 0;
	assert_true(jobs_protected(w->registry, STR("tiny"), &text));
	assert_non_null(act(w, "unprotect", "tiny"));
	assert_false(jobs_protected(w->registry, STR("tiny"), &text));
}

static void nothing_is_made_over_what_is_protected(void **state)
{
	static const char *names[2] = { "TINY", "not-here" };
	struct world *w = world_up(state);

	until(w, listed(w));
	assert_int_equal(check(w, "create", "new", "tiny"), ERR_OK);
	assert_int_equal(check(w, "copy", "new", "tiny"), ERR_OK);
	assert_int_equal(check(w, "create", "tiny", ""), ERR_OK);
	w->config.protected = (struct opt_list){ names, 2 };
	assert_int_equal(check(w, "create", "tiny", ""), ERR_FORBIDDEN);
	assert_int_equal(check(w, "copy", "Tiny:latest", "tiny"), ERR_FORBIDDEN);
	/* it may have come since the last listing; a pull is how it comes for the first time */
	assert_int_equal(check(w, "create", "Not-Here", ""), ERR_FORBIDDEN);
	assert_non_null(act(w, "pull", "not-here"));
	assert_int_equal(check(w, "create", "new", "nowhere"), ERR_MODEL_NOT_FOUND);
	assert_int_equal(check(w, "create", "../new", ""), ERR_INVALID);
	assert_int_equal(check(w, "push", "tiny", ""), ERR_FORBIDDEN);
	assert_int_equal(check(w, "blob", "", ""), ERR_OK);
	w->config.protected.n = 0;
}

static void protected_during_the_grace_time_it_stays(void **state)
{
	static const char *names[1] = { "tiny" };
	struct world *w = world_up(state);
	struct job *j;

	until(w, listed(w));
	j = jobs_act(w->jobs, STR("delete"), STR("tiny"), STR(""), 200, &joined, &last);
	w->config.protected = (struct opt_list){ names, 1 };
	until(w, j->state == JOB_FAILED);
	assert_int_equal(w->o.deletes, 0);
	until(w, listed(w));
}

static void what_is_pinned_is_loaded_again(void **state)
{
	struct world *w = world_up(state);

	until(w, listed(w));
	assert_non_null(act(w, "pin", "tiny"));
	until(w, w->o.generates == 1);
	assert_non_null(strstr(w->o.asked, "\"keep_alive\":-1"));
	until(w, w->now->models[0]->pinned && w->now->n_replicas == 1 && w->now->replicas[0]->loaded);
	refused(w, "unload", "tiny", ERR_CONFLICT);
	registry_down(w);
	w->o.loaded = false;
	registry_up(w);
	until(w, w->o.generates == 2);
	assert_non_null(act(w, "unpin", "tiny"));
	assert_non_null(act(w, "unload", "tiny"));
	until(w, w->o.unloads == 1);
}

static void what_was_used_most_is_loaded_as_far_as_it_fits(void **state)
{
	static const char *used[] = { "gone", "tiny" };
	struct world *w = world_up(state);
	int64_t memory = 11, plenty = 1000, unknown = -1;

	w->config.preload_top = 1;
	until(w, listed(w));              /* 10 bytes, 12 with what it needs besides */
	assert_int_equal(preload_models(w->jobs, used, 2, &memory), 0);
	w->config.preload_memory = 11;    /* said for each backend */
	assert_int_equal(preload_models(w->jobs, used, 2, &plenty), 0);
	w->config.preload_memory = 0;
	w->config.preload_top = 0;
	assert_int_equal(preload_models(w->jobs, used, 2, &plenty), 0);
	w->config.preload_top = 1;
	assert_int_equal(preload_models(w->jobs, used, 2, &plenty), 1);
	assert_int_equal(plenty, 988);
	until(w, w->o.generates == 1 && w->now->n_replicas && w->now->replicas[0]->loaded);
	assert_int_equal(preload_models(w->jobs, used, 2, &unknown), 0);      /* it is there */
	assert_non_null(act(w, "unload", "tiny"));
	until(w, w->o.unloads == 1 && !w->now->replicas[0]->loaded);
	assert_int_equal(preload_models(w->jobs, used, 2, &unknown), 1);
	until(w, w->o.generates == 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_pull_is_told_joined_and_done, setup, teardown),
		cmocka_unit_test_setup_teardown(a_pull_goes_on_after_a_restart_and_a_break, setup, teardown),
		cmocka_unit_test_setup_teardown(a_pull_that_cannot_be_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(a_cancellation_is_on_disk_when_it_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(what_could_not_be_written_is_written_later, setup, teardown),
		cmocka_unit_test_setup_teardown(names_and_registries_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(a_deletion_waits_hides_and_can_be_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_loaded_leaves_memory_before_the_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_deletes_what_is_protected, setup, teardown),
		cmocka_unit_test_setup_teardown(what_the_configuration_protects_stays_so, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_made_over_what_is_protected, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_used_most_is_loaded_as_far_as_it_fits, setup, teardown),
		cmocka_unit_test_setup_teardown(protected_during_the_grace_time_it_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_pinned_is_loaded_again, setup, teardown),
	};

	clock_init();
	log_threshold = LOG_LEVEL_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
