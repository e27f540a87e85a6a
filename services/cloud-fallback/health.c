/* health.c - RunPod's workers: is one up, and what does a request wait while none is? See cloud.h.
 *
 * GET {url}/health is asked every ten seconds, and every second while a worker starts and none is up: how long that takes is a cold start. So is
 * what a request waited that was sent while no worker was up. What was measured moves towards each new value by a quarter. */
#include <stdio.h>

#include "common/data/json.h"
#include "common/data/secret.h"
#include "services/cloud-fallback/cloud.h"

enum { EVERY_US = 10000000, STARTING_EVERY_US = 1000000, TIMEOUT_MS = 5000, ANSWER_MAX = 65536 };

static void learn(struct provider *p, int64_t took_us)
{
	struct workers *w = &p->workers;

	w->cold_start_us = w->cold_start_us ? w->cold_start_us + (took_us - w->cold_start_us) / 4 : took_us;
	series_set(metrics_series(svc_metrics(p->cloud->svc), M_COLD_START, p->set->name), (double)w->cold_start_us / 1e6);
}

static void note_start(struct provider *p, bool starting)
{
	struct workers *w = &p->workers;
	int64_t now_us = loop_now_us(p->cloud->loop);

	if (w->up && w->starting_us)
		learn(p, now_us - w->starting_us);
	if (w->up || !starting)
		w->starting_us = 0;
	else if (!w->starting_us)
		w->starting_us = now_us;
}

static void on_health(void *arg, int status, struct str body, const char *error)
{
	struct provider *p = arg;
	struct arena *mem = arena_new(0);
	int64_t idle = 0, running = 0, starting = 0;
	struct json doc;
	uint32_t w;

	p->workers.asking = NULL;
	p->workers.known = false;
	if (status == 200 && json_parse(&doc, mem, body, NULL, NULL) == ERR_OK && (w = json_get(&doc, 0, "workers")) != 0) {
		(void)json_i64(&doc, json_get(&doc, w, "idle"), &idle);
		(void)json_i64(&doc, json_get(&doc, w, "running"), &running);
		(void)json_i64(&doc, json_get(&doc, w, "initializing"), &starting);
		p->workers.known = true;
		p->workers.up = (unsigned)(idle + running);
		note_start(p, starting > 0);
	}
	arena_free(mem);
}

void workers_look(struct provider *p)
{
	struct provider_key *k;
	struct buf url = { 0 }, head = { 0 };
	struct str header;
	int64_t now_us = loop_now_us(p->cloud->loop), every_us = p->workers.starting_us ? STARTING_EVERY_US : EVERY_US;

	if (p->set->kind != KIND_RUNPOD || p->workers.asking || (p->workers.asked_us && now_us - p->workers.asked_us < every_us) ||
	    !(k = keyring_pick(&p->keys, NULL, now_us, NULL, 0)))
		return;
	p->workers.asked_us = now_us;
	buf_printf(&url, "%s/health", p->set->url);
	buf_printf(&head, "Authorization: Bearer %s", k->text);
	header = buf_as_str(&head);
	p->workers.asking = https_fetch(p->cloud->out, &(struct https_request){ .method = "GET", .url = buf_z(&url), .headers = &header, .n_headers = 1,
										  .total_ms = TIMEOUT_MS }, ANSWER_MAX, on_health, p);
	secret_wipe(head.p, head.n);
	buf_free(&head);
	buf_free(&url);
}

void workers_stop(struct provider *p)
{
	if (p->workers.asking)
		https_fetch_cancel(p->workers.asking);
	p->workers.asking = NULL;
}

void workers_began(struct provider *p, int64_t waited_us, bool was_cold)
{
	if (!was_cold)
		return;
	if (!p->workers.starting_us)          /* else the workers' own start tells it better */
		learn(p, waited_us);
	p->workers.asked_us = 0;
}
