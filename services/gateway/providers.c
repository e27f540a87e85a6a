/* providers.c - see providers.h. Its snapshot is not kept on disk: it holds the token, and what is left of a budget is old at once. */
#include "services/gateway/providers.h"

#include "common/data/log.h"
#include "common/policy/cloud.h"
#include "services/gateway/gateway.h"

static void on_snapshot(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct providers *p = arg;

	(void)stale;
	if (!providers_take(p, bytes))
		return;
	LOG_DEBUG("providers", LOG_I("version", id.version));
	p->changed(p->gw);
}

void providers_open(struct gateway *g, struct providers *p, void (*changed)(struct gateway *))
{
	p->gw = g;
	p->changed = changed;
	p->sub = snapshot_sub_new(g->loop, p->peer, svc_pub_url(g->svc, "cloud-fallback"), "providers", NULL, on_snapshot, p);
}

void providers_close(struct providers *p)
{
	snapshot_sub_free(p->sub);
	p->sub = NULL;
	buf_free(&p->view);
}

static bool same(const char *has, struct str is) { return str_eq(str_of(has), is); }

static bool keep(struct providers *p, struct str view, struct str token, struct str active)
{
	if (str_eq(buf_as_str(&p->view), view) && same(p->token, token) && same(p->active_model, active))
		return false;
	buf_clear(&p->view);
	buf_str(&p->view, view);
	(void)str_copy(p->token, sizeof(p->token), token);
	(void)str_copy(p->active_model, sizeof(p->active_model), active);
	return true;
}

bool providers_take(struct providers *p, struct str bytes)
{
	Corral__ProviderSnapshot *s = corral__provider_snapshot__unpack(NULL, bytes.n, (const uint8_t *)bytes.p);
	struct arena *mem = arena_new(4096);
	struct why why = { 0 };
	struct str view;
	bool changed = false;

	if (!s || cloud_view(mem, bytes, &view, &why) != ERR_OK)
		LOG_ERROR("the snapshot of providers was not applied; the last good one stays", LOG_S("error", why.text));
	else
		changed = keep(p, view, str_n((const char *)s->token.data, s->token.len), str_of(s->active_model ? s->active_model->model : ""));
	corral__provider_snapshot__free_unpacked(s, NULL);
	arena_free(mem);
	return changed;
}
