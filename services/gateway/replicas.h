/* replicas.h - what the workers share about each (backend, model): slots in use, the breaker, and the queue of its model.
 *
 * Entries live as long as the process and are found by name when a world is built, so that a new snapshot changes pointers and not
 * counts. A slot is taken before a request is sent and given back when its attempt ends; nothing is sent without one, so nothing
 * queues inside a backend. Who finds no slot waits in the queue of the model and is handed the slot that another frees, on his own thread.
 *
 * Tenants that wait share the slots evenly by the time they hold them, however many requests each has waiting (start-time fair queueing:
 * each tenant has a clock that its slots' time moves on, and the one whose clock is furthest behind is next). Inside a tenant the first
 * to come is the first served. A queue that is full makes room for a tenant that has less than its part of the places. Of a tenant that waits
 * at other gateways too only a part waits here: its clock goes the faster, the smaller that part is (the model-registry says it).
 *
 * Where several gateways share the backends the slots of each replica are lent by the model-registry (lease.c): 'slots' is what this
 * gateway may use at present, 'total' what the backend has. */
#ifndef CORRAL_GATEWAY_REPLICAS_H
#define CORRAL_GATEWAY_REPLICAS_H
#include <pthread.h>
#include <stdatomic.h>

#include "common/base/list.h"
#include "services/gateway/gateway.h"
#include "services/gateway/meter.h"

struct model_queue {
	struct model_queue *next;
	char model[256];
	pthread_mutex_t lock;
	struct list flows;            /* struct flow: the tenants that wait, and those whose clock is ahead */
	_Atomic uint32_t n;           /* who wait */
	uint32_t n_busy;              /* flows that have somebody waiting */
	uint64_t changes, claimed_changes;    /* of who wants how much; the second: control thread, as lease.c said last */
	int64_t clock_us;             /* of the tenant that was served last */
	uint64_t seq;
	struct replica_table *table;
	struct series *m_queued;
};

struct replica_state {
	struct replica_state *next, *same_bucket;
	char model[256], backend[128];
	_Atomic uint32_t in_use, slots;       /* in_use may be above slots for as long as the requests last that were there before */
	struct slot_row *row;         /* the same, counted together with the program before this one or after it; NULL: there is none */
	uint32_t total, claimed_held, claimed_wanted, claimed_total;  /* control thread: slots of the backend; what lease.c said last */
	bool claimed;
	_Atomic bool held;            /* another model of the backend has its turn (turns.h of the model-registry): nothing new goes there */
	bool resident, loads;         /* control thread: it is in memory; its backend loads models by itself */
	_Atomic uint32_t unanswered;  /* requests sent there of which no byte has come */
	_Atomic int64_t unanswered_us;        /* loop clock: since when; since the last answer began, if that is later */
	bool cloud;                   /* the registry lends its slots, and knows nothing else of it; set before it is used */
	_Atomic int64_t heard_us, busy_since_us;      /* loop clock: the last byte from there; when the first of those in use was sent */
	_Atomic int64_t service_us;   /* smoothed time a request holds a slot; 0 = none yet */
	struct meter meter;           /* energy of a slot */
	bool powered;                 /* control thread: the meter runs */
	uint64_t power_told;          /* control thread: the call of replica_table_powers() that said so last */
	int64_t most_told_us;         /* control thread: when meter.most_uw was */
	struct breaker breaker;
	struct model_queue *queue;
	struct replica_table *table;
	struct series *m_slots, *m_in_use, *m_breaker, *m_ok, *m_error, *m_cancelled, *m_first_token, *m_prompt_tokens, *m_completion_tokens,
		*m_cost, *m_energy;
};

struct slot_bank;
struct replica_table;
struct replica_table *replica_table_new(struct metrics *);
void replica_table_free(struct replica_table *);
/* Slots are counted there, too, from the first replica on; the bank is the caller's and outlives the table. */
void replica_table_bank(struct replica_table *, struct slot_bank *);
/* Whether the other program has given some back: gives free slots to those who wait. Control thread. */
void replica_table_look(struct replica_table *);
/* Finds or makes; sets the slots, and gives new ones to those who wait. Control thread only. */
struct replica_state *replica_state_get(struct replica_table *, struct str backend, struct str model, uint32_t slots);
/* The same of a replica in the cloud. */
struct replica_state *replica_state_get_cloud(struct replica_table *, struct str backend, struct str model, uint32_t slots);
/* Refreshes the gauges of all; control thread. */
void replica_table_sweep(struct replica_table *, int64_t now_us);

/* --- leases; control thread, except on_change --- */
/* 'on_change' is called on any thread when somebody waits for a slot or one that is no longer ours came free; once, until
 * replica_table_told(). Until replica_table_own() nothing may be used. */
void replica_table_lend(struct replica_table *, void (*on_change)(void *arg), void *arg);
void replica_table_told(struct replica_table *);
void replica_table_own(struct replica_table *);       /* all slots of all replicas, those to come too */
void replica_table_share(struct replica_table *);     /* what there is stays, replicas to come have none: replica_lease() says */
void replica_lease(struct replica_table *, const char *backend, const char *model, uint32_t slots);
void replica_lease_set(struct replica_state *, uint32_t slots);
/* Thousandths of a tenant's requests for the model that are here; 1000 of those that are not told. */
struct tenant_part { const char *model, *tenant; uint32_t milli; };
void replica_table_parts(struct replica_table *, const struct tenant_part *, size_t n);
/* All that hold now; the backends that are not named are free. */
struct replica_turn { const char *backend, *model; };
void replica_table_turns(struct replica_table *, const struct replica_turn *, size_t n);
/* Of all replicas that have a part of their machines' power; the meters of the others stand still. 'asked_us': when these figures were asked for. */
struct replica_power { const char *backend, *model; uint64_t microwatts; };
void replica_table_powers(struct replica_table *, const struct replica_power *, size_t n, int64_t asked_us, int64_t now_us);
/* The most that machines of backends are known to draw, all that are known now; one that is not named for a minute is not known any more. */
struct machine_most { const char *backend; uint64_t milliwatts; };
void replica_table_most_power(struct replica_table *, const struct machine_most *list, size_t n, int64_t now_us);
bool replica_table_shared(const struct replica_table *);
/* While slots are shared nothing is taken after this moment. */
void replica_table_valid(struct replica_table *, int64_t until_us);
struct replica_state *replica_table_first(struct replica_table *);    /* then by ->next */
struct model_queue *replica_table_queues(struct replica_table *);     /* then by ->next */
/* The tenants that have requests in use or waiting; returns queue->changes of that moment. While all slots are ours only those that waited count. */
uint64_t queue_demand(struct model_queue *, void (*each)(void *arg, struct str tenant, uint32_t wanted), void *arg);

uint32_t slots_in_use(const struct replica_state *);  /* with those of the program before this one or after it */
bool slot_take(struct replica_state *);
/* A request was sent there; its answer begins, or it ends without one: once for each. */
void slot_asked(struct replica_state *, int64_t now_us);
void slot_answered(struct replica_state *, int64_t now_us);
int64_t slot_load_wait_us(const struct replica_state *, int64_t now_us);      /* a request's for the model to be loaded; 0 = none waits; control thread */
void slot_free(struct replica_state *, int64_t held_us);      /* hands it to the first who waits for it, if any */

/* A tenant's part of a queue; under the queue's lock. */
struct flow {
	struct list node;
	struct list waiters;          /* struct waiter, oldest first */
	uint32_t n;
	uint32_t in_use;              /* slots it was charged with, until queue_settle() */
	uint32_t milli;               /* its part here; 0 = all */
	int64_t clock_us;             /* slot time it has had, on the queue's scale */
	size_t name_n;
	char name[];
};

/* A place in the queue. */
struct waiter {
	struct list node;
	struct model_queue *queue;
	struct flow *flow;
	uint64_t seq;
	int64_t charged_us;           /* the slot time its tenant was charged with when the slot was taken */
	struct loop *loop;            /* of the worker that waits */
	struct req *req;              /* NULL: it left */
	void (*granted)(struct req *, struct replica_state *);        /* NULL: it lost its place to another tenant */
	struct replica_state **wants; /* any of these will do; in the request's arena */
	unsigned n_wants;
	struct replica_state *got;
	bool queued;
};
/* Takes a slot at once (then *ret_now is it and NULL is returned), or queues. NULL with *ret_now NULL: the queue has 'max' already.
 * *ret_charged_us (NULL is fine): for the slot taken, to be settled; 0 while all slots are ours, when who need not wait costs nobody anything. */
struct waiter *queue_join(struct model_queue *, struct str tenant, struct req *, struct loop *, struct replica_state **wants, unsigned n_wants, uint32_t max,
			  void (*granted)(struct req *, struct replica_state *), struct replica_state **ret_now, int64_t *ret_charged_us);
void queue_leave(struct waiter *);            /* the request gives up; a slot on its way to it is freed. NULL is fine */
/* A slot was held so much longer (shorter: negative) than its tenant was charged with, and is free now: once for every charge. */
void queue_settle(struct model_queue *, struct str tenant, int64_t more_us);
/* Time until a slot can be expected for one more of this tenant, from service times and the queue. */
int64_t queue_predict_us(struct replica_state **wants, unsigned n_wants, struct str tenant);
#endif
