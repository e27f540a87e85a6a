/* snapshot_fuzz.c - any bytes as the file of a snapshot, and as news: messages of a subscriber, each after its length (16 bits). */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/io/snapshot_file.h"
#include "common/io/snapshot_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen { struct snapshot_id id; uint64_t sum; };

static void touch(struct seen *seen, struct str bytes)
{
	for (size_t i = 0; i < bytes.n; i++)
		seen->sum += (uint8_t)bytes.p[i];
}

static bool on_whole(void *arg, struct snapshot_id id, struct str bytes)
{
	struct seen *seen = arg;

	if (!id.version)
		abort();
	seen->id = id;
	touch(seen, bytes);
	return true;
}

static bool on_delta(void *arg, struct snapshot_id id, struct str delta)
{
	struct seen *seen = arg;

	if (id.epoch != seen->id.epoch || id.version != seen->id.version + 1)
		abort();
	seen->id = id;
	touch(seen, delta);
	return true;
}

static void as_file(struct str bytes)
{
	struct seen seen = { 0 };
	const struct snapshot_reader reader = { on_whole, on_delta, &seen };

	if (snapshot_file_read(bytes, "keys", &reader) != (seen.id.version != 0))
		abort();
}

static uint32_t crc32_of(const char *p, size_t n)
{
	uint32_t crc = ~0u;

	while (n--) {
		crc ^= (uint8_t)*p++;
		for (int k = 0; k < 8; k++)
			crc = crc & 1 ? 0xedb88320 ^ (crc >> 1) : crc >> 1;
	}
	return ~crc;
}

/* The same messages as records whose checksums are right. */
static void as_records(struct str rest)
{
	struct buf file = { 0 };

	buf_addz(&file, "CSNAP02\n");
	while (rest.n > 2) {
		size_t n = (size_t)(uint8_t)rest.p[0] << 8 | (uint8_t)rest.p[1];
		uint32_t head[2];

		rest = str_n(rest.p + 2, rest.n - 2);
		n = n < rest.n ? n : rest.n;
		head[0] = (uint32_t)n;
		head[1] = crc32_of(rest.p, n);
		buf_add(&file, head, sizeof head);
		buf_add(&file, rest.p, n);
		rest = str_n(rest.p + n, rest.n - n);
	}
	as_file(buf_as_str(&file));
	buf_free(&file);
}

static void as_news(struct str rest)
{
	struct snapshot_parts parts = { 0 };

	while (rest.n > 2) {
		size_t n = (size_t)(uint8_t)rest.p[0] << 8 | (uint8_t)rest.p[1];
		Corral__SnapshotEnvelope *e;

		rest = str_n(rest.p + 2, rest.n - 2);
		n = n < rest.n ? n : rest.n;
		e = snapshot_open(str_n(rest.p, n), "keys");
		rest = str_n(rest.p + n, rest.n - n);
		if (!e)
			continue;
		switch (snapshot_parts_take(&parts, e)) {
		case PARTS_DONE:
			if (parts.next != parts.parts || parts.id.epoch != e->epoch || parts.id.version != e->version)
				abort();
			break;
		case PARTS_MORE:
			if (parts.next >= parts.parts || parts.parts > SNAPSHOT_PARTS_MAX)
				abort();
			break;
		case PARTS_LOST:
			if (parts.parts || parts.body.n)
				abort();
		}
		corral__snapshot_envelope__free_unpacked(e, NULL);
	}
	snapshot_parts_drop(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_file(str_n((const char *)data, size));
	as_records(str_n((const char *)data, size));
	as_news(str_n((const char *)data, size));
	return 0;
}
