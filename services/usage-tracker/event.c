/* event.c - see event.h. A UsageEvent is flat (numbers, strings, bytes), which needs none of the work a general decoder does.
 * What is not as expected (a field this version does not know, another wire type) is left to that decoder. */
#include "services/usage-tracker/event.h"

#include "common/data/pbwire.h"

/* The packed bytes, copied: strings are ended in place, once the tag behind them has been read. */
struct copy {
	struct pb_reader r;
	uint8_t *stop;                /* where the last string is to be ended; NULL = nowhere */
};

static void end_string(struct copy *c)
{
	if (c->stop)
		*c->stop = '\0';
	c->stop = NULL;
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

static bool put_bytes(struct copy *c, void *at, ProtobufCType type, const uint8_t *from, uint64_t n)
{
	uint8_t *bytes = (uint8_t *)(uintptr_t)from;      /* our own copy */

	if (type == PROTOBUF_C_TYPE_STRING) {
		*(char **)at = (char *)bytes;
		c->stop = bytes + n;
	} else if (type == PROTOBUF_C_TYPE_BYTES) {
		*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){ n, n ? bytes : NULL };
	} else {
		return false;
	}
	return true;
}

/* The fields' numbers are 1 and on without a gap, as far as this says so. */
static const ProtobufCFieldDescriptor *field_of(unsigned number)
{
	const ProtobufCMessageDescriptor *d = &corral__usage_event__descriptor;

	if (number - 1 < d->n_fields && d->fields[number - 1].id == number)
		return &d->fields[number - 1];
	return protobuf_c_message_descriptor_get_field(d, number);
}

static bool read_field(struct copy *c, Corral__UsageEvent *e)
{
	const ProtobufCFieldDescriptor *f;
	const uint8_t *from;
	enum pb_wire wire;
	unsigned number;
	uint64_t v;
	bool whole = pb_take_field(&c->r, &number, &wire, &v, &from);

	end_string(c);
	f = whole ? field_of(number) : NULL;
	if (!f || f->label != PROTOBUF_C_LABEL_NONE)
		return false;
	if (wire == PB_VARINT)
		return put_number((char *)e + f->offset, f->type, v);
	return put_bytes(c, (char *)e + f->offset, f->type, from, v);
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
	struct copy c = { { copy, copy + bytes.n }, NULL };

	corral__usage_event__init(e);
	while (c.r.p < c.r.end)
		if (!read_field(&c, e))
			return read_any(mem, bytes);
	end_string(&c);
	return e;
}

struct str event_pack(struct arena *mem, const Corral__UsageEvent *e, size_t most)
{
	uint8_t *p = arena_alloc(mem, most ? most : corral__usage_event__get_packed_size(e));

	return str_n((char *)p, corral__usage_event__pack(e, p));
}
