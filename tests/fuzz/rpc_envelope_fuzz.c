/* rpc_envelope_fuzz.c - any bytes as a request, dispatched to generated services, and as a reply. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/io/rpc_envelope.h"
#include "facts.pb-c.h"
#include "models.pb-c.h"
#include "snapshot.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Generated stubs call every closure through its own type: how protobuf-c is. */
#define ANY_CLOSURE __attribute__((no_sanitize("function")))

static uint64_t touched;

static void touch(const ProtobufCMessage *message)
{
	uint8_t *packed = malloc(protobuf_c_message_get_packed_size(message) + 1);

	touched += protobuf_c_message_pack(message, packed);
	free(packed);
}

static void on_answer(const ProtobufCMessage *message, void *arg)
{
	touch(message);
	++*(int *)arg;
}

ANY_CLOSURE static void fuzz_cursor(Corral__Facts_Service *service, const Corral__FactCursor *input, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	touch(&input->base);
	ack.position = input->position;
	closure(&ack, data);
}

ANY_CLOSURE static void fuzz_ingest(Corral__Facts_Service *service, const Corral__FactBatch *input, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	touch(&input->base);
	ack.position = input->n_records;
	closure(&ack, data);
}

ANY_CLOSURE static void fuzz_get(Corral__Snapshots_Service *service, const Corral__SnapshotRequest *input, Corral__SnapshotEnvelope_Closure closure,
		     void *data)
{
	Corral__SnapshotEnvelope envelope = CORRAL__SNAPSHOT_ENVELOPE__INIT;

	envelope.name = input->name;
	closure(&envelope, data);
}

static Corral__Facts_Service facts = CORRAL__FACTS__INIT(fuzz_);
static Corral__Snapshots_Service snapshots = CORRAL__SNAPSHOTS__INIT(fuzz_);

static void as_request(struct str bytes)
{
	ProtobufCService *const services[] = { &facts.base, &snapshots.base };
	struct rpc_opened opened;
	struct why why = { 0 };
	int answers = 0;
	struct arena *mem = arena_new(0);
	enum err err = rpc_open_request(mem, bytes, services, 2, &opened, &why);

	if (err && (opened.input || !why.text[0] || err != why.code))
		abort();
	if (!err)
		opened.service->invoke(opened.service, opened.method, opened.input, on_answer, &answers);
	if (!err && answers != 1)
		abort();
	arena_free(mem);
}

static void as_reply(struct str bytes, const ProtobufCMessageDescriptor *output)
{
	ProtobufCMessage *message;
	struct why why = { 0 };
	uint64_t call_id = bytes.n > 1 ? (uint8_t)bytes.p[1] : 0;
	enum err err = rpc_open_reply(bytes, call_id, output, &message, &why);

	if (!err != !!message)
		abort();
	if (message) {
		touch(message);
		protobuf_c_message_free_unpacked(message, NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes = str_n((const char *)data, size);

	as_request(bytes);
	as_reply(bytes, &corral__fact_ack__descriptor);
	as_reply(bytes, &corral__snapshot_envelope__descriptor);
	as_reply(bytes, &corral__sync_reply__descriptor);
	return 0;
}
