/* authenticate_test.c - who is let in: every way to send a key, every reason to refuse one, every route for every role; and how long it takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/policy/apikey.h"
#include "services/gateway/admission.h"
#include "services/gateway/door.h"
#include "services/gateway/routes.h"
#include "services/gateway/worker.h"

struct made { char text[APIKEY_TEXT + 1], id[APIKEY_ID + 1]; uint8_t hash[SHA256_BYTES]; Corral__Key pb; };

enum { MOST = 64 };
static struct gateway gw;
static struct door door;
static struct worker worker;
static struct made keys[MOST];
static size_t n_keys;
static char suspended[] = "sleepy", home[] = "acme";

static struct made *make(Corral__Role role, const char *tenant)
{
	struct made *m = &keys[n_keys++];

	assert_true(n_keys <= MOST);
	apikey_make(m->text, m->id, m->hash);
	corral__key__init(&m->pb);
	m->pb.id = m->id;
	m->pb.hash = (ProtobufCBinaryData){ SHA256_BYTES, m->hash };
	m->pb.tenant = (char *)tenant;
	m->pb.role = role;
	return m;
}

static void publish(void)
{
	Corral__AccessSnapshot s = CORRAL__ACCESS_SNAPSHOT__INIT;
	Corral__Tenant a = CORRAL__TENANT__INIT, b = CORRAL__TENANT__INIT, *tenants[] = { &a, &b };
	Corral__Key *list[MOST];
	struct why why;
	char *bytes;
	size_t n;

	a.name = home;
	b.name = suspended;
	b.suspended = true;
	for (size_t i = 0; i < n_keys; i++)
		list[i] = &keys[i].pb;
	s.keys = list, s.n_keys = n_keys;
	s.tenants = tenants, s.n_tenants = 2;
	n = corral__access_snapshot__get_packed_size(&s);
	bytes = malloc(n + 1);
	corral__access_snapshot__pack(&s, (uint8_t *)bytes);
	keyring_unref(worker.ring);
	worker.ring = keyring_new(str_n(bytes, n), (struct snapshot_id){ 1, 1 }, door.scopes, &why);
	assert_non_null(worker.ring);
	free(bytes);
}

static int set_up(void **state)
{
	n_keys = 0;
	door = (struct door){ .gw = &gw, .wide = true, .scopes = scope_table_new() };
	gw.door = &door;
	worker = (struct worker){ .gw = &gw };
	return 0;
}

static int tear_down(void **state)
{
	keyring_unref(worker.ring);
	scope_table_free(door.scopes);
	return 0;
}

static const struct admission *come(const char *peer, const char *method, const char *path, const char *header, const char *value)
{
	static char buf[sizeof(struct http_xchg)];
	struct http_xchg *x = (struct http_xchg *)(void *)buf;
	struct str target = str_of(path), p = target;

	memset(x, 0, sizeof(*x));
	str_split(&target, '?', &p);
	x->peer = peer;
	x->path = p;
	x->head.method = str_of(method);
	x->head.query = target.p ? target : STR("");
	x->head.headers[0] = (struct http_header){ STR("Accept"), STR("*/*") };
	x->head.headers[1] = (struct http_header){ str_of(header), str_of(value) };
	x->head.n_headers = header ? 2 : 1;
	worker.admission.x = NULL;
	return admission_of(&worker, x);
}

static const struct admission *with(const char *text) { return come("192.0.2.9:1", "GET", "/models", "x-api-key", text); }

static void a_key_comes_in_three_ways(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_USER, home);
	char text[APIKEY_TEXT + 16];
	struct { const char *name, *before; bool ok; } ways[] = {
		{ "Authorization", "Bearer ", true }, { "authorization", "bearer ", true }, { "AUTHORIZATION", "BEARER   ", true },
		{ "x-api-key", "", true }, { "X-Api-Key", "", true }, { "api-key", "", true }, { "Authorization", "Basic ", false },
		{ "Authorization", "", false }, { "x-other-key", "", false }, { "api-kez", "", false },
	};

	publish();
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		snprintf(text, sizeof(text), "%s%s", ways[i].before, m->text);
		assert_int_equal(come("192.0.2.9:1", "GET", "/models", ways[i].name, text)->refused == REFUSED_NOT, ways[i].ok);
	}
	assert_int_equal(with(m->text)->role, CORRAL__ROLE__ROLE_USER);
	assert_string_equal(with(m->text)->key->pb.tenant, home);
}

static void refused(const struct admission *a, enum refusal kind, enum err code, const char *words)
{
	assert_int_equal(a->refused, kind);
	assert_int_equal(a->why.code, code);
	assert_non_null(str_find(str_of(a->why.text), str_of(words)));
	assert_int_equal(admission_challenge(a).n > 0, code == ERR_UNAUTHENTICATED);
}

static void what_is_no_good_is_refused_with_the_reason(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_USER, home), *old = make(CORRAL__ROLE__ROLE_USER, home), *asleep = make(CORRAL__ROLE__ROLE_USER, suspended),
		    *lost = make(CORRAL__ROLE__ROLE_USER, "gone"), *far = make(CORRAL__ROLE__ROLE_USER, home), *broken = make(CORRAL__ROLE__ROLE_OWNER, home),
		    *fresh = make(CORRAL__ROLE__ROLE_USER, home);
	char *nets[] = { (char *)"10.0.0.0/8", (char *)"2001:db8::/32" }, *bad[] = { (char *)"10.0.0.1/8" };
	struct made other;

	old->pb.expires_at_us = wall_us() - 1;
	fresh->pb.expires_at_us = wall_us() + 60000000;
	far->pb.networks = nets, far->pb.n_networks = 2;
	broken->pb.networks = bad, broken->pb.n_networks = 1;
	publish();
	refused(come("192.0.2.9:1", "GET", "/models", NULL, NULL), REFUSED_NO_KEY, ERR_UNAUTHENTICATED, "corral keys create");
	refused(with("sk-something"), REFUSED_MALFORMED, ERR_UNAUTHENTICATED, "corral_sk_");
	refused(with(old->text), REFUSED_EXPIRED, ERR_UNAUTHENTICATED, old->id);
	refused(with(asleep->text), REFUSED_TENANT, ERR_FORBIDDEN, "suspended");
	refused(with(lost->text), REFUSED_TENANT, ERR_FORBIDDEN, "gone");
	refused(with(far->text), REFUSED_NETWORK, ERR_FORBIDDEN, "192.0.2.9");
	refused(with(broken->text), REFUSED_NETWORK, ERR_FORBIDDEN, "192.0.2.9");
	refused(come("unix", "GET", "/models", "x-api-key", far->text), REFUSED_NETWORK, ERR_FORBIDDEN, "unix");
	assert_int_equal(come("10.3.2.1:5", "GET", "/models", "x-api-key", far->text)->refused, REFUSED_NOT);
	assert_int_equal(come("[2001:db8::7]:5", "GET", "/models", "x-api-key", far->text)->refused, REFUSED_NOT);
	assert_int_equal(with(fresh->text)->refused, REFUSED_NOT);
	apikey_make(other.text, other.id, other.hash);
	refused(with(other.text), REFUSED_UNKNOWN, ERR_UNAUTHENTICATED, "not valid here");
	refused(come("192.0.2.9:1", "GET", "/usage", "x-api-key", m->text), REFUSED_ACTION, ERR_FORBIDDEN, "role user may not do 'usage.read'");
}

/* The id of a key that is there, with another secret and a good checksum: made by trying is not possible, so the ring is changed instead. */
static void unknown_and_wrong_are_told_alike(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_USER, home), other;
	char said[400];

	m->hash[5] ^= 1;
	publish();
	refused(with(m->text), REFUSED_UNKNOWN, ERR_UNAUTHENTICATED, "not valid here");
	snprintf(said, sizeof(said), "%s", with(m->text)->why.text);
	apikey_make(other.text, other.id, other.hash);
	assert_string_equal(said, with(other.text)->why.text);
}

static void a_key_in_the_url_is_refused(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_OWNER, home);
	static const char *const bad[] = { "/models?api_key=x", "/models?a=b&API-KEY=x", "/models?x-api-key=", "/models?access_token=y", "/models?x=corral_sk_abc" };

	publish();
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		refused(come("192.0.2.9:1", "GET", bad[i], "x-api-key", m->text), REFUSED_QUERY, ERR_MALFORMED, "URL");
	assert_int_equal(come("192.0.2.9:1", "GET", "/models?available=true&key=1", "x-api-key", m->text)->refused, REFUSED_NOT);
}

static void loopback_needs_no_key_but_one_that_is_shown_has_to_be_right(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_USER, home), other;

	publish();
	door.keyless_owner[DOOR_PLAIN] = true;
	assert_int_equal(come("127.0.0.1:1", "GET", "/usage", NULL, NULL)->role, CORRAL__ROLE__ROLE_OWNER);
	assert_int_equal(come("127.0.0.1:1", "GET", "/usage", "authorization", "Bearer ollama")->role, CORRAL__ROLE__ROLE_OWNER);
	assert_int_equal(come("127.0.0.1:1", "GET", "/models", "x-api-key", m->text)->role, CORRAL__ROLE__ROLE_USER);
	assert_int_equal(come("127.0.0.1:1", "GET", "/usage", "x-api-key", m->text)->refused, REFUSED_ACTION);
	apikey_make(other.text, other.id, other.hash);
	assert_int_equal(come("127.0.0.1:1", "GET", "/models", "x-api-key", other.text)->refused, REFUSED_UNKNOWN);
}

/* A page that somebody reads on this machine may send to it what needs no preflight. */
static void a_page_of_another_origin_changes_nothing_without_a_key(void **state)
{
	static const char *allowed[] = { "https://chat.example.org" };
	static struct gateway_config cfg = { .cors_origins = { allowed, 1 } };
	struct made *m = make(CORRAL__ROLE__ROLE_OWNER, home);
	const struct admission *a;
	struct { const char *method, *origin; bool ok; } pages[] = {
		{ "POST", "https://evil.example", false }, { "POST", "http://evil.example:8100", false }, { "DELETE", "HTTPS://evil.example", false },
		{ "POST", "null", false }, { "POST", "http://127.0.0.1.evil.example", false }, { "POST", "http://localhost.evil.example", false },
		{ "POST", "http://[2001:db8::1]", false }, { "POST", "http://10.0.0.1", false },
		{ "GET", "https://evil.example", true }, { "HEAD", "https://evil.example", true }, { "OPTIONS", "https://evil.example", true },
		{ "POST", "http://localhost:3000", true }, { "POST", "http://127.0.0.1:8100", true }, { "POST", "http://[::1]:8100", true },
		{ "POST", "https://chat.example.org", true }, { "POST", "vscode-webview://0c1e", true }, { "POST", "app://obsidian.md", true },
	};

	gw.cfg = &cfg;
	publish();
	door.keyless_owner[0] = true;
	for (size_t i = 0; i < sizeof(pages) / sizeof(*pages); i++) {
		a = come("127.0.0.1:1", pages[i].method, "/v1/chat/completions", "Origin", pages[i].origin);
		if ((a->refused == REFUSED_NOT) != pages[i].ok)
			fail_msg("%s from %s: %s", pages[i].method, pages[i].origin, refusal_name(a->refused));
		if (!pages[i].ok)
			refused(a, REFUSED_ORIGIN, ERR_FORBIDDEN, pages[i].origin);
	}
	door.keyless_owner[0] = false;      /* with a key it is the page's own doing */
	assert_int_equal(come("192.0.2.9:1", "POST", "/v1/chat/completions", "Origin", "https://evil.example")->refused, REFUSED_NO_KEY);
	assert_int_equal(with(m->text)->refused, REFUSED_NOT);
	gw.cfg = NULL;
}

static void named_networks_are_users(void **state)
{
	struct cidr nets[2];

	assert_true(cidr_parse(STR("10.0.0.0/8"), &nets[0]) && cidr_parse(STR("2001:db8::/32"), &nets[1]));
	door.anonymous = nets;
	door.n_anonymous = 2;
	publish();
	assert_int_equal(come("10.1.2.3:99", "GET", "/models", NULL, NULL)->role, CORRAL__ROLE__ROLE_USER);
	assert_int_equal(come("[2001:db8::1]:99", "GET", "/models", NULL, NULL)->role, CORRAL__ROLE__ROLE_USER);
	assert_int_equal(come("10.1.2.3:99", "GET", "/usage", NULL, NULL)->refused, REFUSED_ACTION);
	assert_int_equal(come("11.1.2.3:99", "GET", "/models", NULL, NULL)->refused, REFUSED_NO_KEY);
	assert_int_equal(come("unix", "GET", "/models", NULL, NULL)->refused, REFUSED_NO_KEY);
}

static void before_keys_are_known_nobody_passes_with_one(void **state)
{
	struct made other;

	apikey_make(other.text, other.id, other.hash);
	refused(with(other.text), REFUSED_NOT_READY, ERR_UNAVAILABLE, "not known yet");
	assert_int_equal(come("192.0.2.9:1", "GET", "/models", NULL, NULL)->refused, REFUSED_NO_KEY);
}

static void what_is_kept_of_a_head_is_used_once_and_for_it_alone(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_USER, home);
	const struct admission *a;
	const struct http_xchg *x;

	publish();
	a = with(m->text);
	x = a->x ? a->x : (const struct http_xchg *)0;
	assert_null(x);                           /* taken */
	assert_non_null(a->key);
}

/* Every route, every role: what the table of roles says and nothing else. */
static void every_route_times_every_role(void **state)
{
	struct made *m[CORRAL__ROLE__ROLE_SERVICE + 1];
	size_t asked = 0;

	for (int r = CORRAL__ROLE__ROLE_OWNER; r <= CORRAL__ROLE__ROLE_SERVICE; r++)
		m[r] = make((Corral__Role)r, home);
	publish();
	for (const struct route *route = gateway_routes; route->method; route++) {
		char path[300];

		snprintf(path, sizeof(path), "%s%s", route->path, route->path[1] && route->path[strlen(route->path) - 1] == '/' ? "x" : "");
		assert_int_equal(come("192.0.2.9:1", route->method, path, NULL, NULL)->refused, REFUSED_NO_KEY);
		for (int r = CORRAL__ROLE__ROLE_OWNER; r <= CORRAL__ROLE__ROLE_SERVICE; r++, asked++) {
			const struct admission *a = come("192.0.2.9:1", route->method, path, "x-api-key", m[r]->text);

			assert_ptr_equal(a->refused == REFUSED_NOT ? a->route : route, route);
			assert_int_equal(a->refused, role_may((Corral__Role)r, str_of(route->action)) ? REFUSED_NOT : REFUSED_ACTION);
		}
	}
	assert_true(asked > 150);
}

static void a_key_of_few_actions_has_only_those(void **state)
{
	struct made *m = make(CORRAL__ROLE__ROLE_OWNER, home);
	char *actions[] = { (char *)"models.read" };

	m->pb.actions = actions;
	m->pb.n_actions = 1;
	publish();
	for (const struct route *route = gateway_routes; route->method; route++) {
		const struct admission *a = come("192.0.2.9:1", route->method, route->path[1] && route->path[strlen(route->path) - 1] == '/' ? "/nowhere" : route->path,
						 "x-api-key", m->text);

		if (a->route)
			assert_int_equal(a->refused == REFUSED_NOT, strcmp(a->route->action, "models.read") == 0);
	}
}

/* --- time: an unknown id takes as long as a wrong secret. Welch's t over interleaved measurements, those above the 90th percentile left out
 * (interrupts); dudect's method. |t| grows with the square root of the number of measurements when there is a difference, and
 * stays small when there is none. --- */

struct moments { double n, mean, m2; };

static void add(struct moments *m, double v)
{
	double d = v - m->mean;

	m->n++;
	m->mean += d / m->n;
	m->m2 += d * (v - m->mean);
}

static double welch(const struct moments *a, const struct moments *b)
{
	return (a->mean - b->mean) / sqrt(a->m2 / (a->n - 1) / a->n + b->m2 / (b->n - 1) / b->n);
}

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

static double measure(struct made *sent, size_t n_sent, size_t rounds, double *ret_mean_ns, double *ret_difference_ns)
{
	double *took = malloc(rounds * sizeof(*took)), *sorted = malloc(rounds * sizeof(*sorted)), limit;
	uint8_t *class = malloc(rounds);
	char text[APIKEY_TEXT + 1];
	struct moments m[2] = { { 0 } };

	for (size_t i = 0; i < rounds; i++) {
		size_t pick = rand() % n_sent;
		double from;

		class[i] = pick % 2;              /* even: the id is known, and the secret wrong */
		memcpy(text, sent[pick].text, sizeof(text));      /* from the same place each time */
		from = now_ns();
		(void)with(text);
		took[i] = now_ns() - from;
	}
	memcpy(sorted, took, rounds * sizeof(*took));
	qsort(sorted, rounds, sizeof(*sorted), by_value);
	limit = sorted[rounds * 9 / 10];
	for (size_t i = 0; i < rounds; i++)
		if (took[i] <= limit)
			add(&m[class[i]], took[i]);
	*ret_mean_ns = (m[0].mean + m[1].mean) / 2;
	*ret_difference_ns = m[0].mean - m[1].mean;
	free(took), free(sorted), free(class);
	return welch(&m[0], &m[1]);
}

/* What is sent has a known id and a wrong secret, or an id that nobody has. As many as there are measurements: each id has a time of
 * its own by where its entry lies, and a few ids measured often would show those few. */
static struct made *population(size_t n_sent)
{
	struct made *sent = calloc(n_sent, sizeof(*sent));
	Corral__AccessSnapshot s = CORRAL__ACCESS_SNAPSHOT__INIT;
	Corral__Key **list = calloc(n_sent, sizeof(*list));
	struct why why;
	size_t n;
	char *bytes;

	for (size_t i = 0; i < n_sent; i++) {
		struct made *m = &sent[i];

		apikey_make(m->text, m->id, m->hash);
		corral__key__init(&m->pb);
		m->pb.id = m->id;
		m->pb.tenant = home;
		m->hash[i % SHA256_BYTES] ^= 1;   /* the secret differs from what is stored, anywhere */
		m->pb.hash = (ProtobufCBinaryData){ SHA256_BYTES, m->hash };
		if (i % 2 == 0)
			list[i / 2] = &m->pb;
	}
	s.keys = list, s.n_keys = n_sent / 2;
	n = corral__access_snapshot__get_packed_size(&s);
	bytes = malloc(n);
	corral__access_snapshot__pack(&s, (uint8_t *)bytes);
	keyring_unref(worker.ring);
	worker.ring = keyring_new(str_n(bytes, n), (struct snapshot_id){ 1, 1 }, door.scopes, &why);
	free(bytes);
	free(list);
	return sent;
}

/* Threshold and tries are generous: this finds a missing hash or an early return (|t| in the hundreds), on any machine, and never a mere
 * interrupt. AUTH_TIMING_ROUNDS makes it the long proof, with dudect's own threshold. */
static void an_unknown_id_takes_as_long_as_a_wrong_secret(void **state)
{
	const char *asked = getenv("AUTH_TIMING_ROUNDS");
	size_t rounds = asked ? strtoul(asked, NULL, 10) : 20000;
	double least = 1e9, mean = 0, difference = 0, most = asked ? 10 : 30;

	srand(7);
	for (int i = 0; i < (asked ? 3 : 5) && least > most; i++) {
		struct made *sent = population(rounds);
		double t = fabs(measure(sent, rounds, rounds, &mean, &difference));

		if (asked)
			printf("     %zu measurements: |t| = %.2f (below %.0f is no difference to be seen), mean %.0f ns, difference %.2f ns\n", rounds, t, most, mean, difference);
		least = t < least ? t : least;
		for (size_t k = 0; k < 1000; k++)
			refused(with(sent[k].text), REFUSED_UNKNOWN, ERR_UNAUTHENTICATED, "not valid here");
		free(sent);
	}
	assert_true(least < most);
}

/* That the method would see it: an id that is unknown and answered at once. */
static void the_method_sees_a_missing_hash(void **state)
{
	enum { SENT = 20000 };
	struct made *sent = population(SENT);
	double mean, difference;

	srand(7);
	for (size_t i = 1; i < SENT; i += 2)
		sent[i].text[APIKEY_TEXT - 1] ^= 1;       /* the checksum is wrong: no look-up, no hash */
	assert_true(fabs(measure(sent, SENT, SENT, &mean, &difference)) > 30);
	free(sent);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_key_comes_in_three_ways), TEST(what_is_no_good_is_refused_with_the_reason), TEST(unknown_and_wrong_are_told_alike),
		TEST(a_key_in_the_url_is_refused), TEST(loopback_needs_no_key_but_one_that_is_shown_has_to_be_right), TEST(named_networks_are_users),
		TEST(a_page_of_another_origin_changes_nothing_without_a_key),
		TEST(before_keys_are_known_nobody_passes_with_one), TEST(what_is_kept_of_a_head_is_used_once_and_for_it_alone),
		TEST(every_route_times_every_role), TEST(a_key_of_few_actions_has_only_those), TEST(an_unknown_id_takes_as_long_as_a_wrong_secret),
		TEST(the_method_sees_a_missing_hash),
	};

	clock_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
