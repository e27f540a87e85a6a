/* arena.h - memory that lives and dies together: one request, one snapshot, one configuration.
 *
 * Allocation is a bump of a pointer; freeing is arena_free() or arena_reset() of the whole.
 * Nothing here returns NULL: out of memory ends the process with a message (the kernel kills it anyway).
 * One owner, no locks: an arena belongs to one thread at a time. */
#ifndef CORRAL_BASE_ARENA_H
#define CORRAL_BASE_ARENA_H
#include <stdarg.h>
#include <stddef.h>

#include "common/base/str.h"

struct arena;

struct arena *arena_new(size_t first_block);      /* 0 = 4096 */
void arena_free(struct arena *);                  /* runs the deferred calls, newest first; NULL is fine */
void arena_reset(struct arena *);                 /* the same, but keeps its first block for reuse, or a larger one of at most 64 KiB */
size_t arena_used(const struct arena *);          /* bytes handed out */

void *arena_alloc(struct arena *, size_t n);      /* aligned to 16, not cleared */
void *arena_zero(struct arena *, size_t n);
char *arena_dup(struct arena *, const void *p, size_t n);   /* n bytes and a terminator after them */
struct str arena_str(struct arena *, struct str);           /* copy, terminated */
char *arena_printf(struct arena *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct str arena_fmt(struct arena *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The parts one after another, terminated: what the request path uses instead of formats. */
struct str arena_join(struct arena *, const struct str *parts, size_t n);

/* Calls fn(arg) when the arena is freed or reset. */
void arena_defer(struct arena *, void (*fn)(void *), void *arg);

#define arena_new_of(a, type) ((type *)arena_zero((a), sizeof(type)))
#define arena_array(a, type, n) ((type *)arena_zero((a), sizeof(type) * (size_t)(n)))

/* The same rule for single owners: never NULL. */
void *x_malloc(size_t n);
void *x_calloc(size_t n, size_t size);
void *x_realloc(void *p, size_t n);
char *x_strdup(const char *s);
#endif
