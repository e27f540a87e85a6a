/* stock.c - what is held of a backend: a model goes when three good listings in a row do not have it, never because one failed;
 * at once where the server would answer its name with another model. */
#include "common/data/log.h"
#include "common/policy/caps.h"
#include "services/model-registry/registry.h"

/* The same bytes may come back under another remote name. */
static bool lists_name(const struct listing *listing, const char *name)
{
	for (size_t i = 0; i < listing->n; i++)
		if (model_same(str_of(listing->models[i].name), str_of(name)))
			return true;
	return false;
}

struct listing *stock_accept(struct listing *held, struct listing *found, int64_t now_us)
{
	for (size_t i = 0; i < found->n; i++)
		found->models[i].seen_us = now_us;
	for (size_t i = 0; held && i < held->n; i++) {
		const struct found *old = &held->models[i];

		if (listing_find(found, str_of(old->remote_name)) || lists_name(found, old->name))
			continue;
		if (found->exclusive || old->missed + 1 >= MISSES_TO_REMOVE) {
			LOG_INFO("model is gone from its backend", LOG_S("model", old->name));
			continue;
		}
		listing_copy(found, old)->missed++;
	}
	listing_free(held);
	return found;
}

static const Corral__Model *model_of(const Corral__ModelSnapshot *snapshot, const char *name)
{
	for (size_t i = 0; i < snapshot->n_models; i++)
		if (!strcmp(snapshot->models[i]->name, name))
			return snapshot->models[i];
	return NULL;
}

static uint32_t caps_of(const Corral__Model *model)
{
	uint32_t caps = 0;

	for (size_t i = 0; i < model->n_capabilities; i++)
		caps |= llm_cap_parse(str_of(model->capabilities[i]));
	return caps;
}

/* Not detailed: the backend is asked again for what the snapshot does not carry. */
static void restore_one(struct listing *held, const Corral__ModelSnapshot *snapshot, const Corral__Model *model, const Corral__Replica *replica)
{
	struct found *found = listing_add(held, str_of(*replica->remote_name ? replica->remote_name : model->name));
	struct found from = *found;

	from.name = model->name;
	from.family = model->family;
	from.parameters = model->parameters;
	from.quantization = model->quantization;
	from.digest = *replica->digest ? replica->digest : model->digest;
	from.modified_at = model->modified_at;
	from.format = model->format;
	if (model->template_at && model->template_at <= snapshot->n_templates)
		from.template_text = snapshot->templates[model->template_at - 1];
	from.architecture = model->architecture;
	from.parameter_count = model->parameter_count;
	from.size_bytes = model->size_bytes;
	from.context_length = model->context_length;
	from.context_in_force = replica->context_length;
	from.embedding_length = model->embedding_length;
	from.caps = caps_of(model);
	from.slots = replica->slots;
	from.seen_us = model->last_synced_us;
	held->n--;
	(void)listing_copy(held, &from);
}

static void restore_backend(struct backend *backend, const Corral__ModelSnapshot *snapshot)
{
	for (size_t i = 0; i < snapshot->n_backends; i++) {
		const Corral__Backend *old = snapshot->backends[i];
		const struct kind *kind = kind_find(str_of(old->kind));

		if (strcmp(old->name, backend->name) != 0)
			continue;
		backend->held->version = arena_str(backend->held->mem, str_of(old->version)).p;
		if (backend->kind == &kind_probe && kind)
			backend->kind = kind;
	}
	for (size_t i = 0; i < snapshot->n_replicas; i++) {
		const Corral__Replica *replica = snapshot->replicas[i];
		const Corral__Model *model = model_of(snapshot, replica->model);

		if (model && !strcmp(replica->backend, backend->name))
			restore_one(backend->held, snapshot, model, replica);
	}
}

void stock_restore(struct registry *registry, const Corral__ModelSnapshot *snapshot)
{
	for (size_t i = 0; i < registry->n; i++)
		restore_backend(&registry->backends[i], snapshot);
}
