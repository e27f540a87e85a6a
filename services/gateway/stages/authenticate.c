/* authenticate.c - see admission.h.
 *
 * A key comes as "Authorization: Bearer KEY", "x-api-key: KEY" or "api-key: KEY". Where no key is needed (a loopback listener, a network
 * named by 'anonymous') what is no key of ours counts as none, because many clients must send something; a key of ours counts always,
 * and has to be right. */
#include <stdarg.h>
#include <stdio.h>

#include "common/base/clock.h"
#include "common/policy/apikey.h"
#include "services/gateway/admission.h"
#include "services/gateway/cors.h"
#include "services/gateway/door.h"
#include "services/gateway/routes.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/trail.h"
#include "services/gateway/worker.h"

const char *refusal_name(enum refusal r)
{
	static const char *const names[REFUSED_COUNT] = { "", "no_key", "malformed", "unknown", "expired", "tenant", "network", "action", "query", "not_ready", "origin" };

	return names[r];
}

static void refuse(struct admission *a, enum refusal kind, enum err code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void refuse(struct admission *a, enum refusal kind, enum err code, const char *fmt, ...)
{
	va_list ap;

	a->refused = kind;
	a->why = (struct why){ .code = code };
	va_start(ap, fmt);
	vsnprintf(a->why.text, sizeof(a->why.text), fmt, ap);
	va_end(ap);
}

/* --- what was sent --- */

static struct str bearer(struct str v)
{
	return v.n > 7 && str_ieq(str_n(v.p, 7), STR("bearer ")) ? str_trim(str_from(v, 7)) : STR("");
}

static struct str shown_key(const struct http_head *h)
{
	struct str shown = STR("");

	for (uint32_t i = 0; i < h->n_headers; i++) {
		const struct http_header *f = &h->headers[i];

		if (f->name.n == 13 && (f->name.p[0] | 0x20) == 'a' && str_ieq(f->name, STR("authorization"))) {
			struct str b = bearer(f->value);

			if (b.n)
				return b;
		} else if (!shown.n && ((f->name.n == 9 && str_ieq(f->name, STR("x-api-key"))) || (f->name.n == 7 && str_ieq(f->name, STR("api-key"))))) {
			shown = f->value;
		}
	}
	return shown;
}

/* URLs are logged and kept by everything on the way; a key in one has to be seen as lost. */
static bool key_in_query(struct str query)
{
	static const char *const names[] = { "api_key", "api-key", "apikey", "x-api-key", "access_token" };
	struct str pair;

	if (!query.n)
		return false;
	if (str_find(query, STR("corral_sk_")))
		return true;
	while (query.n && str_split(&query, '&', &pair)) {
		struct str name;

		if (!str_split(&pair, '=', &name))
			continue;
		for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
			if (str_ieq(name, str_of(names[i])))
				return true;
	}
	return false;
}

/* --- who that is --- */

/* "192.0.2.7:5123", "[2001:db8::1]:5123"; "unix" is no address. */
static struct str address_of(const char *peer)
{
	struct str s = str_of(peer);
	const char *colon = strrchr(peer, ':');

	if (colon)
		s.n = (size_t)(colon - peer);
	return s.n > 2 && s.p[0] == '[' ? str_n(s.p + 1, s.n - 2) : s;
}

static bool in_networks(const struct cidr *nets, size_t n, const char *peer)
{
	uint8_t from[16];

	if (!n || !ip_parse(address_of(peer), from))
		return false;
	for (size_t i = 0; i < n; i++)
		if (cidr_has(&nets[i], from))
			return true;
	return false;
}

static Corral__Role keyless_role(const struct door *d, const struct http_xchg *x)
{
	if (d->keyless_owner[x->door])
		return CORRAL__ROLE__ROLE_OWNER;
	return in_networks(d->anonymous, d->n_anonymous, x->peer) ? CORRAL__ROLE__ROLE_USER : CORRAL__ROLE__ROLE_NONE;
}

/* --- pages in browsers --- */

static bool begins(struct str s, struct str with) { return s.n >= with.n && str_ieq(str_n(s.p, with.n), with); }

/* What stands between "https://" and the path, which an origin has not; "" for what is no page of the web: an editor's or an app's own scheme. */
static struct str host_of_page(struct str origin)
{
	return begins(origin, STR("http://")) ? str_from(origin, 7) : begins(origin, STR("https://")) ? str_from(origin, 8) : STR("");
}

static bool on_this_machine(struct str host)
{
	struct str name = host;
	uint8_t ip[16];

	if (host.n && host.p[0] == '[')
		return begins(host, STR("[::1]"));
	(void)str_split(&host, ':', &name);
	return str_ieq(name, STR("localhost")) || (ip_parse(name, ip) && ip[12] == 127);
}

/* A page may send to a program of its reader's machine whatever needs no preflight, and where no key is asked for nothing says that the reader
 * meant it. Such a page cannot read answers, so what only reads is let be. */
static bool sent_by_foreign_page(const struct worker *w, const struct http_xchg *x, struct str *ret)
{
	const struct http_header *origin;
	struct str host;

	if (str_eq(x->head.method, STR("GET")) || str_eq(x->head.method, STR("HEAD")) || str_eq(x->head.method, STR("OPTIONS")) ||
	    !(origin = http_find(&x->head, "origin")))
		return false;
	*ret = origin->value;
	host = host_of_page(origin->value);
	return (host.n || str_eqz(origin->value, "null")) && !(host.n && (str_ieq(host, x->head.host) || on_this_machine(host))) &&
	       !cors_allows(&w->gw->cfg->cors_origins, origin->value);
}

static void without_key(struct worker *w, struct admission *a, bool something)
{
	struct str page;

	a->role = keyless_role(w->gw->door, a->x);
	if (w->ring)
		a->home = keyring_tenant(w->ring, STR("default"));
	if (a->role != CORRAL__ROLE__ROLE_NONE) {
		if (sent_by_foreign_page(w, a->x, &page))
			refuse(a, REFUSED_ORIGIN, ERR_FORBIDDEN, "pages of '%.*s' may not send this without a key; add that origin to CORRAL_CORS_ORIGINS if they may",
			       (int)(page.n < 200 ? page.n : 200), page.p);
		return;
	}
	if (something)
		refuse(a, REFUSED_MALFORMED, ERR_UNAUTHENTICATED, "what was sent is no key of this Corral, or was mistyped: its keys begin with corral_sk_ and end in a checksum; "
		       "`corral keys create` on the gateway's machine makes one");
	else
		refuse(a, REFUSED_NO_KEY, ERR_UNAUTHENTICATED, "a key is needed here: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'; "
		       "`corral keys create` on the gateway's machine makes one");
}

/* The tenant may end a key too. */
static bool tenant_allows(struct worker *w, struct admission *a)
{
	struct str tenant = str_of(a->key->pb.tenant);

	a->home = keyring_tenant(w->ring, tenant);
	if (a->home && a->home->pb.suspended)
		refuse(a, REFUSED_TENANT, ERR_FORBIDDEN, "tenant '%s' is suspended; the owner can lift that", a->key->pb.tenant);
	else if (!a->home && !str_eqz(tenant, "default"))
		refuse(a, REFUSED_TENANT, ERR_FORBIDDEN, "tenant '%s' of key %s is no longer here", a->key->pb.tenant, a->key->pb.id);
	return a->refused == REFUSED_NOT;
}

static void with_key(struct worker *w, struct admission *a, struct str id, struct str text)
{
	const struct ring_key *k = keyring_verify(w->ring, id, text);
	char ended[40];

	if (!k) {                         /* one sentence, whether the id is unknown or the secret is wrong */
		refuse(a, REFUSED_UNKNOWN, ERR_UNAUTHENTICATED, "this key is not valid here: it was revoked, or made elsewhere; "
		       "`corral keys create` on the gateway's machine makes a new one");
		return;
	}
	a->key = k;
	a->role = k->pb.role;
	if (k->pb.expires_at_us && wall_us() >= k->pb.expires_at_us) {
		clock_rfc3339(k->pb.expires_at_us, 0, ended, sizeof(ended));
		refuse(a, REFUSED_EXPIRED, ERR_UNAUTHENTICATED, "key %s expired at %s; whoever runs this Corral can make a new one", k->pb.id, ended);
	} else if (tenant_allows(w, a) && (k->bad_network || (k->pb.n_networks && !in_networks(k->networks, k->pb.n_networks, a->x->peer)))) {
		refuse(a, REFUSED_NETWORK, ERR_FORBIDDEN, "key %s may not be used from %s; the networks it is for are named in it", k->pb.id, a->x->peer);
	}
}

static void who(struct worker *w, struct admission *a)
{
	struct str text = shown_key(&a->x->head), id;

	if (!text.n || !apikey_parse(text, &id))
		without_key(w, a, text.n > 0);
	else if (w->ring)
		with_key(w, a, id, text);
	else
		refuse(a, REFUSED_NOT_READY, ERR_UNAVAILABLE, "the keys are not known yet: the access service has not answered since the start");
}

/* --- may he --- */

static struct subject subject_of(const struct admission *a)
{
	return (struct subject){ .role = a->role, .key_id = a->key ? a->key->e.name : STR(""),
		.tenant = a->key ? str_of(a->key->pb.tenant) : STR("default"), .team = a->key ? str_of(a->key->pb.team) : STR(""),
		.user = a->key ? str_of(a->key->pb.user) : STR(""), .key = a->key ? &a->key->pb : NULL, .home = a->home ? &a->home->pb : NULL };
}

static void may(struct admission *a)
{
	struct subject s;

	if (route_role_may(a->route, a->role) && !(a->key && a->key->pb.n_actions))
		return;
	s = subject_of(a);
	if (authorise(&s, str_of(a->route->action), STR(""), STR(""), &a->why) != ERR_OK)
		a->refused = REFUSED_ACTION;
}

void admission_check(struct worker *w, const struct http_xchg *x, struct admission *a)
{
	memset(a, 0, offsetof(struct admission, why));
	why_clear(&a->why);
	why_clear(&a->no_route);
	a->x = x;
	if (key_in_query(x->head.query)) {
		refuse(a, REFUSED_QUERY, ERR_MALFORMED, "keys are not taken from the URL, because URLs are logged on the way; send 'Authorization: Bearer KEY', "
		       "and replace this key, for it may be known by now");
		return;
	}
	who(w, a);
	if (a->refused != REFUSED_NOT)
		return;
	a->route = route_find(&x->head, x->path, &a->param, &a->no_route);
	if (a->route && a->no_route.code == ERR_OK)
		may(a);
}

const struct admission *admission_of(struct worker *w, const struct http_xchg *x)
{
	if (w->admission.x != x)
		admission_check(w, x, &w->admission);
	w->admission.x = NULL;            /* once */
	return &w->admission;
}

void admission_apply(struct req *r, const struct admission *a)
{
	r->ring = keyring_ref(r->worker->ring);   /* what the subject points to lies there */
	r->who = subject_of(a);
	r->tenant = r->who.tenant;
	r->key_id = r->who.key_id;
	trail_key_used(r->worker->gw->trail, a->refused == REFUSED_NOT || a->refused == REFUSED_ACTION ? a->key : NULL, r->start_wall_us);
	r->limits.scopes[0] = a->key ? a->key->scope : NULL;
	r->limits.scopes[1] = a->home ? a->home->scope : NULL;
}

struct str admission_challenge(const struct admission *a)
{
	if (a->why.code != ERR_UNAUTHENTICATED)
		return STR("");
	return a->refused == REFUSED_NO_KEY ? STR("WWW-Authenticate: Bearer realm=\"corral\"\r\n")
					    : STR("WWW-Authenticate: Bearer realm=\"corral\", error=\"invalid_token\"\r\n");
}
