/* pbwire.h - the wire format of protocol buffers by hand, for the few messages that are written and read for every request:
 * the general encoder and decoder cost ten times as much as what they carry. Whoever uses it has a test that compares each field with what those
 * make of it. Writers trust their caller for room; readers never look behind 'end'. */
#ifndef CORRAL_DATA_PBWIRE_H
#define CORRAL_DATA_PBWIRE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum pb_wire { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };
enum { PB_VARINT_MAX = 10, PB_TAG_MAX = 5 };      /* bytes */

static inline uint8_t *pb_put_varint(uint8_t *p, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*p++ = (uint8_t)(v | 0x80);
	*p++ = (uint8_t)v;
	return p;
}

/* 'field' is a constant everywhere: the tag is one store, or two. */
static inline uint8_t *pb_put_tag(uint8_t *p, unsigned field, enum pb_wire wire) { return pb_put_varint(p, field << 3 | wire); }

/* A field at its default is left out: proto3. */
static inline uint8_t *pb_put_number(uint8_t *p, unsigned field, uint64_t v) { return v ? pb_put_varint(pb_put_tag(p, field, PB_VARINT), v) : p; }

static inline uint8_t *pb_put_double(uint8_t *p, unsigned field, double v)
{
	if (v == 0)
		return p;
	p = pb_put_tag(p, field, PB_FIXED64);
	memcpy(p, &v, 8);                 /* little-endian hosts */
	return p + 8;
}

/* Also when it is empty: an element of a repeated field. */
static inline uint8_t *pb_put_element(uint8_t *p, unsigned field, const void *from, size_t n)
{
	p = pb_put_varint(pb_put_tag(p, field, PB_BYTES), n);
	if (n)
		memcpy(p, from, n);
	return p + n;
}

static inline uint8_t *pb_put_bytes(uint8_t *p, unsigned field, const void *from, size_t n) { return n ? pb_put_element(p, field, from, n) : p; }
static inline uint8_t *pb_put_string(uint8_t *p, unsigned field, const char *z) { return *z ? pb_put_element(p, field, z, strlen(z)) : p; }

struct pb_reader { const uint8_t *p, *end; };

static inline bool pb_take_varint(struct pb_reader *r, uint64_t *ret)
{
	uint64_t v = 0;

	if (r->p < r->end && *r->p < 0x80) {
		*ret = *r->p++;
		return true;
	}
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

/* One field: a number in *ret_v, or *ret_v bytes at *ret_at. False at the end, when it is cut short, and for wire types that our messages do not use. */
static inline bool pb_take_field(struct pb_reader *r, unsigned *ret_field, enum pb_wire *ret_wire, uint64_t *ret_v, const uint8_t **ret_at)
{
	uint64_t tag;

	if (!pb_take_varint(r, &tag) || tag > UINT32_MAX)
		return false;
	*ret_field = (unsigned)(tag >> 3);
	*ret_wire = (enum pb_wire)(tag & 7);
	if ((*ret_wire != PB_VARINT && *ret_wire != PB_BYTES) || !pb_take_varint(r, ret_v))
		return false;
	*ret_at = r->p;
	if (*ret_wire == PB_VARINT)
		return true;
	if (*ret_v > (uint64_t)(r->end - r->p))
		return false;
	r->p += *ret_v;
	return true;
}
#endif
