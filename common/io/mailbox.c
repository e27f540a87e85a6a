/* mailbox.c - see mailbox.h: a list under a lock, and an eventfd that says "not empty". */
#include "common/io/mailbox.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/arena.h"

struct mailbox {
	pthread_mutex_t lock;
	struct list mail;             /* under the lock */
	int fd;
	struct loop_io io;
	void (*fn)(void *owner, struct list *node);
	void *owner;
	bool delivering, freed;       /* freed while delivering: deliver() ends it */
};

static void deliver(struct loop_io *, unsigned ready);

struct mailbox *mailbox_new(struct loop *loop, void (*fn)(void *owner, struct list *node), void *owner)
{
	struct mailbox *box;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (fd < 0)
		return NULL;
	box = x_calloc(1, sizeof *box);
	pthread_mutex_init(&box->lock, NULL);
	list_init(&box->mail);
	box->fd = fd;
	box->fn = fn;
	box->owner = owner;
	loop_io_add(loop, &box->io, fd, LOOP_READ, deliver);
	return box;
}

void mailbox_put(struct mailbox *box, struct list *node)
{
	bool first;

	pthread_mutex_lock(&box->lock);
	first = list_empty(&box->mail);
	list_push(&box->mail, node);
	if (first)
		(void)eventfd_write(box->fd, 1);
	pthread_mutex_unlock(&box->lock);
}

void mailbox_free(struct mailbox *box)
{
	if (!box)
		return;
	if (!box->freed) {
		loop_io_del(&box->io);
		(void)close(box->fd);
		/* Waits for a thread that is still leaving mailbox_put(). */
		pthread_mutex_lock(&box->lock);
		box->freed = true;
		pthread_mutex_unlock(&box->lock);
	}
	if (box->delivering)
		return;
	pthread_mutex_destroy(&box->lock);
	free(box);
}

static struct list *take(struct mailbox *box)
{
	struct list *node = NULL;

	pthread_mutex_lock(&box->lock);
	if (!list_empty(&box->mail)) {
		node = box->mail.next;
		list_del(node);
	}
	pthread_mutex_unlock(&box->lock);
	return node;
}

static void deliver(struct loop_io *io, unsigned ready)
{
	struct mailbox *box = list_entry(io, struct mailbox, io);
	struct list *node;
	eventfd_t n;

	(void)ready;
	(void)eventfd_read(box->fd, &n);
	box->delivering = true;
	while (!box->freed && (node = take(box)))
		box->fn(box->owner, node);
	box->delivering = false;
	if (box->freed)
		mailbox_free(box);
}
