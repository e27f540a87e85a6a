/* fake_ollamas.c - many Ollama servers in one program, as far as discovery asks them, each answer a while after its question.
 *
 *   fake_ollamas [--first-port 8400] [--backends 100] [--models 1000] [--each 100] [--after-ms 20]
 *
 * Backend b listens on 127.0.0.1:first-port+b and has the models b*each, b*each+1, ... of all, round and round: with the defaults each of 1,000 models
 * is on ten backends. Models have what real ones have: digests of 64 digits, one of 40 templates of about a kilobyte, a model_info of a few
 * dozen keys. Every 1,000 requests it says how many there were. */
#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/io/http_server.h"
#include "tests/bench/flags.h"

enum { TEMPLATES = 40, BACKENDS_MAX = 1000 };

static struct { uint64_t first_port, backends, models, each, after_ms; } opt = { 8400, 100, 1000, 100, 20 };

static struct loop *loop;
static struct fake { uint64_t number; struct buf tags, ps; } fakes[BACKENDS_MAX];
static uint64_t asked;

struct late { struct http_xchg *x; struct loop_timer timer; struct buf body; int status; };

static void name_of(uint64_t model, char name[64])
{
	static const char *const families[] = { "llama3.1", "qwen2.5-coder", "mistral-nemo", "gemma2", "phi4" };

	snprintf(name, 64, "%s-m%04llu:%ub-instruct-q4_K_M", families[model % 5], (unsigned long long)model, (unsigned)(1 + model % 70));
}

static void digest_of(uint64_t model, char digest[65])
{
	for (unsigned i = 0; i < 4; i++)
		snprintf(digest + 16 * i, 17, "%016llx", (unsigned long long)(model + 1) * 0x9e3779b97f4a7c15u * (2 * i + 1));
}

static void template_of(uint64_t model, struct buf *out)
{
	unsigned t = (unsigned)(model % TEMPLATES);

	for (unsigned i = 0; out->n < 1000; i++)
		buf_printf(out, "{{- if .System }}<|start_%u|>system<|end_%u|>{{ .System }}<|eot_%u|>{{- end }} ", t, i, t);
}

static void make_lists(struct fake *f)
{
	char name[64], digest[65];

	buf_addz(&f->tags, "{\"models\":[");
	buf_addz(&f->ps, "{\"models\":[");
	for (uint64_t i = 0; i < opt.each; i++) {
		uint64_t model = (f->number * opt.each + i) % opt.models;

		name_of(model, name);
		digest_of(model, digest);
		buf_printf(&f->tags,
			   "%s{\"name\":\"%s\",\"model\":\"%s\",\"modified_at\":\"2026-11-01T10:00:00Z\",\"size\":%llu,\"digest\":\"%s\",\"details\":"
			   "{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":\"llama\",\"families\":[\"llama\"],\"parameter_size\":\"%u.0B\",\"quantization_level\":\"Q4_K_M\"}}",
			   i ? "," : "", name, name, (unsigned long long)(1 + model % 70) * 600000000, digest, (unsigned)(1 + model % 70));
		if (i < 3)
			buf_printf(&f->ps, "%s{\"name\":\"%s\",\"model\":\"%s\",\"size\":5000000000,\"digest\":\"%s\",\"expires_at\":\"2036-11-01T10:00:00Z\",\"size_vram\":5000000000,\"context_length\":8192}",
				   i ? "," : "", name, name, digest);
	}
	buf_addz(&f->tags, "]}");
	buf_addz(&f->ps, "]}");
}

static void show(struct str asks, struct buf *out)
{
	const char *at = str_find(asks, STR("-m"));
	struct buf text = { 0 };
	uint64_t model = 0;

	if (at)
		(void)str_u64(str_n(at + 2, 4), &model);
	template_of(model, &text);
	buf_printf(out, "{\"license\":\"\",\"modelfile\":\"FROM x\\nTEMPLATE y\",\"parameters\":\"stop x\",\"template\":\"%s\",\"details\":{\"family\":\"llama\"},"
		   "\"model_info\":{\"general.architecture\":\"llama\",\"general.parameter_count\":%llu,\"llama.context_length\":131072,\"llama.embedding_length\":4096",
		   buf_z(&text), (unsigned long long)(1 + model % 70) * 1000000000);
	for (unsigned i = 0; i < 24; i++)
		buf_printf(out, ",\"llama.some.other_key_%u\":%u", i, i);
	buf_addz(out, "},\"capabilities\":[\"completion\",\"tools\"]}");
	buf_free(&text);
}

static void over(struct late *l)
{
	loop_timer_del(&l->timer);
	buf_free(&l->body);
	free(l);
}

static void on_gone(struct http_xchg *x, const char *why) { over(x->user); }

static void answer(struct loop_timer *t)
{
	struct late *l = list_entry(t, struct late, timer);

	http_reply(l->x, l->status, STR("Content-Type: application/json\r\n"), buf_as_str(&l->body));
	over(l);
}

static void on_request(struct http_xchg *x, void *arg)
{
	struct fake *f = arg;
	struct late *l = x_calloc(1, sizeof(*l));

	if (++asked % 1000 == 0)
		fprintf(stderr, "%llu requests\n", (unsigned long long)asked);
	l->x = x;
	l->status = 200;
	if (str_eqz(x->path, "/api/tags"))
		buf_str(&l->body, buf_as_str(&f->tags));
	else if (str_eqz(x->path, "/api/ps"))
		buf_str(&l->body, buf_as_str(&f->ps));
	else if (str_eqz(x->path, "/api/show"))
		show(x->body, &l->body);
	else if (str_eqz(x->path, "/api/version"))
		buf_addz(&l->body, "{\"version\":\"0.11.0\"}");
	else
		l->status = 404;
	x->user = l;
	x->on_gone = on_gone;
	loop_timer_set(loop, &l->timer, (int64_t)opt.after_ms * 1000, answer);
}

static bool serve(struct fake *f)
{
	struct http_handler handler = { .on_request = on_request, .arg = f };
	struct http_server_opts opts = { .max_conns = 1000, .max_requests = UINT32_MAX, .server_name = "ollama" };
	struct why why;
	char at[64];

	snprintf(at, sizeof(at), "127.0.0.1:%llu", (unsigned long long)(opt.first_port + f->number));
	if (http_server_new(loop, at, &handler, &opts, &why))
		return true;
	fprintf(stderr, "fake_ollamas: %s\n", why.text);
	return false;
}

int main(int argc, char **argv)
{
	static const struct flag flags[] = {
		{ "first-port", NULL, &opt.first_port }, { "backends", NULL, &opt.backends }, { "models", NULL, &opt.models }, { "each", NULL, &opt.each },
		{ "after-ms", NULL, &opt.after_ms }, { 0 },
	};

	flags_read(flags, argc, argv);
	loop = loop_new();
	for (uint64_t b = 0; b < opt.backends && b < BACKENDS_MAX; b++) {
		fakes[b].number = b;
		make_lists(&fakes[b]);
		if (!serve(&fakes[b]))
			return 1;
	}
	loop_run(loop);
	return 0;
}
