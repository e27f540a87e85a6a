/* authz.c - see authz.h. Two tables: what actions there are, and which of them each role has. */
#include "common/policy/authz.h"

#include "common/base/buf.h"

/* Every action there is. What only reads is listed apart: some roles may read what belongs to other tenants, and change nothing there. */
static const struct { const char *name; bool reads; const char *text; } actions[] = {
	{ "health",        true,  "Whether it runs, and which version." },
	{ "inference",     false, "Ask a model: chat, completions, embeddings, and what is decided without being sent." },
	{ "feedback",      false, "Say how good an answer was." },
	{ "models.read",   true,  "List and show models." },
	{ "models.write",  false, "Sync, preload, unload, pin, protect models." },
	{ "models.manage", false, "Pull, push, create, copy, delete models, and send their blobs." },
	{ "backends.read", true,  "See backends with their addresses, states and load." },
	{ "hardware.read", true,  "See what the machines have." },
	{ "jobs.read",     true,  "See jobs." },
	{ "jobs.write",    false, "Start and cancel jobs." },
	{ "explain",       true,  "See how a request was decided." },
	{ "requests.read", true,  "See the ledger's record of a request." },
	{ "usage.read",    true,  "See sums of the ledger." },
	{ "budgets.read",  true,  "See budgets, and what is used of them." },
	{ "budgets.write", false, "Set and remove budgets of one's tenant; the owner those of all." },
	{ "providers.read", true, "See providers in the cloud: states, models, prices." },
	{ "settings.write", false, "Set the active model." },
	{ "prices.read",   true,  "See what tokens and machines cost." },
	{ "prices.write",  false, "Set prices, and book them for attempts of the past." },
	{ "tests.read",    true,  "See experiments and what came of them." },
	{ "tests.write",   false, "Begin, pause, stop, promote and roll back experiments with the requests of one's tenant; the owner with those of all." },
	{ "keys.read",     true,  "List keys." },
	{ "keys.create",   false, "Make keys, none stronger than one's own." },
	{ "keys.rotate",   false, "Replace a key by a new one." },
	{ "keys.limit",    false, "Change the limits of a key, to none above one's own." },
	{ "keys.revoke",   false, "End a key." },
	{ "tenants.read",  true,  "List tenants." },
	{ "tenants.write", false, "Make, change and suspend tenants, limits included." },
	{ "tenants.delete", false, "Delete tenants." },
	{ "audit.read",    true,  "Read and verify the audit log." },
};
enum { N_ACTIONS = sizeof(actions) / sizeof(*actions) };

/* The same names, for others. */
const char *const all_actions[] = {
	"health", "inference", "feedback", "models.read", "models.write", "models.manage", "backends.read", "hardware.read", "jobs.read",
	"jobs.write", "explain", "requests.read", "usage.read", "budgets.read", "budgets.write", "providers.read", "settings.write", "prices.read",
	"prices.write", "tests.read", "tests.write", "keys.read", "keys.create", "keys.rotate", "keys.limit", "keys.revoke", "tenants.read",
	"tenants.write", "tenants.delete", "audit.read", NULL
};

enum reach { OWN, READS_ALL, ALL };

static const struct role {
	const char *name;
	const char *patterns;         /* divided by blanks */
	enum reach reach;             /* which tenants' objects */
	const char *text;
} roles[] = {
	[CORRAL__ROLE__ROLE_NONE] = { "none", "", OWN, "Nothing." },
	[CORRAL__ROLE__ROLE_OWNER] = { "owner", "*", ALL, "Everything, in every tenant: whoever installed it." },
	[CORRAL__ROLE__ROLE_ADMIN] = { "admin", "health inference feedback models.* backends.read hardware.read jobs.* explain requests.read "
		"usage.read budgets.* providers.read settings.write prices.* tests.* keys.* tenants.read audit.read", READS_ALL, "Runs it: models and keys of its tenant; reads all tenants." },
	[CORRAL__ROLE__ROLE_OPERATOR] = { "operator", "health inference feedback models.read models.write backends.read hardware.read jobs.* "
		"explain requests.read usage.read providers.read prices.read tests.*", OWN, "Keeps it running: loads and unloads models, cannot add or delete them." },
	[CORRAL__ROLE__ROLE_AUDITOR] = { "auditor", "health models.read backends.read hardware.read jobs.read explain requests.read usage.read "
		"budgets.read providers.read prices.read tests.read keys.read tenants.read audit.read", READS_ALL, "Reads everything of every tenant, changes nothing, asks no model." },
	[CORRAL__ROLE__ROLE_DEVELOPER] = { "developer", "health inference feedback models.read backends.read hardware.read jobs.read explain "
		"requests.read usage.read providers.read prices.read tests.read", OWN, "Asks models and sees how its tenant's requests were decided and what they cost." },
	[CORRAL__ROLE__ROLE_USER] = { "user", "health inference feedback models.read", OWN, "Asks models." },
	[CORRAL__ROLE__ROLE_SERVICE] = { "service", "health inference feedback models.read backends.read jobs.read", OWN,
		"A program that asks models." },
};
enum { N_ROLES = sizeof(roles) / sizeof(*roles) };

static const struct role *role_of(Corral__Role r)
{
	return &roles[(unsigned)r < N_ROLES ? (unsigned)r : CORRAL__ROLE__ROLE_NONE];
}

/* '*' stands for any run of characters, also an empty one. */
static bool matches(struct str pattern, struct str text)
{
	size_t p = 0, t = 0, star = SIZE_MAX, from = 0;

	while (t < text.n) {
		if (p < pattern.n && pattern.p[p] == '*') {
			star = p++;
			from = t;
		} else if (p < pattern.n && pattern.p[p] == text.p[t]) {
			p++;
			t++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			t = ++from;
		} else {
			return false;
		}
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}

static bool matches_any(char *const *patterns, size_t n, struct str text)
{
	for (size_t i = 0; i < n; i++)
		if (matches(str_of(patterns[i]), text))
			return true;
	return false;
}

bool role_may(Corral__Role role, struct str action)
{
	struct str rest = str_of(role_of(role)->patterns), pattern;

	while (rest.n && str_split(&rest, ' ', &pattern))
		if (matches(pattern, action))
			return true;
	return false;
}

bool role_within(Corral__Role inner, Corral__Role outer)
{
	for (size_t i = 0; i < N_ACTIONS; i++)
		if (role_may(inner, str_of(actions[i].name)) && !role_may(outer, str_of(actions[i].name)))
			return false;
	return role_of(inner)->reach <= role_of(outer)->reach;
}

const char *role_name(Corral__Role role) { return role_of(role)->name; }

bool role_parse(struct str text, Corral__Role *ret)
{
	for (unsigned i = CORRAL__ROLE__ROLE_OWNER; i < N_ROLES; i++)
		if (str_eqz(text, roles[i].name)) {
			*ret = (Corral__Role)i;
			return true;
		}
	return false;
}

bool action_reads(struct str action)
{
	for (size_t i = 0; i < N_ACTIONS; i++)
		if (str_eqz(action, actions[i].name))
			return actions[i].reads;
	return false;
}

bool role_reaches(Corral__Role role, struct str action)
{
	enum reach reach = role_of(role)->reach;

	return reach == ALL || (reach == READS_ALL && action_reads(action));
}

static enum err refuse(const struct subject *s, struct str action, struct str object, struct why *why)
{
	const char *whose = role_may(s->role, action) ? "the key" : "role";

	return err_set(why, ERR_FORBIDDEN, "%s%s%s may not do '" STR_FMT "'%s" STR_FMT "; the owner can make a key that may", whose,
		       *whose == 'r' ? " " : "", *whose == 'r' ? role_name(s->role) : "", STR_ARG(action), object.n ? " to " : "", STR_ARG(object));
}

enum err authorise(const struct subject *s, struct str action, struct str object, struct str object_tenant, struct why *why)
{
	if (!role_may(s->role, action) || (s->key && s->key->n_actions && !matches_any(s->key->actions, s->key->n_actions, action)))
		return refuse(s, action, object, why);
	if (object_tenant.n && !str_eq(object_tenant, s->tenant) && !role_reaches(s->role, action))
		return err_set(why, ERR_NOT_FOUND, "there is no '" STR_FMT "' here", STR_ARG(object));
	return ERR_OK;
}

bool models_allow(char *const *patterns, size_t n, struct str model)
{
	static const struct str latest = STR_INIT(":latest");
	struct str bare = model;

	if (!n || matches_any(patterns, n, model))
		return true;
	if (str_ends(model, latest))
		bare.n -= latest.n;
	for (size_t i = 0; i < n; i++) {
		struct str p = str_of(patterns[i]);

		if (str_ends(p, latest))
			p.n -= latest.n;
		if (matches(p, bare))
			return true;
	}
	return false;
}

bool authorise_model(const struct subject *s, struct str model)
{
	return (!s->key || models_allow(s->key->models, s->key->n_models, model)) && (!s->home || models_allow(s->home->models, s->home->n_models, model));
}

/* --- docs --- */

static const char *mark(Corral__Role role, const char *action)
{
	if (!role_may(role, str_of(action)))
		return "–";
	return role_reaches(role, str_of(action)) ? "all" : "own";
}

void authz_dump(struct buf *b)
{
	buf_addz(b, "# Roles and actions\n\n"
		    "What a key may do is what its role has, narrowed by the key's own lists of actions, models and networks, never widened by them.\n"
		    "\"own\": what belongs to the key's tenant, and what belongs to nobody in particular. \"all\": other tenants' too; to everybody else\n"
		    "an object of another tenant does not exist (404). A new key is at most as strong as its maker.\n\n");
	for (unsigned i = CORRAL__ROLE__ROLE_OWNER; i < N_ROLES; i++)
		buf_printf(b, "- **%s**: %s\n", roles[i].name, roles[i].text);
	buf_addz(b, "\n| action |");
	for (unsigned i = CORRAL__ROLE__ROLE_OWNER; i < N_ROLES; i++)
		buf_printf(b, " %s |", roles[i].name);
	buf_addz(b, " what it is |\n|---|---|---|---|---|---|---|---|---|\n");
	for (size_t a = 0; a < N_ACTIONS; a++) {
		buf_printf(b, "| `%s` |", actions[a].name);
		for (unsigned i = CORRAL__ROLE__ROLE_OWNER; i < N_ROLES; i++)
			buf_printf(b, " %s |", mark((Corral__Role)i, actions[a].name));
		buf_printf(b, " %s |\n", actions[a].text);
	}
}
