/* rpc_envelope.h - what an RPC message looks like inside: opening and making the two envelopes of rpc.proto.
 *
 * Pure: bytes in, messages out; rpc.c moves them with nng, the fuzzer feeds it anything. */
#ifndef CORRAL_IO_RPC_ENVELOPE_H
#define CORRAL_IO_RPC_ENVELOPE_H
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"

#define RPC_MAX_BYTES (16u << 20)

struct rpc_opened {
	uint64_t call_id;             /* set whenever the envelope itself could be read */
	int64_t deadline_ms;
	struct str request_id;        /* in the caller's arena */
	ProtobufCService *service;
	unsigned method;
	const ProtobufCMessageDescriptor *output;
	ProtobufCMessage *input;      /* in the caller's arena */
};

/* MALFORMED, or NOT_IMPLEMENTED for a service or method that is not among the n given; 0 = opened. */
enum err rpc_open_request(struct arena *, struct str bytes, ProtobufCService *const *services, size_t n, struct rpc_opened *ret, struct why *);

/* The reply to 'call_id', or the error it carries; *ret_message belongs to the caller. */
enum err rpc_open_reply(struct str bytes, uint64_t call_id, const ProtobufCMessageDescriptor *output, ProtobufCMessage **ret_message,
			struct why *);
#endif
