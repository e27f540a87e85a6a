/* event.c - see event.h. A UsageEvent is flat (numbers, strings, bytes), which needs none of the work a general decoder does.
 * What is not as expected (a field this version does not know, another wire type) is left to that decoder. */
#include "services/usage-tracker/event.h"

#include <string.h>

enum wire { WIRE_VARINT = 0, WIRE_BYTES = 2 };

/* The packed bytes, copied: strings are ended in place, once the tag behind them has been read. */
struct wire_reader {
	uint8_t *p, *end;
	uint8_t *stop;                /* where the last string is to be ended; NULL = nowhere */
};

static bool read_varint(struct wire_reader *r, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; r->p < r->end && shift < 64; shift += 7) {
		uint8_t byte = *r->p++;

		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

static void end_string(struct wire_reader *r)
{
	if (r->stop)
		*r->stop = '\0';
	r->stop = NULL;
}

static bool put_number(void *at, ProtobufCType type, uint64_t v)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_ENUM:
		*(uint32_t *)at = (uint32_t)v;
		return true;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_UINT64:
		*(uint64_t *)at = v;
		return true;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)at = v != 0;
		return true;
	default:
		return false;
	}
}

static bool put_bytes(struct wire_reader *r, void *at, ProtobufCType type, uint64_t n)
{
	if (n > (uint64_t)(r->end - r->p))
		return false;
	if (type == PROTOBUF_C_TYPE_STRING) {
		*(char **)at = (char *)r->p;
		r->stop = r->p + n;
	} else if (type == PROTOBUF_C_TYPE_BYTES) {
		*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){ n, n ? r->p : NULL };
	} else {
		return false;
	}
	r->p += n;
	return true;
}

static bool read_field(struct wire_reader *r, Corral__UsageEvent *e)
{
	const ProtobufCFieldDescriptor *f;
	uint64_t tag, v;
	void *at;

	if (!read_varint(r, &tag) || tag > UINT32_MAX)
		return false;
	end_string(r);
	f = protobuf_c_message_descriptor_get_field(&corral__usage_event__descriptor, (unsigned)(tag >> 3));
	if (!f || f->label != PROTOBUF_C_LABEL_NONE || !read_varint(r, &v))
		return false;
	at = (char *)e + f->offset;
	switch (tag & 7) {
	case WIRE_VARINT: return put_number(at, f->type, v);
	case WIRE_BYTES: return put_bytes(r, at, f->type, v);
	default: return false;
	}
}

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

static Corral__UsageEvent *read_any(struct arena *mem, struct str bytes)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };

	return corral__usage_event__unpack(&alloc, bytes.n, (const uint8_t *)bytes.p);
}

Corral__UsageEvent *event_read(struct arena *mem, struct str bytes)
{
	Corral__UsageEvent *e = arena_alloc(mem, sizeof(*e));
	uint8_t *copy = (uint8_t *)arena_dup(mem, bytes.p, bytes.n);
	struct wire_reader r = { copy, copy + bytes.n, NULL };

	corral__usage_event__init(e);
	while (r.p < r.end)
		if (!read_field(&r, e))
			return read_any(mem, bytes);
	end_string(&r);
	return e;
}

struct str event_pack(struct arena *mem, const Corral__UsageEvent *e, size_t most)
{
	uint8_t *p = arena_alloc(mem, most ? most : corral__usage_event__get_packed_size(e));

	return str_n((char *)p, corral__usage_event__pack(e, p));
}
