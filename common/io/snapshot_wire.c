/* snapshot_wire.c - see snapshot_wire.h. */
#include "common/io/snapshot_wire.h"

Corral__SnapshotEnvelope *snapshot_open(struct str message, const char *name)
{
	size_t topic = strlen(name) + 1;
	Corral__SnapshotEnvelope *envelope;

	if (message.n < topic || memcmp(message.p, name, topic) != 0)
		return NULL;
	envelope = corral__snapshot_envelope__unpack(NULL, message.n - topic, (const uint8_t *)message.p + topic);
	if (envelope && strcmp(envelope->name, name) != 0) {
		corral__snapshot_envelope__free_unpacked(envelope, NULL);
		envelope = NULL;
	}
	return envelope;
}

enum parts_taken snapshot_parts_take(struct snapshot_parts *p, const Corral__SnapshotEnvelope *e)
{
	if (e->part == 0) {
		buf_clear(&p->body);
		p->id = (struct snapshot_id){ e->epoch, e->version };
		p->next = 0;
		p->parts = e->parts ? e->parts : 1;
	}
	if (p->parts > SNAPSHOT_PARTS_MAX || e->part != p->next || e->part >= p->parts || e->epoch != p->id.epoch || e->version != p->id.version ||
	    e->body.len > SNAPSHOT_PART_BYTES) {
		snapshot_parts_drop(p);
		return PARTS_LOST;
	}
	buf_add(&p->body, e->body.data, e->body.len);
	p->next++;
	return p->next == p->parts ? PARTS_DONE : PARTS_MORE;
}

void snapshot_parts_drop(struct snapshot_parts *p)
{
	buf_free(&p->body);
	*p = (struct snapshot_parts){ 0 };
}

uint32_t snapshot_parts_of(size_t bytes)
{
	return bytes ? (uint32_t)((bytes - 1) / SNAPSHOT_PART_BYTES + 1) : 1;
}

struct str snapshot_part(struct str body, uint32_t part)
{
	size_t from = (size_t)part * SNAPSHOT_PART_BYTES, n;

	if (from >= body.n)
		return str_n(body.p, 0);
	n = body.n - from;
	return str_n(body.p + from, n < SNAPSHOT_PART_BYTES ? n : SNAPSHOT_PART_BYTES);
}
