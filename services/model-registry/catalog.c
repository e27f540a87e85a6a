/* catalog.c - one ModelSnapshot of what all backends hold: the same name on several backends is one model with several replicas. */
#include "common/data/log.h"
#include "common/policy/caps.h"
#include "services/model-registry/jobs.h"
#include "services/model-registry/registry.h"

enum { STRENGTHS_MAX = 32 };

/* One model on one backend, on the way into the snapshot. */
struct row {
	struct str key;               /* without ":latest" */
	const struct backend *backend;
	size_t backend_index;
	const struct found *found;
};

static struct row *rows_make(const struct registry *, struct arena *, size_t *ret_n);
static size_t rows_one_case(struct registry *, struct row *, size_t n);
static Corral__Model *model_make(const struct registry *, Corral__ModelSnapshot *, struct arena *, const struct row *, size_t n, int64_t now_us);
static Corral__Replica *replica_make(const struct registry *, struct arena *, const struct row *, const Corral__Model *);
static Corral__Backend *backend_make(const struct backend *, struct arena *);
static void aliases_make(const struct registry *, struct arena *, Corral__ModelSnapshot *);

static char *z(struct arena *mem, const char *s) { return (char *)arena_str(mem, str_of(s)).p; }

static int by_name(const void *a, const void *b)
{
	return strcmp((*(Corral__Model *const *)a)->name, (*(Corral__Model *const *)b)->name);
}

static int by_model_and_backend(const void *a, const void *b)
{
	const Corral__Replica *x = *(Corral__Replica *const *)a, *y = *(Corral__Replica *const *)b;
	int c = strcmp(x->model, y->model);

	return c ? c : strcmp(x->backend, y->backend);
}

Corral__ModelSnapshot *catalog_make(struct registry *registry, struct arena *mem, int64_t now_us)
{
	Corral__ModelSnapshot *snapshot = arena_new_of(mem, Corral__ModelSnapshot);
	size_t n, next;
	struct row *rows = rows_make(registry, mem, &n);

	n = rows_one_case(registry, rows, n);
	corral__model_snapshot__init(snapshot);
	snapshot->made_at_us = now_us;
	snapshot->default_model = z(mem, registry->config->default_model);
	snapshot->backends = arena_array(mem, Corral__Backend *, registry->n + 1);
	for (size_t i = 0; i < registry->n; i++)
		snapshot->backends[snapshot->n_backends++] = backend_make(&registry->backends[i], mem);

	snapshot->models = arena_array(mem, Corral__Model *, n + 1);
	snapshot->replicas = arena_array(mem, Corral__Replica *, n + 1);
	snapshot->templates = arena_array(mem, char *, n + 1);
	for (size_t i = 0; i < n; i = next) {
		Corral__Model *model;

		for (next = i + 1; next < n && str_eq(rows[next].key, rows[i].key);)
			next++;
		model = model_make(registry, snapshot, mem, &rows[i], next - i, now_us);
		snapshot->models[snapshot->n_models++] = model;
		for (size_t j = i; j < next; j++)
			snapshot->replicas[snapshot->n_replicas++] = replica_make(registry, mem, &rows[j], model);
	}
	qsort(snapshot->models, snapshot->n_models, sizeof *snapshot->models, by_name);
	qsort(snapshot->replicas, snapshot->n_replicas, sizeof *snapshot->replicas, by_model_and_backend);
	aliases_make(registry, mem, snapshot);
	return snapshot;
}

static int fold_cmp(struct str a, struct str b)
{
	for (size_t i = 0; i < a.n && i < b.n; i++) {
		int x = a.p[i] >= 'A' && a.p[i] <= 'Z' ? a.p[i] + 32 : (unsigned char)a.p[i];
		int y = b.p[i] >= 'A' && b.p[i] <= 'Z' ? b.p[i] + 32 : (unsigned char)b.p[i];

		if (x != y)
			return x - y;
	}
	return (a.n > b.n) - (a.n < b.n);
}

/* Names that differ only in case side by side, the earlier backend first. */
static int by_folded_key(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	int c = fold_cmp(x->key, y->key);

	if (c)
		return c;
	return x->backend_index != y->backend_index ? (x->backend_index > y->backend_index) - (x->backend_index < y->backend_index)
						    : str_cmp(x->key, y->key);
}

static struct row *rows_make(const struct registry *registry, struct arena *mem, size_t *ret_n)
{
	struct row *rows;
	size_t n = 0;

	for (size_t i = 0; i < registry->n; i++)
		n += registry->backends[i].held->n;
	rows = arena_array(mem, struct row, n + 1);
	n = 0;
	for (size_t i = 0; i < registry->n; i++)
		for (size_t j = 0; j < registry->backends[i].held->n; j++) {
			const struct found *found = &registry->backends[i].held->models[j];

			if (!jobs_hide(registry->jobs, registry->backends[i].name, str_of(found->name)))
				rows[n++] = (struct row){ model_key(str_of(found->name)), &registry->backends[i], i, found };
		}
	qsort(rows, n, sizeof *rows, by_folded_key);
	*ret_n = n;
	return rows;
}

/* Keeps of each name one spelling (the first backend's) and one entry a backend; the rest is refused and logged once. */
static size_t rows_one_case(struct registry *registry, struct row *rows, size_t n)
{
	size_t kept = 0;
	uint64_t refused = 0;

	for (size_t i = 0; i < n; i++)
		if (kept && !fold_cmp(rows[kept - 1].key, rows[i].key) &&
		    (!str_eq(rows[kept - 1].key, rows[i].key) || rows[kept - 1].backend == rows[i].backend))
			refused = str_hash(str_of(rows[i].found->name), refused + rows[i].backend_index + 1);
		else
			rows[kept++] = rows[i];
	if (refused && refused != registry->refused)
		LOG_WARN("names that differ only in case, or twice on one backend, are not listed", LOG_I("refused", n - kept));
	registry->refused = refused;
	return kept;
}

static int64_t first_seen(const struct registry *registry, const char *name, int64_t now_us)
{
	Corral__Model key = CORRAL__MODEL__INIT, *want = &key, **at;

	key.name = (char *)name;
	if (!registry->last || !registry->last->n_models)
		return now_us;
	at = bsearch(&want, registry->last->models, registry->last->n_models, sizeof *registry->last->models, by_name);
	return at ? (*at)->first_seen_us : now_us;
}

static const char *either(const char *a, const char *b) { return a[0] ? a : b; }

/* The first backend that tells something is believed. */
static void collect(struct found *all, const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct found *f = rows[i].found;

		all->family = either(all->family, f->family);
		all->parameters = either(all->parameters, f->parameters);
		all->quantization = either(all->quantization, f->quantization);
		all->digest = either(all->digest, f->digest);
		all->modified_at = either(all->modified_at, f->modified_at);
		all->format = either(all->format, f->format);
		all->template_text = either(all->template_text, f->template_text);
		all->architecture = either(all->architecture, f->architecture);
		all->parameter_count = all->parameter_count ? all->parameter_count : f->parameter_count;
		all->size_bytes = all->size_bytes ? all->size_bytes : f->size_bytes;
		all->context_length = f->context_length > all->context_length ? f->context_length : all->context_length;
		all->embedding_length = all->embedding_length ? all->embedding_length : f->embedding_length;
		all->caps |= f->caps;
		all->seen_us = f->seen_us > all->seen_us ? f->seen_us : all->seen_us;
	}
}

/* Configuration first, then the servers; where those say no more than "completes", what the words of the name tell. */
static uint32_t caps_of(const struct registry *registry, struct str model, struct str family, uint32_t told)
{
	const struct opt_list *list = &registry->config->capabilities;
	struct str name, value, word;
	uint32_t caps = 0;

	for (size_t i = 0; i < list->n; i++)
		if (settings_pair(list->items[i], &name, &value) && model_same(name, model))
			while (str_split(&value, ';', &word))
				caps |= llm_cap_parse(str_trim(word));
	if (caps)
		return caps;
	if (told & ~(uint32_t)LLM_CAP_COMPLETION)
		return told;
	caps = families_caps(registry->families, model, family);
	return caps ? caps : LLM_CAP_COMPLETION;
}

static void put_caps(Corral__Model *model, uint32_t caps, struct arena *mem)
{
	model->capabilities = arena_array(mem, char *, 32);
	for (unsigned bit = 0; bit < 32; bit++)
		if ((caps & (1u << bit)) && llm_cap_name(1u << bit))
			model->capabilities[model->n_capabilities++] = z(mem, llm_cap_name(1u << bit));
}

static void put_strengths(const struct registry *registry, Corral__Model *model, struct arena *mem)
{
	struct strength found[STRENGTHS_MAX];
	const char *source;
	size_t n = strengths_of(&registry->config->strengths, registry->families, str_of(model->name), str_of(model->family), found, STRENGTHS_MAX,
				&source);

	model->strengths_source = z(mem, source);
	model->strengths = arena_array(mem, Corral__Strength *, n + 1);
	for (size_t i = 0; i < n; i++) {
		Corral__Strength *strength = arena_new_of(mem, Corral__Strength);

		corral__strength__init(strength);
		strength->task_type = (char *)arena_str(mem, found[i].task).p;
		strength->score = found[i].score;
		model->strengths[model->n_strengths++] = strength;
	}
}

/* Many models share few templates, and one is a kilobyte: each is in the snapshot once. */
static uint32_t template_at(Corral__ModelSnapshot *snapshot, struct arena *mem, const char *text)
{
	size_t i = 0;

	if (!*text)
		return 0;
	while (i < snapshot->n_templates && strcmp(snapshot->templates[i], text) != 0)
		i++;
	if (i == snapshot->n_templates)
		snapshot->templates[snapshot->n_templates++] = z(mem, text);
	return (uint32_t)i + 1;
}

static Corral__Model *model_make(const struct registry *registry, Corral__ModelSnapshot *snapshot, struct arena *mem, const struct row *rows, size_t n,
				 int64_t now_us)
{
	Corral__Model *model = arena_new_of(mem, Corral__Model);
	struct found all = *rows[0].found;

	collect(&all, rows, n);
	corral__model__init(model);
	model->name = z(mem, all.name);
	model->display_name = (char *)arena_str(mem, rows[0].key).p;
	model->family = all.family[0] ? z(mem, all.family) : (char *)arena_str(mem, families_guess(registry->families, rows[0].key)).p;
	model->parameter_count = all.parameter_count;
	model->parameters = all.parameters[0] ? z(mem, all.parameters) : (char *)parameters_text(mem, all.parameter_count);
	model->quantization = z(mem, all.quantization);
	model->context_length = all.context_length;
	model->size_bytes = all.size_bytes;
	model->digest = z(mem, all.digest);
	model->first_seen_us = first_seen(registry, model->name, now_us);
	model->last_synced_us = all.seen_us;
	model->is_protected = jobs_protected(registry, rows[0].key, NULL);
	model->pinned = jobs_pinned(registry->jobs, rows[0].key);
	model->modified_at = z(mem, all.modified_at);
	model->format = z(mem, all.format);
	model->template_at = template_at(snapshot, mem, all.template_text);
	model->architecture = z(mem, all.architecture);
	model->embedding_length = all.embedding_length;
	put_caps(model, caps_of(registry, rows[0].key, str_of(model->family), all.caps), mem);
	put_strengths(registry, model, mem);
	return model;
}

/* What is as the model has it is left out. */
static char *unless(struct arena *mem, const char *text, const char *same) { return strcmp(text, same) ? z(mem, text) : (char *)""; }

static Corral__Replica *replica_make(const struct registry *registry, struct arena *mem, const struct row *row, const Corral__Model *model)
{
	Corral__Replica *replica = arena_new_of(mem, Corral__Replica);
	uint32_t slots = settings_slots(registry->config, row->backend->name, row->backend->kind, row->key);

	corral__replica__init(replica);
	replica->model = model->name;
	replica->backend = z(mem, row->backend->name);
	replica->remote_name = unless(mem, row->found->remote_name, model->name);
	replica->context_length = row->found->context_in_force;
	replica->slots = slots ? slots : row->found->slots ? row->found->slots : 1;
	replica->loaded = row->found->loaded && row->backend->state != CORRAL__BACKEND_STATE__BACKEND_DOWN;
	replica->size_loaded_bytes = row->found->size_loaded_bytes;
	replica->size_vram_bytes = row->found->size_vram_bytes;
	replica->expires_at_us = row->found->expires_at_us;
	replica->digest = unless(mem, row->found->digest, model->digest);
	return replica;
}

static Corral__Backend *backend_make(const struct backend *from, struct arena *mem)
{
	Corral__Backend *backend = arena_new_of(mem, Corral__Backend);

	corral__backend__init(backend);
	backend->name = z(mem, from->name);
	backend->kind = z(mem, from->kind->name);
	backend->url = z(mem, from->url_text);
	backend->state = from->state;
	backend->reason = z(mem, from->reason);
	backend->slots = from->held->slots;
	backend->version = z(mem, from->held->version);
	backend->checked_at_us = from->checked_at_us;
	return backend;
}

static void aliases_make(const struct registry *registry, struct arena *mem, Corral__ModelSnapshot *snapshot)
{
	const struct opt_list *list = &registry->config->aliases;
	struct str name, model;

	snapshot->aliases = arena_array(mem, Corral__Alias *, list->n + 1);
	for (size_t i = 0; i < list->n; i++) {
		Corral__Alias *alias = arena_new_of(mem, Corral__Alias);

		if (!settings_pair(list->items[i], &name, &model))
			continue;
		corral__alias__init(alias);
		alias->name = (char *)arena_str(mem, name).p;
		alias->model = (char *)arena_str(mem, model).p;
		snapshot->aliases[snapshot->n_aliases++] = alias;
	}
}
