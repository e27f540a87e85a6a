/* slot_bank.h - slots in use, counted together by a program and those that succeed it in place (common/svc/upgrade.c), so that the open streams
 * of the one before and the requests of the one after are never more than a backend has. Only where no model-registry lends slots
 * between the two: in corral serve.
 *
 * A file in memory that each hands to its successor: a row for each replica, and in it a counter for each program that lives (a bank). Each
 * changes its own counters and looks at all. A bank is a lock on a byte of the file, which ends with its program however that ends. */
#ifndef CORRAL_GATEWAY_SLOT_BANK_H
#define CORRAL_GATEWAY_SLOT_BANK_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

enum { SLOT_BANKS = 8, SLOT_ROWS = 16384 };

struct slot_row {
	_Alignas(64) _Atomic uint64_t key;    /* of backend and model; 0 = nobody's */
	_Atomic uint32_t in_use[SLOT_BANKS];
};

struct slot_bank;
/* 'inherited' is the predecessor's descriptor, which is taken, or -1. NULL when there can be none: then nothing is counted together. */
struct slot_bank *slot_bank_new(int inherited);
void slot_bank_free(struct slot_bank *);      /* what it still counts is forgotten by the others as that of a program that ended; NULL is fine */
int slot_bank_fd(const struct slot_bank *);   /* for the successor; stays the bank's */
unsigned slot_bank_mine(const struct slot_bank *);
/* Found or made; stays where it is as long as the bank. NULL when all rows are taken. One thread. */
struct slot_row *slot_bank_row(struct slot_bank *, struct str backend, struct str model);
/* Whether no other program lives that counts here; takes back what dead ones counted. One thread. */
bool slot_bank_alone(struct slot_bank *);

static inline uint32_t slot_row_others(const struct slot_row *r, unsigned mine)
{
	uint32_t n = 0;

	for (unsigned k = 0; k < SLOT_BANKS; k++)
		n += k == mine ? 0 : atomic_load(&r->in_use[k]);
	return n;
}
#endif
