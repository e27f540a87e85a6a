/* treat.c - see treat.h. */
#include "services/gateway/treat.h"

#include "common/data/json_write.h"
#include "services/gateway/worker.h"

#define MARK "{{prompt}}"

static struct str hashed(struct req *r, struct str name, uint64_t kind)
{
	return name.n ? arena_fmt(r->mem, "%016llx", (unsigned long long)str_hash(name, str_hash(r->tenant, kind))) : STR("");
}

void treat_units(struct req *r)
{
	r->features.user = r->user_hash;
	r->features.session = (char *)hashed(r, r->in.session, 8).p;
	r->features.conversation = (char *)hashed(r, r->in.conversation, 9).p;
}

/* --- parameters --- */

/* Where a dialect says it; NULL = it cannot. */
struct place { const char *name, *as; bool in_options; };

static struct place place_of(const struct llm_in *in, const char *name)
{
	bool tokens = strcmp(name, "max_tokens") == 0, penalty = strcmp(name, "presence_penalty") == 0 || strcmp(name, "frequency_penalty") == 0;

	if (in->dialect == LLM_OLLAMA)
		return (struct place){ name, tokens ? "num_predict" : name, true };
	if (in->dialect == LLM_NATIVE)
		return (struct place){ name, name, penalty };
	return (struct place){ name, in->dialect == LLM_ANTHROPIC && penalty ? NULL : name, false };
}

/* What the request says itself stays. */
static bool is_said(const struct llm_in *in, struct place p)
{
	uint32_t options = json_get(&in->doc, 0, "options");

	if (strcmp(p.name, "max_tokens") == 0)
		return in->max_tokens >= 0 || (options && json_get(&in->doc, options, "num_predict"));
	return json_get(&in->doc, 0, p.as) || (options && json_get(&in->doc, options, p.as));
}

static void add_member(struct buf *b, const char *key, struct str value)
{
	if (b->n)
		buf_char(b, ',');
	buf_char(b, '"');
	buf_addz(b, key);
	buf_addz(b, "\":");
	buf_str(b, value);
}

static void collect(const struct llm_in *in, const char *parameters, struct arena *mem, struct buf *root, struct buf *options)
{
	struct json doc;

	if (!*parameters || json_parse(&doc, mem, str_of(parameters), NULL, NULL) != ERR_OK)
		return;
	for (uint32_t v = json_first(&doc, 0); v; v = json_next(&doc, 0, v)) {
		struct str key = json_key_raw(&doc, v);
		struct place p = place_of(in, arena_dup(mem, key.p, key.n));

		if (p.as && !is_said(in, p))
			add_member(p.in_options ? options : root, p.as, json_raw(&doc, v));
	}
}

/* New members in front of an object's own. */
static struct json_edit insert(const struct json *doc, uint32_t object, const struct buf *members, struct arena *mem)
{
	struct str with = arena_fmt(mem, STR_FMT "%s", STR_ARG(buf_as_str(members)), json_count(doc, object) ? "," : "");

	return (struct json_edit){ .at = doc->tok[object].at + 1, .with = with };
}

/* --- prompt --- */

/* Of several parts the last text. */
static uint32_t last_text(const struct json *doc, uint32_t content)
{
	uint32_t found = 0;

	if (!content || json_is_string(doc, content))
		return content;
	for (uint32_t part = json_first(doc, content); part; part = json_next(doc, content, part)) {
		uint32_t text = json_kind(doc, part) == JSON_OBJECT ? json_get(doc, part, "text") : 0;

		if (text && json_is_string(doc, text))
			found = text;
	}
	return found;
}

static struct str worded(const char *template, struct str asked, struct arena *mem)
{
	struct str rest = str_of(template);
	struct buf b = { 0 };
	const char *at;
	struct str out;

	buf_char(&b, '"');
	while ((at = str_find(rest, STR(MARK)))) {
		json_escape(&b, str_n(rest.p, (size_t)(at - rest.p)));
		json_escape(&b, asked);
		rest = str_from(rest, (size_t)(at - rest.p) + strlen(MARK));
	}
	json_escape(&b, rest);
	buf_char(&b, '"');
	out = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return out;
}

/* --- both --- */

static void put_edit(struct json_edit *edits, size_t *n, struct json_edit e)
{
	size_t at = (*n)++;

	for (; at && edits[at - 1].at > e.at; at--)
		edits[at] = edits[at - 1];
	edits[at] = e;
}

struct str treat_body(const struct llm_in *in, const Corral__ExperimentArm *a, struct arena *mem)
{
	uint32_t options = json_get(&in->doc, 0, "options"), text = *a->prompt_template ? last_text(&in->doc, in->user_tok) : 0;
	struct buf root = { 0 }, nested = { 0 }, out = { 0 };
	struct str body = in->body;
	struct json_edit edits[3];
	size_t n = 0;

	collect(in, a->parameters, mem, &root, &nested);
	if (nested.n && (!options || json_kind(&in->doc, options) != JSON_OBJECT)) {
		add_member(&root, "options", arena_fmt(mem, "{" STR_FMT "}", STR_ARG(buf_as_str(&nested))));
		buf_clear(&nested);
	}
	if (root.n)
		put_edit(edits, &n, insert(&in->doc, 0, &root, mem));
	if (nested.n)
		put_edit(edits, &n, insert(&in->doc, options, &nested, mem));
	if (text)
		put_edit(edits, &n, json_edit_value(&in->doc, text, worded(a->prompt_template, json_string(&in->doc, text, mem), mem)));
	if (n) {
		json_splice(&out, body, edits, n);
		body = arena_str(mem, buf_as_str(&out));
	}
	buf_free(&root);
	buf_free(&nested);
	buf_free(&out);
	return body;
}

/* The treated body is read in the place of the one that came; what was said beside it stays said. */
static enum err read_treated(struct req *r, struct str body, struct why *why)
{
	struct llm_in was = r->in;
	struct str accept = r->in.sse ? STR("text/event-stream") : STR("");

	if (llm_read(&r->in, was.dialect, was.op, body, accept, r->mem, why) != ERR_OK)
		return why->code;
	r->in.task_type = was.task_type, r->in.complexity = was.complexity, r->in.language = was.language, r->in.policy = was.policy;
	r->in.user = was.user, r->in.session = was.session, r->in.conversation = was.conversation;
	r->in.local_only = was.local_only;
	return ERR_OK;
}

static const Corral__ExperimentArm *arm_of(const struct req *r)
{
	const struct llm_in *in = r->as_asked ? r->as_asked : &r->in;

	if (!r->pick.experiment || !r->pick.n_ranked || !r->world->pol.arms || (in->op != LLM_CHAT && in->op != LLM_COMPLETE))
		return NULL;
	return arms_find(r->world->pol.arms, r->pick.experiment, r->pick.arm, r->pick.champion);
}

enum err treat(struct req *r, struct why *why)
{
	const Corral__ExperimentArm *a = arm_of(r);
	struct str body;

	if (r->as_asked)
		r->in = *r->as_asked;
	if (!a || (!*a->parameters && !*a->prompt_template) ||
	    strcmp(r->world->cat.replicas[r->pick.ranked[0].replica].pb->model, a->model) != 0)
		return ERR_OK;
	body = treat_body(&r->in, a, r->mem);
	if (body.p == r->in.body.p)
		return ERR_OK;
	if (!r->as_asked) {
		r->as_asked = arena_new_of(r->mem, struct llm_in);
		*r->as_asked = r->in;
	}
	return read_treated(r, body, why);
}

struct str treat_json(struct req *r)
{
	if (!r->pick.experiment || r->pick.champion)
		return STR("");
	return arena_fmt(r->mem, "{\"id\":\"%s\",\"arm\":\"%s\"}", r->pick.experiment, r->pick.arm);
}
