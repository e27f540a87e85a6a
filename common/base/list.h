/* list.h - an intrusive, circular, doubly linked list. A node that is on no list points to itself. */
#ifndef CORRAL_BASE_LIST_H
#define CORRAL_BASE_LIST_H
#include <stdbool.h>
#include <stddef.h>

struct list { struct list *next, *prev; };

#define LIST_INIT(l) { &(l), &(l) }
#define list_entry(node, type, member) ((type *)(void *)((char *)(node) - offsetof(type, member)))
#define list_each(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
/* 'it' may be removed in the body. */
#define list_each_safe(it, head) for (struct list *it = (head)->next, *it##_n = it->next; it != (head); it = it##_n, it##_n = it->next)

static inline void list_init(struct list *l) { l->next = l->prev = l; }
static inline bool list_empty(const struct list *l) { return l->next == l; }
static inline void list_add_after(struct list *at, struct list *n) { n->next = at->next; n->prev = at; at->next->prev = n; at->next = n; }
static inline void list_push(struct list *head, struct list *n) { list_add_after(head->prev, n); }          /* at the end */
static inline void list_push_front(struct list *head, struct list *n) { list_add_after(head, n); }
static inline void list_del(struct list *n) { n->prev->next = n->next; n->next->prev = n->prev; n->next = n->prev = n; }
#endif
