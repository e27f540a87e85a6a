/* tenants.c - see tenants.h. */
#include "services/access/tenants.h"

#include "common/data/json_write.h"
#include "common/policy/access_json.h"

enum { MOST_PATTERNS = 64, LONGEST_PATTERN = 256, LONGEST_LABEL = 128, MOST_TEAMS = 256 };

/* --- rows --- */

struct got { struct arena *mem; const ProtobufCMessageDescriptor *type; void *message; bool found; };

static bool keep(void *arg, const struct db_row *row)
{
	struct got *g = arg;

	g->found = true;
	g->message = access_unpack(g->mem, g->type, db_str(row, 0));
	return false;
}

enum err tenant_get(struct access_store *s, struct arena *mem, struct str name, Corral__Tenant **ret, struct why *why)
{
	struct got g = { mem, &corral__tenant__descriptor, NULL, false };

	if (!access_run(s, A_TENANT_GET, (struct db_value[]){ DB_S(name) }, 1, keep, &g, why))
		return why->code;
	if (!g.found)
		return err_set(why, ERR_NOT_FOUND, "there is no tenant '" STR_FMT "' here", STR_ARG(name));
	if (!g.message)
		return err_set(why, ERR_STORE_FAILED, "the record of tenant '" STR_FMT "' cannot be read", STR_ARG(name));
	*ret = g.message;
	return ERR_OK;
}

static bool write_row(struct access_store *s, struct arena *mem, const Corral__Tenant *t, struct why *why)
{
	struct db_value p[] = { DB_Z(t->name), DB_B(access_pack(mem, &t->base)) };

	return access_run(s, A_TENANT_PUT, p, 2, NULL, NULL, why);
}

bool tenants_each(struct access_store *s, bool (*on_row)(void *, const struct db_row *), void *arg, struct why *why)
{
	return access_run(s, A_TENANTS, NULL, 0, on_row, arg, why);
}

bool tenant_seed(struct access_store *s, struct arena *mem, int64_t now_us, struct why *why)
{
	Corral__Tenant t = CORRAL__TENANT__INIT, *there;
	enum err e = tenant_get(s, mem, STR(TENANT_DEFAULT), &there, why);

	t.name = (char *)TENANT_DEFAULT;
	t.created_at_us = now_us;
	return e == ERR_OK || (e == ERR_NOT_FOUND && write_row(s, mem, &t, why));
}

/* --- what is allowed --- */

static bool is_control(unsigned char c) { return c < 0x20 || c == 0x7f; }

enum err check_label(const char *text, const char *field, struct why *why)
{
	if (strlen(text) > LONGEST_LABEL)
		return err_field(why, ERR_INVALID, field, "%s is longer than %d bytes", field, LONGEST_LABEL);
	if (!str_utf8_valid(str_of(text)))
		return err_field(why, ERR_INVALID, field, "%s is not UTF-8", field);
	for (const char *p = text; *p; p++)
		if (is_control((unsigned char)*p))
			return err_field(why, ERR_INVALID, field, "%s holds a control character", field);
	return ERR_OK;
}

enum err check_patterns(char *const *patterns, size_t n, const char *field, struct why *why)
{
	if (n > MOST_PATTERNS)
		return err_field(why, ERR_INVALID, field, "%s has more than %d patterns", field, MOST_PATTERNS);
	for (size_t i = 0; i < n; i++) {
		if (!patterns[i][0] || strlen(patterns[i]) > LONGEST_PATTERN || strpbrk(patterns[i], " \t"))
			return err_field(why, ERR_INVALID, field, "%s: '%.60s' is no pattern; write a name, with * for any characters", field, patterns[i]);
		enum err e = strlen(patterns[i]) > LONGEST_LABEL ? ERR_OK : check_label(patterns[i], field, why);

		if (e)
			return e;
	}
	return ERR_OK;
}

static bool name_ok(const char *z)
{
	size_t n = strlen(z);

	for (size_t i = 0; i < n; i++)
		if (!((z[i] >= 'a' && z[i] <= 'z') || (z[i] >= '0' && z[i] <= '9') || (i && memchr("._-", z[i], 3))))
			return false;
	return n >= 1 && n <= 63;
}

static enum err check_tenant(const Corral__Tenant *t, struct why *why)
{
	enum err e;

	if (!name_ok(t->name))
		return err_field(why, ERR_INVALID, "name", "'%.80s' is no tenant's name; write 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit", t->name);
	if ((e = check_label(t->display_name, "display_name", why)) || (e = check_patterns(t->models, t->n_models, "models", why)))
		return e;
	if (t->n_teams > MOST_TEAMS)
		return err_field(why, ERR_INVALID, "teams", "a tenant has at most %d teams", MOST_TEAMS);
	for (size_t i = 0; i < t->n_teams; i++) {
		if (!t->teams[i][0])
			return err_field(why, ERR_INVALID, "teams", "a team needs a name");
		if ((e = check_label(t->teams[i], "teams", why)))
			return e;
	}
	return ERR_OK;
}

/* --- acts --- */

static struct str detail(struct arena *mem, const Corral__Tenant *t, bool is_new)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str s;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_bool(&jo, "new", is_new);
	jw_kv_bool(&jo, "suspended", t->suspended);
	if (t->local_only)
		jw_kv_bool(&jo, "local_only", true);
	json_limits_if_set(&jo, t->limits);
	json_list_if_any(&jo, "models", t->models, t->n_models);
	json_list_if_any(&jo, "teams", t->teams, t->n_teams);
	json_done(&jo);
	s = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static enum err put(struct act *a, const Corral__Tenant *wanted, bool create, Corral__Tenant **ret, struct why *why)
{
	Corral__Tenant *t = arena_alloc(a->mem, sizeof(*t)), *old = NULL;
	enum err e = act_allowed(a, a->object, why);

	if (e || (e = check_tenant(wanted, why)))
		return e;
	e = tenant_get(a->store, a->mem, a->object, &old, why);
	if (e && e != ERR_NOT_FOUND)
		return e;
	if (!e && create)
		return err_set(why, ERR_CONFLICT, "there is a tenant '%s' already", wanted->name);
	*t = *wanted;
	t->created_at_us = e ? a->now_us : old->created_at_us;
	a->detail = detail(a->mem, t, e != ERR_OK);
	if (!write_row(a->store, a->mem, t, why))
		return why->code;
	a->delta.n_put_tenants = 1;
	a->delta.put_tenants = arena_array(a->mem, Corral__Tenant *, 1);
	a->delta.put_tenants[0] = *ret = t;
	return ERR_OK;
}

enum err tenant_put(struct act *a, const Corral__Tenant *wanted, bool create, Corral__Tenant **ret, struct why *why)
{
	enum err e;

	a->action = "tenants.write";
	a->object = str_of(wanted->name);
	e = act_begin(a, why);
	return act_end(a, e ? e : put(a, wanted, create, ret, why), why);
}

static bool keep_count(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static enum err drop(struct act *a, struct why *why)
{
	Corral__Tenant *there;
	int64_t keys = 0;
	enum err e = act_allowed(a, a->object, why);

	if (e || (e = tenant_get(a->store, a->mem, a->object, &there, why)))
		return e;
	if (str_eq(a->object, STR(TENANT_DEFAULT)))
		return err_set(why, ERR_CONFLICT, "the tenant '" TENANT_DEFAULT "' stays: it has what nobody else has");
	if (!access_run(a->store, A_KEYS_OF_TENANT, (struct db_value[]){ DB_I(a->now_us), DB_S(a->object) }, 2, keep_count, &keys, why))
		return why->code;
	if (keys)
		return err_set(why, ERR_CONFLICT, "the tenant '" STR_FMT "' has %lld key%s; revoke them first, or suspend the tenant", STR_ARG(a->object),
			       (long long)keys, keys == 1 ? "" : "s");
	if (!access_run(a->store, A_TENANT_DEL, (struct db_value[]){ DB_S(a->object) }, 1, NULL, NULL, why))
		return why->code;
	a->delta.n_del_tenants = 1;
	a->delta.del_tenants = arena_array(a->mem, char *, 1);
	a->delta.del_tenants[0] = there->name;
	return ERR_OK;
}

enum err tenant_delete(struct act *a, struct str name, struct why *why)
{
	enum err e;

	a->action = "tenants.delete";
	a->object = name;
	e = act_begin(a, why);
	return act_end(a, e ? e : drop(a, why), why);
}

/* --- reading --- */

struct listing {
	struct act *act;
	Corral__ListTenantsReply *reply;
	size_t cap;
	bool bad;
};

static bool list_row(void *arg, const struct db_row *row)
{
	struct listing *l = arg;
	Corral__Tenant *t = access_unpack(l->act->mem, &corral__tenant__descriptor, db_str(row, 0)), **more;

	l->bad = l->bad || !t;
	if (!t || act_allowed(l->act, str_of(t->name), NULL))
		return true;
	if (l->reply->n_tenants == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		more = arena_array(l->act->mem, Corral__Tenant *, l->cap);
		if (l->reply->n_tenants)
			memcpy(more, l->reply->tenants, l->reply->n_tenants * sizeof(*more));
		l->reply->tenants = more;
	}
	l->reply->tenants[l->reply->n_tenants++] = t;
	return true;
}

enum err tenants_list(struct act *a, Corral__ListTenantsReply *ret, struct why *why)
{
	struct listing l = { .act = a, .reply = ret };
	enum err e;

	a->action = "tenants.read";
	corral__list_tenants_reply__init(ret);
	e = act_read(a, why);
	if (e || (e = act_allowed(a, STR(""), why)))
		return e;
	if (!tenants_each(a->store, list_row, &l, why))
		return why->code;
	return l.bad ? err_set(why, ERR_STORE_FAILED, "the record of a tenant cannot be read") : ERR_OK;
}
