/* outbox_test.c - what is in the spools reaches the services that keep it: over one that is away, and out of spools that nobody owns. */
#include "services/gateway/gateway_test.h"

#include <fcntl.h>

#include "facts.pb-c.h"
#include "services/gateway/outbox.h"
#include "services/gateway/usage_pack.h"

/* --- a service that keeps facts, as far as the outbox can see --- */

enum { SOURCES = 8 };
struct kept { char topic[16], source[64]; uint64_t cursor; unsigned records; };

static struct kept kept[SOURCES];
static unsigned n_kept, refused, refusing;
static char statuses[128];
static struct rpc_server *ledger, *selector;
static struct outbox *out;

/* "gateway-NAME/usage-0" without the name, which is random. */
static struct kept *of(const char *topic, const char *source)
{
	source = strrchr(source, '/');
	assert_non_null(source);
	for (unsigned i = 0; i < n_kept; i++)
		if (strcmp(kept[i].source, source) == 0 && strcmp(kept[i].topic, topic) == 0)
			return &kept[i];
	assert_true(n_kept < SOURCES);
	str_copy(kept[n_kept].topic, sizeof(kept[n_kept].topic), str_of(topic));
	str_copy(kept[n_kept].source, sizeof(kept[n_kept].source), str_of(source));
	return &kept[n_kept++];
}

static void cursor(Corral__Facts_Service *service, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	ack.position = of(q->topic, q->source)->cursor;
	closure(&ack, data);
}

static void read_usage(const ProtobufCBinaryData *record)
{
	Corral__UsageEvent *e = corral__usage_event__unpack(NULL, record->len, record->data);

	assert_non_null(e);
	assert_int_equal(e->kind == CORRAL__USAGE_KIND__USAGE_START || e->kind == CORRAL__USAGE_KIND__USAGE_FINAL, 1);
	snprintf(statuses + strlen(statuses), sizeof(statuses) - strlen(statuses), "%s ", *e->status ? e->status : "start");
	corral__usage_event__free_unpacked(e, NULL);
}

static void ingest(Corral__Facts_Service *service, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	struct kept *k = of(b->topic, b->source);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	if (refusing) {
		refusing--;
		refused++;
		rpc_fail(data, ERR_STORE_FAILED, "the disk is full");
		return;
	}
	if (b->first == k->cursor) {
		for (size_t i = 0; i < b->n_records; i++)
			if (strcmp(b->topic, "usage.v1") == 0)
				read_usage(&b->records[i]);
		k->records += (unsigned)b->n_records;
		k->cursor = b->next;
	}
	ack.position = k->cursor;
	closure(&ack, data);
}

static Corral__Facts_Service facts = { .base = { .descriptor = &corral__facts__descriptor, .invoke = protobuf_c_service_invoke_internal } };

static void service_open(struct rpc_server **server, const char *url)
{
	struct why why;

	*server = rpc_server_new(h.loop, url, &why);
	assert_non_null(*server);
	rpc_server_add(*server, &facts.base);
}

static int open_all(void **state)
{
	house_open(state);
	memset(kept, 0, sizeof(kept));
	n_kept = refused = refusing = 0;
	*statuses = '\0';
	out = NULL;
	facts.cursor = cursor;
	facts.ingest = ingest;
	service_open(&ledger, "inproc://gateway-test-ledger");
	service_open(&selector, "inproc://gateway-test-selector");
	return 0;
}

static int close_all(void **state)
{
	outbox_free(out);
	rpc_server_free(ledger);
	rpc_server_free(selector);
	return house_close(state);
}

static bool is_empty(void)
{
	outbox_kick(out);
	return outbox_empty(out);
}

static bool was_refused(void)
{
	outbox_kick(out);
	return refused > 0;
}

/* --- tests --- */

static void facts_go_to_who_keeps_them_and_notes_stay_here(void **state)
{
	out = outbox_new(&h.gw, NULL);
	chat(CHAT("m", ""));
	chat(CHAT("auto", ",\"stream\":true"));
	h.does = CUTS;
	chat(CHAT("m", ""));
	run_until(is_empty);
	assert_string_equal(statuses, "ok ok error ok ");         /* no BEGUN, no CHECKPOINT */
	assert_int_equal(of("decision.v1", "/decisions-0")->records, 1);
	assert_int_equal(of("usage.v1", "/usage-0")->cursor, spool_end(h.w->usage));
}

static void a_ledger_that_comes_late_gets_everything(void **state)
{
	rpc_server_free(ledger);
	ledger = NULL;
	out = outbox_new(&h.gw, NULL);
	chat(CHAT("m", ""));
	for (int i = 0; i < 10; i++)
		turn();
	assert_false(is_empty());
	assert_int_equal(reply.status, 200);                      /* nobody waits for the ledger */
	service_open(&ledger, "inproc://gateway-test-ledger");
	run_until(is_empty);
	assert_string_equal(statuses, "ok ");
}

static void a_ledger_that_cannot_write_is_asked_again(void **state)
{
	out = outbox_new(&h.gw, NULL);
	refusing = 1;
	chat(CHAT("m", ""));
	run_until(was_refused);
	assert_string_equal(statuses, "");
	run_until(is_empty);
	assert_string_equal(statuses, "ok ");
}

static void left_behind(const char *name, uint8_t type, const char *status)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16] = { 1 }, packed[256];
	char dir[160];
	struct why why;
	struct spool *s;

	snprintf(dir, sizeof(dir), "%s/spool/%s", h.dir, name);
	s = spool_open(dir, NULL, &why);
	assert_non_null(s);
	e.request_id = (ProtobufCBinaryData){ sizeof(id), id };
	e.attempt = 1;
	e.kind = type == REC_FINAL ? CORRAL__USAGE_KIND__USAGE_FINAL : CORRAL__USAGE_KIND__USAGE_START;
	e.status = (char *)status;
	assert_true(spool_append(s, type, str_n((char *)packed, usage_pack(&e, packed)), &why) >= 0);
	spool_close(s);
}

/* The last run had eight workers, this one has one. */
static void spools_of_workers_that_are_no_more_are_shipped_and_closed(void **state)
{
	left_behind("usage-7", REC_BEGUN, "");
	left_behind("usage-5", REC_FINAL, "cancelled");
	out = outbox_new(&h.gw, NULL);
	run_until(is_empty);
	assert_non_null(strstr(statuses, "unknown "));
	assert_non_null(strstr(statuses, "cancelled "));
	assert_int_equal(of("usage.v1", "/usage-7")->records, 1);
	assert_int_equal(of("usage.v1", "/usage-5")->records, 1);
}

/* A process that drains beside us, after a handover. */
static struct spool *others;

static void others_open(const char *name)
{
	char dir[160];
	struct why why;

	snprintf(dir, sizeof(dir), "%s/spool/%s", h.dir, name);
	others = spool_open(dir, NULL, &why);
	if (!others)
		fail_msg("%s", why.text);
}

static bool others_shipped(void)
{
	outbox_sweep(out);
	return strstr(statuses, "error ") != NULL;
}

static void what_another_process_writes_is_shipped_when_it_has_ended(void **state)
{
	left_behind("usage-3", REC_FINAL, "error");
	others_open("usage-3");
	out = outbox_new(&h.gw, NULL);
	chat(CHAT("m", ""));
	run_until(is_empty);
	outbox_sweep(out);
	assert_string_equal(statuses, "ok ");
	spool_close(others);
	run_until(others_shipped);
	assert_string_equal(statuses, "ok error ");
	run_until(is_empty);
	outbox_sweep(out);
	others_open("usage-3");                   /* closed here once it was shipped: whoever comes may write it */
	spool_close(others);
}

static void a_successor_takes_spools_that_nobody_writes(void **state)
{
	assert_int_equal(outbox_free_base(&h.gw), 1);     /* the first is the harness's worker's */
	others_open("decisions-1");
	assert_int_equal(outbox_free_base(&h.gw), 2);
	h.gw.n_workers = 3;
	assert_int_equal(outbox_free_base(&h.gw), 2);
	spool_close(others);
	assert_int_equal(outbox_free_base(&h.gw), 1);
	h.gw.n_workers = 1;
	out = outbox_new(&h.gw, NULL);
}

static void what_is_no_spool_stops_nobody(void **state)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/spool/usage-9", h.dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);                /* a file where a directory is expected */
	assert_true(fd >= 0);
	close(fd);
	snprintf(path, sizeof(path), "%s/spool/.lost", h.dir);
	assert_int_equal(mkdir(path, 0700), 0);
	out = outbox_new(&h.gw, NULL);
	chat(CHAT("m", ""));
	run_until(is_empty);
	assert_string_equal(statuses, "ok ");
}

static bool first_piece(void) { return has_body("w0 "); }
static bool all_there(void) { return is_empty() && strstr(statuses, "cancelled"); }

static struct reply other;                /* another client */
static bool other_is_there(void) { return other.done && is_empty() && strstr(statuses, "ok"); }

/* A long stream: its BEGUN must be there after a crash, though the ledger has everything that is newer. */
static void what_an_open_attempt_began_stays_on_disk_until_it_ends(void **state)
{
	static char filling[8000];
	uint64_t with, without;
	struct why why;

	out = outbox_new(&h.gw, NULL);
	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("only", ",\"stream\":true"));
	run_until(first_piece);
	for (int i = 0; i < 40; i++)                              /* five segments of 64 KiB */
		assert_true(spool_append(h.w->usage, FILLING, str_n(filling, sizeof(filling)), &why) >= 0);
	h.does_b = ANSWERS;
	send_as(&other, "POST", "/v1/chat/completions", "", CHAT("m", ""));
	run_until(other_is_there);
	with = spool_bytes(h.w->usage);
	assert_true(with >= 5 * (64 << 10));
	reply_free(&reply);
	run_until(no_requests);
	run_until(all_there);
	without = spool_bytes(h.w->usage);
	assert_true(without <= 2 * (64 << 10));
	assert_string_equal(statuses, "ok cancelled ");
	reply_free(&other);
}

#define T(f) cmocka_unit_test_setup_teardown(f, open_all, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(facts_go_to_who_keeps_them_and_notes_stay_here), T(a_ledger_that_comes_late_gets_everything),
		T(a_ledger_that_cannot_write_is_asked_again), T(spools_of_workers_that_are_no_more_are_shipped_and_closed),
		T(what_another_process_writes_is_shipped_when_it_has_ended), T(a_successor_takes_spools_that_nobody_writes),
		T(what_is_no_spool_stops_nobody),
		T(what_an_open_attempt_began_stays_on_disk_until_it_ends),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
