/* registry_test.c - discovery against scripted servers that answer as recorded, hang, break, answer garbage, change and go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/http_server.h"
#include "services/model-registry/registry.h"

/* --- a scripted server --- */

struct script { const char *target; int status; const char *body; };      /* body NULL: no answer ever */

struct fake {
	struct http_server *server;
	uint16_t port;
	struct script lines[16];
	unsigned n_lines;
	unsigned asked[16];
	struct http_xchg *held[64];
	unsigned n_held;
	struct http_xchg *late;       /* an echo that waits for the next question */
	unsigned hangs;               /* so many questions get no answer, whatever they are */
};

static void on_gone(struct http_xchg *x, const char *why) { x->user = NULL; }

/* Answers with a template that is the name of the model, every other one after the one that was asked later. */
#define ECHO "echo"
static void echo(struct http_xchg *x)
{
	struct str name = str_from(x->body, sizeof("{\"model\":\"") - 1);
	char body[200];

	name.n -= 2;
	(void)snprintf(body, sizeof body, "{\"template\":\"" STR_FMT "\",\"model_info\":{}}", STR_ARG(name));
	http_reply(x, 200, STR("Content-Type: application/json\r\n"), str_of(body));
}

static void echo_late(struct fake *fake, struct http_xchg *x)
{
	if (!fake->late) {
		fake->late = x;
		return;
	}
	echo(x);
	echo(fake->late);
	fake->late = NULL;
}

static void fake_request(struct http_xchg *x, void *arg)
{
	struct fake *fake = arg;

	if (fake->hangs) {
		fake->hangs--;
		x->on_gone = on_gone;
		return;
	}
	for (unsigned i = 0; i < fake->n_lines; i++) {
		if (!str_eqz(x->head.target, fake->lines[i].target))
			continue;
		fake->asked[i]++;
		if (!fake->lines[i].body)
			x->on_gone = on_gone;
		else if (!strcmp(fake->lines[i].body, ECHO))
			echo_late(fake, x);
		else
			http_reply(x, fake->lines[i].status, STR("Content-Type: application/json\r\n"), str_of(fake->lines[i].body));
		return;
	}
	http_reply(x, 404, STR(""), STR("404 page not found"));
}

static void fake_up(struct loop *loop, struct fake *fake)
{
	struct http_handler handler = { .on_request = fake_request, .arg = fake };
	struct why why = { 0 };
	char listen[32];

	(void)snprintf(listen, sizeof listen, "127.0.0.1:%u", fake->port);
	fake->server = http_server_new(loop, listen, &handler, NULL, &why);
	if (!fake->server)
		fail_msg("%s", why.text);
	fake->port = http_server_port(fake->server);
}

static void fake_down(struct fake *fake)
{
	http_server_free(fake->server);
	fake->server = NULL;
}

static unsigned line_of(struct fake *fake, const char *target)
{
	for (unsigned i = 0; i < fake->n_lines; i++)
		if (!strcmp(fake->lines[i].target, target))
			return i;
	return fake->n_lines++;
}

static void says(struct fake *fake, const char *target, int status, const char *body)
{
	fake->lines[line_of(fake, target)] = (struct script){ target, status, body };
}

static unsigned asked(struct fake *fake, const char *target) { return fake->asked[line_of(fake, target)]; }

static struct arena *golden_mem;

static const char *golden(const char *name)
{
	static char text[65536];
	char path[200];
	FILE *f;
	size_t n;

	(void)snprintf(path, sizeof path, "tests/golden/registry/%s", name);
	f = fopen(path, "r");
	if (!f)
		fail_msg("run me at the top of the tree: %s", path);
	n = fread(text, 1, sizeof text, f);
	(void)fclose(f);
	return arena_dup(golden_mem, text, n);
}

static void as_ollama(struct fake *fake)
{
	says(fake, "/api/version", 200, golden("ollama-version.json"));
	says(fake, "/api/tags", 200, golden("ollama-tags.json"));
	says(fake, "/api/show", 200, golden("ollama-show-tiny.json"));
	says(fake, "/api/ps", 200, golden("ollama-ps.json"));
}

static void as_llamacpp(struct fake *fake)
{
	says(fake, "/health", 200, golden("llamacpp-health.json"));
	says(fake, "/props", 200, golden("llamacpp-props.json"));
	says(fake, "/v1/models", 200, golden("llamacpp-models.json"));
}

static void as_openai(struct fake *fake)
{
	says(fake, "/v1/models", 200,
	     "{\"object\":\"list\",\"data\":[{\"id\":\"org/qwen3-coder-30b\",\"object\":\"model\",\"owned_by\":\"vllm\",\"max_model_len\":32768},"
	     "{\"id\":\"nomic-embed\",\"object\":\"model\"}]}");
}

/* --- the world: a loop, a registry, what it published --- */

struct world {
	struct loop *loop;
	struct registry_config config;
	struct metrics *metrics;
	struct registry *registry;
	struct buf last;
	Corral__ModelSnapshot *now;
	unsigned published, up, downs;        /* times that fewer were up than there are, since the first was */
	unsigned synced, unavailable;
	Corral__BackendState synced_state;
	uint32_t added, removed;
};

static void on_snapshot(void *arg, struct str packed)
{
	struct world *w = arg;

	w->published++;
	buf_clear(&w->last);
	buf_str(&w->last, packed);
	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	w->now = corral__model_snapshot__unpack(NULL, packed.n, (const uint8_t *)packed.p);
	assert_non_null(w->now);
}

static void on_state(void *arg, unsigned up, unsigned known, unsigned n)
{
	struct world *w = arg;

	w->downs += w->up && up < n;
	w->up = up;
}

static struct world world_new(void)
{
	struct world w = { .loop = loop_new() };

	w.config = (struct registry_config){ .ollama_host = "", .default_model = "", .families = "", .sync_every = 3600000, .residency_every = 3600000,
					     .list_timeout = 300 };
	w.metrics = metrics_new(registry_metrics, M_COUNT);
	return w;
}

static struct opt_list list_of(unsigned n, ...)
{
	struct opt_list list = { arena_zero(golden_mem, n * sizeof(char *)), n };
	va_list ap;

	va_start(ap, n);
	for (unsigned i = 0; i < n; i++)
		list.items[i] = va_arg(ap, const char *);
	va_end(ap);
	return list;
}

static const char *entry(const char *name, const struct fake *fake) { return arena_printf(golden_mem, "%shttp://127.0.0.1:%u", name, fake->port); }

static void start_with(struct world *w, struct str kept)
{
	struct why why = { 0 };

	if (settings_check(&w->config, &why))
		fail_msg("%s", why.text);
	w->registry = registry_new(w->loop, &w->config, w->metrics, kept, on_snapshot, on_state, w, &why);
	if (!w->registry)
		fail_msg("%s", why.text);
}

static void world_free(struct world *w)
{
	registry_free(w->registry);
	metrics_free(w->metrics);
	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	buf_free(&w->last);
	loop_free(w->loop);
}

static void on_alarm(struct loop_timer *timer) { loop_stop(timer->loop); }

static void run_ms(struct world *w, int64_t ms)
{
	struct loop_timer alarm = { 0 };

	loop_timer_set(w->loop, &alarm, ms * 1000, on_alarm);
	loop_run(w->loop);
	loop_timer_del(&alarm);
}

static void on_synced(void *arg, const Corral__SyncReply *reply)
{
	struct world *w = arg;

	w->synced++;
	if (reply) {
		w->added = reply->added;
		w->removed = reply->removed;
		w->synced_state = reply->backends[0]->state;
	} else {
		w->unavailable++;
	}
	loop_stop(w->loop);
}

static int64_t sync_now(struct world *w)
{
	int64_t start = mono_ms();
	unsigned before = w->synced;
	struct why why = { 0 };

	assert_int_equal(registry_sync(w->registry, STR(""), on_synced, w, &why), ERR_OK);
	run_ms(w, 10000);
	assert_int_equal(w->synced, before + 1);
	return mono_ms() - start;
}

/* It is published, at the latest after five seconds. */
static void until_down(struct world *w)
{
	for (int64_t began = mono_ms(); w->now->backends[0]->state != CORRAL__BACKEND_STATE__BACKEND_DOWN && mono_ms() - began < 5000;)
		run_ms(w, 10);
}

static Corral__Model *model(struct world *w, const char *name)
{
	for (size_t i = 0; w->now && i < w->now->n_models; i++)
		if (!strcmp(w->now->models[i]->name, name))
			return w->now->models[i];
	return NULL;
}

static Corral__Replica *replica(struct world *w, const char *of, const char *backend)
{
	for (size_t i = 0; i < w->now->n_replicas; i++)
		if (!strcmp(w->now->replicas[i]->model, of) && !strcmp(w->now->replicas[i]->backend, backend))
			return w->now->replicas[i];
	return NULL;
}

static const char *template_of(struct world *w, const Corral__Model *m) { return m->template_at ? w->now->templates[m->template_at - 1] : ""; }

static bool can(const Corral__Model *m, const char *word)
{
	for (size_t i = 0; i < m->n_capabilities; i++)
		if (!strcmp(m->capabilities[i], word))
			return true;
	return false;
}

static double score(const Corral__Model *m, const char *task)
{
	for (size_t i = 0; i < m->n_strengths; i++)
		if (!strcmp(m->strengths[i]->task_type, task))
			return m->strengths[i]->score;
	return -1;
}

/* --- each kind --- */

static void reads_ollama(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	Corral__Model *m;
	Corral__Replica *r;

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	w.config.backends = list_of(1, entry("o=ollama+", &fake));
	w.config.ollama_max_concurrent = 3;
	w.config.protected = list_of(1, "tiny");
	start_with(&w, STR(""));
	sync_now(&w);
	assert_int_equal(w.now->n_models, 2);
	assert_string_equal(w.now->backends[0]->version, "0.34.2");
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);
	m = model(&w, "tiny:latest");
	assert_non_null(m);
	assert_string_equal(m->display_name, "tiny");
	assert_string_equal(m->family, "llama");
	assert_string_equal(m->parameters, "2.02M");
	assert_int_equal(m->parameter_count, 2016768);
	assert_string_equal(m->quantization, "F16");
	assert_int_equal(m->context_length, 4096);
	assert_int_equal(m->embedding_length, 512);
	assert_int_equal(m->size_bytes, 4056435);
	assert_string_equal(m->architecture, "llama");
	assert_true(m->is_protected && can(m, "completion") && !can(m, "tools"));
	assert_non_null(strstr(template_of(&w, m), "im_start"));
	r = replica(&w, "tiny:latest", "o");
	assert_true(r->loaded);
	assert_int_equal(r->size_loaded_bytes, 14543748);
	assert_int_equal(r->context_length, 1024);
	assert_int_equal(r->slots, 3);
	assert_true(r->expires_at_us > 0);
	assert_false(replica(&w, "emb:latest", "o")->loaded);
	assert_true(can(model(&w, "emb:latest"), "completion"));      /* both are shown the same here */

	/* The same digests are not shown again. */
	{
		unsigned shows = asked(&fake, "/api/show");

		sync_now(&w);
		assert_int_equal(asked(&fake, "/api/show"), shows);
		assert_non_null(strstr(template_of(&w, model(&w, "tiny:latest")), "im_start"));
	}
	fake_down(&fake);
	world_free(&w);
}

static void forty_tags(struct buf *tags, char digest)
{
	buf_clear(tags);
	buf_addz(tags, "{\"models\":[");
	for (unsigned i = 0; i < 40; i++)
		buf_printf(tags, "%s{\"name\":\"model%u:1b\",\"digest\":\"%c%u\"}", i ? "," : "", i, digest, i);
	buf_addz(tags, "]}");
}

/* Many models are asked about side by side; each gets its own answer, and what one template is for two of them is in the snapshot once. */
static void gives_each_model_its_own_traits(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	struct buf tags = { 0 };
	char name[32];

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	forty_tags(&tags, 'd');
	says(&fake, "/api/tags", 200, buf_z(&tags));
	says(&fake, "/api/show", 200, ECHO);
	w.config.backends = list_of(1, entry("o=ollama+", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	assert_int_equal(w.now->n_models, 40);
	assert_int_equal(w.now->n_templates, 40);
	for (unsigned i = 0; i < 40; i++) {
		(void)snprintf(name, sizeof name, "model%u:1b", i);
		assert_string_equal(template_of(&w, model(&w, name)), name);
		assert_string_equal(replica(&w, name, "o")->remote_name, "");          /* as the model */
	}
	says(&fake, "/api/show", 200, golden("ollama-show-tiny.json"));
	forty_tags(&tags, 'e');           /* other bytes under the same names */
	says(&fake, "/api/tags", 200, buf_z(&tags));
	sync_now(&w);
	assert_int_equal(w.now->n_templates, 1);
	assert_non_null(strstr(template_of(&w, model(&w, "model39:1b")), "im_start"));
	buf_free(&tags);
	fake_down(&fake);
	world_free(&w);
}

static void reads_llamacpp(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	Corral__Model *m;

	fake_up(w.loop, &fake);
	as_llamacpp(&fake);
	w.config.backends = list_of(1, entry("l=llamacpp+", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	m = model(&w, "tiny");        /* models/tiny.gguf */
	assert_non_null(m);
	assert_string_equal(m->parameters, "152K");
	assert_string_equal(m->quantization, "F32");
	assert_int_equal(m->context_length, 2048);
	assert_int_equal(m->size_bytes, 607488);
	assert_true(can(m, "completion") && can(m, "tools") && !can(m, "vision"));
	assert_string_equal(replica(&w, "tiny", "l")->remote_name, "models/tiny.gguf");
	assert_int_equal(replica(&w, "tiny", "l")->slots, 2);
	assert_int_equal(replica(&w, "tiny", "l")->context_length, 512);
	assert_true(replica(&w, "tiny", "l")->loaded);
	assert_int_equal(w.now->backends[0]->slots, 2);

	says(&fake, "/v1/embeddings", 501, "{\"error\":{\"code\":501,\"message\":\"This server does not support embeddings.\"}}");
	sync_now(&w);
	assert_true(can(model(&w, "tiny"), "completion") && !can(model(&w, "tiny"), "embedding"));
	says(&fake, "/v1/embeddings", 400, "{\"error\":{\"code\":400,\"message\":\"\\\"input\\\" or \\\"content\\\" must be provided\"}}");
	sync_now(&w);
	assert_true(!can(model(&w, "tiny"), "completion") && can(model(&w, "tiny"), "embedding"));
	says(&fake, "/v1/embeddings", 501, "{}");

	/* Started again with another model: the old name would be answered by the new one, so it goes at once. */
	says(&fake, "/v1/models", 200, "{\"data\":[{\"id\":\"other\"}]}");
	sync_now(&w);
	assert_int_equal(w.now->n_models, 1);
	assert_string_equal(w.now->models[0]->name, "other");
	as_llamacpp(&fake);
	says(&fake, "/v1/models", 200, "{\"data\":[{\"id\":\"tiny\"}]}");
	sync_now(&w);

	says(&fake, "/health", 503, "{\"error\":{\"code\":503,\"message\":\"Loading model\",\"type\":\"unavailable_error\"}}");
	sync_now(&w);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_LOADING);
	assert_int_equal(w.up, 0);
	assert_non_null(model(&w, "tiny"));
	fake_down(&fake);
	world_free(&w);
}

static void reads_a_llamacpp_router(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };

	fake_up(w.loop, &fake);
	as_llamacpp(&fake);
	says(&fake, "/props", 200, golden("llamacpp-router-props.json"));
	says(&fake, "/models", 200, golden("llamacpp-router-models.json"));
	w.config.backends = list_of(1, entry("", &fake));
	w.config.residency_every = 50;
	start_with(&w, STR(""));
	sync_now(&w);
	assert_string_equal(w.now->backends[0]->kind, "llamacpp");
	assert_int_equal(w.now->n_models, 3);
	assert_int_equal(w.now->replicas[0]->slots, 2);
	assert_int_equal(w.now->replicas[0]->context_length, 512);
	assert_int_equal(w.now->models[1]->context_length, 2048);
	assert_false(can(model(&w, "tiny"), "tools"));

	/* One is loaded: a look sees it and has its props read, without the other being loaded by the question. */
	{
		const char *unloaded = golden("llamacpp-router-models.json"), *at = strstr(strstr(unloaded, "\"id\":\"tiny\""), "\"unloaded\"");
		const char *loaded = arena_printf(golden_mem, "%.*s\"loaded\"%s", (int)(at - unloaded), unloaded, at + strlen("\"unloaded\""));

		says(&fake, "/props?autoload=false&model=tiny", 200, golden("llamacpp-props.json"));
		says(&fake, "/models", 200, loaded);
	}
	run_ms(&w, 400);
	assert_true(w.now->replicas[1]->loaded && !w.now->replicas[0]->loaded);
	assert_true(can(model(&w, "tiny"), "tools"));
	fake_down(&fake);
	world_free(&w);
}

static void reads_openai_lists(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	Corral__Model *m;

	fake_up(w.loop, &fake);
	as_openai(&fake);
	w.config.backends = list_of(1, arena_printf(golden_mem, "http://127.0.0.1:%u/v1", fake.port));
	w.config.slots = list_of(1, arena_printf(golden_mem, "127.0.0.1:%u/org/qwen3-coder-30b=16", fake.port));
	start_with(&w, STR(""));
	sync_now(&w);
	assert_string_equal(w.now->backends[0]->kind, "openai");
	m = model(&w, "org/qwen3-coder-30b");
	assert_non_null(m);
	assert_int_equal(m->context_length, 32768);
	assert_string_equal(m->family, "qwen3");
	assert_string_equal(m->strengths_source, "family");
	assert_true(score(m, "BUG_FIX") > 0.7 && score(m, "MATH") > 0);
	assert_true(can(m, "completion") && !can(m, "tools"));
	assert_true(can(model(&w, "nomic-embed"), "embedding") && !can(model(&w, "nomic-embed"), "completion"));
	assert_int_equal(w.now->replicas[0]->slots, 1);
	assert_int_equal(w.now->replicas[1]->slots, 16);
	fake_down(&fake);
	world_free(&w);
}

static void lets_configuration_speak_first(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	Corral__Model *m;

	fake_up(w.loop, &fake);
	as_openai(&fake);
	w.config.backends = list_of(1, entry("v=openai+", &fake));
	w.config.strengths = list_of(1, "org/qwen3-coder-30b=SQL:0.9;CODE:0.3");
	w.config.capabilities = list_of(1, "org/qwen3-coder-30b=completion;tools");
	w.config.aliases = list_of(1, "code = org/qwen3-coder-30b");
	w.config.default_model = "code";
	start_with(&w, STR(""));
	sync_now(&w);
	m = model(&w, "org/qwen3-coder-30b");
	assert_string_equal(m->strengths_source, "configuration");
	assert_true(score(m, "SQL") == 0.9 && score(m, "BUG_FIX") == 0.3 && score(m, "MATH") < 0);
	assert_true(can(m, "tools"));
	assert_string_equal(w.now->aliases[0]->name, "code");
	assert_string_equal(w.now->aliases[0]->model, "org/qwen3-coder-30b");
	assert_string_equal(w.now->default_model, "code");
	fake_down(&fake);
	world_free(&w);
}

/* --- several at once --- */

static void joins_backends_by_name(void **state)
{
	struct world w = world_new();
	struct fake a = { 0 }, b = { 0 }, c = { 0 };

	fake_up(w.loop, &a);
	fake_up(w.loop, &b);
	fake_up(w.loop, &c);
	as_ollama(&a);
	as_llamacpp(&b);
	says(&c, "/v1/models", 200, "{\"data\":[{\"id\":\"Tiny\"},{\"id\":\"other\"},{\"id\":\"other\"},{\"id\":\"far:cloud\"}]}");
	w.config.backends = list_of(3, entry("a=ollama+", &a), entry("b=llamacpp+", &b), entry("c=openai+", &c));
	start_with(&w, STR(""));
	sync_now(&w);
	assert_int_equal(w.up, 3);
	assert_non_null(replica(&w, "tiny:latest", "a"));
	assert_string_equal(replica(&w, "tiny:latest", "b")->remote_name, "models/tiny.gguf");
	assert_null(model(&w, "Tiny"));       /* differs only in case from the first backend's */
	assert_null(replica(&w, "tiny:latest", "c"));
	assert_non_null(model(&w, "other"));
	assert_int_equal(w.now->n_models, 3 + 1);     /* emb, other, tiny, and what another server calls far:cloud */
	assert_true(can(model(&w, "tiny:latest"), "tools"));
	assert_string_equal(model(&w, "tiny:latest")->digest, "a4a93d133d639305118bcfbedac6b7a37e1bfe72b3e5bf1e53a2fc1707213ee8");
	fake_down(&a);
	fake_down(&b);
	fake_down(&c);
	world_free(&w);
}

static void skips_the_cloud_and_what_is_no_name(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	says(&fake, "/api/tags", 200,
	     "{\"models\":[{\"name\":\"big:cloud\"},{\"name\":\"big:120b-cloud\"},{\"name\":\"x:1b\",\"remote_host\":\"https://far\"},{\"name\":\"near:1b\"},"
	     "{\"name\":\"a\\r\\nX: b\"},{\"name\":\"a b\"},{\"name\":\"\"},{\"name\":7},7]}");
	w.config.backends = list_of(1, entry("a=ollama+", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	assert_int_equal(w.now->n_models, 1);
	assert_string_equal(w.now->models[0]->name, "near:1b");
	fake_down(&fake);
	world_free(&w);
}

static void is_not_delayed_by_one_that_hangs(void **state)
{
	struct world w = world_new();
	struct fake good = { 0 }, hung = { 0 };
	int64_t start = mono_ms();

	fake_up(w.loop, &good);
	fake_up(w.loop, &hung);
	as_openai(&good);
	says(&hung, "/api/version", 200, NULL);
	w.config.backends = list_of(2, entry("hung=ollama+", &hung), entry("good=openai+", &good));
	w.config.list_timeout = 600;
	start_with(&w, STR(""));
	while (w.up == 0 && mono_ms() - start < 5000)
		run_ms(&w, 10);
	assert_true(mono_ms() - start < 500);
	run_ms(&w, 40);
	assert_non_null(model(&w, "nomic-embed"));
	assert_in_range(sync_now(&w), 300, 2500);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_DOWN);
	assert_true(w.now->backends[0]->reason[0]);
	fake_down(&good);
	fake_down(&hung);
	world_free(&w);
}

/* --- what breaks --- */

static void keeps_models_through_failures(void **state)
{
	static const struct { const char *target; int status; const char *body; } breaks[] = {
		{ "/api/tags", 500, "{\"error\":\"no\"}" }, { "/api/tags", 200, "garbage" },       { "/api/tags", 200, "{\"models\":[{\"name\":\"ti" },
		{ "/api/tags", 200, "{}" },                 { "/api/tags", 200, "{\"models\":7}" }, { "/api/tags", 200, NULL },
		{ "/api/tags", 200, "[]" },                 { "/api/version", 404, "" },            { "/api/version", 200, "" },
		{ "/api/version", 401, "" },
	};
	struct world w = world_new();
	struct fake fake = { 0 };

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	w.config.backends = list_of(1, entry("o=ollama+", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++) {
		says(&fake, breaks[i].target, breaks[i].status, breaks[i].body);
		sync_now(&w);
		if (!breaks[i].body)
			until_down(&w);           /* who waits is answered before it was asked twice */
		assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_DOWN);
		assert_true(!breaks[i].body || w.synced_state == CORRAL__BACKEND_STATE__BACKEND_DOWN);
		assert_int_equal(w.now->n_models, 2);
		assert_int_equal(w.now->n_replicas, 2);
		as_ollama(&fake);
		sync_now(&w);
		assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);
	}
	assert_true(series_get(metrics_series(w.metrics, M_SYNC_FAILURES, "o", "malformed")) >= 5);
	assert_true(series_get(metrics_series(w.metrics, M_SYNC_FAILURES, "o", "status")) >= 3);
	assert_true(series_get(metrics_series(w.metrics, M_SYNC_FAILURES, "o", "unreachable")) >= 1);
	fake_down(&fake);
	world_free(&w);
}

static void one_failure_is_asked_about_again(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	struct series *failures = metrics_series(w.metrics, M_SYNC_FAILURES, "v", "unreachable");
	int64_t began;

	fake_up(w.loop, &fake);
	as_openai(&fake);
	w.config.backends = list_of(1, entry("v=openai+", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	assert_int_equal(w.up, 1);
	for (unsigned i = 1; i <= 2; i++) {       /* each time anew, and those who wait are not forgotten */
		fake.hangs = 1;
		sync_now(&w);
		for (began = mono_ms(); fake.hangs && mono_ms() - began < 5000;)
			run_ms(&w, 10);
		sync_now(&w);
		assert_true(series_get(failures) == i);
		assert_int_equal(w.downs, 0);
		assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);
	}
	fake.hangs = 2;
	sync_now(&w);
	until_down(&w);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_DOWN);
	assert_true(series_get(failures) == 4);
	sync_now(&w);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);
	fake_down(&fake);
	world_free(&w);
}

static void lists_models_that_cannot_be_shown(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	says(&fake, "/api/show", 200, NULL);
	says(&fake, "/api/ps", 200, NULL);
	w.config.backends = list_of(1, entry("o=ollama+", &fake));
	start_with(&w, STR(""));
	assert_in_range(sync_now(&w), 500, 1500);     /* who waits is answered before all questions are */
	run_ms(&w, 2500);     /* one show and ps are waited for, not two shows */
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);
	assert_int_equal(w.now->n_models, 2);
	assert_int_equal(model(&w, "tiny:latest")->context_length, 4096);
	assert_int_equal(model(&w, "tiny:latest")->parameter_count, 2020000);
	assert_true(can(model(&w, "emb:latest"), "embedding"));
	fake_down(&fake);
	world_free(&w);
}

static void removes_what_is_gone_three_times(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	int64_t seen;

	fake_up(w.loop, &fake);
	as_openai(&fake);
	w.config.backends = list_of(1, entry("v=openai+", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	assert_int_equal(w.added, 2);
	run_ms(&w, 100);      /* the listing of the start may still follow */
	seen = model(&w, "nomic-embed")->first_seen_us;
	says(&fake, "/v1/models", 200, "{\"data\":[{\"id\":\"nomic-embed\"},{\"id\":\"new\"}]}");
	sync_now(&w);
	assert_int_equal(w.added, 1);
	assert_int_equal(w.removed, 0);
	says(&fake, "/v1/models", 500, "");
	sync_now(&w);         /* a failure does not count */
	says(&fake, "/v1/models", 200, "{\"data\":[{\"id\":\"nomic-embed\"},{\"id\":\"new\"}]}");
	sync_now(&w);
	assert_non_null(model(&w, "org/qwen3-coder-30b"));
	sync_now(&w);
	assert_null(model(&w, "org/qwen3-coder-30b"));
	assert_int_equal(w.removed, 1);
	assert_int_equal(model(&w, "nomic-embed")->first_seen_us, seen);
	fake_down(&fake);
	world_free(&w);
}

static void sees_backends_go_and_come(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	w.config.backends = list_of(1, entry("o=ollama+", &fake));
	w.config.residency_every = 30;
	start_with(&w, STR(""));
	run_ms(&w, 300);
	assert_int_equal(w.up, 1);
	says(&fake, "/api/ps", 200, "{\"models\":[]}");
	run_ms(&w, 200);
	assert_false(replica(&w, "tiny:latest", "o")->loaded);
	says(&fake, "/api/ps", 200, NULL);        /* hangs: still up */
	run_ms(&w, 2000);
	assert_int_equal(w.up, 1);
	as_ollama(&fake);
	fake_down(&fake);
	run_ms(&w, 300);
	assert_int_equal(w.up, 0);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_DOWN);
	assert_int_equal(w.now->n_models, 2);
	fake_up(w.loop, &fake);
	run_ms(&w, 400);
	assert_int_equal(w.up, 1);
	assert_true(replica(&w, "tiny:latest", "o")->loaded);
	fake_down(&fake);
	world_free(&w);
}

static void publishes_only_news(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	unsigned before;

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	w.config.backends = list_of(1, entry("o=ollama+", &fake));
	w.config.residency_every = 20;
	start_with(&w, STR(""));
	run_ms(&w, 300);
	before = w.published;
	run_ms(&w, 300);
	assert_int_equal(w.published, before);
	assert_true(asked(&fake, "/api/ps") > 5);
	fake_down(&fake);
	world_free(&w);
}

static void remembers_across_restarts(void **state)
{
	struct world w = world_new(), again = world_new();
	struct fake fake = { 0 };

	fake_up(w.loop, &fake);
	as_ollama(&fake);
	w.config.backends = list_of(1, entry("", &fake));
	start_with(&w, STR(""));
	sync_now(&w);
	fake_down(&fake);

	again.config.backends = w.config.backends;
	start_with(&again, buf_as_str(&w.last));
	sync_now(&again);
	assert_int_equal(again.now->n_models, 2);
	assert_string_equal(again.now->backends[0]->kind, "ollama");
	assert_int_equal(again.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_DOWN);
	assert_string_equal(template_of(&again, model(&again, "tiny:latest")), template_of(&w, model(&w, "tiny:latest")));
	assert_int_equal(model(&again, "tiny:latest")->first_seen_us, model(&w, "tiny:latest")->first_seen_us);
	assert_int_equal(model(&again, "tiny:latest")->context_length, 4096);
	assert_false(replica(&again, "tiny:latest", again.now->backends[0]->name)->loaded);

	/* Another kind of server comes up at that address. */
	as_llamacpp(&fake);
	says(&fake, "/api/version", 404, "");
	fake_up(again.loop, &fake);
	sync_now(&again);
	sync_now(&again);
	assert_string_equal(again.now->backends[0]->kind, "llamacpp");
	assert_int_equal(again.up, 1);
	fake_down(&fake);
	world_free(&w);
	world_free(&again);
}

static void survives_damaged_memory(void **state)
{
	struct world w = world_new();

	w.config.backends = list_of(1, "x=openai+http://127.0.0.1:1");
	start_with(&w, STR("\xff\xff not a snapshot"));
	run_ms(&w, 100);
	assert_int_equal(w.now->n_models, 0);
	world_free(&w);
}

static void answers_those_who_wait_when_it_ends(void **state)
{
	struct world w = world_new();
	struct fake fake = { 0 };
	struct why why;

	fake_up(w.loop, &fake);
	says(&fake, "/v1/models", 200, NULL);
	w.config.backends = list_of(1, entry("x=openai+", &fake));
	start_with(&w, STR(""));
	assert_int_equal(registry_sync(w.registry, STR("nobody"), on_synced, &w, &why), ERR_NOT_FOUND);
	assert_int_equal(registry_sync(w.registry, STR("x"), on_synced, &w, &why), ERR_OK);
	assert_int_equal(registry_sync(w.registry, STR(""), on_synced, &w, &why), ERR_OK);
	run_ms(&w, 50);
	assert_int_equal(w.synced, 0);
	registry_free(w.registry);
	w.registry = NULL;
	assert_int_equal(w.unavailable, 2);
	run_ms(&w, 20);
	fake_down(&fake);
	world_free(&w);
}

/* --- settings --- */

static void reads_hosts_as_ollama_does(void **state)
{
	static const char *const cases[][2] = {
		{ "", "http://127.0.0.1:11434" },
		{ "0.0.0.0", "http://127.0.0.1:11434" },
		{ "0.0.0.0:8080", "http://127.0.0.1:8080" },
		{ ":8080", "http://127.0.0.1:8080" },
		{ "gpu", "http://gpu:11434" },
		{ "gpu:1234/", "http://gpu:1234" },
		{ "http://gpu", "http://gpu:80" },
		{ "https://gpu", "https://gpu:443" },
		{ "http://gpu:11434/base/", "http://gpu:11434/base" },
		{ "[::]:5", "http://[::1]:5" },
		{ "[::1]", "http://[::1]:11434" },
		{ "::1", "http://[::1]:11434" },
		{ " gpu:99999 ", "http://gpu:11434" },
	};
	struct why why;
	const char *url;

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_int_equal(settings_ollama_url(str_of(cases[i][0]), golden_mem, &url, &why), ERR_OK);
		assert_string_equal(url, cases[i][1]);
	}
}

static enum err check_one(struct opt_list *which, const char *item, struct registry_config *config)
{
	struct why why = { 0 };
	enum err err;

	*which = list_of(1, item);
	err = settings_check(config, &why);
	*which = (struct opt_list){ 0 };
	assert_true(!err || (why.text[0] && why.field[0]));
	return err;
}

/* "" = the peer; "-" = nobody's. */
static const char *probe_of(const struct registry_config *c, const char *backend, const char *url_text)
{
	static char url[64];

	return settings_probe(c, backend, url_text, url, sizeof(url)) ? url : "-";
}

static void knows_whose_machine_a_backend_is_on(void **state)
{
	struct registry_config c = { .hardware = list_of(3, "far=tcp://far:7117", "near=local", "odd=none") };

	assert_string_equal(probe_of(&c, "a", "http://127.0.0.1:11434"), "");
	assert_string_equal(probe_of(&c, "a", "http://localhost:11434"), "");
	assert_string_equal(probe_of(&c, "a", "http://[::1]:11434"), "");
	assert_string_equal(probe_of(&c, "a", "http://10.0.0.5:11434"), "-");
	assert_string_equal(probe_of(&c, "far", "http://10.0.0.5:11434"), "tcp://far:7117");
	assert_string_equal(probe_of(&c, "near", "http://ollama:11434"), "");
	assert_string_equal(probe_of(&c, "odd", "http://127.0.0.1:11434"), "-");
}

static void checks_what_it_is_told(void **state)
{
	struct world w = world_new();
	struct registry_config *c = &w.config;
	struct backend_setting *list;
	struct why why;
	size_t n;

	assert_int_equal(check_one(&c->backends, "gpu1=ollama+http://10.0.0.5:11434", c), ERR_OK);
	assert_int_equal(check_one(&c->backends, "gpu1=vllm+http://10.0.0.5:11434", c), ERR_INVALID);
	assert_int_equal(check_one(&c->backends, "gpu1", c), ERR_INVALID);
	assert_int_equal(check_one(&c->backends, "ftp://x", c), ERR_INVALID);
	assert_int_equal(check_one(&c->backends, "far=openai+https://x", c), ERR_OK);
	c->backend_ca = "/nonexistent/ca.pem";
	assert_int_equal(settings_check(c, &why), ERR_INVALID);
	assert_string_equal(why.field, "backend_ca");
	c->backend_ca = "";
	assert_int_equal(check_one(&c->slots, "gpu1=0", c), ERR_INVALID);
	assert_int_equal(check_one(&c->slots, "gpu1/m=4", c), ERR_OK);
	assert_int_equal(check_one(&c->aliases, "fast", c), ERR_INVALID);
	assert_int_equal(check_one(&c->strengths, "m=SQL:2", c), ERR_INVALID);
	assert_int_equal(check_one(&c->strengths, "m=SQL:0.5;CHAT:1", c), ERR_OK);
	assert_int_equal(check_one(&c->capabilities, "m=fly", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama=http://h:7117", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama=tcp://h", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama=inproc://h", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama=h:7117", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama=ipc:///run/probe", c), ERR_OK);
	assert_int_equal(check_one(&c->hardware, "ollama=tls+tcp://h:7117", c), ERR_OK);
	assert_int_equal(check_one(&c->hardware, "nobody=tcp://h:7117", c), ERR_INVALID);
	assert_int_equal(check_one(&c->hardware, "ollama=tcp://h:7117", c), ERR_OK);
	assert_int_equal(check_one(&c->hardware, "ollama=local", c), ERR_OK);

	c->backends = list_of(2, "a=ollama+http://h:1", "a=ollama+http://h:2");
	assert_int_equal(settings_check(c, &why), ERR_INVALID);
	c->backends = list_of(2, "http://h:1/v1", "openai+http://h:2/x/v1");
	c->ollama_host = "0.0.0.0";
	assert_int_equal(settings_backends(c, golden_mem, &list, &n, &why), ERR_OK);
	assert_int_equal(n, 3);
	assert_string_equal(list[0].name, "h:1");
	assert_string_equal(list[0].url_text, "http://h:1");
	assert_string_equal(list[1].url_text, "http://h:2/x");
	assert_string_equal(list[2].name, "ollama");
	assert_string_equal(list[2].url_text, "http://127.0.0.1:11434");
	c->families = "/nowhere/families.tsv";
	assert_null(families_load(golden_mem, c->families, &why));
	w.registry = NULL;
	world_free(&w);
}

static void writes_parameters_as_servers_do(void **state)
{
	assert_string_equal(parameters_text(golden_mem, 8030261248), "8.0B");
	assert_string_equal(parameters_text(golden_mem, 2016768), "2.02M");
	assert_string_equal(parameters_text(golden_mem, 494000000), "494M");
	assert_string_equal(parameters_text(golden_mem, 151872), "152K");
	assert_string_equal(parameters_text(golden_mem, 0), "");
	assert_int_equal(parameters_count(STR("8.0B")), 8000000000);
	assert_int_equal(parameters_count(STR("152K")), 152000);
	assert_int_equal(parameters_count(STR("B")), 0);
	assert_int_equal(parameters_count(STR("large")), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_ollama), cmocka_unit_test(gives_each_model_its_own_traits),
		cmocka_unit_test(reads_llamacpp),
		cmocka_unit_test(reads_a_llamacpp_router),
		cmocka_unit_test(reads_openai_lists),
		cmocka_unit_test(lets_configuration_speak_first),
		cmocka_unit_test(joins_backends_by_name),
		cmocka_unit_test(skips_the_cloud_and_what_is_no_name),
		cmocka_unit_test(is_not_delayed_by_one_that_hangs),
		cmocka_unit_test(one_failure_is_asked_about_again),
		cmocka_unit_test(keeps_models_through_failures),
		cmocka_unit_test(lists_models_that_cannot_be_shown),
		cmocka_unit_test(removes_what_is_gone_three_times),
		cmocka_unit_test(sees_backends_go_and_come),
		cmocka_unit_test(publishes_only_news),
		cmocka_unit_test(remembers_across_restarts),
		cmocka_unit_test(survives_damaged_memory),
		cmocka_unit_test(answers_those_who_wait_when_it_ends),
		cmocka_unit_test(reads_hosts_as_ollama_does),
		cmocka_unit_test(checks_what_it_is_told), cmocka_unit_test(knows_whose_machine_a_backend_is_on),
		cmocka_unit_test(writes_parameters_as_servers_do),
	};
	int failed;

	clock_init();
	log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	golden_mem = arena_new(0);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	arena_free(golden_mem);
	return failed;
}
