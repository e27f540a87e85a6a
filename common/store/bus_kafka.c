/* bus_kafka.c - bus.h over librdkafka, the only file that includes it.
 *
 * Producer and consumer have a connection each (struct link): the library's own threads talk to the brokers and put events into one queue; an
 * event descriptor wakes the loop, which takes them out. The topics are asked after by asking to make them, for real or as a trial, for the
 * answer says which are there; the same question is how a connection is found to work again.
 * A consumer rests when a batch could not be kept: it gives all partitions back to the library (not to the group), and takes them again from
 * where the store says. */
#include "common/store/bus.h"

#include <librdkafka/rdkafka.h>

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/io/loop.h"

enum { EVENTS_A_TURN = 2000, BEAT_MS = 500, ASK_AGAIN_MS = 2000, ASK_TIMEOUT_MS = 5000, TOPICS_MAX = 16, REST_MIN_MS = 50, REST_MAX_MS = 5000 };
struct link {
	struct loop *loop;
	struct arena *mem;            /* of cfg */
	const struct bus_config *cfg;
	const char *const *topics;
	bus_on_state *on_state;
	void *arg;
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;
	void (*on_event)(struct link *, rd_kafka_event_t *);
	void (*on_turn)(struct link *);       /* the queue was looked through */
	struct loop_io io;
	struct loop_timer beat;
	bool told, ok;                /* what on_state() heard last */
	bool asking;                  /* a question after the topics is under way */
	bool there;                   /* nothing is known of one that is missing */
	bool missing[TOPICS_MAX];     /* by topic, as far as is known */
	int64_t asked_us;
	char text[400];               /* of the last error of the brokers */
	unsigned logged;              /* of these troubles, since all was well */
};

enum trouble { NO_TROUBLE, NO_TOPIC = 1, NO_BROKER = 2, REFUSED = 4, SILENT = 8, OTHER = 16 };

/* --- configuration --- */

static struct str brokers_of(const struct bus_config *c)
{
	struct str s = str_of(c->bus);

	return str_starts(s, STR("kafka:")) ? str_from(s, 6) : (struct str){ 0 };
}

bool bus_is_kafka(const struct bus_config *c) { return brokers_of(c).n > 0; }

enum err bus_check(const struct bus_config *c, struct why *why)
{
	bool sasl = strcmp(c->bus_sasl_mechanism, "none") != 0;

	if (strcmp(c->bus, "local:") == 0 || !*c->bus)
		return ERR_OK;
	if (!bus_is_kafka(c))
		return err_field(why, ERR_INVALID, "bus", "bus: '%s' is neither local: nor of the form kafka:HOST:PORT,HOST:PORT", c->bus);
	if (sasl && (!*c->bus_user || !*c->bus_password))
		return err_field(why, ERR_INVALID, "bus_user", "bus_sasl_mechanism is %s: it needs bus_user and bus_password_file", c->bus_sasl_mechanism);
	if (!sasl && (*c->bus_user || *c->bus_password))
		return err_field(why, ERR_INVALID, "bus_sasl_mechanism", "bus_user or bus_password is given, and bus_sasl_mechanism is none: nobody would be told of them");
	if (!c->bus_tls && (*c->bus_tls_ca || *c->bus_tls_cert || *c->bus_tls_key))
		return err_field(why, ERR_INVALID, "bus_tls", "bus_tls_ca, bus_tls_cert or bus_tls_key is given, and bus_tls is no: everything would go in the clear");
	if (!*c->bus_tls_cert != !*c->bus_tls_key)
		return err_field(why, ERR_INVALID, "bus_tls_cert", "bus_tls_cert and bus_tls_key go together");
	return ERR_OK;
}

static void topic_name(const struct bus_config *c, const char *topic, char out[250]) { snprintf(out, 250, "%s%s", c->bus_prefix, topic); }

/* Its lines tell of each attempt to connect; what matters of them comes as events, and is said once. */
static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *text)
{
	(void)rk, (void)level;
	LOG_DEBUG("librdkafka", LOG_S("fac", fac), LOG_S("text", text));
}

static bool set(rd_kafka_conf_t *conf, const char *name, const char *value, struct why *why)
{
	char text[300];

	if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
		return true;
	return err_set(why, ERR_INVALID, "Kafka does not take the configuration: %s", text) == ERR_OK;
}

static bool set_all(rd_kafka_conf_t *conf, const char *const (*pairs)[2], struct why *why)
{
	for (; (*pairs)[0]; pairs++)
		if ((*pairs)[1][0] && !set(conf, (*pairs)[0], (*pairs)[1], why))
			return false;
	return true;
}

static const char *protocol_of(const struct bus_config *c)
{
	bool sasl = strcmp(c->bus_sasl_mechanism, "none") != 0;

	return c->bus_tls ? sasl ? "sasl_ssl" : "ssl" : sasl ? "sasl_plaintext" : "plaintext";
}

/* As the library spells it: "SCRAM-SHA-256". */
static void mechanism_of(const struct bus_config *c, char out[32])
{
	size_t n = 0;

	for (const char *p = c->bus_sasl_mechanism; *p && n < 31; p++)
		out[n++] = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
	out[n] = '\0';
}

/* Sparse connections: with them, whoever waits for a broker asks for it again each time that its connection is refused, without any back-off (a question after
 * the topics does so while no broker answers): thousands of attempts a second. */
static rd_kafka_conf_t *conf_new(const struct bus_config *c, const char *const (*more)[2], struct why *why)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool sasl = strcmp(c->bus_sasl_mechanism, "none") != 0;
	char mechanism[32];
	const char *const pairs[][2] = {
		{ "bootstrap.servers", brokers_of(c).p }, { "client.id", "corral" }, { "security.protocol", protocol_of(c) },
		{ "sasl.mechanism", sasl ? mechanism : "" }, { "sasl.username", sasl ? c->bus_user : "" },
		{ "sasl.password", sasl ? c->bus_password : "" }, { "ssl.ca.location", c->bus_tls_ca }, { "ssl.certificate.location", c->bus_tls_cert },
		{ "ssl.key.location", c->bus_tls_key }, { "ssl.endpoint.identification.algorithm", c->bus_tls ? "https" : "" },
		{ "enable.sparse.connections", "false" }, { "socket.keepalive.enable", "true" }, { "reconnect.backoff.ms", "50" }, { "reconnect.backoff.max.ms", "1000" },
		{ "topic.metadata.refresh.interval.ms", "10000" }, { "topic.metadata.propagation.max.ms", "5000" },
		{ "allow.auto.create.topics", "false" }, { "log.connection.close", "false" }, { NULL, NULL }
	};

	mechanism_of(c, mechanism);
	rd_kafka_conf_set_log_cb(conf, on_log);
	if (set_all(conf, pairs, why) && set_all(conf, more, why))
		return conf;
	rd_kafka_conf_destroy(conf);
	return NULL;
}

/* Older ones repeat a part of the SCRAM exchange, which brokers from 3.7.2, 3.8.1 and 4.0 on refuse as wrong credentials. */
static void warn_of_scram(const struct bus_config *c)
{
	if (str_starts(str_of(c->bus_sasl_mechanism), STR("scram-")) && rd_kafka_version() < 0x020601ff)
		LOG_WARN("this librdkafka cannot speak SCRAM to Kafka 4, which will call the password wrong; it needs 2.6.1 (Debian 13), or bus_sasl_mechanism: plain over TLS",
			 LOG_S("librdkafka", rd_kafka_version_str()));
}

static rd_kafka_t *handle_new(rd_kafka_type_t type, const struct bus_config *c, const char *const (*more)[2], int events, struct why *why)
{
	rd_kafka_conf_t *conf = conf_new(c, more, why);
	char text[300];
	rd_kafka_t *rk;

	if (!conf)
		return NULL;
	warn_of_scram(c);
	rd_kafka_conf_set_events(conf, events);
	rk = rd_kafka_new(type, conf, text, sizeof(text));
	if (rk)
		return rk;
	rd_kafka_conf_destroy(conf);
	err_set(why, ERR_UNAVAILABLE, "Kafka cannot be used: %s", text);
	return NULL;
}

/* Of our own: a service's may be replaced. */
static const struct bus_config *conf_copy(struct arena *mem, const struct bus_config *from)
{
	struct bus_config *c = (struct bus_config *)(void *)arena_dup(mem, from, sizeof(*from));
	const char **texts[] = { &c->bus, &c->bus_prefix, &c->bus_sasl_mechanism, &c->bus_user, &c->bus_password, &c->bus_tls_ca, &c->bus_tls_cert, &c->bus_tls_key };

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		*texts[i] = arena_str(mem, str_of(*texts[i])).p;
	return c;
}

/* --- a connection --- */

static void link_serve(struct loop_io *io, unsigned ready)
{
	struct link *l = list_entry(io, struct link, io);
	rd_kafka_event_t *ev;
	uint64_t count;
	int n = 0;

	(void)ready;
	if (read(io->fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		LOG_WARN("an event descriptor cannot be read", LOG_I("errno", errno));
	while (l->queue && n < EVENTS_A_TURN && (ev = rd_kafka_queue_poll(l->queue, 0))) {
		l->on_event(l, ev);
		n++;
	}
	l->on_turn(l);
	if (n == EVENTS_A_TURN)
		loop_io_again(&l->io, LOOP_READ);
}

static void link_queue(struct link *l, rd_kafka_queue_t *q)
{
	const uint64_t one = 1;

	l->queue = q;
	rd_kafka_queue_io_event_enable(q, l->io.fd, &one, sizeof(one));
}

static bool link_open(struct link *l, struct why *why)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	l->mem = arena_new(0);
	l->cfg = conf_copy(l->mem, l->cfg);
	if (fd < 0)
		return err_set(why, ERR_UNAVAILABLE, "no descriptor for Kafka's events: %s", strerror(errno)) == ERR_OK;
	loop_io_add(l->loop, &l->io, fd, LOOP_READ, link_serve);
	return true;
}

static void link_drop(struct link *l)
{
	if (l->queue) {
		rd_kafka_queue_io_event_enable(l->queue, -1, NULL, 0);
		rd_kafka_queue_destroy(l->queue);
	}
	if (l->rk)
		rd_kafka_destroy_flags(l->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	l->queue = NULL;
	l->rk = NULL;
}

static void link_close(struct link *l)
{
	int fd = l->io.fd;

	loop_timer_del(&l->beat);
	link_drop(l);
	arena_free(l->mem);
	if (fd < 0 || !l->io.loop)
		return;
	loop_io_del(&l->io);
	close(fd);
}

/* Each kind is in the log once: brokers that refuse us do so several times a second, each time in other words. */
static void link_log(struct link *l, enum trouble trouble, const char *text)
{
	if (trouble == NO_TROUBLE)
		l->logged = 0;
	else if (!(l->logged & trouble))
		LOG_WARN("Kafka cannot be used", LOG_S("why", text));
	l->logged |= trouble;
}

static void link_state(struct link *l, enum trouble trouble, const char *text)
{
	bool ok = trouble == NO_TROUBLE;

	link_log(l, trouble, text);
	if (l->told && l->ok == ok && (ok || strcmp(text, l->text) == 0))
		return;
	l->told = true;
	l->ok = ok;
	snprintf(l->text, sizeof(l->text), "%s", text);
	if (l->on_state)
		l->on_state(l->arg, ok, text);
}

/* --- topics --- */

static rd_kafka_NewTopic_t *topic_wanted(const struct link *l, const char *topic)
{
	const struct bus_config *c = l->cfg;
	char name[250], text[200];
	rd_kafka_NewTopic_t *t;

	topic_name(c, topic, name);
	t = rd_kafka_NewTopic_new(name, c->bus_partitions ? (int)c->bus_partitions : -1, c->bus_replication ? (int)c->bus_replication : -1, text, sizeof(text));
	if (t)
		rd_kafka_NewTopic_set_config(t, "max.message.bytes", "9437184");      /* BUS_MESSAGE_BYTES and what is around it */
	return t;
}

static void topics_ask(struct link *l)
{
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(l->rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_NewTopic_t *wanted[TOPICS_MAX];
	char text[200];
	size_t n = 0;

	for (; l->topics[n] && n < TOPICS_MAX; n++)
		wanted[n] = topic_wanted(l, l->topics[n]);
	rd_kafka_AdminOptions_set_request_timeout(options, ASK_TIMEOUT_MS, text, sizeof(text));
	rd_kafka_AdminOptions_set_validate_only(options, !l->cfg->bus_create_topics, text, sizeof(text));
	l->asking = true;
	l->asked_us = mono_us();
	rd_kafka_CreateTopics(l->rk, wanted, n, options, l->queue);
	rd_kafka_NewTopic_destroy_array(wanted, n);
	rd_kafka_AdminOptions_destroy(options);
}

struct missing { unsigned n; char names[250], fault[300]; };

static void topic_missing(struct missing *m, const char *name)
{
	size_t at = strlen(m->names);

	snprintf(m->names + at, sizeof(m->names) - at, "%s%s", m->n++ ? ", " : "", name);
}

static int topic_at(const struct link *l, struct str name)
{
	for (int i = 0; i < TOPICS_MAX && l->topics[i]; i++)
		if (str_eqz(name, l->topics[i]))
			return i;
	return -1;
}

static void topic_mark(struct link *l, struct str name)
{
	int i = topic_at(l, name);

	if (i >= 0)
		l->missing[i] = true;
}

/* Nothing is known of one that is missing. */
static void topics_there(struct link *l)
{
	l->there = true;
	memset(l->missing, 0, sizeof(l->missing));
}

/* As far as the answer says; who may not make topics is not told, and finds out by using it. */
static void topic_look(struct link *l, const rd_kafka_topic_result_t *r, struct missing *m)
{
	struct str name = str_from(str_of(rd_kafka_topic_result_name(r)), strlen(l->cfg->bus_prefix));

	switch (rd_kafka_topic_result_error(r)) {
	case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS:
	case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
	case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		break;
	case RD_KAFKA_RESP_ERR_NO_ERROR:
		if (l->cfg->bus_create_topics)
			LOG_INFO("topic made", LOG_S("topic", rd_kafka_topic_result_name(r)));
		else
			topic_missing(m, rd_kafka_topic_result_name(r)), topic_mark(l, name);
		break;
	default:
		topic_mark(l, name);
		snprintf(m->fault, sizeof(m->fault), "the topic %s cannot be made: %s", rd_kafka_topic_result_name(r), rd_kafka_topic_result_error_string(r));
	}
}

static void link_missing(struct link *l, const struct missing *m)
{
	char text[400];

	l->there = !m->n && !m->fault[0];
	if (m->fault[0])
		snprintf(text, sizeof(text), "%s", m->fault);
	else
		snprintf(text, sizeof(text), "%s: %s; make %s, or allow it with bus_create_topics", m->n > 1 ? "these topics are not there" : "this topic is not there",
			 m->names, m->n > 1 ? "them" : "it");
	link_state(l, l->there ? NO_TROUBLE : NO_TOPIC, l->there ? "" : text);
}

static void on_topics(struct link *l, rd_kafka_event_t *ev)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(ev);
	const rd_kafka_topic_result_t **results;
	struct missing missing = { 0 };
	char text[300];
	size_t n;

	l->asking = false;
	if (err)
		topics_there(l);          /* as far as is known; using it will tell */
	if (err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE || err == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION) {
		link_state(l, NO_TROUBLE, "");
		return;
	}
	if (err && l->told && !l->ok)
		return;                   /* why is known */
	if (err) {
		snprintf(text, sizeof(text), "the brokers at %s do not answer: %s", brokers_of(l->cfg).p, rd_kafka_event_error_string(ev));
		link_state(l, SILENT, text);
		return;
	}
	results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &n);
	topics_there(l);
	for (size_t i = 0; i < n; i++)
		topic_look(l, results[i], &missing);
	link_missing(l, &missing);
}

/* While something is wrong, or nothing is known, the brokers are asked every two seconds. */
static void link_beat(struct link *l)
{
	if (!l->asking && (!l->there || !l->ok) && (!l->asked_us || mono_us() - l->asked_us >= ASK_AGAIN_MS * 1000))
		topics_ask(l);
}

static bool is_refusal(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED || err == RD_KAFKA_RESP_ERR__SSL ||
	       err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED || err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
}

static void on_brokers_error(struct link *l, rd_kafka_resp_err_t err, const char *said)
{
	enum trouble trouble = err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN ? NO_BROKER : REFUSED;
	char text[300];

	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		snprintf(text, sizeof(text), "no broker of %s answers", brokers_of(l->cfg).p);
	else if (is_refusal(err))
		snprintf(text, sizeof(text), "the brokers refuse us: %s", said);
	else
		return;                   /* one of several, or tried again by itself */
	link_state(l, trouble, text);
}

/* --- producer --- */

struct bus_producer {
	struct link link;
	struct list users;
	rd_kafka_topic_t *handles[TOPICS_MAX];
	bool broken;                  /* a fatal error: made anew at the end of the turn */
	pthread_t reaper;             /* of one that was broken */
	bool reaping;
};

static void producer_event(struct link *, rd_kafka_event_t *);
static void producer_turn(struct link *);
static void producer_beat(struct loop_timer *);

/* Without the linger an event costs five times as much. */
static const char *const producer_pairs[][2] = {
	{ "enable.idempotence", "true" }, { "acks", "all" }, { "message.timeout.ms", "0" }, { "linger.ms", "50" }, { "compression.type", "lz4" },
	{ "message.max.bytes", "9437184" }, { "queue.buffering.max.messages", "100000" }, { "queue.buffering.max.kbytes", "65536" },
	{ "request.timeout.ms", "10000" }, { "partitioner", "murmur2_random" }, { NULL, NULL }
};

static bool producer_connect(struct bus_producer *p, struct why *why)
{
	struct link *l = &p->link;

	l->rk = handle_new(RD_KAFKA_PRODUCER, l->cfg, producer_pairs, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR, why);
	if (!l->rk)
		return false;
	link_queue(l, rd_kafka_queue_get_main(l->rk));
	for (size_t i = 0; l->topics[i] && i < TOPICS_MAX; i++) {
		char name[250];

		topic_name(l->cfg, l->topics[i], name);
		p->handles[i] = rd_kafka_topic_new(l->rk, name, NULL);
	}
	topics_there(l);
	topics_ask(l);
	return true;
}

struct bus_producer *bus_producer_new(struct loop *loop, const struct bus_config *cfg, const char *const *topics, bus_on_state *on_state, void *arg,
				      struct why *why)
{
	struct bus_producer *p = x_calloc(1, sizeof(*p));

	p->link = (struct link){ .loop = loop, .cfg = cfg, .topics = topics, .on_state = on_state, .arg = arg, .on_event = producer_event,
				 .on_turn = producer_turn, .io.fd = -1 };
	list_init(&p->users);
	if (!link_open(&p->link, why) || !producer_connect(p, why)) {
		bus_producer_free(p);
		return NULL;
	}
	loop_timer_set(loop, &p->link.beat, BEAT_MS * 1000, producer_beat);
	return p;
}

static void handles_free(struct bus_producer *p)
{
	for (size_t i = 0; i < TOPICS_MAX; i++)
		if (p->handles[i])
			rd_kafka_topic_destroy(p->handles[i]);
	memset(p->handles, 0, sizeof(p->handles));
}

static void reaper_join(struct bus_producer *p)
{
	if (p->reaping)
		pthread_join(p->reaper, NULL);
	p->reaping = false;
}

static void users_lose(struct bus_producer *p)
{
	list_each_safe(it, &p->users) {
		struct bus_user *u = list_entry(it, struct bus_user, node);

		u->on_lost(u);
	}
}

void bus_producer_free(struct bus_producer *p)
{
	if (!p)
		return;
	p->link.on_state = NULL;
	handles_free(p);
	if (p->link.rk)
		rd_kafka_purge(p->link.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	link_close(&p->link);
	reaper_join(p);
	users_lose(p);
	free(p);
}

void bus_producer_join(struct bus_producer *p, struct bus_user *u) { list_push(&p->users, &u->node); }

void bus_producer_leave(struct bus_producer *p, struct bus_user *u)
{
	(void)p;
	list_del(&u->node);
}

bool bus_producer_ready(const struct bus_producer *p) { return p->link.there; }

bool bus_producer_misses(const struct bus_producer *p, const char *topic)
{
	int at = topic_at(&p->link, str_of(topic));

	return at >= 0 && p->link.missing[at];
}

unsigned bus_producer_queue(const struct bus_producer *p) { return (unsigned)rd_kafka_outq_len(p->link.rk); }

static rd_kafka_headers_t *headers_of(const struct bus_out *m)
{
	rd_kafka_headers_t *h = rd_kafka_headers_new(m->n_headers);

	for (unsigned i = 0; i < m->n_headers; i++)
		rd_kafka_header_add(h, m->headers[i].name, -1, m->headers[i].value.p ? m->headers[i].value.p : "", (ssize_t)m->headers[i].value.n);
	return h;
}

static void topic_missed(struct link *l, const char *topic)
{
	char text[300];

	snprintf(text, sizeof(text), "the topic %s%s is not there%s", l->cfg->bus_prefix, topic,
		 l->cfg->bus_create_topics ? "; it is being made" : "; make it, or allow it with bus_create_topics");
	l->there = false;
	topic_mark(l, str_of(topic));
	link_state(l, NO_TOPIC, text);
}

static enum bus_sent refused(struct bus_producer *p, const char *topic, rd_kafka_resp_err_t err)
{
	switch (err) {
	case RD_KAFKA_RESP_ERR__QUEUE_FULL:
		return BUS_FULL;
	case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		return BUS_TOO_LARGE;
	case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		topic_missed(&p->link, topic);
		return BUS_LATER;
	case RD_KAFKA_RESP_ERR__FATAL:
		p->broken = true;
		loop_io_again(&p->link.io, LOOP_READ);
		return BUS_LATER;
	default:
		link_state(&p->link, OTHER, rd_kafka_err2str(err));
		return BUS_LATER;
	}
}

enum bus_sent bus_send(struct bus_producer *p, const struct bus_out *m, struct bus_ticket *ticket)
{
	int at = topic_at(&p->link, str_of(m->topic));
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t err;

	if (at < 0 || p->link.missing[at] || !p->handles[at] || p->broken)
		return BUS_LATER;                 /* one topic that is missing stops no other */
	if (m->value.n > BUS_MESSAGE_BYTES)
		return BUS_TOO_LARGE;
	headers = headers_of(m);
	err = rd_kafka_producev(p->link.rk, RD_KAFKA_V_RKT(p->handles[at]), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY(m->key.p, m->key.n),
				RD_KAFKA_V_VALUE((void *)(uintptr_t)m->value.p, m->value.n), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(ticket), RD_KAFKA_V_END);
	if (!err)
		return BUS_SENT;
	rd_kafka_headers_destroy(headers);
	return refused(p, m->topic, err);
}

static const char *without_prefix(const struct link *l, const char *name)
{
	size_t n = strlen(l->cfg->bus_prefix);

	return strncmp(name, l->cfg->bus_prefix, n) == 0 ? name + n : name;
}

static void on_reports(struct bus_producer *p, rd_kafka_event_t *ev)
{
	const rd_kafka_message_t *m;

	while ((m = rd_kafka_event_message_next(ev))) {
		struct bus_ticket *t = m->_private;
		bool persisted = !m->err && rd_kafka_message_status(m) == RD_KAFKA_MSG_STATUS_PERSISTED;

		if (persisted)
			link_state(&p->link, NO_TROUBLE, "");
		else if (m->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
			topic_missed(&p->link, without_prefix(&p->link, rd_kafka_topic_name(m->rkt)));
		t->on_report(t, persisted, persisted ? "" : rd_kafka_err2str(m->err));
	}
}

static void producer_event(struct link *l, rd_kafka_event_t *ev)
{
	struct bus_producer *p = list_entry(l, struct bus_producer, link);

	switch (rd_kafka_event_type(ev)) {
	case RD_KAFKA_EVENT_DR:
		on_reports(p, ev);
		break;
	case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
		on_topics(l, ev);
		break;
	case RD_KAFKA_EVENT_ERROR:
		p->broken |= rd_kafka_event_error(ev) == RD_KAFKA_RESP_ERR__FATAL;
		on_brokers_error(l, rd_kafka_event_error(ev), rd_kafka_event_error_string(ev));
		break;
	default:
		break;
	}
	rd_kafka_event_destroy(ev);
}

/* Its threads may be in the middle of something slow, such as looking up a name. */
static void *reap(void *rk)
{
	rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	rd_kafka_destroy(rk);
	return NULL;
}

static void producer_drop(struct bus_producer *p)
{
	handles_free(p);
	rd_kafka_queue_io_event_enable(p->link.queue, -1, NULL, 0);
	rd_kafka_queue_destroy(p->link.queue);
	reaper_join(p);
	p->reaping = pthread_create(&p->reaper, NULL, reap, p->link.rk) == 0;
	if (!p->reaping)
		(void)reap(p->link.rk);
	p->link.rk = NULL;
	p->link.queue = NULL;
}

/* A fatal error ends the library's promise of each message once and in order: what has no report is sent again by its users. */
static void producer_turn(struct link *l)
{
	struct bus_producer *p = list_entry(l, struct bus_producer, link);
	char text[200];
	struct why why;

	if (!p->broken)
		return;
	rd_kafka_fatal_error(l->rk, text, sizeof(text));
	LOG_WARN("the Kafka producer is made anew after a fatal error", LOG_S("error", text));
	producer_drop(p);
	p->broken = false;
	if (!producer_connect(p, &why)) {
		LOG_ERROR("the Kafka producer cannot be made anew", LOG_S("error", why.text));
		abort();                  /* the same configuration was taken before */
	}
	users_lose(p);
}

static void producer_beat(struct loop_timer *t)
{
	struct link *l = list_entry(t, struct link, beat);

	loop_timer_set(l->loop, t, BEAT_MS * 1000, producer_beat);
	link_serve(&l->io, LOOP_READ);
	link_beat(l);
}

/* --- consumer --- */

struct part {
	const char *topic;            /* without prefix, of link.topics */
	int32_t partition;
	int64_t next;                 /* what is kept ends here; -1 = nothing was ever */
	bool anywhere;                /* the first message may be at any offset */
	bool changed;                 /* since the group was told last */
	struct bus_in *in;
	size_t n, cap;
};

struct bus_consumer {
	struct link link;
	struct bus_consumer_opts o;
	struct part *parts;
	size_t n_parts;
	bool resting;                 /* nothing is read until the timer */
	bool broken;                  /* a fatal error: made anew with the next beat but some */
	unsigned broken_beats;
	int64_t rest_ms, told_us;
	struct loop_timer rest;
	rd_kafka_event_t **events;    /* of the messages in hand */
	size_t n_events, cap_events;
};

static void consumer_event(struct link *, rd_kafka_event_t *);
static void consumer_turn(struct link *);
static void consumer_beat(struct loop_timer *);
static void take_parts(struct loop_timer *);

static rd_kafka_topic_partition_list_t *subscription(const struct link *l)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(TOPICS_MAX);

	for (size_t i = 0; l->topics[i] && i < TOPICS_MAX; i++) {
		char name[250];

		topic_name(l->cfg, l->topics[i], name);
		rd_kafka_topic_partition_list_add(list, name, RD_KAFKA_PARTITION_UA);
	}
	return list;
}

static bool consumer_connect(struct bus_consumer *c, struct why *why)
{
	struct link *l = &c->link;
	char group[250];
	const char *const pairs[][2] = {
		{ "group.id", group }, { "group.instance.id", c->o.member }, { "enable.auto.commit", "false" }, { "enable.auto.offset.store", "false" },
		{ "auto.offset.reset", "error" }, { "isolation.level", "read_committed" }, { "session.timeout.ms", "10000" }, { "heartbeat.interval.ms", "1000" },
		{ "max.poll.interval.ms", "300000" }, { "queued.min.messages", "10000" }, { "queued.max.messages.kbytes", "16384" },
		{ "fetch.wait.max.ms", "100" }, { "fetch.error.backoff.ms", "100" }, { "fetch.message.max.bytes", "1048576" }, { NULL, NULL }
	};
	rd_kafka_topic_partition_list_t *list;

	topic_name(l->cfg, c->o.group, group);
	l->rk = handle_new(RD_KAFKA_CONSUMER, l->cfg, pairs, RD_KAFKA_EVENT_FETCH | RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_OFFSET_COMMIT, why);
	if (!l->rk)
		return false;
	rd_kafka_poll_set_consumer(l->rk);
	link_queue(l, rd_kafka_queue_get_consumer(l->rk));
	topics_there(l);
	topics_ask(l);
	list = subscription(l);
	rd_kafka_subscribe(l->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	return true;
}

struct bus_consumer *bus_consumer_new(struct loop *loop, const struct bus_config *cfg, const struct bus_consumer_opts *o, struct why *why)
{
	struct bus_consumer *c = x_calloc(1, sizeof(*c));

	c->o = *o;
	c->rest_ms = REST_MIN_MS;
	c->link = (struct link){ .loop = loop, .cfg = cfg, .topics = o->topics, .on_state = o->on_state, .arg = o->state_arg, .on_event = consumer_event,
				 .on_turn = consumer_turn, .io.fd = -1 };
	if (!link_open(&c->link, why) || !consumer_connect(c, why)) {
		bus_consumer_free(c);
		return NULL;
	}
	loop_timer_set(loop, &c->link.beat, BEAT_MS * 1000, consumer_beat);
	return c;
}

static void messages_drop(struct bus_consumer *c)
{
	for (size_t i = 0; i < c->n_events; i++)
		rd_kafka_event_destroy(c->events[i]);
	c->n_events = 0;
	for (size_t i = 0; i < c->n_parts; i++)
		c->parts[i].n = 0;
}

static void parts_drop(struct bus_consumer *c)
{
	messages_drop(c);
	for (size_t i = 0; i < c->n_parts; i++)
		free(c->parts[i].in);
	free(c->parts);
	c->parts = NULL;
	c->n_parts = 0;
}

void bus_consumer_free(struct bus_consumer *c)
{
	if (!c)
		return;
	c->link.on_state = NULL;
	loop_timer_del(&c->rest);
	parts_drop(c);
	link_close(&c->link);
	free(c->events);
	free(c);
}

struct str bus_in_header(const struct bus_in *in, const char *name)
{
	rd_kafka_headers_t *headers;
	const void *value;
	size_t n;

	if (rd_kafka_message_headers(in->impl, &headers) || rd_kafka_header_get_last(headers, name, &value, &n))
		return (struct str){ 0 };
	return str_n(value ? value : "", value ? n : 0);
}

static struct part *part_of(struct bus_consumer *c, const char *name, int32_t partition)
{
	const char *topic = without_prefix(&c->link, name);

	for (size_t i = 0; i < c->n_parts; i++)
		if (c->parts[i].partition == partition && strcmp(c->parts[i].topic, topic) == 0)
			return &c->parts[i];
	return NULL;
}

/* --- partitions come and go --- */

static void rest(struct bus_consumer *c)
{
	messages_drop(c);
	rd_kafka_assign(c->link.rk, NULL);
	c->resting = true;
	loop_timer_set(c->link.loop, &c->rest, c->rest_ms * 1000, take_parts);
	c->rest_ms = c->rest_ms * 2 < REST_MAX_MS ? c->rest_ms * 2 : REST_MAX_MS;
}

/* Reads on from where the store says. */
static void take_parts(struct loop_timer *t)
{
	struct bus_consumer *c = list_entry(t, struct bus_consumer, rest);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)c->n_parts + 1);
	bool ok = true;

	for (size_t i = 0; i < c->n_parts && ok; i++) {
		struct part *p = &c->parts[i];
		char name[250];

		ok = c->o.on_assigned(c->o.arg, p->topic, p->partition, &p->next);
		topic_name(c->link.cfg, p->topic, name);
		rd_kafka_topic_partition_list_add(list, name, p->partition)->offset = p->anywhere || p->next < 0 ? RD_KAFKA_OFFSET_BEGINNING : p->next;
	}
	c->resting = false;
	if (!ok)
		rest(c);
	else
		rd_kafka_assign(c->link.rk, list);
	rd_kafka_topic_partition_list_destroy(list);
}

static const char *own_name_of(const struct bus_consumer *c, const char *name)
{
	const char *topic = without_prefix(&c->link, name);

	for (size_t i = 0; c->link.topics[i]; i++)
		if (strcmp(c->link.topics[i], topic) == 0)
			return c->link.topics[i];
	return NULL;
}

static void on_rebalance(struct bus_consumer *c, rd_kafka_event_t *ev)
{
	const rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(ev);

	loop_timer_del(&c->rest);
	parts_drop(c);
	c->resting = false;
	if (rd_kafka_event_error(ev) != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
		rd_kafka_assign(c->link.rk, NULL);
		return;
	}
	c->parts = x_calloc((size_t)list->cnt + 1, sizeof(*c->parts));
	for (int i = 0; i < list->cnt; i++) {
		const char *topic = own_name_of(c, list->elems[i].topic);

		if (topic)
			c->parts[c->n_parts++] = (struct part){ .topic = topic, .partition = list->elems[i].partition, .next = -1 };
	}
	take_parts(&c->rest);
}

/* --- messages --- */

static void part_add(struct part *p, const rd_kafka_message_t *m)
{
	rd_kafka_timestamp_type_t type;

	if (p->n == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 64;
		p->in = x_realloc(p->in, p->cap * sizeof(*p->in));
	}
	p->in[p->n++] = (struct bus_in){ .offset = m->offset, .at_ms = rd_kafka_message_timestamp(m, &type), .key = str_n(m->key, m->key_len),
					 .value = str_n(m->payload, m->len), .impl = m };
}

/* False: the event is not needed any more. What lies before what is kept was read again, and is dropped. */
static bool on_fetched(struct bus_consumer *c, rd_kafka_event_t *ev)
{
	const rd_kafka_message_t *m = rd_kafka_event_message_next(ev);
	struct part *p = m && !m->err && !c->resting ? part_of(c, rd_kafka_topic_name(m->rkt), m->partition) : NULL;

	if (!p || (m->offset < p->next && !p->anywhere))
		return false;
	if (c->n_events == c->cap_events) {
		c->cap_events = c->cap_events ? c->cap_events * 2 : 256;
		c->events = x_realloc(c->events, c->cap_events * sizeof(*c->events));
	}
	c->events[c->n_events++] = ev;
	part_add(p, m);
	return true;
}

/* What should come next is not in the topic any more, or not yet again. */
static void on_lost_place(struct bus_consumer *c, rd_kafka_event_t *ev)
{
	rd_kafka_topic_partition_t *at = rd_kafka_event_topic_partition(ev);
	struct part *p = at ? part_of(c, at->topic, at->partition) : NULL;

	if (p && !p->anywhere) {
		c->o.on_gap(c->o.arg, p->topic, p->partition, p->next);
		p->anywhere = true;
		rest(c);
	}
	if (at)
		rd_kafka_topic_partition_destroy(at);
}

static void consumer_error(struct bus_consumer *c, rd_kafka_event_t *ev)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(ev);

	if (err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
		on_lost_place(c, ev);
	else if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
		c->link.there = false;    /* asked after; who answers says which */
	else if (err == RD_KAFKA_RESP_ERR__FATAL)
		c->broken = true;
	else
		on_brokers_error(&c->link, err, rd_kafka_event_error_string(ev));
}

static void consumer_event(struct link *l, rd_kafka_event_t *ev)
{
	struct bus_consumer *c = list_entry(l, struct bus_consumer, link);

	switch (rd_kafka_event_type(ev)) {
	case RD_KAFKA_EVENT_FETCH:
		if (on_fetched(c, ev))
			return;
		break;
	case RD_KAFKA_EVENT_REBALANCE:
		on_rebalance(c, ev);
		break;
	case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
		on_topics(l, ev);
		break;
	case RD_KAFKA_EVENT_ERROR:
		consumer_error(c, ev);
		break;
	default:
		break;
	}
	rd_kafka_event_destroy(ev);
}

static bool part_keep(struct bus_consumer *c, struct part *p)
{
	struct bus_batch b = { .topic = p->topic, .partition = p->partition, .first = p->next, .in = p->in, .n = p->n };

	b.next = p->in[p->n - 1].offset + 1;
	if (!c->o.on_batch(c->o.arg, &b))
		return false;
	p->next = b.next;
	p->anywhere = false;
	p->changed = true;
	return true;
}

static void consumer_turn(struct link *l)
{
	struct bus_consumer *c = list_entry(l, struct bus_consumer, link);

	if (!c->n_events)
		return;
	link_state(l, NO_TROUBLE, "");
	for (size_t i = 0; i < c->n_parts; i++)
		if (c->parts[i].n && !part_keep(c, &c->parts[i])) {
			rest(c);
			return;
		}
	c->rest_ms = REST_MIN_MS;
	messages_drop(c);
}

/* The group's own offsets are for people and scalers that look at its lag; nothing is read from there. */
static void group_tell(struct bus_consumer *c)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)c->n_parts + 1);

	for (size_t i = 0; i < c->n_parts; i++)
		if (c->parts[i].changed) {
			char name[250];

			topic_name(c->link.cfg, c->parts[i].topic, name);
			rd_kafka_topic_partition_list_add(list, name, c->parts[i].partition)->offset = c->parts[i].next;
			c->parts[i].changed = false;
		}
	if (list->cnt)
		rd_kafka_commit(c->link.rk, list, 1);
	rd_kafka_topic_partition_list_destroy(list);
}

/* Another member has our name in the group, or worse. */
static void consumer_again(struct bus_consumer *c)
{
	struct link *l = &c->link;
	char text[200];
	struct why why;

	if (++c->broken_beats < 10)
		return;
	c->broken_beats = 0;
	if (l->rk) {
		rd_kafka_fatal_error(l->rk, text, sizeof(text));
		LOG_WARN("the Kafka consumer is made anew after a fatal error", LOG_S("error", text));
		loop_timer_del(&c->rest);
		parts_drop(c);
		link_drop(l);
	}
	c->broken = !consumer_connect(c, &why);
}

static void consumer_beat(struct loop_timer *t)
{
	struct link *l = list_entry(t, struct link, beat);
	struct bus_consumer *c = list_entry(l, struct bus_consumer, link);

	loop_timer_set(l->loop, t, BEAT_MS * 1000, consumer_beat);
	if (c->broken) {
		consumer_again(c);
		return;
	}
	link_serve(&l->io, LOOP_READ);
	link_beat(l);
	if (mono_us() - c->told_us < 2000000)
		return;
	c->told_us = mono_us();
	group_tell(c);
}

void bus_consumer_lag(struct bus_consumer *c, void (*fn)(void *arg, const char *topic, int32_t partition, int64_t lag), void *arg)
{
	for (size_t i = 0; i < c->n_parts; i++) {
		const struct part *p = &c->parts[i];
		int64_t low = 0, high = -1;
		char name[250];

		topic_name(c->link.cfg, p->topic, name);
		if (rd_kafka_get_watermark_offsets(c->link.rk, name, p->partition, &low, &high) || high < 0)
			continue;
		low = p->next > low ? p->next : low;
		fn(arg, p->topic, p->partition, high > low ? high - low : 0);
	}
}

/* --- the command line --- */

/* What the brokers said meanwhile tells more than that nothing came of it. */
static void tail_blame(rd_kafka_t *rk, const struct bus_config *cfg, const char *name, rd_kafka_resp_err_t err, struct why *why)
{
	rd_kafka_queue_t *q = rd_kafka_queue_get_main(rk);
	rd_kafka_event_t *ev;
	char said[300] = "";
	bool refused = false;

	while (!refused && (ev = rd_kafka_queue_poll(q, 0))) {
		rd_kafka_resp_err_t one = rd_kafka_event_error(ev);

		refused = is_refusal(one);
		if (refused || (one && one != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN))
			snprintf(said, sizeof(said), "%s", rd_kafka_event_error_string(ev));
		rd_kafka_event_destroy(ev);
	}
	rd_kafka_queue_destroy(q);
	if (refused)
		err_set(why, ERR_UNAVAILABLE, "the brokers refuse us: %s", said);
	else if (err == RD_KAFKA_RESP_ERR__TRANSPORT || err == RD_KAFKA_RESP_ERR__TIMED_OUT)
		err_set(why, ERR_UNAVAILABLE, "no broker of %s answers%s%s", brokers_of(cfg).p, *said ? ": " : "", said);
	else
		err_set(why, ERR_UNAVAILABLE, "the topic %s cannot be read: %s", name, rd_kafka_err2str(err));
}

static bool tail_assign(rd_kafka_t *rk, const struct bus_config *cfg, const char *name, bool from_beginning, struct why *why)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, name, NULL);
	const struct rd_kafka_metadata *md = NULL;
	rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, topic, &md, 10000);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);

	if (!err && (md->topic_cnt != 1 || md->topics[0].err))
		err = md->topic_cnt ? md->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	for (int i = 0; !err && i < md->topics[0].partition_cnt; i++)
		rd_kafka_topic_partition_list_add(list, name, md->topics[0].partitions[i].id)->offset = from_beginning ? RD_KAFKA_OFFSET_BEGINNING : RD_KAFKA_OFFSET_END;
	if (!err)
		err = rd_kafka_assign(rk, list);
	if (err)
		tail_blame(rk, cfg, name, err, why);
	rd_kafka_topic_partition_list_destroy(list);
	if (md)
		rd_kafka_metadata_destroy(md);
	rd_kafka_topic_destroy(topic);
	return !err;
}

static bool tail_loop(rd_kafka_t *rk, int64_t idle_ms, bool (*on_message)(void *arg, int32_t partition, const struct bus_in *), void *arg)
{
	int64_t heard_us = mono_us();
	bool more = true;

	rd_kafka_poll_set_consumer(rk);
	while (more && (!idle_ms || mono_us() - heard_us < idle_ms * 1000)) {
		rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
		struct part one = { 0 };

		if (m && !m->err) {
			part_add(&one, m);
			more = on_message(arg, m->partition, one.in);
			heard_us = mono_us();
		} else if (!m) {
			more = on_message(arg, -1, NULL);
		}
		free(one.in);
		if (m)
			rd_kafka_message_destroy(m);
	}
	return true;
}

bool bus_tail(const struct bus_config *cfg, const char *topic, bool from_beginning, int64_t idle_ms,
	      bool (*on_message)(void *arg, int32_t partition, const struct bus_in *), void *arg, struct why *why)
{
	const char *const pairs[][2] = { { "group.id", "corral-tail" }, { "enable.auto.commit", "false" }, { "isolation.level", "read_committed" }, { NULL, NULL } };
	rd_kafka_t *rk = handle_new(RD_KAFKA_CONSUMER, cfg, pairs, RD_KAFKA_EVENT_ERROR, why);
	char name[250];
	bool ok;

	if (!rk)
		return false;
	topic_name(cfg, topic, name);
	ok = tail_assign(rk, cfg, name, from_beginning, why) && tail_loop(rk, idle_ms, on_message, arg);
	rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return ok;
}
