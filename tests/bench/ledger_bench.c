/* ledger_bench.c - how many facts a second the ledger takes, each exactly once: ledger_bench URL [FACTS].
 *
 * The database must be empty; on a server its schema is made first. Two sorts of traffic: attempts that are told of by their FINAL alone, and those
 * whose START came in a batch before. A tenth of all batches is sent once more, as after a lost answer, and at the end the sums have to be what was
 * said, no more, no less. "disk": the time is that until the commit has returned, with what the database does for it. */
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db.h"
#include "services/usage-tracker/ledger.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/query.h"

enum { BATCH = 2000, MODELS = 8, TENANTS = 5 };

struct bench {
	struct ledger *l;
	struct arena *mem;            /* of the batch in hand */
	uint64_t position;
	size_t facts, next_request, finals;
	uint64_t prompt_tokens, completion_tokens;
	int64_t server;               /* the process of the server that works for this one; 0 = there is none */
};

static void stop(const char *what)
{
	fprintf(stderr, "ledger_bench: %s\n", what);
	exit(1);
}

static void request_id(size_t i, uint8_t id[16])
{
	uint64_t ms = 1795251600000u + i / 20, mixed = (i + 1) * 0x9e3779b97f4a7c15u;

	for (int b = 0; b < 6; b++)
		id[b] = (uint8_t)(ms >> (40 - 8 * b));
	memcpy(id + 6, &mixed, 8);
	memcpy(id + 12, &i, 4);
	id[6] = (uint8_t)(0x70 | (id[6] & 15));
	id[8] = (uint8_t)(0x80 | (id[8] & 63));
}

static struct str fact(struct bench *b, size_t request, bool final)
{
	static char *const models[MODELS] = { "m0:7b", "m1:7b", "m2:7b", "m3:7b", "m4:7b", "m5:7b", "m6:7b", "m7:7b" };
	static char *const tenants[TENANTS] = { "default", "one", "two", "three", "four" };
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16];
	char *packed;

	request_id(request, id);
	e.kind = final ? CORRAL__USAGE_KIND__USAGE_FINAL : CORRAL__USAGE_KIND__USAGE_START;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.attempt = 1;
	e.seq = final ? 2 : 1;
	e.tenant = tenants[request % TENANTS];
	e.model = models[request % MODELS];
	e.key_id = (char *)"k_0123456789";
	e.backend = (char *)"gpu1";
	e.dialect = (char *)"openai";
	e.occurred_at_us = (int64_t)(1795251600000000u + request * 50);
	if (final) {
		e.status = (char *)"ok";
		e.prompt_tokens = 100 + request % 900;
		e.completion_tokens = request % 500;
		e.latency_us = (int64_t)(200000 + request % 1000 * 1000);
	}
	packed = arena_alloc(b->mem, corral__usage_event__get_packed_size(&e));
	return str_n(packed, corral__usage_event__pack(&e, (uint8_t *)packed));
}

static enum ledger_outcome send(struct bench *b, const struct str *records, size_t n, uint64_t first)
{
	struct ledger_batch batch = { STR("usage.v1"), STR("bench/0"), 1, first, first + n, NULL, records, n };
	uint64_t position;
	struct why why = { 0 };
	enum ledger_outcome o = ledger_ingest(b->l, &batch, &position, NULL, &why);

	if (o == LEDGER_FAILED || o == LEDGER_STALE)
		stop(why.text);
	return o;
}

static void batch_send(struct bench *b, size_t from, bool final)
{
	struct str records[BATCH];

	for (size_t i = 0; i < BATCH; i++) {
		records[i] = fact(b, from + i, final);
		if (final) {
			b->prompt_tokens += 100 + (from + i) % 900;
			b->completion_tokens += (from + i) % 500;
		}
	}
	if (send(b, records, BATCH, b->position) != LEDGER_APPLIED)
		stop("a batch that follows the one before was not taken");
	if (b->position / BATCH % 10 == 9 && send(b, records, BATCH, b->position) != LEDGER_OUT_OF_ORDER)
		stop("a batch was taken twice");
	b->position += BATCH;
	b->facts += BATCH;
	b->finals += final ? BATCH : 0;
	arena_reset(b->mem);
}

static double cpu_s(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static bool keep_pid(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

/* Of the server's process, where it runs on this machine. */
static double server_cpu_s(const struct bench *b)
{
	unsigned long user = 0, system = 0;
	char path[40];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)b->server);
	f = b->server ? fopen(path, "r") : NULL;
	if (f && fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
		stop("the server's /proc/PID/stat cannot be read");
	if (f)
		fclose(f);
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void measure(struct bench *b, const char *what, size_t facts, bool pairs)
{
	int64_t began_us = mono_us();
	double cpu = cpu_s(), server = server_cpu_s(b);
	size_t before = b->facts;

	while (b->facts - before < facts) {
		if (pairs)
			batch_send(b, b->next_request, false);
		batch_send(b, b->next_request, true);
		b->next_request += BATCH;
	}
	printf("%-34s %8.0f facts/s, %5.2f us of CPU each in this process", what, (double)(b->facts - before) * 1e6 / (double)(mono_us() - began_us),
	       (cpu_s() - cpu) * 1e6 / (double)(b->facts - before));
	if (b->server)
		printf(", %5.2f us in the server's", (server_cpu_s(b) - server) * 1e6 / (double)(b->facts - before));
	printf("\n");
}

static void check(struct bench *b)
{
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	Corral__UsageReport r;
	struct why why;

	if (!usage_query(b->l, &q, wall_us(), b->mem, &r, &why))
		stop(why.text);
	if (r.totals->attempts != b->finals || r.totals->prompt_tokens != b->prompt_tokens || r.totals->completion_tokens != b->completion_tokens)
		stop("the sums are not what was sent");
	printf("%-34s %8zu facts, and the sums are as they were sent\n", "", b->facts);
}

int main(int argc, char **argv)
{
	struct bench b = { .mem = arena_new(1 << 20) };
	struct why why = { 0 };
	uint64_t facts = 200000;

	if (argc < 2 || (argc > 2 && !str_u64(str_of(argv[2]), &facts)))
		stop("usage: ledger_bench URL [FACTS]");
	if (!db_migrates_at_open(argv[1]) && !db_migrate(argv[1], ledger_migrations, NULL, NULL, &why))
		stop(why.text);
	b.l = ledger_open(argv[1], &why);
	if (!b.l)
		stop(why.text);
	if (!db_migrates_at_open(argv[1]) && !db_query(ledger_db(b.l), "SELECT pg_backend_pid()", NULL, 0, keep_pid, &b.server, &why))
		stop(why.text);
	measure(&b, "each attempt by its FINAL alone:", facts, false);
	measure(&b, "each by a START, later a FINAL:", facts, true);
	check(&b);
	ledger_close(b.l);
	arena_free(b.mem);
	return 0;
}
