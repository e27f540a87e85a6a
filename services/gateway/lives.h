/* lives.h - the names under which budgets were lent to gateways of this state directory, on disk: who comes after one that crashed has to know it.
 *
 * Two processes may write there, one that drains and the one that follows it: each adds its own and takes out what was closed, under a
 * lock, so that neither writes over the other's. */
#ifndef CORRAL_GATEWAY_LIVES_H
#define CORRAL_GATEWAY_LIVES_H
#include <stdbool.h>
#include <stddef.h>

enum { LIVES = 64, LIFE = 33 };       /* 32 letters and the end */

/* The oldest first; the newest LIVES of them. Without a file there are none. */
unsigned lives_read(const char *path, char ret[LIVES][LIFE]);
/* Durable when it returns true. 'mine' stays, or is added as the newest. */
bool lives_change(const char *path, const char *mine, char *const *closed, size_t n_closed);
#endif
