/* experiment.h - who takes part in which experiment, and in which of its arms: a pure function of the experiments and a name.
 *
 * Nouns: experiment (arms compared on part of the traffic), arm (a model, or other parameters or another prompt of it), unit (whom an arm is given
 * to for the life of the experiment: a user, a session or a conversation), namespace (experiments of one never share a unit).
 *
 *   filter ─▶ slot of the unit in the namespace lies in the experiment's part ─▶ traffic ─▶ arm by weight
 *
 * Each of the three steps has a keyed hash of its own, salted by the namespace or the experiment: what a unit got in one experiment says nothing
 * about what it gets in another. Nothing is kept: the same unit gets the same arm after every restart and on every gateway. More traffic adds
 * units and moves none; other weights or another salt move units, so they begin another experiment. No clock, no randomness, no allocation. */
#ifndef CORRAL_POLICY_EXPERIMENT_H
#define CORRAL_POLICY_EXPERIMENT_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/siphash.h"
#include "common/base/str.h"

enum { EXPERIMENT_ARMS = 8, NAMESPACE_SLOTS = 10000, TRAFFIC_ALL = 10000 };

enum experiment_unit { UNIT_USER, UNIT_SESSION, UNIT_CONVERSATION, UNIT_KINDS };
const char *experiment_unit_name(enum experiment_unit);                  /* "user" */
bool experiment_unit_parse(struct str word, enum experiment_unit *ret);

struct experiment_arm {
	struct str name, model;
	struct str parameters;        /* a JSON object laid over the request's; "" = none */
	struct str prompt;            /* a template of the system prompt; "" = none */
	uint32_t weight;              /* its share of all weights; 0 = gets nothing */
};

/* Strings belong to whoever built it. */
struct experiment {
	struct str id, salt, space;   /* salt "" = the id; space "" = a namespace of its own */
	struct str task, language, tenant;       /* whom it is for; "" = all, else equal but for ASCII case */
	enum experiment_unit unit;
	uint16_t first_slot, end_slot;           /* its part of the namespace, [first, end) of NAMESPACE_SLOTS; end 0 = all of it */
	uint16_t traffic;             /* of the units in that part, in hundredths of a percent: 1000 = 10 % */
	bool shadow;                  /* arms but the champion never answer the client */
	uint8_t champion, n_arms;     /* champion: index of the arm that others are compared with */
	struct experiment_arm arms[EXPERIMENT_ARMS];
	struct sip_key slot_key, traffic_key, arm_key;    /* set by experiment_prepare() */
};

struct experiment_view { const struct experiment *at; uint32_t n; };     /* in the order in which they are tried */

/* What a request is, as far as it matters here; unit[] by kind, "" = it has none. */
struct experiment_request { struct str task, language, tenant, unit[UNIT_KINDS]; };

struct assignment { int experiment, arm; };              /* indexes; both -1 = takes part in none */

/* Once per experiment when a view is built: checks it and sets the keys. */
enum err experiment_prepare(struct experiment *, struct why *);

/* The first experiment of the view that the request falls into. A request without the experiment's unit takes no part in it. */
struct assignment experiment_assign(const struct experiment_view *, const struct experiment_request *);
/* Whether, and in which arm, a unit takes part in that one, whatever the filter says; -1 = does not. */
int experiment_arm_of(const struct experiment *, struct str unit);
/* Of a shadow experiment, where that is the champion: the arm that is asked the same beside it, by the weights of the others. -1 = none. */
int experiment_shadow_of(const struct experiment *, struct str unit);

/* Finds a free part of the namespace of 'e' that is 'slots' wide and sets it in 'e'. CONFLICT when the others leave no such run of slots free, or
 * when one of them has another kind of unit, which would let the two overlap. Others of other namespaces are passed over. */
enum err experiment_claim(struct experiment *e, uint16_t slots, const struct experiment_view *others, struct why *);
#endif
