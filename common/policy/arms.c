/* arms.c - see arms.h. */
#include "common/policy/arms.h"

#include <math.h>

#include "common/data/json.h"
#include "common/policy/features.h"
#include "common/policy/sequential.h"

enum { NAME_MAX_BYTES = 100, ARM_NAME_MAX_BYTES = 32, TEMPLATE_MAX_BYTES = 8192, GUARDS_MAX = 4, TRAFFIC_LEAST_PARTS = NAMESPACE_SLOTS / 100 };

bool arms_of_one_model(const Corral__Experiment *e)
{
	for (size_t i = 1; i < e->n_arms; i++)
		if (strcmp(e->arms[i]->model, e->arms[0]->model) != 0)
			return false;
	return e->n_arms > 0;
}

enum err arms_experiment(struct experiment *x, const Corral__Experiment *e, struct why *why)
{
	*x = (struct experiment){ .id = str_of(e->id), .space = str_of(e->namespace_), .first_slot = (uint16_t)e->first_slot, .end_slot = (uint16_t)e->end_slot,
				  .traffic = TRAFFIC_ALL, .shadow = e->shadow };
	if (e->filter) {
		x->task = str_of(e->filter->task_type);
		x->language = str_of(e->filter->language);
		x->tenant = str_of(e->filter->tenant);
	}
	if (!experiment_unit_parse(str_of(e->unit), &x->unit))
		return err_field(why, ERR_INVALID, "unit", "unit is user, session or conversation, not '%.40s'", e->unit);
	if (e->n_arms > EXPERIMENT_ARMS)
		return err_field(why, ERR_INVALID, "arms", "an experiment has %d arms at most", EXPERIMENT_ARMS);
	for (x->n_arms = 0; x->n_arms < e->n_arms; x->n_arms++) {
		const Corral__ExperimentArm *a = e->arms[x->n_arms];

		x->arms[x->n_arms] = (struct experiment_arm){ .name = str_of(a->name), .model = str_of(a->model), .parameters = str_of(a->parameters),
							      .prompt = str_of(a->prompt_template), .weight = a->weight };
	}
	return experiment_prepare(x, why);
}

/* --- what can be run --- */

static bool is_name(const char *s, size_t most)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n && !s[n] && n <= most;
}

static bool in_range(double v, double low, double high) { return v >= low && v <= high; }

static enum err check_parameters(const char *text, const char *field, struct why *why)
{
	static const struct { const char *name; double low, high; bool whole; } known[] = {
		{ "temperature", 0, 2, false }, { "top_p", 0, 1, false }, { "max_tokens", 1, 10000000, true },
		{ "presence_penalty", -2, 2, false }, { "frequency_penalty", -2, 2, false },
	};
	enum { KNOWN = sizeof(known) / sizeof(*known) };
	struct arena *mem = arena_new(1024);
	struct json doc;
	enum err err = *text ? json_parse(&doc, mem, str_of(text), NULL, why) : ERR_OK;

	if (*text && err == ERR_OK && json_kind(&doc, 0) != JSON_OBJECT)
		err = err_field(why, ERR_MALFORMED, field, "%s must be an object", field);
	for (uint32_t v = *text && err == ERR_OK ? json_first(&doc, 0) : 0; v && err == ERR_OK; v = json_next(&doc, 0, v)) {
		double number;
		size_t k = 0;

		while (k < KNOWN && !json_key_is(&doc, v, known[k].name))
			k++;
		if (k == KNOWN)
			err = err_field(why, ERR_INVALID, field, "an arm's parameters are temperature, top_p, max_tokens, presence_penalty and frequency_penalty, not '"
					STR_FMT "'", STR_ARG(json_key_raw(&doc, v)));
		else if (!json_double(&doc, v, &number) || !in_range(number, known[k].low, known[k].high) || (known[k].whole && number != floor(number)))
			err = err_field(why, ERR_INVALID, field, "%s is a %s from %g to %g", known[k].name, known[k].whole ? "whole number" : "number", known[k].low,
					known[k].high);
	}
	arena_free(mem);
	return err;
}

static enum err check_arm(const Corral__Experiment *e, size_t i, struct why *why)
{
	const Corral__ExperimentArm *a = e->arms[i];
	char field[48];

	snprintf(field, sizeof(field), "arms[%zu]", i);
	if (!is_name(a->name, ARM_NAME_MAX_BYTES))
		return err_field(why, ERR_INVALID, field, "an arm's name is %d letters, digits, '.', '_' or '-' at most, not '%.40s'", ARM_NAME_MAX_BYTES, a->name);
	for (size_t k = 0; k < i; k++)
		if (strcmp(e->arms[k]->name, a->name) == 0)
			return err_field(why, ERR_INVALID, field, "there are two arms '%s'", a->name);
	if (!*a->model)
		return err_field(why, ERR_INVALID, field, "arm '%s' names no model", a->name);
	if (!a->weight || a->weight > 1000000)
		return err_field(why, ERR_INVALID, field, "the weight of arm '%s' is a whole number from 1 to 1,000,000", a->name);
	if (*a->prompt_template && (strlen(a->prompt_template) > TEMPLATE_MAX_BYTES || !strstr(a->prompt_template, "{{prompt}}")))
		return err_field(why, ERR_INVALID, field, "the prompt_template of arm '%s' is %d bytes at most and has {{prompt}} where what was asked belongs", a->name,
				 TEMPLATE_MAX_BYTES);
	return check_parameters(a->parameters, field, why);
}

/* Arms of which two are the same compare nothing; models of which some differ are compared as they are chosen for auto. */
static enum err check_arms(const Corral__Experiment *e, struct why *why)
{
	if (e->n_arms < 2 || e->n_arms > EXPERIMENT_ARMS)
		return err_field(why, ERR_INVALID, "arms", "an experiment has 2 to %d arms, not %zu", EXPERIMENT_ARMS, e->n_arms);
	for (size_t i = 0; i < e->n_arms; i++) {
		if (check_arm(e, i, why) != ERR_OK)
			return why->code;
		for (size_t k = 0; k < i; k++)
			if (strcmp(e->arms[i]->model, e->arms[k]->model) == 0 && strcmp(e->arms[i]->parameters, e->arms[k]->parameters) == 0 &&
			    strcmp(e->arms[i]->prompt_template, e->arms[k]->prompt_template) == 0)
				return err_field(why, ERR_INVALID, "arms", "arms '%s' and '%s' are the same: nothing would be compared", e->arms[k]->name, e->arms[i]->name);
	}
	return ERR_OK;
}

static enum err check_guards(const Corral__Experiment *e, struct why *why)
{
	enum metric m;

	if (e->n_guards > GUARDS_MAX)
		return err_field(why, ERR_INVALID, "guards", "an experiment has %d guards at most", GUARDS_MAX);
	for (size_t i = 0; i < e->n_guards; i++) {
		if (!metric_parse(str_of(e->guards[i]->metric), &m))
			return err_field(why, ERR_INVALID, "guards", "a guard watches success, rating, latency, cost or error, not '%.40s'", e->guards[i]->metric);
		if (!in_range(e->guards[i]->margin, 0, 10))
			return err_field(why, ERR_INVALID, "guards", "the margin of the guard %s is a number from 0 to 10", e->guards[i]->metric);
	}
	return ERR_OK;
}

/* Nobody reads a shadow's answers: nobody says what they are worth, and nobody is to get them without a person's word. */
static enum err check_shadow(const Corral__Experiment *e, struct why *why)
{
	if (!e->shadow)
		return ERR_OK;
	if (strcmp(e->metric, "rating") == 0)
		return err_field(why, ERR_INVALID, "metric", "nobody rates the answers of a shadow; metric is success, latency, cost or error");
	for (size_t i = 0; i < e->n_guards; i++)
		if (strcmp(e->guards[i]->metric, "rating") == 0)
			return err_field(why, ERR_INVALID, "guards", "nobody rates the answers of a shadow, so no guard can watch that");
	return !e->auto_promote ? ERR_OK : err_field(why, ERR_INVALID, "auto_promote", "a shadow's answers were read by nobody: it is promoted by hand");
}

enum err arms_check(const Corral__Experiment *e, struct why *why)
{
	enum experiment_unit unit;
	enum metric metric;
	enum task task;

	if (!*e->name || strlen(e->name) > NAME_MAX_BYTES)
		return err_field(why, ERR_INVALID, "name", "an experiment's name has 1 to %d bytes", NAME_MAX_BYTES);
	if (*e->namespace_ && !is_name(e->namespace_, ARM_NAME_MAX_BYTES))
		return err_field(why, ERR_INVALID, "namespace", "a namespace is %d letters, digits, '.', '_' or '-' at most", ARM_NAME_MAX_BYTES);
	if (!in_range(e->traffic_percent * TRAFFIC_LEAST_PARTS, 1, NAMESPACE_SLOTS))
		return err_field(why, ERR_INVALID, "traffic_percent", "traffic_percent is a number from 0.01 to 100");
	if (!experiment_unit_parse(str_of(e->unit), &unit))
		return err_field(why, ERR_INVALID, "unit", "unit is user, session or conversation, not '%.40s'", e->unit);
	if (!metric_parse(str_of(e->metric), &metric))
		return err_field(why, ERR_INVALID, "metric", "metric is success, rating, latency, cost or error, not '%.40s'", e->metric);
	if (e->filter && *e->filter->task_type && !task_parse(str_of(e->filter->task_type), &task))
		return err_field(why, ERR_INVALID, "task_type_filter", "'%.40s' is no task type; docs/experiments.md lists them", e->filter->task_type);
	return check_arms(e, why) || check_guards(e, why) || check_shadow(e, why) ? why->code : ERR_OK;
}

static void free_snapshot(void *p) { corral__experiment_snapshot__free_unpacked(p, NULL); }

enum err arms_build(struct arms *x, struct arena *mem, uint64_t epoch, uint64_t version, struct str packed, struct why *why)
{
	enum err err = ERR_OK;

	*x = (struct arms){ .epoch = epoch, .version = version };
	if (packed.n == 0)
		return ERR_OK;
	x->pb = corral__experiment_snapshot__unpack(NULL, packed.n, (const uint8_t *)packed.p);
	if (!x->pb)
		return err_set(why, ERR_MALFORMED, "the snapshot of experiments cannot be decoded");
	arena_defer(mem, free_snapshot, x->pb);
	x->experiments = arena_array(mem, struct experiment, x->pb->n_experiments + 1u);
	for (size_t i = 0; i < x->pb->n_experiments && err == ERR_OK; i++)
		err = arms_experiment(&x->experiments[i], x->pb->experiments[i], why);
	return err;
}

static struct experiment_request asked(const Corral__DecisionFeatures *f)
{
	return (struct experiment_request){ .task = str_of(f->task_type), .language = str_of(f->language), .tenant = str_of(f->tenant),
					    .unit = { [UNIT_USER] = str_of(f->user), [UNIT_SESSION] = str_of(f->session),
						      [UNIT_CONVERSATION] = str_of(f->conversation) } };
}

int arms_assign(const struct arms *x, size_t i, const Corral__DecisionFeatures *f)
{
	struct experiment_request r = asked(f);

	return experiment_assign(&(struct experiment_view){ &x->experiments[i], 1 }, &r).arm;
}

static bool meets(const char *wanted, const char *has) { return !*wanted || str_ieq(str_of(wanted), str_of(has)); }

bool arms_filter(const Corral__ExperimentFilter *w, const Corral__DecisionFeatures *f)
{
	return !w || (meets(w->task_type, f->task_type) && meets(w->language, f->language) && meets(w->tenant, f->tenant));
}

const char *arms_unit(const Corral__Experiment *e, const Corral__DecisionFeatures *f)
{
	enum experiment_unit u = UNIT_USER;

	(void)experiment_unit_parse(str_of(e->unit), &u);
	return u == UNIT_SESSION ? f->session : u == UNIT_CONVERSATION ? f->conversation : f->user;
}

const Corral__ExperimentArm *arms_shadow(const struct arms *x, const Corral__Experiment *e, const char *unit)
{
	for (size_t i = 0; e->shadow && x->pb && i < x->pb->n_experiments; i++)
		if (x->pb->experiments[i] == e) {
			int arm = experiment_shadow_of(&x->experiments[i], str_of(unit));

			return arm < 0 ? NULL : e->arms[arm];
		}
	return NULL;
}

const Corral__Experiment *arms_running(const struct arms *x, const char *id)
{
	for (size_t i = 0; x->pb && i < x->pb->n_experiments; i++)
		if (strcmp(x->pb->experiments[i]->id, id) == 0)
			return x->pb->experiments[i];
	return NULL;
}

const Corral__ExperimentArm *arms_find(const struct arms *x, const char *id, const char *arm, bool champion)
{
	const Corral__Experiment *e = champion ? NULL : arms_running(x, id);

	for (size_t i = 0; e && i < e->n_arms; i++)
		if (strcmp(e->arms[i]->name, arm) == 0)
			return e->arms[i];
	for (size_t i = 0; champion && x->pb && i < x->pb->n_champions; i++)
		if (x->pb->champions[i]->arm && strcmp(x->pb->champions[i]->experiment_id, id) == 0)
			return x->pb->champions[i]->arm;
	return NULL;
}
