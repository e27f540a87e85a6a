/* experiments.c - the proof of the statistics of experiments, by simulation with the functions that ship: `make proof-experiments`.
 *
 *   experiments [RUNS [SEED [PART]]]      10,000 runs of each kind, seed 2026; only assignment, split, differences, guards,
 *                                         changes, verdicts or equal
 *
 * Prints one line for each kind and what was promised of it; ends with 1 when a promise is not kept. The same seed gives the same figures, however
 * many threads there are. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/policy/experiment.h"
#include "tests/proofs/simulate.h"

enum { RUNS_MAX = 1000000, THREADS_MAX = 64, MORE = 10 };

static uint64_t seed = 2026;
static unsigned broken;

static void promised(bool kept, const char *promise)
{
	printf("   %s %s\n", kept ? "ok  " : "FAIL", promise);
	broken += !kept;
}

/* Runs of one kind, shared out among threads; what a run gives lies under its number. */
struct batch {
	const struct trial *trial;
	struct sequential s;
	const struct trial *after;    /* the same after a change, and how many outcomes before it */
	uint64_t change;
	double number;                /* a guard's margin, the share of a split */
	void (*one)(struct batch *, uint32_t run);
	struct trial_end *ends;       /* MORE times as many as runs */
	uint32_t runs;
	_Atomic uint32_t next;
};

static void *work(void *arg)
{
	struct batch *b = arg;
	uint32_t run;

	while ((run = atomic_fetch_add(&b->next, 1)) < b->runs)
		b->one(b, run);
	return NULL;
}

static void batch_run(struct batch *b)
{
	pthread_t threads[THREADS_MAX];
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	n = n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
	for (long i = 0; i < n; i++)
		pthread_create(&threads[i], NULL, work, b);
	for (long i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

/* Kinds have seeds far from each other's: name and level are in them. */
static uint64_t seed_of(const struct batch *b, uint32_t run)
{
	uint64_t kind = b->trial ? str_hash(str_of(b->trial->name), seed) : seed + (uint64_t)(b->number * 1000);

	return kind * 0x9e3779b97f4a7c15 + run;
}

static void one_trial(struct batch *b, uint32_t run) { b->ends[run] = trial_run(b->trial, &b->s, seed_of(b, run)); }

static void one_split(struct batch *b, uint32_t run)
{
	b->ends[run].units = split_run(b->number, 20000, seed_of(b, run));
	b->ends[run].sure = b->ends[run].units != 0;
}

static void one_guard(struct batch *b, uint32_t run)
{
	b->ends[run].units = guard_run(b->trial, &b->s, b->number, seed_of(b, run));
	b->ends[run].sure = b->ends[run].units != 0;
}

/* Of all runs, those that were sure after at most so many units. */
static double sure_within(const struct batch *b, uint64_t units)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->runs; i++)
		n += b->ends[i].sure && b->ends[i].units <= units;
	return (double)n / b->runs;
}

static double wrong(const struct batch *b)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->runs; i++)
		n += b->ends[i].sure && !b->ends[i].arm_has_more;
	return (double)n / b->runs;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Units at the end of the run at that rank; runs that were never sure come last. */
static uint64_t units_at(const struct batch *b, double rank)
{
	uint64_t *units = malloc(b->runs * sizeof *units), at;

	if (!units)
		abort();
	for (uint32_t i = 0; i < b->runs; i++)
		units[i] = b->ends[i].sure ? b->ends[i].units : UINT64_MAX;
	qsort(units, b->runs, sizeof *units, by_size);
	at = units[(uint32_t)(rank * (b->runs - 1))];
	free(units);
	return at;
}

static void no_false_alarms(struct batch *b)
{
	static const struct trial trials[] = {
		{ "success .60", SHAPE_RATE, { 0.6, 0.6 }, 0, 0.5, 20000 },
		{ "success .05", SHAPE_RATE, { 0.05, 0.05 }, 0, 0.5, 5000 },
		{ "success .95", SHAPE_RATE, { 0.95, 0.95 }, 0, 0.5, 5000 },
		{ "success .95, one in ten to the arm", SHAPE_RATE, { 0.95, 0.95 }, 0, 0.1, 5000 },
		{ "latency, log sd .5", SHAPE_LOG_NORMAL, { 900, 900 }, 0.5, 0.5, 20000 },
		{ "latency, log sd 2, one in ten to the arm", SHAPE_LOG_NORMAL, { 900, 900 }, 2, 0.1, 5000 },
		{ "rating, mostly five, 3 % one", SHAPE_RATING, { 0.9, 0.9 }, 0, 0.5, 5000 },
		{ "cost, 95 % nothing, the rest log sd 2", SHAPE_COST, { 0.95, 0.95 }, 0, 0.5, 5000 },
		{ "success .50, units that come back", SHAPE_RETURNING, { 0.5, 0.5 }, 0, 0.5, 5000 },
	};

	printf("A/A: %u experiments of each kind, looked at after every outcome\n", b->runs);
	for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
		b->trial = &trials[i];
		b->one = one_trial;
		b->next = 0;
		batch_run(b);
		printf("   %-45s %6llu outcomes, false alarms %.2f %%\n", trials[i].name, (unsigned long long)trials[i].units, 100 * sure_within(b, UINT64_MAX));
		promised(sure_within(b, UINT64_MAX) <= 0.05, "at most 5 % false alarms");
	}
}

static void one_verdict(struct batch *b, uint32_t run)
{
	enum verdict_kind kind = verdict_run(2000, seed_of(b, run));

	b->ends[run] = (struct trial_end){ kind != VERDICT_WAIT, kind == VERDICT_ROLLBACK, kind };
}

static void no_false_verdicts(struct batch *b)
{
	uint32_t by_kind[VERDICT_KINDS] = { 0 };

	printf("whole experiments of equal arms, 2,000 outcomes, success decides, guards on latency and errors, the verdict asked for after every outcome\n");
	b->trial = NULL;
	b->number = 0;
	b->one = one_verdict;
	b->next = 0;
	batch_run(b);
	for (uint32_t i = 0; i < b->runs; i++)
		by_kind[b->ends[i].units]++;
	for (int k = 1; k < VERDICT_KINDS; k++)
		printf("   %-8s %.2f %%\n", verdict_name(k), 100.0 * by_kind[k] / b->runs);
	promised(by_kind[VERDICT_PROMOTE] + by_kind[VERDICT_KEEP] <= b->runs * 0.05, "a winner or a loser in at most 5 %");
	promised(by_kind[VERDICT_ROLLBACK] <= b->runs * 0.05, "a broken guard in at most 5 %");
}

static void finds(struct batch *b, const struct trial *t, double effect, double sd_arm, double sd_champion)
{
	double fixed = sequential_fixed_units(0.05, 0.8, effect, sd_arm, sd_champion);
	double median, most;

	b->trial = t;
	b->one = one_trial;
	b->next = 0;
	batch_run(b);
	median = (double)units_at(b, 0.5) / 2;
	most = (double)units_at(b, 0.8) / 2;
	printf("   %-24s fixed test %.0f per arm; found by %.0f (2 x): %.1f %%, by %.0f (2.5 x): %.1f %%; median %.0f (%.2f x), 80 %% by %.0f (%.2f x); wrong arm %.2f %%\n",
	       t->name, fixed, 2 * fixed, 100 * sure_within(b, (uint64_t)(4 * fixed)), 2.5 * fixed, 100 * sure_within(b, (uint64_t)(5 * fixed)),
	       median, median / fixed, most, most / fixed, 100 * wrong(b));
	promised(sure_within(b, (uint64_t)(5 * fixed)) >= 0.8, "power of at least 80 % within 2.5 x the fixed test's size");
	promised(median <= 1.35 * fixed, "a median sample of at most 1.35 x the fixed test's");
}

static void finds_what_is_there(struct batch *b)
{
	static const struct trial success = { "success .60 and .70", SHAPE_RATE, { 0.6, 0.7 }, 0, 0.5, 20000 };
	static const struct trial near = { "success .60 and .65", SHAPE_RATE, { 0.6, 0.65 }, 0, 0.5, 20000 };
	static const struct trial latency = { "latency 1.1 x, log sd .5", SHAPE_LOG_NORMAL, { 900, 990 }, 0.5, 0.5, 20000 };

	printf("A/B: looked at after every outcome; the fixed test is two-sided, 5 %%, power 80 %%, looked at once\n");
	finds(b, &success, 0.1, sqrt(0.21), sqrt(0.24));
	finds(b, &latency, log(1.1), 0.5, 0.5);
	finds(b, &near, 0.05, sqrt(0.2275), sqrt(0.24));
}

static void sees_a_wrong_split(struct batch *b)
{
	const uint32_t runs = b->runs;

	printf("sample ratio: looked at after every unit\n");
	b->trial = NULL;
	b->one = one_split;
	b->number = 0.55;
	b->next = 0;
	batch_run(b);
	printf("   55/45 instead of 50/50: found within 3,000 units %.1f %%, median %llu\n", 100 * sure_within(b, 3000),
	       (unsigned long long)units_at(b, 0.5));
	promised(sure_within(b, 3000) >= 0.9, "found within 3,000 units with 90 %");
	b->number = 0.5;
	b->next = 0;
	b->runs = runs * MORE;        /* one in a thousand is rare */
	batch_run(b);
	printf("   50/50 over 20,000 units: false alarms %.3f %% of %u\n", 100 * sure_within(b, UINT64_MAX), b->runs);
	promised(sure_within(b, UINT64_MAX) <= 0.001, "at most 0.1 % false alarms");
	b->runs = runs;
}

static void guards_hold(struct batch *b)
{
	static const struct trial edge = { "guard, success .60 and .55", SHAPE_RATE, { 0.6, 0.55 }, 0, 0.1, 5000 };
	static const struct trial bad = { "guard, success .60 and .30", SHAPE_RATE, { 0.6, 0.3 }, 0, 0.1, 5000 };

	printf("one-sided bounds on success, margin .05, one in ten to the arm, looked at after every outcome\n");
	b->one = one_guard;
	b->number = 0.05;
	b->trial = &edge;
	b->next = 0;
	batch_run(b);
	printf("   worse by just the margin: surely worse by more in %.2f %%\n", 100 * sure_within(b, UINT64_MAX));
	promised(sure_within(b, UINT64_MAX) <= 0.05, "at most 5 %");
	b->trial = &bad;
	b->next = 0;
	batch_run(b);
	printf("   .30 instead of .60: surely worse by more than the margin after %llu outcomes at the median, %llu in 99 of 100\n", (unsigned long long)units_at(b, 0.5),
	       (unsigned long long)units_at(b, 0.99));
	promised(sure_within(b, UINT64_MAX) == 1, "always found");
}

static void one_late(struct batch *b, uint32_t run)
{
	uint64_t seed_of_run = seed_of(b, run), at = late_run(b->trial, b->after, b->change, &b->s, b->number, seed_of_run);

	b->ends[run] = (struct trial_end){ at > 0, at > b->change, at > b->change ? at - b->change : at };
}

static void late_batch(struct batch *b, const struct trial *before, const struct trial *after, uint64_t change, double margin)
{
	b->trial = before;
	b->after = after;
	b->change = change;
	b->number = margin;
	b->one = one_late;
	b->next = 0;
	batch_run(b);
}

/* An arm that is no worse for long, and then is: with windows of late outcomes, and by the whole history alone. */
static void turns_bad(struct batch *b, uint64_t change)
{
	const struct trial good = { "turns bad", SHAPE_RATE, { 0.9, 0.9 }, 0, 0.5, change + 200000 }, bad = { "", SHAPE_RATE, { 0.9, 0.3 }, 0, 0.5, 0 };
	const struct trial grew = { "turns somewhat worse", SHAPE_RATE, { 0.9, 0.9 }, 0, 0.5, change + 200000 }, worse = { "", SHAPE_RATE, { 0.9, 0.75 }, 0, 0.5, 0 };

	late_batch(b, &good, &bad, change, 0.05);
	printf("   .90 becomes .30 after %6llu outcomes: found after %llu more at the median, %llu in 99 of 100, before it in %.2f %%\n", (unsigned long long)change,
	       (unsigned long long)units_at(b, 0.5), (unsigned long long)units_at(b, 0.99), 100 * wrong(b));
	promised(sure_within(b, 1000) >= 0.99, "found within 1,000 outcomes in 99 of 100");
	late_batch(b, &grew, &worse, change, 0.05);
	printf("   .90 becomes .75 after %6llu outcomes: found after %llu more at the median, %llu in 99 of 100, before it in %.2f %%\n", (unsigned long long)change,
	       (unsigned long long)units_at(b, 0.5), (unsigned long long)units_at(b, 0.99), 100 * wrong(b));
	promised(sure_within(b, 10000) >= 0.99, "found within 10,000 outcomes in 99 of 100");
}

static void changes_are_found(struct batch *b)
{
	static const struct trial equal[] = {
		{ "late, success .90", SHAPE_RATE, { 0.9, 0.9 }, 0, 0.5, 20000 },
		{ "late, success .60", SHAPE_RATE, { 0.6, 0.6 }, 0, 0.5, 20000 },
		{ "late, success .95, one in ten to the arm", SHAPE_RATE, { 0.95, 0.95 }, 0, 0.1, 20000 },
		{ "late, latency, log sd .5", SHAPE_LOG_NORMAL, { 900, 900 }, 0.5, 0.5, 20000 },
		{ "late, units that come back", SHAPE_RETURNING, { 0.5, 0.5 }, 0, 0.5, 20000 },
	};
	const uint32_t runs = b->runs;

	printf("guards that see late outcomes by themselves, margin 0, looked at after every outcome\n");
	for (size_t i = 0; i < sizeof equal / sizeof *equal; i++) {
		late_batch(b, &equal[i], &equal[i], equal[i].units, 0);
		printf("   %-45s %6llu outcomes, false alarms %.2f %%\n", equal[i].name, (unsigned long long)equal[i].units, 100 * sure_within(b, UINT64_MAX));
		promised(sure_within(b, UINT64_MAX) <= 0.05, "at most 5 % false alarms");
	}
	b->runs = runs < 10 ? runs : runs / 10;
	turns_bad(b, 2000);
	turns_bad(b, 20000);
	turns_bad(b, 100000);
	b->runs = runs;
}

static struct experiment even(const char *id)
{
	struct experiment e = { .id = str_of(id), .traffic = TRAFFIC_ALL, .n_arms = 2, .arms = { { .weight = 1 }, { .weight = 1 } } };
	struct why why;

	if (experiment_prepare(&e, &why) != ERR_OK)
		abort();
	return e;
}

/* The chance of a chi-square of one degree of freedom at least as large as that of the split of n. */
static double p_of_split(uint32_t in_second, uint32_t n)
{
	double off = 2.0 * in_second - n;

	return erfc(sqrt(off * off / n / 2));
}

static uint32_t in_second(const struct experiment *e, uint32_t n)
{
	char name[24];
	uint32_t count = 0;

	for (uint32_t i = 0; i < n; i++)
		count += experiment_arm_of(e, str_n(name, (size_t)snprintf(name, sizeof name, "user%u", i))) == 1;
	return count;
}

static void assigns_uniformly(void)
{
	enum { SALTS = 1000, MANY = 1000000, FEW = 10000 };
	struct experiment e = even("one of many");
	uint32_t b = in_second(&e, MANY), rare = 0, middle = 0;
	char id[16];

	printf("assignment: units with consecutive names\n");
	printf("   1,000,000 of one experiment: %u in the second arm, chi-square p = %.3f\n", b, p_of_split(b, MANY));
	promised(p_of_split(b, MANY) > 0.001, "uniform: p above .001");
	promised(in_second(&e, MANY) == b, "the same again");
	for (uint32_t i = 0; i < SALTS; i++) {
		double p;

		snprintf(id, sizeof id, "exp-%u", i);
		e = even(id);
		p = p_of_split(in_second(&e, FEW), FEW);
		rare += p < 0.01;
		middle += p < 0.5;
	}
	printf("   10,000 of each of 1,000 experiments: p under .01 in %u, under .5 in %u\n", rare, middle);
	promised(rare <= 23, "no more unlikely splits than chance has (10 ± 4 standard deviations)");
	promised(middle >= 437 && middle <= 563, "and no more likely ones (500 ± 4)");
}

static void assignment_part(struct batch *b) { assigns_uniformly(); }

static const struct part { const char *name; void (*run)(struct batch *); } parts[] = {
	{ "assignment", assignment_part }, { "split", sees_a_wrong_split }, { "differences", finds_what_is_there }, { "guards", guards_hold },
	{ "changes", changes_are_found }, { "verdicts", no_false_verdicts }, { "equal", no_false_alarms },
};

int main(int argc, char **argv)
{
	uint64_t runs = 10000;
	struct batch b = { .s = sequential_default() };
	unsigned tried = 0;

	if ((argc > 1 && !str_u64(str_of(argv[1]), &runs)) || (argc > 2 && !str_u64(str_of(argv[2]), &seed)) || runs < 1 || runs > RUNS_MAX) {
		fprintf(stderr, "usage: experiments [RUNS [SEED [PART]]]\n");
		return 2;
	}
	b.runs = (uint32_t)runs;
	b.ends = calloc(b.runs, MORE * sizeof *b.ends);
	if (!b.ends)
		abort();
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("seed %llu\n", (unsigned long long)seed);
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		if (argc < 4 || strcmp(argv[3], parts[i].name) == 0) {
			parts[i].run(&b);
			tried++;
		}
	free(b.ends);
	printf("%s\n", broken ? "NOT ALL PROMISES ARE KEPT" : tried ? "all promises are kept" : "there is no such part");
	return broken || !tried;
}
