/* open.c - see open.h. */
#include "services/usage-tracker/open.h"

enum { BUCKETS = 8192, MOST = 65536 };

struct node {
	struct node *next;
	struct ledger_row row;
	char event[];
};

struct open_rows { struct node *bucket[BUCKETS]; size_t n; };

struct open_rows *open_rows_new(void) { return x_calloc(1, sizeof(struct open_rows)); }

void open_rows_free(struct open_rows *o)
{
	if (o)
		open_rows_forget(o);
	free(o);
}

void open_rows_forget(struct open_rows *o)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct node *n = o->bucket[i], *next; n; n = next) {
			next = n->next;
			free(n);
		}
	*o = (struct open_rows){ 0 };
}

static struct node **bucket_of(struct open_rows *o, const uint8_t request_id[16], uint32_t attempt)
{
	uint64_t tail;

	memcpy(&tail, request_id + 8, 8);
	return &o->bucket[((tail ^ attempt) * 0x9e3779b97f4a7c15u >> 32) % BUCKETS];
}

void open_rows_add(struct open_rows *o, const struct ledger_row *r)
{
	struct node **head = bucket_of(o, r->request_id, r->attempt), *n;

	if (o->n >= MOST)
		return;
	n = x_malloc(sizeof(*n) + r->event.n);
	n->row = *r;
	memcpy(n->event, r->event.p, r->event.n);
	n->row.event.p = n->event;
	n->next = *head;
	*head = n;
	o->n++;
}

bool open_rows_take(struct open_rows *o, const uint8_t request_id[16], uint32_t attempt, struct arena *mem, struct ledger_row *ret)
{
	struct node **at = bucket_of(o, request_id, attempt), *n;

	while (*at && ((*at)->row.attempt != attempt || memcmp((*at)->row.request_id, request_id, 16) != 0))
		at = &(*at)->next;
	n = *at;
	if (!n)
		return false;
	*ret = n->row;
	ret->event = arena_str(mem, n->row.event);
	*at = n->next;
	o->n--;
	free(n);
	return true;
}
