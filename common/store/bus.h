/* bus.h - facts over Kafka: what a service is configured with, a producer and a group's consumer, both on the loop of who made them.
 *
 * bus_kafka.c alone knows the library. Topics are named without their prefix ("usage.v1"). Nothing here waits for a broker: what a broker
 * says comes as calls on the loop's thread, and what it does not say does not come.
 * One producer and one consumer a loop; neither is used from another thread. */
#ifndef CORRAL_STORE_BUS_H
#define CORRAL_STORE_BUS_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/list.h"
#include "common/base/str.h"
#include "common/data/opt.h"

struct loop;

/* Beside the service's own options: `struct bus_config` somewhere in its configuration, BUS_OPTIONS in its table. */
struct bus_config {
	const char *bus, *bus_prefix;
	bool bus_create_topics;
	int64_t bus_partitions, bus_replication;
	const char *bus_sasl_mechanism, *bus_user, *bus_password;
	bool bus_tls;
	const char *bus_tls_ca, *bus_tls_cert, *bus_tls_key;
};

#define BUS_OPT(C, at, TYPE, member, dflt_, help_, ...) \
	{ .name = #member, .type = OPT_T_##TYPE, .offset = offsetof(C, at) + offsetof(struct bus_config, member), .dflt = (dflt_), .help = (help_), __VA_ARGS__ }
#define BUS_OPTIONS(C, at) \
	BUS_OPT(C, at, STRING, bus, "local:", "How facts travel: local: (from the gateway's spool straight to the service that keeps them), or " \
		"kafka:HOST:PORT,… (by a Kafka cluster). docs/ops/kafka.md"), \
	BUS_OPT(C, at, STRING, bus_prefix, "corral.", "What the names of our topics begin with."), \
	BUS_OPT(C, at, BOOL, bus_create_topics, "yes", "Make topics that are missing. With no, an operator makes them, and /readyz names those that are missing."), \
	BUS_OPT(C, at, INT, bus_partitions, "6", "Partitions of a topic that is made; 0 = as the brokers have it by default.", .max = 10000), \
	BUS_OPT(C, at, INT, bus_replication, "0", "Copies of a topic that is made; 0 = as the brokers have it by default.", .max = 32), \
	BUS_OPT(C, at, ENUM, bus_sasl_mechanism, "none", "How we say to the brokers who we are.", .words = "none plain scram-sha-256 scram-sha-512"), \
	BUS_OPT(C, at, STRING, bus_user, "", "Name for bus_sasl_mechanism."), \
	BUS_OPT(C, at, SECRET, bus_password, "", "Password for bus_sasl_mechanism; better from a file, by bus_password_file."), \
	BUS_OPT(C, at, BOOL, bus_tls, "no", "Speak TLS to the brokers, and check their certificates and names."), \
	BUS_OPT(C, at, STRING, bus_tls_ca, "", "PEM file with the authority of the brokers' certificates; empty = those that the system trusts."), \
	BUS_OPT(C, at, STRING, bus_tls_cert, "", "PEM file with our own certificate, where brokers want one."), \
	BUS_OPT(C, at, STRING, bus_tls_key, "", "PEM file with the key of bus_tls_cert.")

bool bus_is_kafka(const struct bus_config *);
/* What types and ranges do not say: the form of 'bus', files that go together. */
enum err bus_check(const struct bus_config *, struct why *);

/* Whether the brokers can be used, and if not, a sentence; called when it changes. */
typedef void bus_on_state(void *arg, bool ok, const char *text);

struct bus_header { const char *name; struct str value; };

/* --- producing: idempotent, acknowledged by all replicas in sync, tried until it is so --- */

struct bus_producer;

/* One message under way; embed it. It stays where it is until on_report() was called, or its user's on_lost(), or the producer is freed. */
struct bus_ticket { void (*on_report)(struct bus_ticket *, bool persisted, const char *error); };

/* Who has messages under way. on_lost: the producer was made anew; nothing more is heard of any ticket, what became of them is unknown. */
struct bus_user {
	struct list node;
	void (*on_lost)(struct bus_user *);
};

struct bus_out {
	const char *topic;
	struct str key, value;        /* copied */
	const struct bus_header *headers;
	unsigned n_headers;
};

enum bus_sent {
	BUS_SENT,                     /* on_report() will be called, or on_lost() */
	BUS_FULL,                     /* the queue is: try again after a report, or later */
	BUS_LATER,                    /* the topic is not there, or the producer is broken; on_state() says why */
	BUS_TOO_LARGE                 /* no broker will take it */
};

enum { BUS_MESSAGE_BYTES = 8 << 20 };             /* largest message */

/* Makes the topics (where bus_create_topics) and says by on_state() when they cannot be used. 'topics' ended by NULL, stays valid; cfg need not. */
struct bus_producer *bus_producer_new(struct loop *, const struct bus_config *cfg, const char *const *topics, bus_on_state *, void *arg, struct why *);
void bus_producer_free(struct bus_producer *);    /* what has no report yet is given up; NULL is fine */
void bus_producer_join(struct bus_producer *, struct bus_user *);
void bus_producer_leave(struct bus_producer *, struct bus_user *);  /* it has no ticket under way, or the producer is about to be freed */
enum bus_sent bus_send(struct bus_producer *, const struct bus_out *, struct bus_ticket *);
bool bus_producer_ready(const struct bus_producer *);        /* topics are known to be there */
bool bus_producer_misses(const struct bus_producer *, const char *topic);     /* it is known not to be there */
unsigned bus_producer_queue(const struct bus_producer *);    /* messages without a report */

/* --- consuming: partitions by membership in a group, where to read from by who asks --- */

struct bus_consumer;

struct bus_in {
	int64_t offset, at_ms;        /* wall clock of the broker or the producer; -1 = not known */
	struct str key, value;
	const void *impl;             /* for bus_in_header() */
};

struct bus_batch {
	const char *topic;            /* without prefix */
	int32_t partition;
	int64_t first, next;          /* offset that was expected, offset after the batch */
	const struct bus_in *in;
	size_t n;
};

struct str bus_in_header(const struct bus_in *, const char *name);     /* p is NULL: it has none of the name */

struct bus_consumer_opts {
	const char *group;            /* without prefix, as topics */
	const char *member;           /* keeps its partitions over a restart; unique in the group; "" = a new member each time */
	const char *const *topics;    /* ended by NULL */
	/* A partition is ours: the offset to read from, -1 = its beginning. False: it is asked again after a while. */
	bool (*on_assigned)(void *arg, const char *topic, int32_t partition, int64_t *ret_next);
	/* False: nothing of it was kept. All partitions are asked for again, by on_assigned(), after a while. */
	bool (*on_batch)(void *arg, const struct bus_batch *);
	/* What was next is gone (a retention was shorter than our absence, or the topic was made anew); it goes on with the first there is. */
	void (*on_gap)(void *arg, const char *topic, int32_t partition, int64_t wanted);
	void *arg;
	bus_on_state *on_state;
	void *state_arg;
};

struct bus_consumer *bus_consumer_new(struct loop *, const struct bus_config *, const struct bus_consumer_opts *, struct why *);
void bus_consumer_free(struct bus_consumer *);    /* NULL is fine */
/* How many messages each partition of ours has that were not kept yet. */
void bus_consumer_lag(struct bus_consumer *, void (*fn)(void *arg, const char *topic, int32_t partition, int64_t lag), void *arg);

/* Reads a topic without a group, from the beginning or from now on, until on_message returns false or idle_ms without a message have passed
 * (0 = for ever). While nothing comes it is called with NULL. Waits; for the command line. */
bool bus_tail(const struct bus_config *, const char *topic, bool from_beginning, int64_t idle_ms,
	      bool (*on_message)(void *arg, int32_t partition, const struct bus_in *), void *arg, struct why *);
#endif
