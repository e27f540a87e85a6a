/* narrow.c - see narrow.h. */
#include "services/access/narrow.h"

#include "common/base/cidr.h"

/* The inner pattern's own text is matched, its '*' as a character: what matches that only by a '*' of the outer one does so for
 * whatever stands in its place too. */
bool pattern_within(struct str inner, struct str outer)
{
	size_t i = 0, o = 0, star = SIZE_MAX, from = 0;

	while (i < inner.n) {
		if (o < outer.n && outer.p[o] == '*') {
			star = o++;
			from = i;
		} else if (o < outer.n && outer.p[o] == inner.p[i]) {
			o++;
			i++;
		} else if (star != SIZE_MAX) {
			o = star + 1;
			i = ++from;
		} else {
			return false;
		}
	}
	while (o < outer.n && outer.p[o] == '*')
		o++;
	return o == outer.n;
}

static bool network_within(struct str inner, struct str outer)
{
	struct cidr a, b;

	return cidr_parse(inner, &a) && cidr_parse(outer, &b) && cidr_within(&a, &b);
}

static bool any_within(struct str one, char *const *list, size_t n, bool (*within)(struct str, struct str))
{
	for (size_t i = 0; i < n; i++)
		if (within(one, str_of(list[i])))
			return true;
	return false;
}

static enum err list_within(char *const *list, size_t n, char *const *outer, size_t n_outer, bool (*within)(struct str, struct str), const char *field,
			    struct why *why)
{
	if (!n_outer)
		return ERR_OK;
	if (!n)
		return err_field(why, ERR_FORBIDDEN, field, "the key may have more %s than the one that makes it", field);
	for (size_t i = 0; i < n; i++)
		if (!any_within(str_of(list[i]), outer, n_outer, within))
			return err_field(why, ERR_FORBIDDEN, field, "%s: '%s' is more than the key that makes it has", field, list[i]);
	return ERR_OK;
}

static enum err limit_within(uint64_t inner, uint64_t outer, const char *field, struct why *why)
{
	if (!outer || (inner && inner <= outer))
		return ERR_OK;
	return err_field(why, ERR_FORBIDDEN, field, "%s: the key that makes it has a limit of %llu, and this one would have %s", field,
			 (unsigned long long)outer, inner ? "a higher one" : "none");
}

static enum err limits_within(const Corral__Limits *inner, const Corral__Limits *outer, struct why *why)
{
	static const Corral__Limits none = CORRAL__LIMITS__INIT;
	enum err e;

	inner = inner ? inner : &none;
	outer = outer ? outer : &none;
	if ((e = limit_within(inner->requests_per_minute, outer->requests_per_minute, "requests_per_minute", why)) ||
	    (e = limit_within(inner->tokens_per_minute, outer->tokens_per_minute, "tokens_per_minute", why)))
		return e;
	return limit_within(inner->concurrency, outer->concurrency, "concurrency", why);
}

static enum err role_holds(const struct subject *maker, const Corral__Key *key, struct why *why)
{
	if (role_within(key->role, maker->role))
		return ERR_OK;
	return err_field(why, ERR_FORBIDDEN, "role", "role %s may do more than role %s; a key is no stronger than the one that makes it", role_name(key->role),
			 role_name(maker->role));
}

enum err narrow_holds(const struct subject *maker, const Corral__Key *key, struct why *why)
{
	const Corral__Key *m = maker->key;
	enum err e = role_holds(maker, key, why);

	if (e || !m)
		return e;
	if ((e = list_within(key->actions, key->n_actions, m->actions, m->n_actions, pattern_within, "actions", why)) ||
	    (e = list_within(key->models, key->n_models, m->models, m->n_models, pattern_within, "models", why)) ||
	    (e = list_within(key->networks, key->n_networks, m->networks, m->n_networks, network_within, "networks", why)) ||
	    (e = limits_within(key->limits, m->limits, why)))
		return e;
	if (m->local_only && !key->local_only)
		return err_field(why, ERR_FORBIDDEN, "local_only", "the key that makes it is local-only, and this one would not be");
	if (m->expires_at_us && (!key->expires_at_us || key->expires_at_us > m->expires_at_us))
		return err_field(why, ERR_FORBIDDEN, "expires_at", "the key would live longer than the one that makes it");
	return ERR_OK;
}

static void inherit(const Corral__Key *m, Corral__Key *key)
{
	if (!key->n_actions)
		key->n_actions = m->n_actions, key->actions = m->actions;
	if (!key->n_models)
		key->n_models = m->n_models, key->models = m->models;
	if (!key->n_networks)
		key->n_networks = m->n_networks, key->networks = m->networks;
	if (!key->limits)
		key->limits = m->limits;
	key->local_only |= m->local_only;
	if (!key->expires_at_us)
		key->expires_at_us = m->expires_at_us;
}

enum err narrow(const struct subject *maker, Corral__Key *key, struct why *why)
{
	if (maker->key)
		inherit(maker->key, key);
	return narrow_holds(maker, key, why);
}
