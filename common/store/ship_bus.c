/* ship_bus.c - see ship_bus.h. Records under way lie in a ring in the order of the spool:
 *
 *   settled .. [slot, reported] [slot] [slot, reported] [slot] .. next (reader) .. end
 *
 * settled moves over the slots at the front that are reported as persisted. One that is not makes it 'rewind': nothing more is sent until each
 * slot has its report, then the reader goes back to settled. */
#include "common/store/ship_bus.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/data/pbwire.h"
#include "common/io/loop.h"
#include "common/store/spool.h"
#include "common/store/spool_file.h"

enum { EVERY_MS = 50, WINDOW = 8192, RECORDS_A_TURN = 2000, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 2000, NOTE_US = 1000000 };

struct slot {
	struct bus_ticket ticket;     /* first: reports give it back */
	struct bus_shipper *shipper;
	uint64_t end;                 /* position after the record */
	bool persisted;
};

struct bus_shipper {
	struct bus_user user;
	struct loop *loop;
	struct bus_producer *producer;
	char *dir, *topic, *schema, *source;
	const struct spool *spool;
	uint8_t type_min, type_max;
	int64_t every_ms, backoff_ms;
	void (*label)(struct str, struct bus_label *);
	void (*on_acked)(void *arg, uint64_t position);
	void *arg;

	struct slot *slots;
	uint32_t window, head, n;     /* slots in use begin at head */
	uint32_t under_way;           /* tickets without a report */
	bool freed;                   /* lives on for its tickets */
	bool rewind, away;            /* away: logged */
	struct spool_reader *reader;
	uint64_t epoch, settled, next, told;
	uint64_t again_below;         /* may have been sent before */
	struct bus_ship_counts counts;
	int64_t noted_us;
	uint64_t noted;               /* what the file says */
	struct loop_timer timer;
};

void bus_label_of(struct str payload, unsigned key_field, unsigned trace_field, struct bus_label *ret)
{
	struct pb_reader r = { (const uint8_t *)payload.p, (const uint8_t *)payload.p + payload.n };
	unsigned field = 0, last = trace_field ? trace_field : key_field;
	enum pb_wire wire;
	const uint8_t *at;
	uint64_t v;

	while (field < last && pb_take_field(&r, &field, &wire, &v, &at)) {
		if (field == 1 && wire == PB_BYTES)
			ret->event_id = str_n((const char *)at, v);
		if (field == key_field && wire == PB_BYTES)
			ret->key = str_n((const char *)at, v);
		if (field == trace_field && wire == PB_BYTES)
			ret->trace = str_n((const char *)at, v);
	}
}

static void on_timer(struct loop_timer *);
static void on_lost(struct bus_user *);

struct bus_shipper *bus_shipper_new(struct loop *loop, struct bus_producer *producer, const struct bus_ship_opts *o,
				    void (*on_acked)(void *arg, uint64_t position), void *arg)
{
	struct bus_shipper *s = x_calloc(1, sizeof(*s));

	s->user.on_lost = on_lost;
	s->loop = loop;
	s->producer = producer;
	s->dir = x_strdup(o->dir);
	s->topic = x_strdup(o->topic);
	s->schema = x_strdup(o->schema);
	s->source = x_strdup(o->source);
	s->spool = o->spool;
	s->again_below = o->spool ? spool_end(o->spool) : 0;
	s->type_min = o->type_min;
	s->type_max = o->type_max;
	s->every_ms = o->every_ms > 0 ? o->every_ms : EVERY_MS;
	s->backoff_ms = BACKOFF_MIN_MS;
	s->label = o->label;
	s->on_acked = on_acked;
	s->arg = arg;
	s->window = o->window ? o->window : WINDOW;
	s->slots = x_calloc(s->window, sizeof(*s->slots));
	bus_producer_join(producer, &s->user);
	loop_timer_set(loop, &s->timer, 0, on_timer);
	return s;
}

static void shipper_delete(struct bus_shipper *s)
{
	spool_reader_close(s->reader);
	free(s->slots);
	free(s->dir);
	free(s->topic);
	free(s->schema);
	free(s->source);
	free(s);
}

uint64_t bus_shipper_acked(const struct bus_shipper *s) { return s->settled; }
void bus_shipper_counts(const struct bus_shipper *s, struct bus_ship_counts *ret) { *ret = s->counts; }

void bus_shipper_kick(struct bus_shipper *s)
{
	if (!s->rewind)
		loop_timer_set(s->loop, &s->timer, 0, on_timer);
}

/* --- how far it came, on disk --- */

static void note_path(const struct bus_shipper *s, const char *end, char *out, size_t cap) { snprintf(out, cap, "%s/shipped.%s%s", s->dir, s->topic, end); }

/* Not synced: after a power cut an older one only means that more is sent again. */
static void note(struct bus_shipper *s)
{
	char path[1400], fresh[1400], text[32];
	int fd, n;

	if (!s->reader || s->settled == s->noted)
		return;
	note_path(s, "", path, sizeof(path));
	note_path(s, ".new", fresh, sizeof(fresh));
	n = snprintf(text, sizeof(text), "%llu\n", (unsigned long long)s->settled);
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, text, (size_t)n) == n && rename(fresh, path) == 0)
		s->noted = s->settled;
	if (fd >= 0)
		close(fd);
}

static uint64_t noted(const struct bus_shipper *s)
{
	char path[1400], text[32];
	uint64_t position = 0;
	ssize_t n;
	int fd;

	note_path(s, "", path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	if (n > 1 && text[n - 1] == '\n')
		(void)str_u64(str_n(text, (size_t)n - 1), &position);
	return position;
}

void bus_shipper_free(struct bus_shipper *s)
{
	if (!s)
		return;
	note(s);
	loop_timer_del(&s->timer);
	s->freed = true;
	if (s->under_way == 0) {
		bus_producer_leave(s->producer, &s->user);
		shipper_delete(s);
	}
}

/* --- where to read --- */

static void gap(struct bus_shipper *s, uint64_t from, uint64_t to)
{
	s->counts.gaps++;
	LOG_ERROR("facts that were to be shipped are gone from the spool", LOG_S("topic", s->topic), LOG_S("source", s->source), LOG_I("from", from), LOG_I("to", to));
}

static bool end_of(const struct bus_shipper *s, uint64_t origin, uint64_t *ret, struct why *why)
{
	struct spool_list l;

	if (!spool_list_dir(s->dir, &l, why))
		return false;
	*ret = l.n ? l.at[l.n - 1].first + l.at[l.n - 1].size : origin;
	free(l.at);
	return true;
}

/* For the first time: from what the file says, and all that is on disk may have been sent before. */
static bool reader_first(struct bus_shipper *s, struct why *why)
{
	uint64_t origin, end, from = noted(s);

	if (!spool_identity(s->dir, &s->epoch, &origin, why) || !end_of(s, origin, &end, why))
		return false;
	if (from > end) {
		gap(s, from, origin);
		from = origin;
	}
	s->reader = spool_reader_open(s->dir, from ? from : origin, why);
	if (!s->reader)
		return false;
	s->noted = from;
	s->settled = s->next = spool_reader_position(s->reader);
	if (!s->spool)
		s->again_below = end;
	return true;
}

static bool reader_back(struct bus_shipper *s, uint64_t to, struct why *why)
{
	spool_reader_close(s->reader);
	s->reader = spool_reader_open(s->dir, to, why);
	s->next = to;
	return s->reader != NULL;
}

/* --- away and back --- */

static void rest(struct bus_shipper *s, const char *why)
{
	if (!s->away && s->backoff_ms > BACKOFF_MIN_MS)
		LOG_WARN("facts cannot be given to Kafka; they wait in the spool", LOG_S("topic", s->topic), LOG_S("source", s->source), LOG_S("why", why));
	s->away |= s->backoff_ms > BACKOFF_MIN_MS;
	loop_timer_set(s->loop, &s->timer, s->backoff_ms / 2 * 1000 + (int64_t)(rand_unit() * (double)s->backoff_ms * 500), on_timer);
	s->backoff_ms = s->backoff_ms * 2 < BACKOFF_MAX_MS ? s->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static void go_back(struct bus_shipper *s, const char *text)
{
	struct why why;

	s->again_below = s->next > s->again_below ? s->next : s->again_below;
	s->head = s->n = 0;
	s->rewind = false;
	if (!reader_back(s, s->settled, &why)) {
		LOG_ERROR("the spool cannot be read", LOG_S("source", s->source), LOG_S("error", why.text));
		s->reader = NULL;
	}
	rest(s, text);
}

static void on_lost(struct bus_user *u)
{
	struct bus_shipper *s = list_entry(u, struct bus_shipper, user);

	s->under_way = 0;
	if (s->freed) {
		bus_producer_leave(s->producer, u);
		shipper_delete(s);
	} else if (s->reader) {
		go_back(s, "the producer was made anew");
	}
}

/* --- reports --- */

static void settle(struct bus_shipper *s)
{
	bool was_full = s->n == s->window;

	while (s->n && s->slots[s->head].persisted) {
		s->settled = s->slots[s->head].end;
		s->head = (s->head + 1) % s->window;
		s->n--;
	}
	if (was_full && s->n < s->window && !s->rewind)
		loop_timer_set(s->loop, &s->timer, 0, on_timer);
}

static void on_report(struct bus_ticket *t, bool persisted, const char *error)
{
	struct slot *slot = (struct slot *)(void *)t;
	struct bus_shipper *s = slot->shipper;

	s->under_way--;
	slot->persisted = persisted;
	s->counts.persisted += persisted;
	if (s->freed) {
		if (s->under_way == 0) {
			bus_producer_leave(s->producer, &s->user);
			shipper_delete(s);
		}
		return;
	}
	if (persisted && s->away) {
		s->away = false;
		LOG_INFO("facts are given to Kafka again", LOG_S("topic", s->topic), LOG_S("source", s->source));
	}
	if (persisted)
		s->backoff_ms = BACKOFF_MIN_MS;
	settle(s);
	s->rewind |= !persisted;
	if (s->rewind && s->under_way == 0)
		go_back(s, error);
}

/* --- sending --- */

/* As HTTP has it: what goes on in that trace because of this message is a child of the span that wrote it. */
static struct str traceparent(struct str trace, char to[56])
{
	static const char hex[] = "0123456789abcdef";
	char *p = to;

	memcpy(p, "00-", 3);
	p += 3;
	for (size_t i = 0; i < trace.n; i++) {
		if (i == 16)
			*p++ = '-';
		*p++ = hex[(uint8_t)trace.p[i] >> 4];
		*p++ = hex[(uint8_t)trace.p[i] & 15];
	}
	memcpy(p, "-01", 4);
	return str_of(to);
}

static enum bus_sent send_one(struct bus_shipper *s, struct str payload, uint64_t at, struct slot *slot)
{
	char id[37] = "", position[48], parent[56];
	struct bus_label label = { 0 };
	struct bus_header headers[7];
	struct bus_out m = { .topic = s->topic, .value = payload, .headers = headers };
	struct uuid uuid;

	s->label(payload, &label);
	if (label.event_id.n == sizeof(uuid.b)) {
		memcpy(uuid.b, label.event_id.p, sizeof(uuid.b));
		uuid_format(uuid, id);
	}
	m.key = label.key;
	headers[m.n_headers++] = (struct bus_header){ "event-id", str_of(id) };
	headers[m.n_headers++] = (struct bus_header){ "schema", str_of(s->schema) };
	headers[m.n_headers++] = (struct bus_header){ "content-type", STR("application/x-protobuf") };
	headers[m.n_headers++] = (struct bus_header){ "source", str_of(s->source) };
	snprintf(position, sizeof(position), "%llu:%llu", (unsigned long long)s->epoch, (unsigned long long)at);
	headers[m.n_headers++] = (struct bus_header){ "position", str_of(position) };
	if (at < s->again_below)
		headers[m.n_headers++] = (struct bus_header){ "again", STR("1") };
	if (label.trace.n == 24)
		headers[m.n_headers++] = (struct bus_header){ "traceparent", traceparent(label.trace, parent) };
	slot->ticket.on_report = on_report;
	slot->shipper = s;
	return bus_send(s->producer, &m, &slot->ticket);
}

/* False: not now, and the record is read again. */
static bool ship_one(struct bus_shipper *s, struct str payload, uint64_t at, uint64_t next)
{
	struct slot *slot = &s->slots[(s->head + s->n) % s->window];
	enum bus_sent sent = send_one(s, payload, at, slot);

	if (sent == BUS_FULL || sent == BUS_LATER)
		return false;
	slot->end = next;
	slot->persisted = sent == BUS_TOO_LARGE;
	s->n++;
	if (sent == BUS_TOO_LARGE) {
		s->counts.too_large++;
		LOG_ERROR("a fact is too large for Kafka and is passed over", LOG_S("topic", s->topic), LOG_S("source", s->source), LOG_I("position", at),
			  LOG_I("bytes", payload.n));
		return true;
	}
	s->under_way++;
	s->counts.again += at < s->again_below;
	return true;
}

enum went { WENT_ALL, WENT_MORE, WENT_LATER };

struct record { struct str payload; uint64_t at, next; uint8_t type; };

/* As spool_read(); what is missing or damaged is said. */
static int read_record(struct bus_shipper *s, struct record *r)
{
	uint64_t gaps = spool_reader_gaps(s->reader);
	struct why why = { 0 };
	int rc = spool_read(s->reader, &r->type, &r->payload, &r->at, &r->next, &why);

	if (rc && spool_reader_gaps(s->reader) != gaps)
		gap(s, s->next, r->at);
	if (rc < 0) {
		LOG_ERROR("the spool is damaged there", LOG_S("source", s->source), LOG_S("error", why.text));
		gap(s, r->at, r->next);
	}
	return rc;
}

static enum went ship_some(struct bus_shipper *s)
{
	struct record r;
	struct why why;

	for (int i = 0; i < RECORDS_A_TURN && s->n < s->window; i++) {
		int rc = read_record(s, &r);

		if (rc == 0) {
			s->next = spool_reader_position(s->reader);
			return WENT_ALL;
		}
		if (rc > 0 && r.type >= s->type_min && r.type <= s->type_max && !ship_one(s, r.payload, r.at, r.next)) {
			s->rewind |= !reader_back(s, r.at, &why);
			return WENT_LATER;
		}
		s->next = r.next;
	}
	return WENT_MORE;
}

static void tell(struct bus_shipper *s)
{
	settle(s);
	if (s->n == 0)
		s->settled = s->next;
	if (s->settled != s->told && s->on_acked)
		s->on_acked(s->arg, s->settled);
	s->told = s->settled;
	if (mono_us() - s->noted_us < NOTE_US)
		return;
	s->noted_us = mono_us();
	note(s);
}

static void on_timer(struct loop_timer *t)
{
	struct bus_shipper *s = list_entry(t, struct bus_shipper, timer);
	enum went went = WENT_ALL;
	struct why why;

	if (!s->reader && !(s->settled ? reader_back(s, s->settled, &why) : reader_first(s, &why))) {
		rest(s, why.text);
		return;
	}
	if (s->rewind) {                  /* goes on with the last report */
		if (s->under_way == 0)
			go_back(s, "the spool could not be read");
		return;
	}
	/* Where the reader is and where the writer is are the same position: it need not look at the directory to know. */
	if (!(s->spool && spool_end(s->spool) == s->next))
		went = ship_some(s);
	tell(s);
	if (went == WENT_LATER)
		rest(s, "no topic or no broker to take them");
	else
		loop_timer_set(s->loop, t, went == WENT_MORE && s->n < s->window ? 0 : s->every_ms * 1000, on_timer);
}
