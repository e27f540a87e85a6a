/* events.c - `corral events tail`: facts as they travel, one JSON object a line; from Kafka, or from the services' spools on this machine. */
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/json_write.h"
#include "common/store/bus.h"
#include "common/store/spool.h"
#include "common/store/spool_file.h"
#include "common/svc/svc.h"
#include "events.pb-c.h"
#include "services/corral/cli.h"

struct events_opts { const char *state_dir, *config, *bus, *bus_prefix, *idle; bool from_beginning; };

#define O struct events_opts
static const struct flag flags[] = {
	FLAG(O, from_beginning, 0, NULL, "All there is first; else what comes from now on."),
	FLAG(O, idle, 0, "SECONDS", "End when nothing has come for so long. Else never."),
	FLAG(O, bus, 0, "URL", "local: or kafka:HOST:PORT,…; else as 'corral serve' would have it."),
	FLAG(O, bus_prefix, 0, "TEXT", "What the names of topics begin with; else as 'corral serve' would have it."),
	FLAG(O, config, 'c', "FILE", "The configuration file of 'corral serve'. Else CORRAL_CONFIG."),
	FLAG(O, state_dir, 0, "DIR", "Where 'corral serve' keeps its state. Else as it would find it."),
	{ 0 }
};
#undef O

static const struct kind { const char *topic, *service, *folder, *spool; const ProtobufCMessageDescriptor *descriptor; uint8_t type_min, type_max; } kinds[] = {
	{ "usage.v1", "gateway", "spool", "usage-", &corral__usage_event__descriptor, 1, 3 },
	{ "decision.v1", "gateway", "spool", "decisions-", &corral__decision_event__descriptor, 16, 16 },
	{ "experiments.v1", "ab-testing", "spool", "experiments-", &corral__experiment_event__descriptor, 1, 1 },
	{ "audit.v1", "access", "spool", "audit-", &corral__audit_event__descriptor, 1, 1 },
	{ "feedback.v1", "gateway", "feedback", "", &corral__feedback_event__descriptor, 32, 32 },
	{ "catalogue.v1", "model-registry", "spool", "catalogue-", &corral__catalogue_event__descriptor, 1, 1 },
	{ "task-completed.v1", NULL, NULL, NULL, &corral__task_completed_event__descriptor, 0, 0 },
};
#define LOCAL_TOPICS "usage.v1, decision.v1, feedback.v1, experiments.v1, audit.v1 and catalogue.v1"
enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

static const char *const headers[] = { "event-id", "schema", "content-type", "source", "position", "again", "reason", "traceparent" };

struct tail {
	struct cli *cli;
	const char *topic;
	const struct kind *kind;      /* NULL: bytes */
	int64_t idle_ms;
};

static volatile sig_atomic_t interrupted;
static void on_signal(int signo) { (void)signo, interrupted = 1; }

/* --- one event --- */

static void put_bytes(struct json_out *jo, const uint8_t *p, size_t n)
{
	struct buf hex = { 0 };
	struct uuid id;
	char text[37];

	if (n == sizeof(id.b)) {
		memcpy(id.b, p, n);
		uuid_format(id, text);
		jw_strz(jo, text);
		return;
	}
	for (size_t i = 0; i < n; i++)
		buf_printf(&hex, "%02x", p[i]);
	jw_str(jo, n ? buf_as_str(&hex) : STR(""));
	buf_free(&hex);
}

static void put_enum(struct json_out *jo, const ProtobufCFieldDescriptor *f, int v)
{
	const ProtobufCEnumValue *e = protobuf_c_enum_descriptor_get_value(f->descriptor, v);

	if (e)
		jw_strz(jo, e->name);
	else
		jw_i64(jo, v);
}

/* Of the types that events have; false: it is at its default and is left out. */
static bool is_set(const ProtobufCFieldDescriptor *f, const void *at)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING: return **(const char *const *)at != '\0';
	case PROTOBUF_C_TYPE_BYTES: return ((const ProtobufCBinaryData *)at)->len > 0;
	case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_UINT64: return *(const int64_t *)at != 0;
	case PROTOBUF_C_TYPE_BOOL: case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_ENUM: return *(const int *)at != 0;
	case PROTOBUF_C_TYPE_DOUBLE: return *(const double *)at != 0;
	default: return false;
	}
}

static void put_field(struct json_out *jo, const ProtobufCFieldDescriptor *f, const void *at)
{
	if (f->label == PROTOBUF_C_LABEL_REPEATED || !is_set(f, at))
		return;
	jw_key(jo, f->name);
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING: jw_strz(jo, *(const char *const *)at); break;
	case PROTOBUF_C_TYPE_BYTES: put_bytes(jo, ((const ProtobufCBinaryData *)at)->data, ((const ProtobufCBinaryData *)at)->len); break;
	case PROTOBUF_C_TYPE_INT64: jw_i64(jo, *(const int64_t *)at); break;
	case PROTOBUF_C_TYPE_UINT64: jw_u64(jo, *(const uint64_t *)at); break;
	case PROTOBUF_C_TYPE_BOOL: jw_bool(jo, *(const protobuf_c_boolean *)at != 0); break;
	case PROTOBUF_C_TYPE_UINT32: jw_u64(jo, *(const uint32_t *)at); break;
	case PROTOBUF_C_TYPE_ENUM: put_enum(jo, f, *(const int *)at); break;
	case PROTOBUF_C_TYPE_DOUBLE: jw_double(jo, *(const double *)at); break;
	default: jw_i64(jo, *(const int32_t *)at); break;
	}
}

static void put_message(struct json_out *jo, const ProtobufCMessage *m)
{
	jw_obj(jo);
	for (unsigned i = 0; i < m->descriptor->n_fields; i++)
		put_field(jo, &m->descriptor->fields[i], (const char *)m + m->descriptor->fields[i].offset);
	jw_end(jo);
}

/* On one line, whatever lines it had: outside of strings they say nothing, and inside there are none. */
static void put_json(struct json_out *jo, struct str bytes)
{
	struct buf line = { 0 };

	for (size_t i = 0; i < bytes.n; i++)
		buf_char(&line, bytes.p[i] == '\n' || bytes.p[i] == '\r' ? ' ' : bytes.p[i]);
	jw_kv_raw(jo, "json", str_trim(buf_as_str(&line)));
	buf_free(&line);
}

/* "event" where the bytes are one, "json" where they are JSON, else "bytes". */
static void put_value(struct tail *t, struct json_out *jo, struct str bytes)
{
	ProtobufCMessage *m = t->kind ? protobuf_c_message_unpack(t->kind->descriptor, NULL, bytes.n, (const uint8_t *)bytes.p) : NULL;
	struct arena *mem = arena_new(0);
	struct json j;
	struct why why;
	bool message = m && !(bytes.n && bytes.p[0] == '{');

	if (!message && json_parse(&j, mem, bytes, NULL, &why) == ERR_OK && json_kind(&j, 0) == JSON_OBJECT) {
		put_json(jo, bytes);
	} else if (m) {
		jw_key(jo, "event");
		put_message(jo, m);
	} else {
		jw_key(jo, "bytes");
		put_bytes(jo, (const uint8_t *)bytes.p, bytes.n);
	}
	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
	arena_free(mem);
}

static void line_out(struct tail *t, struct buf *b)
{
	buf_char(b, '\n');
	fwrite(b->p, 1, b->n, t->cli->out);
	fflush(t->cli->out);
	buf_free(b);
}

/* --- from Kafka --- */

static bool on_message(void *arg, int32_t partition, const struct bus_in *in)
{
	struct tail *t = arg;
	struct buf b = { 0 };
	struct json_out jo;

	if (!in)
		return !interrupted;
	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "topic", t->topic);
	jw_kv_i64(&jo, "partition", partition);
	jw_kv_i64(&jo, "offset", in->offset);
	jw_kv_i64(&jo, "at_ms", in->at_ms);
	jw_kv_str(&jo, "key", in->key);
	jw_key(&jo, "headers"), jw_obj(&jo);
	for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
		struct str v = bus_in_header(in, headers[i]);

		if (v.p)
			jw_kv_str(&jo, headers[i], v);
	}
	jw_end(&jo);
	put_value(t, &jo, in->value);
	jw_end(&jo);
	line_out(t, &b);
	return !interrupted;
}

/* --- from spools --- */

enum { SPOOLS = 256 };
struct spools { struct spool_reader *r[SPOOLS]; char name[SPOOLS][64]; unsigned n; };

static uint64_t end_of(const char *dir)
{
	struct spool_list l;
	struct why why;
	uint64_t end;

	if (!spool_list_dir(dir, &l, &why))
		return 0;
	end = l.n ? l.at[l.n - 1].first + l.at[l.n - 1].size : 0;
	free(l.at);
	return end;
}

static bool is_open(const struct spools *s, const char *name)
{
	for (unsigned i = 0; i < s->n; i++)
		if (strcmp(s->name[i], name) == 0)
			return true;
	return false;
}

/* Those that came since are read from their beginning. Of what is there at the start only the part that is written is passed over. */
static void spools_look(struct tail *t, struct spools *s, const char *root, bool from_beginning)
{
	DIR *d = opendir(root);
	struct dirent *e;
	struct why why;

	while (d && (e = readdir(d))) {
		char dir[1400];

		if (e->d_name[0] == '.' || !str_starts(str_of(e->d_name), str_of(t->kind->spool)) || s->n == SPOOLS || strlen(e->d_name) >= sizeof(s->name[0]) ||
		    is_open(s, e->d_name))
			continue;
		snprintf(dir, sizeof(dir), "%s/%s", root, e->d_name);
		if (end_of(dir) == 0 || !(s->r[s->n] = spool_reader_open(dir, 0, &why)))
			continue;
		(void)str_copy(s->name[s->n], sizeof(s->name[0]), str_of(e->d_name));
		for (struct str payload; !from_beginning;) {
			uint64_t at, next;
			uint8_t type;

			if (spool_read(s->r[s->n], &type, &payload, &at, &next, &why) == 0)
				break;
		}
		s->n++;
	}
	if (d)
		closedir(d);
}

static void spool_line(struct tail *t, const char *name, uint64_t at, struct str payload)
{
	struct buf b = { 0 };
	struct json_out jo;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "topic", t->topic);
	jw_kv_strz(&jo, "spool", name);
	jw_kv_u64(&jo, "position", at);
	put_value(t, &jo, payload);
	jw_end(&jo);
	line_out(t, &b);
}

static unsigned spool_lines(struct tail *t, struct spools *s, unsigned i)
{
	struct str payload;
	uint64_t at, next;
	uint8_t type;
	struct why why;
	unsigned n = 0;

	while (!interrupted && spool_read(s->r[i], &type, &payload, &at, &next, &why) == 1)
		if (type >= t->kind->type_min && type <= t->kind->type_max) {
			spool_line(t, s->name[i], at, payload);
			n++;
		}
	return n;
}

static enum err tail_spools(struct tail *t, const char *state_dir, bool from_beginning, struct why *why)
{
	struct spools *s = x_calloc(1, sizeof(*s));
	int64_t heard_us = mono_us();
	char root[1024];

	if (!t->kind || !t->kind->spool) {
		free(s);
		return err_set(why, ERR_INVALID, "with bus=local: there are the topics " LOCAL_TOPICS " alone; %s needs a bus=kafka:", t->topic);
	}
	snprintf(root, sizeof(root), "%s/%s/%s", state_dir, t->kind->service, t->kind->folder);
	spools_look(t, s, root, from_beginning);
	if (!s->n)
		fprintf(t->cli->err, "Nothing of %s is in %s yet; waiting for it. Where 'corral serve' keeps its state elsewhere, name that by --state-dir.\n", t->topic, root);
	while (!interrupted && (!t->idle_ms || mono_us() - heard_us < t->idle_ms * 1000)) {
		unsigned n = 0;

		for (unsigned i = 0; i < s->n; i++)
			n += spool_lines(t, s, i);
		if (n)
			heard_us = mono_us();
		else
			usleep(100000);
		spools_look(t, s, root, true);
	}
	for (unsigned i = 0; i < s->n; i++)
		spool_reader_close(s->r[i]);
	free(s);
	return ERR_OK;
}

/* --- the command --- */

struct wanted { struct bus_config bus; };
static const struct opt wanted_options[] = { BUS_OPTIONS(struct wanted, bus), OPT_END };

static size_t size_of(enum opt_type type) { return type == OPT_T_BOOL ? sizeof(bool) : type == OPT_T_INT ? sizeof(int64_t) : sizeof(const char *); }

/* The same options as the services have, by their names. */
static void take_options(struct bus_config *ret, const struct svc_settings *s)
{
	for (const struct opt *o = wanted_options; o->name; o++)
		for (size_t i = 0; i < s->n; i++)
			for (const struct opt *have = s->sets[i].table; have && have->name; have++)
				if (strcmp(have->name, o->name) == 0)
					memcpy((char *)ret + o->offset, (const char *)s->sets[i].config + have->offset, size_of(o->type));
}

static enum err tail_with(void *arg, const struct svc_settings *s, struct why *why)
{
	struct tail *t = arg;
	const struct events_opts *o = t->cli->opts;
	struct bus_config cfg = { 0 };
	enum err err;

	take_options(&cfg, s);
	err = bus_check(&cfg, why);
	if (err)
		return err;
	if (!bus_is_kafka(&cfg))
		return tail_spools(t, s->state_dir, o->from_beginning, why);
	return bus_tail(&cfg, t->topic, o->from_beginning, t->idle_ms, on_message, t, why) ? ERR_OK : why->code;
}

static const struct kind *kind_of(const char *topic)
{
	for (size_t i = 0; i < KINDS; i++)
		if (str_starts(str_of(topic), str_of(kinds[i].topic)) && (topic[strlen(kinds[i].topic)] == '\0' || topic[strlen(kinds[i].topic)] == '.'))
			return &kinds[i];
	return NULL;
}

static int run_tail(struct cli *c)
{
	const struct events_opts *o = c->opts;
	struct tail t = { .cli = c, .topic = c->args[1], .kind = kind_of(c->args[1]) };
	char *argv[6] = { (char *)(uintptr_t)"corral" };
	uint64_t seconds = 0;
	int argc = 1;
	struct why why = { 0 };

	if (o->idle[0] && !str_u64(str_of(o->idle), &seconds))
		return cli_usage(c, "--idle is a number of seconds, not '%s'", o->idle);
	t.idle_ms = (int64_t)seconds * 1000;
	if (o->state_dir[0])
		argv[argc++] = arena_printf(c->mem, "--state-dir=%s", o->state_dir);
	if (o->config[0])
		argv[argc++] = arena_printf(c->mem, "--config=%s", o->config);
	if (o->bus[0])
		argv[argc++] = arena_printf(c->mem, "--bus=%s", o->bus);
	if (o->bus_prefix[0])
		argv[argc++] = arena_printf(c->mem, "--bus-prefix=%s", o->bus_prefix);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	if (svc_settings(cli_services, cli_n_services, argc, argv, false, tail_with, &t, &why) != ERR_OK)
		return cli_fail(c, EXIT_FAILED, "%s", why.text);
	return EXIT_OK;
}

static int run(struct cli *c)
{
	if (c->n_args != 2 || strcmp(c->args[0], "tail") != 0)
		return cli_usage(c, "events knows one word: corral events tail TOPIC");
	return run_tail(c);
}

const struct command cmd_events = {
	.name = "events", .args = "tail TOPIC", .summary = "Show facts as they travel, one JSON object a line.",
	.flags = flags, .opts_size = sizeof(struct events_opts), .max_args = 2, .run = run,
	.text = "TOPIC is usage.v1, decision.v1, feedback.v1, experiments.v1, audit.v1, catalogue.v1, task-completed.v1, or one with .dead behind it, without the prefix. It goes on until Ctrl-C.\n"
		"With bus=kafka: they are read from the brokers, by whoever may read there; nothing of it is noted anywhere. With bus=local: "
		LOCAL_TOPICS " are read from the spools of the services that write them on this machine, as far as these go back.",
	.examples = (const struct example[]){
		{ "corral events tail usage.v1", "What is used, as it is used." },
		{ "corral events tail usage.v1.dead --from-beginning --idle 2", "What could not be understood." },
		{ 0 } },
};
