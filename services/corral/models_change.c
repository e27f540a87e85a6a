/* models_change.c - `corral models pull|rm|…`: changes to a model, each a job of the registry; what takes time is watched to its end. */
#include "services/corral/models_change.h"

#include "services/corral/watch.h"

static const char *path_of(struct cli *c, const char *model, const char *verb, const struct change_opts *o)
{
	struct buf b = { 0 };
	const char *path;

	buf_addz(&b, "/models/");
	add_percent(&b, str_of(model));
	if (*verb)
		buf_printf(&b, "/%s", verb);
	add_query(&b, "backend", o->backend);
	add_query(&b, "grace_s", o->grace);
	path = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return path;
}

struct str change_pull_body(struct cli *c, const char *model, const char *backend)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str body;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "name", model);
	if (*backend)
		jw_kv_strz(&jo, "backend", backend);
	jw_end(&jo);
	body = arena_str(c->mem, buf_as_str(&b));
	buf_free(&b);
	return body;
}

/* What was asked is told; then, unless it is done or --detach was given, watched. */
static int follow(struct cli *c, const struct answer *a, const struct change_opts *o)
{
	uint32_t job = json_get(&a->doc, 0, "job");
	const char *id = get_z(c, &a->doc, 0, "job_id");
	struct str state = job ? get_str(c, &a->doc, job, "state") : STR("");

	if (!str_eqz(state, "waiting") && !str_eqz(state, "running")) {
		if (c->json)
			return cli_print_raw(c, a);
		fprintf(c->out, "%s: %s\n", get_z(c, &a->doc, 0, "model"), str_eqz(state, "cancelled") ? "it stays" : get_z(c, &a->doc, job, "kind"));
		return EXIT_OK;
	}
	if (o->detach)
		return c->json ? cli_print_raw(c, a) : (fprintf(c->out, "job %s; 'corral jobs watch %s' shows it\n", id, id), EXIT_OK);
	if (!c->json)
		fprintf(c->err, "job %s%s; Ctrl-C leaves it running, 'corral jobs cancel %s' ends it\n", id,
			get_bool(&a->doc, 0, "joined") ? ", which runs already" : "", id);
	return watch_job(c, id);
}

static int told_removal(struct cli *c, const struct answer *a)
{
	const char *model = get_z(c, &a->doc, 0, "model"), *at = get_z(c, &a->doc, 0, "removes_at");
	uint32_t job = json_get(&a->doc, 0, "job");
	int64_t left = job ? get_int(&a->doc, job, "eta_s") : 0;

	if (c->json)
		return cli_print_raw(c, a);
	if (left > 0)
		fprintf(c->out, "%s is gone from the lists and will leave the disk at %s (in %s).\nUntil then 'corral models undelete %s' brings it back.\n", model, at,
			seconds_text(c->mem, left), model);
	else
		fprintf(c->out, "%s is being deleted now.\n", model);
	return EXIT_OK;
}

static int remove_model(struct cli *c, const char *model, const struct change_opts *o)
{
	struct answer a;
	int status = cli_ask(c, "DELETE", path_of(c, model, "", o), STR(""), &a);

	return status ? status : told_removal(c, &a);
}

bool change_is_verb(const char *word)
{
	static const char *const verbs[] = { "pull", "rm", "undelete", "preload", "unload", "protect", "unprotect", "pin", "unpin" };

	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (strcmp(word, verbs[i]) == 0)
			return true;
	return false;
}

int change_model(struct cli *c, const char *verb, const char *model, const struct change_opts *o)
{
	struct answer a;
	int status;

	if (!model)
		return cli_usage(c, "which model? corral models %s NAME", verb);
	if (*o->grace && strcmp(verb, "rm") != 0)
		return cli_usage(c, "--grace belongs to rm");
	if (strcmp(verb, "rm") == 0)
		return remove_model(c, model, o);
	if (strcmp(verb, "pull") == 0)
		status = cli_ask(c, "POST", "/models/pull", change_pull_body(c, model, o->backend), &a);
	else
		status = cli_ask(c, "POST", path_of(c, model, verb, o), STR(""), &a);
	return status ? status : follow(c, &a, o);
}
