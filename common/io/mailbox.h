/* mailbox.h - finished things on their way from other threads to a loop.
 *
 * A thing embeds a list node; mailbox_put() hangs it in and wakes the loop once per change from empty to not empty.
 * The loop's thread makes and frees the box and gets the things one by one, in order. No allocation on the way. */
#ifndef CORRAL_IO_MAILBOX_H
#define CORRAL_IO_MAILBOX_H
#include "common/base/list.h"
#include "common/io/loop.h"

struct mailbox;

/* fn runs on the loop's thread and may free the box. NULL when the process has no descriptor left. */
struct mailbox *mailbox_new(struct loop *, void (*fn)(void *owner, struct list *node), void *owner);
void mailbox_put(struct mailbox *, struct list *node);    /* any thread; the node is on no list */
/* After the last mailbox_put() has returned. What was not delivered is forgotten: it belongs to the owner. NULL is fine. */
void mailbox_free(struct mailbox *);
#endif
