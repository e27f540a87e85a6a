/* gazette_test.c - what changes in the catalogue is told: each change once, nothing of load, and over kill -9 nothing twice with another id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/spool.h"
#include "events.pb-c.h"
#include "services/model-registry/gazette.h"

enum { MOST = 20000 };
#define UP CORRAL__BACKEND_STATE__BACKEND_UP
#define DOWN CORRAL__BACKEND_STATE__BACKEND_DOWN
#define UNKNOWN CORRAL__BACKEND_STATE__BACKEND_UNKNOWN

struct fixture {
	char dir[64];
	struct arena *mem;
	struct herald *h;
	struct gazette *g;
	struct snapshot_id id;
	size_t read;                  /* events that were looked at */
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void open_it(struct fixture *f)
{
	const struct herald_opts o = { .root = arena_printf(f->mem, "%s/spool", f->dir), .service = "model-registry", .name = "catalogue", .topic = "catalogue.v1" };

	f->h = herald_new(NULL, &o);
	f->g = gazette_new(f->h, f->dir);
}

static void close_it(struct fixture *f)
{
	gazette_free(f->g);
	herald_free(f->h);
	f->g = NULL;
	f->h = NULL;
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/gazette-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->mem = arena_new(1 << 16);
	f->id = (struct snapshot_id){ 7, 1 };
	open_it(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_it(f);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* --- snapshots --- */

static Corral__ModelSnapshot *nothing(struct fixture *f)
{
	Corral__ModelSnapshot *s = arena_new_of(f->mem, Corral__ModelSnapshot);

	corral__model_snapshot__init(s);
	s->backends = arena_array(f->mem, Corral__Backend *, 8);
	s->models = arena_array(f->mem, Corral__Model *, MOST);
	s->replicas = arena_array(f->mem, Corral__Replica *, MOST);
	return s;
}

static Corral__Backend *backend(struct fixture *f, Corral__ModelSnapshot *s, const char *name, Corral__BackendState state)
{
	Corral__Backend *b = s->backends[s->n_backends++] = arena_new_of(f->mem, Corral__Backend);

	corral__backend__init(b);
	b->name = (char *)name;
	b->state = state;
	b->reason = (char *)(state == DOWN ? "nobody there" : "");
	return b;
}

/* In the order of their names. */
static Corral__Model *model(struct fixture *f, Corral__ModelSnapshot *s, const char *name, const char *digest)
{
	Corral__Model *m = s->models[s->n_models++] = arena_new_of(f->mem, Corral__Model);

	corral__model__init(m);
	m->name = (char *)name;
	m->digest = (char *)digest;
	return m;
}

static Corral__Replica *replica(struct fixture *f, Corral__ModelSnapshot *s, const char *of, const char *at, bool loaded)
{
	Corral__Replica *r = s->replicas[s->n_replicas++] = arena_new_of(f->mem, Corral__Replica);

	corral__replica__init(r);
	r->model = (char *)of;
	r->backend = (char *)at;
	r->loaded = loaded;
	return r;
}

/* One model "m" at "a". */
static Corral__ModelSnapshot *usual(struct fixture *f, Corral__BackendState state, const char *digest, bool loaded)
{
	Corral__ModelSnapshot *s = nothing(f);

	backend(f, s, "a", state);
	model(f, s, "m", digest);
	replica(f, s, "m", "a", loaded);
	return s;
}

/* --- what was told --- */

static size_t events(struct fixture *f, Corral__CatalogueEvent **ret)
{
	struct why why;
	struct spool_reader *r = spool_reader_open(arena_printf(f->mem, "%s/spool/catalogue-0", f->dir), 0, &why);
	struct str payload;
	uint64_t at, next;
	uint8_t type;
	size_t n = 0;

	assert_non_null(r);
	while (spool_read(r, &type, &payload, &at, &next, &why) > 0) {
		assert_true(n < MOST);
		ret[n] = corral__catalogue_event__unpack(NULL, payload.n, (const uint8_t *)payload.p);
		assert_true(ret[n] && ret[n]->event_id.len == 16 && ret[n]->occurred_at_us > 0);
		n++;
	}
	spool_reader_close(r);
	return n;
}

static void free_all(Corral__CatalogueEvent **v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		corral__catalogue_event__free_unpacked(v[i], NULL);
}

/* "backend_up@a model_appeared:m": what is new in the spool. */
static const char *told(struct fixture *f)
{
	static Corral__CatalogueEvent *v[MOST];
	size_t n = events(f, v);
	const char *all = "";

	for (size_t i = f->read; i < n; i++) {
		assert_int_equal(v[i]->epoch, 7);
		all = arena_printf(f->mem, "%s%s%s%s%s%s%s%s%s", all, *all ? " " : "", v[i]->kind, *v[i]->model ? ":" : "", v[i]->model, *v[i]->backend ? "@" : "", v[i]->backend,
				   *v[i]->changed ? "=" : "", v[i]->changed);
	}
	f->read = n;
	free_all(v, n);
	return all;
}

/* Until all is told: what was told before has to come to the disk. */
static void hear(struct fixture *f, const Corral__ModelSnapshot *s)
{
	int i = 0;

	while (i < 2000 && !gazette_hear(f->g, s, f->id)) {
		usleep(5000);
		i++;
	}
	assert_in_range(i, 0, 1999);
}

static const char *after(struct fixture *f, const Corral__ModelSnapshot *s)
{
	f->id.version++;
	hear(f, s);
	return told(f);
}

/* --- tests --- */

static void lose_the_spool(struct fixture *f)
{
	close_it(f);
	nftw(arena_printf(f->mem, "%s/spool", f->dir), remove_one, 16, FTW_DEPTH | FTW_PHYS);
	f->read = 0;
}

static void each_change_is_told(void **state)
{
	struct fixture *f = *state;
	Corral__ModelSnapshot *s;

	assert_string_equal(after(f, usual(f, UNKNOWN, "1", false)), "model_appeared:m");
	assert_string_equal(after(f, usual(f, UP, "1", false)), "backend_up@a");
	assert_string_equal(after(f, usual(f, UP, "1", true)), "replica_loaded:m@a");
	assert_string_equal(after(f, usual(f, UP, "2", true)), "model_changed:m=digest");
	assert_string_equal(after(f, usual(f, DOWN, "2", false)), "backend_down@a");        /* what it has loaded is not known */
	assert_string_equal(after(f, usual(f, UP, "2", true)), "backend_up@a");
	assert_string_equal(after(f, usual(f, DOWN, "2", false)), "backend_down@a");
	assert_string_equal(after(f, usual(f, UP, "2", false)), "backend_up@a replica_unloaded:m@a");
	s = usual(f, UP, "2", true);
	backend(f, s, "b", UP);
	replica(f, s, "m", "b", true);
	model(f, s, "n", "9")->context_length = 8;
	assert_string_equal(after(f, s), "backend_up@b model_changed:m=backends model_appeared:n replica_loaded:m@a replica_loaded:m@b");
	s = usual(f, UP, "2", true);
	model(f, s, "n", "9")->context_length = 16;
	assert_string_equal(after(f, s), "backend_gone@b model_changed:m=backends model_changed:n=context_length replica_unloaded:m@b");
	assert_string_equal(after(f, usual(f, UP, "2", true)), "model_gone:n");
}

static void load_is_no_news(void **state)
{
	struct fixture *f = *state;
	Corral__ModelSnapshot *s = usual(f, UP, "1", true);

	(void)after(f, s);
	s = usual(f, UP, "1", true);
	s->backends[0]->checked_at_us = 5;
	s->backends[0]->slots = 9;
	s->models[0]->last_synced_us = 5;
	s->replicas[0]->expires_at_us = 5;
	s->replicas[0]->size_vram_bytes = 5;
	assert_string_equal(after(f, s), "");
	assert_string_equal(after(f, usual(f, UNKNOWN, "1", false)), "");           /* after a start, before anybody was asked */
	assert_string_equal(after(f, usual(f, UP, "1", true)), "");
}

static void an_event_says_how_it_is(void **state)
{
	static Corral__CatalogueEvent *v[MOST];
	struct fixture *f = *state;
	Corral__ModelSnapshot *s = usual(f, UP, "d", true);
	char *caps[] = { (char *)"completion", (char *)"tools" };
	struct bus_label label = { 0 };
	uint8_t packed[1000];
	size_t n;

	s->models[0]->n_capabilities = 2;
	s->models[0]->capabilities = caps;
	s->models[0]->size_bytes = 123;
	s->models[0]->quantization = (char *)"Q4";
	s->replicas[0]->size_vram_bytes = 77;
	(void)after(f, s);
	n = events(f, v);
	assert_int_equal(n, 3);
	assert_string_equal(v[1]->capabilities, "completion,tools");
	assert_string_equal(v[1]->quantization, "Q4");
	assert_string_equal(v[1]->backends, "a");
	assert_true(v[1]->size_bytes == 123 && v[1]->version == f->id.version && v[2]->size_vram_bytes == 77);
	gazette_label(str_n((char *)packed, corral__catalogue_event__pack(v[0], packed)), &label);
	assert_true(str_eqz(label.key, "a") && label.event_id.n == 16);
	label = (struct bus_label){ 0 };
	gazette_label(str_n((char *)packed, corral__catalogue_event__pack(v[2], packed)), &label);
	assert_true(str_eqz(label.key, "m") && memcmp(label.event_id.p, v[2]->event_id.data, 16) == 0);
	free_all(v, n);
}

static void the_next_process_goes_on(void **state)
{
	struct fixture *f = *state;

	(void)after(f, usual(f, UP, "1", true));
	close_it(f);
	open_it(f);
	assert_string_equal(after(f, usual(f, UNKNOWN, "1", true)), "");
	assert_string_equal(after(f, usual(f, UP, "2", true)), "model_changed:m=digest");
	lose_the_spool(f);
	open_it(f);                               /* what may not have come to the spool is told again */
	assert_string_equal(after(f, usual(f, UP, "2", true)), "model_changed:m=digest");
}

static void while_the_spool_cannot_be_written_it_waits(void **state)
{
	struct fixture *f = *state;
	char *place = arena_printf(f->mem, "%s/spool", f->dir);
	FILE *in_the_way = fopen(place, "w");

	assert_non_null(in_the_way);
	fclose(in_the_way);
	for (int i = 0; i < 50; i++) {
		f->id.version++;
		assert_false(gazette_hear(f->g, usual(f, i % 2 ? DOWN : UP, "1", false), f->id));
	}
	assert_int_equal(remove(place), 0);
	usleep(1050000);                          /* it is not tried again at once */
	assert_string_equal(after(f, usual(f, DOWN, "1", false)), "backend_down@a model_appeared:m");
}

/* A power cut takes what the spool has not synced; the file has it until then. */
static void what_is_not_on_the_disk_stays_in_the_file(void **state)
{
	struct fixture *f = *state;
	const char *told_last = "", *is[] = { "backend_up@a", "backend_down@a" };
	int i = 0;

	(void)after(f, usual(f, UP, "1", true));
	for (i = 1; i < 50 && gazette_hear(f->g, usual(f, i % 2 ? DOWN : UP, "1", false), f->id); i++)
		told_last = is[i % 2];            /* the disk was quick */
	assert_true(i < 50);
	lose_the_spool(f);
	open_it(f);
	if (*told_last)
		assert_string_equal(after(f, usual(f, i % 2 ? DOWN : UP, "1", false)), arena_printf(f->mem, "%s %s", told_last, is[i % 2]));
	else
		assert_string_equal(after(f, usual(f, DOWN, "1", false)), "backend_up@a model_appeared:m replica_loaded:m@a backend_down@a");
}

/* Killed behind the file and before the spool, in whole or in part: the events come, with the ids that they would have had. */
static void what_was_kept_and_not_said_comes_with_its_ids(void **state)
{
	static Corral__CatalogueEvent *v[MOST], *of[MOST];
	struct fixture *f = *state;
	char *spool = arena_printf(f->mem, "%s/spool", f->dir), *before = arena_printf(f->mem, "%s/before", f->dir);
	size_t n, all;

	(void)after(f, usual(f, UP, "1", true));
	close_it(f);
	assert_int_equal(system(arena_printf(f->mem, "cp -r %s %s", spool, before)), 0);
	open_it(f);
	assert_string_equal(after(f, usual(f, DOWN, "2", true)), "backend_down@a model_changed:m=digest");
	all = events(f, of);
	lose_the_spool(f);                        /* as it was before the last batch */
	assert_int_equal(rename(before, spool), 0);
	open_it(f);
	assert_string_equal(after(f, usual(f, DOWN, "3", true)),
			    "backend_up@a model_appeared:m replica_loaded:m@a backend_down@a model_changed:m=digest model_changed:m=digest");
	n = events(f, v);
	assert_int_equal(n, all + 1);
	for (size_t i = 0; i < all; i++)
		assert_memory_equal(v[i]->event_id.data, of[i]->event_id.data, 16);
	free_all(v, n);
	free_all(of, all);
}

static const char *name_of(struct fixture *f, int i) { return arena_printf(f->mem, "m%06d", i); }

/* Its models are those up to 'last'. */
static Corral__ModelSnapshot *grown(struct fixture *f, int last)
{
	Corral__ModelSnapshot *s = nothing(f);

	for (int i = 0; i <= last; i++)
		model(f, s, name_of(f, i), "1");
	return s;
}

static int number_of(const Corral__CatalogueEvent *e)
{
	uint64_t n;

	assert_true(str_u64(str_of(e->model + 1), &n) && n < MOST);
	return (int)n;
}

/* A byte to 'say' for each that was heard. */
static _Noreturn void grow_until_killed(struct fixture *f, int from, int say)
{
	open_it(f);
	for (int i = from; i < MOST; i++) {
		Corral__ModelSnapshot *s = grown(f, i);

		while (!gazette_hear(f->g, s, f->id))
			usleep(2000);
		arena_reset(f->mem);
		if (write(say, "", 1) != 1)
			break;
	}
	_exit(1);
}

static void kill_9_tells_each_with_one_id(void **state)
{
	static Corral__CatalogueEvent *v[MOST], *of[MOST];
	struct fixture *f = *state;
	int last = -1;
	size_t n;

	close_it(f);
	for (int round = 0; round < 16; round++) {
		int heard[2];
		pid_t child;
		char byte;

		assert_int_equal(pipe(heard), 0);
		child = fork();
		if (child == 0)
			grow_until_killed(f, last + 1, heard[1]);
		for (int i = 0; i <= 1 + round % 4; i++)
			assert_int_equal(read(heard[0], &byte, 1), 1);
		usleep((useconds_t)(round * 37 % 400));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		close(heard[0]);
		close(heard[1]);
		n = events(f, v);
		for (size_t i = 0; i < n; i++)
			last = number_of(v[i]) > last ? number_of(v[i]) : last;
		free_all(v, n);
	}
	assert_true(last > 16);
	open_it(f);
	f->id.version++;
	hear(f, grown(f, last + 1));
	n = events(f, v);
	for (size_t i = 0; i < n; i++) {
		int which = number_of(v[i]);

		assert_string_equal(v[i]->kind, "model_appeared");
		if (of[which])
			assert_memory_equal(of[which]->event_id.data, v[i]->event_id.data, 16);
		of[which] = v[i];
	}
	for (int i = 0; i <= last + 1; i++)
		assert_non_null(of[i]);
	free_all(v, n);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_change_is_told), T(load_is_no_news), T(an_event_says_how_it_is), T(the_next_process_goes_on), T(while_the_spool_cannot_be_written_it_waits),
		T(what_is_not_on_the_disk_stays_in_the_file), T(what_was_kept_and_not_said_comes_with_its_ids), T(kill_9_tells_each_with_one_id),
	};

	clock_init();
	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
