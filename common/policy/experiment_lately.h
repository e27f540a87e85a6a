/* experiment_lately.h - what is new: guards look at late outcomes by themselves, so that an arm that was good for long and turns bad is found about as
 * soon as one that was bad from its first day.
 *
 * Nouns: window (the outcomes of one metric, of all arms, since the window began), number (which of its size it is, from 1).
 *
 * Each metric has three windows, for 100, 400 and 1600 units of each arm. One that is full begins again, empty. Each is looked at always, as an
 * experiment of its own, and gets a part of alpha that becomes less with its number: half of alpha is the whole history's, and
 * 1/6 · 1/(k·(k + 1)) of it the k-th window's of a size, so that all that will ever be add up to alpha. Pure; no clock, no allocation. */
#ifndef CORRAL_POLICY_EXPERIMENT_LATELY_H
#define CORRAL_POLICY_EXPERIMENT_LATELY_H
#include "common/policy/sequential.h"

enum { LATE_WINDOWS = 3 };

/* The windows of a metric, counted in outcomes (of any arm) that it has had. */
struct lately { uint64_t now, began[LATE_WINDOWS], number[LATE_WINDOWS]; };

/* The tallies of an arm in them. */
struct late_tallies { struct tally in[LATE_WINDOWS]; };

void lately_begin(struct lately *);                        /* the first three; nothing was counted yet */
void lately_again(struct lately *, int window);            /* the next one of that size; its tallies are to be emptied */
/* Of the arms' tallies in it: each arm has as many units as it is for, or eight times as many outcomes of fewer that come back. */
bool lately_is_full(const struct sequential *, int window, const struct tally *const *arms, int n_arms);

/* From what all statements about a metric may be wrong with, what those of its whole history may, and those of a window. */
struct sequential lately_whole(const struct sequential *all);
struct sequential lately_part(const struct sequential *all, int window, uint64_t number);
#endif
