/* settings.c - `corral settings`: what is set for the whole installation while it runs. */
#include "common/data/json_write.h"
#include "services/corral/remote.h"

static int show(struct cli *c, const struct answer *a)
{
	struct str model = get_str(c, &a->doc, 0, "model");

	if (c->json)
		return cli_print_raw(c, a);
	if (model.n)
		fprintf(c->out, "auto is " STR_FMT " (version %lld)\n", STR_ARG(model), (long long)get_int(&a->doc, 0, "version"));
	else
		fprintf(c->out, "auto chooses the model for each request.\n");
	return EXIT_OK;
}

static int run(struct cli *c)
{
	struct buf body = { 0 };
	struct json_out jo;
	struct answer a;
	int status;

	if (c->n_args && strcmp(c->args[0], "active-model") != 0)
		return cli_usage(c, "there is no setting '%s'; there is active-model", c->args[0]);
	if (c->n_args < 2) {
		status = cli_ask(c, "GET", "/settings/active-model", STR(""), &a);
		return status ? status : show(c, &a);
	}
	json_begin(&jo, &body);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", strcmp(c->args[1], "none") == 0 ? NULL : c->args[1]);
	(void)json_done(&jo);
	status = cli_ask(c, "PUT", "/settings/active-model", buf_as_str(&body), &a);
	buf_free(&body);
	return status ? status : show(c, &a);
}

const struct command cmd_settings = {
	.name = "settings", .args = "[active-model [MODEL|none]]", .summary = "Show or set the model that auto means.", .max_args = 2, .run = run,
	.text = "With an active model, requests for auto go to it while it can answer them, and are decided as ever when it cannot. Setting it needs no restart; streams under way go on "
		"where they are.",
	.examples = (const struct example[]){
		{ "corral settings active-model", "What auto means now." },
		{ "corral settings active-model acme/large", "From the next request on." },
		{ "corral settings active-model none", "Auto chooses again." },
		{ 0 } },
};
