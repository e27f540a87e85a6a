/* account_test.c - the books: one FINAL for every attempt whatever happens, after a restart and on a full disk too. */
#include "services/gateway/gateway_test.h"

#include "services/gateway/usage_pack.h"

/* --- a spool of an earlier run --- */

static char spool_dir[128];

static struct spool *open_old(void)
{
	struct why why;
	struct spool *s;

	snprintf(spool_dir, sizeof(spool_dir), "%s/old", h.dir);
	s = spool_open(spool_dir, NULL, &why);
	assert_non_null(s);
	return s;
}

static void write_down(struct spool *s, uint8_t type, char request, uint32_t attempt, uint64_t completion)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16], packed[512];
	struct why why;

	memset(id, request, sizeof(id));
	e.request_id = (ProtobufCBinaryData){ sizeof(id), id };
	e.attempt = attempt;
	e.completion_tokens = completion;
	e.prompt_tokens = completion ? 7 : 0;
	e.tokens_source = completion ? CORRAL__TOKENS_SOURCE__TOKENS_COUNTED : 0;
	e.prompt_tokens_source = completion ? CORRAL__TOKENS_SOURCE__TOKENS_ESTIMATED : 0;
	if (type != REC_CHECKPOINT) {
		e.model = (char *)"m";
		e.backend = (char *)"a";
		e.status = (char *)(type == REC_FINAL ? "ok" : "");
	}
	assert_true(spool_append(s, type, str_n((char *)packed, usage_pack(&e, packed)), &why) >= 0);
}

static struct booked read_old(void)
{
	char dir[sizeof(h.w->usage_dir)];
	struct booked b;

	str_copy(dir, sizeof(dir), str_of(h.w->usage_dir));
	str_copy(h.w->usage_dir, sizeof(h.w->usage_dir), str_of(spool_dir));
	b = books();
	str_copy(h.w->usage_dir, sizeof(h.w->usage_dir), str_of(dir));
	return b;
}

static void what_a_crash_left_open_is_closed_once_with_what_was_last_known(void **state)
{
	struct spool *s = open_old();
	struct booked b;
	struct why why;

	write_down(s, REC_BEGUN, 'x', 1, 0);
	write_down(s, REC_FINAL, 'x', 1, 2);
	write_down(s, REC_BEGUN, 'x', 2, 0);
	write_down(s, REC_CHECKPOINT, 'x', 2, 10);
	write_down(s, REC_START, 'x', 2, 0);
	write_down(s, REC_CHECKPOINT, 'x', 2, 20);
	write_down(s, REC_CHECKPOINT, 'y', 1, 99);        /* of nobody */
	write_down(s, REC_FINAL, 'z', 0, 0);              /* stands alone */
	assert_int_equal(account_recover(s, spool_dir, &why), 1);
	b = read_old();
	assert_string_equal(b.story, "1ok@a 0ok@a 2unknown@a ");
	assert_string_equal(b.model, "m");
	assert_int_equal(b.completion, 20);
	assert_int_equal(b.prompt, 7);
	assert_int_equal(b.tokens, CORRAL__TOKENS_SOURCE__TOKENS_COUNTED);
	assert_int_equal(b.prompt_source, CORRAL__TOKENS_SOURCE__TOKENS_ESTIMATED);
	assert_int_equal(account_recover(s, spool_dir, &why), 0);
	spool_close(s);
}

static void many_open_attempts_are_all_closed(void **state)
{
	struct spool *s = open_old();
	struct why why;

	for (uint32_t i = 1; i <= 3000; i++) {            /* more than the table has buckets */
		write_down(s, REC_BEGUN, (char)(i % 100), i, 0);
		if (i % 3 == 0)
			write_down(s, REC_FINAL, (char)(i % 100), i, 0);
	}
	assert_int_equal(account_recover(s, spool_dir, &why), 2000);
	assert_int_equal(read_old().finals, 3000);
	spool_close(s);
}

/* A newer version's record, or one of a broken disk that its checksum let through: no reason not to start. */
static void records_that_make_no_sense_close_nothing(void **state)
{
	struct spool *s = open_old();
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t packed[64];
	struct why why;

	assert_true(spool_append(s, REC_BEGUN, STR("\xff\xff\xff"), &why) >= 0);
	e.attempt = 1;                                    /* without an id */
	assert_true(spool_append(s, REC_BEGUN, str_n((char *)packed, usage_pack(&e, packed)), &why) >= 0);
	assert_true(spool_append(s, 77, STR("later"), &why) >= 0);
	write_down(s, REC_BEGUN, 'x', 1, 0);
	assert_int_equal(account_recover(s, spool_dir, &why), 1);
	spool_close(s);
}

static void a_spool_that_is_not_there_is_said(void **state)
{
	struct spool *s = open_old();
	struct why why = { 0 };

	assert_int_equal(account_recover(s, "/nonexistent/spool", &why), -1);
	assert_true(*why.text);
	spool_close(s);
}

/* --- a full disk --- */

static bool first_piece(void) { return has_body("w0 "); }

static void a_final_that_finds_no_room_is_written_when_there_is_some(void **state)
{
	struct booked b;

	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("only", ",\"stream\":true"));
	run_until(first_piece);
	disk_fill();
	reply_free(&reply);
	run_until(no_requests);
	assert_false(list_empty(&h.w->owed));
	assert_true(list_empty(&h.w->open));
	assert_true(atomic_load(&h.w->oldest_open) != UINT64_MAX);        /* its BEGUN is needed until then */
	assert_false(account_flush(h.w));
	h.does = ANSWERS;
	chat(CHAT("only", ""));                           /* nothing new before what is owed */
	assert_int_equal(reply.status, 503);
	assert_int_equal(h.calls, 1);
	disk_free();
	assert_true(account_flush(h.w));
	assert_true(atomic_load(&h.w->oldest_open) == UINT64_MAX);
	b = books();
	assert_string_equal(b.story, "1cancelled@a ");
	assert_int_equal(b.completion, 1);
	chat(CHAT("only", ""));
	assert_int_equal(reply.status, 200);
}

/* The rest is ASan's: nothing stays behind. The next start finds the BEGUN. */
static void what_is_still_owed_at_the_end_is_left_to_the_next_start(void **state)
{
	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("only", ",\"stream\":true"));
	run_until(first_piece);
	disk_fill();
	worker_stop(h.w);
	assert_true(list_empty(&h.w->owed));
	assert_int_equal(books().finals, 0);
	assert_int_equal(books().begun, 1);
}

/* --- what is written when --- */

static struct req *only_request(void)
{
	assert_int_equal(h.w->n_requests, 1);
	return list_entry(h.w->requests.next, struct req, node);
}

static void the_ledger_hears_of_an_attempt_after_a_second(void **state)
{
	struct req *r;

	h.does = STREAMS_AND_HANGS;
	h.cfg.checkpoint = 0;
	send_chat(CHAT("m", ",\"stream\":true"));
	run_until(first_piece);
	r = only_request();
	account_announce(r, r->try.start_us + ANNOUNCE_US - 1);
	assert_int_equal(books().started, 0);
	account_announce(r, r->try.start_us + ANNOUNCE_US);
	account_announce(r, r->try.start_us + 2 * ANNOUNCE_US);
	assert_int_equal(books().started, 1);
	assert_int_equal(books().checkpoints, 1);
	reply_free(&reply);
	run_until(no_requests);
	assert_string_equal(books().story, "1cancelled@a ");
}

/* The sweep passes by a request whose answer flows, until its moment has come. */
static void the_sweep_tells_the_ledger_of_a_stream_when_its_second_is_over(void **state)
{
	int64_t start_us;

	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("m", ",\"stream\":true"));
	run_until(first_piece);
	start_us = only_request()->try.start_us;
	worker_sweep(h.w, start_us + 1);
	worker_sweep(h.w, start_us + ANNOUNCE_US - 1);
	assert_int_equal(books().started, 0);
	worker_sweep(h.w, start_us + ANNOUNCE_US);
	assert_int_equal(books().started, 1);
	worker_sweep(h.w, start_us + 2 * ANNOUNCE_US);
	assert_int_equal(books().started, 1);
	reply_free(&reply);
	run_until(no_requests);
}

/* A full disk does not make it forget. */
static void a_stream_that_could_not_be_told_of_is_told_of_later(void **state)
{
	int64_t start_us;

	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("m", ",\"stream\":true"));
	run_until(first_piece);
	start_us = only_request()->try.start_us;
	worker_sweep(h.w, start_us + 1);
	disk_fill();
	worker_sweep(h.w, start_us + ANNOUNCE_US);
	assert_false(only_request()->try.announced);
	disk_free();
	worker_sweep(h.w, start_us + ANNOUNCE_US + 1);
	assert_true(only_request()->try.announced);
	reply_free(&reply);
	run_until(no_requests);
}

static void a_request_that_reached_no_backend_stands_alone(void **state)
{
	chat(CHAT("nobody", ""));
	assert_int_equal(reply.status, 404);
	assert_string_equal(books().story, "0not_sent ");
	assert_string_equal(books().code, "MODEL_NOT_FOUND");
	assert_int_equal(books().begun, 0);
	chat("{\"model\":");                              /* what was no request is in no book */
	assert_int_equal(reply.status, 400);
	ask_for("GET", "/models", "");
	assert_int_equal(books().finals, 1);
}

/* --- decisions --- */

struct decided { unsigned n, with_models, of_now; };

static struct decided decisions(void)
{
	struct decided d = { 0 };
	struct why why;
	struct spool_reader *r = spool_reader_open(h.w->decisions_dir, 0, &why);
	struct str payload;
	uint64_t position, next;
	uint8_t type;

	assert_non_null(r);
	while (spool_read(r, &type, &payload, &position, &next, &why) > 0) {
		Corral__DecisionEvent *e = corral__decision_event__unpack(NULL, payload.n, (const uint8_t *)payload.p);

		assert_non_null(e);
		d.n++;
		d.with_models += e->models_snapshot.len > 0;
		d.of_now += e->models_version == h.gw.models_id.version;
		corral__decision_event__free_unpacked(e, NULL);
	}
	spool_reader_close(r);
	return d;
}

static void a_decision_is_kept_with_the_snapshot_when_that_is_new(void **state)
{
	struct decided d;

	h.cfg.decision_sample = 0;
	chat(CHAT("m", ""));
	assert_int_equal(decisions().n, 0);
	chat(CHAT("auto", ""));
	chat(CHAT("auto", ""));
	d = decisions();
	assert_int_equal(d.n, 2);
	assert_int_equal(d.with_models, 1);
	set_world();
	chat(CHAT("auto", ""));
	d = decisions();
	assert_int_equal(d.n, 3);
	assert_int_equal(d.with_models, 2);
	assert_int_equal(d.of_now, 1);               /* each names the version that it used */
	h.cfg.decision_sample = 1;
	chat(CHAT("m", ""));
	assert_int_equal(decisions().n, 4);
}

/* A second attempt is the same decision, gone on with. */
static void a_retry_is_no_second_decision(void **state)
{
	h.does = CUTS;
	chat(CHAT("auto", ""));
	assert_int_equal(reply.status, 200);
	assert_int_equal(decisions().n, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(what_a_crash_left_open_is_closed_once_with_what_was_last_known), HOUSE(many_open_attempts_are_all_closed),
		HOUSE(records_that_make_no_sense_close_nothing), HOUSE(a_spool_that_is_not_there_is_said),
		HOUSE(a_final_that_finds_no_room_is_written_when_there_is_some), HOUSE(what_is_still_owed_at_the_end_is_left_to_the_next_start),
		HOUSE(the_ledger_hears_of_an_attempt_after_a_second), HOUSE(the_sweep_tells_the_ledger_of_a_stream_when_its_second_is_over),
		HOUSE(a_stream_that_could_not_be_told_of_is_told_of_later), HOUSE(a_request_that_reached_no_backend_stands_alone),
		HOUSE(a_decision_is_kept_with_the_snapshot_when_that_is_new), HOUSE(a_retry_is_no_second_decision),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
