/* prices.c - /prices: what tokens and machines cost, with its history; kept by the usage-tracker. docs/prices.md. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/policy/price.h"
#include "services/gateway/ask.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/stages.h"
#include "usage.pb-c.h"

static ProtobufCService *ledger_of(struct ask *a) { return rpc_stub(a->gw->ledger, &corral__usage_tracker__descriptor); }

static void price_members(struct json_out *jo, const Corral__Price *p)
{
	jw_kv_i64(jo, "id", p->id);
	time_json(jo, "valid_from", p->valid_from_us);
	jw_kv_strz(jo, "provider", *p->provider ? p->provider : "*");
	jw_kv_strz(jo, "backend", *p->backend ? p->backend : "*");
	jw_kv_strz(jo, "model", *p->model ? p->model : "*");
	if (p->machine) {
		jw_kv_i64(jo, "gpu_hour_microusd", p->gpu_hour_microusd);
		jw_kv_i64(jo, "kwh_microusd", p->kwh_microusd);
	} else {
		jw_kv_i64(jo, "input_microusd", p->input_microusd);
		jw_kv_i64(jo, "cached_input_microusd", p->cached_input_microusd);
		jw_kv_i64(jo, "output_microusd", p->output_microusd);
	}
	jw_kv_strz(jo, "currency", "USD");
	jw_kv_strz(jo, "set_by", *p->set_by ? p->set_by : NULL);
	time_json(jo, "set_at", p->set_at_us);
}

/* --- GET /prices --- */

static bool same_scope(const Corral__Price *a, const Corral__Price *b)
{
	return a->machine == b->machine && strcmp(a->provider, b->provider) == 0 && strcmp(a->backend, b->backend) == 0 && strcmp(a->model, b->model) == 0;
}

/* Begun, and not followed by another of its scope. */
static bool in_force(const Corral__PricesReply *all, const Corral__Price *p)
{
	for (size_t i = 0; i < all->n_prices; i++)
		if (same_scope(all->prices[i], p) && all->prices[i]->valid_from_us > p->valid_from_us && all->prices[i]->valid_from_us <= all->as_of_us)
			return false;
	return p->valid_from_us <= all->as_of_us;
}

static void prices_came(const Corral__PricesReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "prices");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_prices; i++) {
		jw_obj(&jo);
		price_members(&jo, reply->prices[i]);
		jw_kv_bool(&jo, "in_force", in_force(reply, reply->prices[i]));
		jw_end(&jo);
	}
	jw_end(&jo);
	time_json(&jo, "as_of", reply->as_of_us);
	ask_json_done(a, &jo);
}

static void prices_call(struct ask *a)
{
	Corral__PricesRequest q = CORRAL__PRICES_REQUEST__INIT;

	corral__usage_tracker__prices(ledger_of(a), &q, prices_came, a);
}

static enum step prices(struct req *r) { return ask_send(ask_new(r, prices_call)); }

/* --- reading --- */

static bool only_fields(const struct json *doc, const char *const *known, struct why *why)
{
	for (uint32_t i = json_first(doc, 0); i; i = json_next(doc, 0, i)) {
		const char *const *k = known;
		char name[64];

		while (*k && !json_key_is(doc, i, *k))
			k++;
		if (*k)
			continue;
		(void)str_copy(name, sizeof(name), json_key_raw(doc, i));
		return err_field(why, ERR_MALFORMED, name, "there is no field '%s' here", name) == ERR_OK;
	}
	return true;
}

static bool read_object(struct req *r, struct json *doc, const char *const *known, struct why *why)
{
	if (json_parse(doc, r->mem, r->x->body, &json_limits_default, why) != ERR_OK)
		return false;
	if (json_kind(doc, 0) != JSON_OBJECT)
		return err_set(why, ERR_MALFORMED, "the body must be an object, not %s", json_kind_name(json_kind(doc, 0))) == ERR_OK;
	return only_fields(doc, known, why);
}

static bool read_word(const struct json *doc, const char *key, struct ask *a, char **ret, struct why *why)
{
	struct str s = STR("");

	if (!json_opt_str(doc, 0, key, &s, a->mem, why))
		return false;
	*ret = arena_dup(a->mem, s.p ? s.p : "", s.n);
	return true;
}

static bool read_time(const struct json *doc, const char *key, struct ask *a, int64_t *ret, struct why *why)
{
	struct str s = STR("");

	if (!json_opt_str(doc, 0, key, &s, a->mem, why))
		return false;
	if (s.n && !clock_parse_rfc3339(arena_dup(a->mem, s.p, s.n), ret))
		return err_field(why, ERR_INVALID, key, "'" STR_FMT "' is not a time; write 2026-11-21 or 2026-11-21T09:00:00Z", STR_ARG(s)) == ERR_OK;
	return true;
}

static bool is_given(const struct json *doc, const char *key)
{
	uint32_t at = json_get(doc, 0, key);

	return at && json_kind(doc, at) != JSON_NULL;
}

/* Tokens or a machine, one of the two; input and output are said both, for what is left out would be for nothing. */
static bool read_kind(const struct json *doc, Corral__Price *p, struct why *why)
{
	bool tokens = is_given(doc, "input_microusd") || is_given(doc, "output_microusd") || is_given(doc, "cached_input_microusd");

	p->machine = is_given(doc, "gpu_hour_microusd") || is_given(doc, "kwh_microusd");
	if (p->machine == tokens)
		return err_field(why, ERR_MALFORMED, tokens ? "gpu_hour_microusd" : "input_microusd", "a price says what tokens cost (input_microusd, "
				 "output_microusd, cached_input_microusd: for a million of them) or what a machine costs (gpu_hour_microusd, kwh_microusd)") == ERR_OK;
	if (tokens && !(is_given(doc, "input_microusd") && is_given(doc, "output_microusd")))
		return err_field(why, ERR_MALFORMED, is_given(doc, "input_microusd") ? "output_microusd" : "input_microusd",
				 "a price of tokens says both input_microusd and output_microusd; 0 is free") == ERR_OK;
	return true;
}

static bool read_numbers(const struct json *doc, Corral__Price *p, struct why *why)
{
	if (!json_opt_i64(doc, 0, "input_microusd", &p->input_microusd, why) || !json_opt_i64(doc, 0, "output_microusd", &p->output_microusd, why))
		return false;
	p->cached_input_microusd = p->input_microusd;
	return json_opt_i64(doc, 0, "cached_input_microusd", &p->cached_input_microusd, why) &&
	       json_opt_i64(doc, 0, "gpu_hour_microusd", &p->gpu_hour_microusd, why) && json_opt_i64(doc, 0, "kwh_microusd", &p->kwh_microusd, why);
}

static bool read_price(struct req *r, struct ask *a, Corral__Price *p, struct why *why)
{
	static const char *const known[] = { "provider", "backend", "model", "valid_from", "input_microusd", "cached_input_microusd", "output_microusd",
					     "gpu_hour_microusd", "kwh_microusd", "currency", NULL };
	struct json doc;
	char *currency = NULL;

	if (!read_object(r, &doc, known, why) || !read_word(&doc, "provider", a, &p->provider, why) || !read_word(&doc, "backend", a, &p->backend, why) ||
	    !read_word(&doc, "model", a, &p->model, why) || !read_word(&doc, "currency", a, &currency, why) ||
	    !read_time(&doc, "valid_from", a, &p->valid_from_us, why) || !read_kind(&doc, p, why) || !read_numbers(&doc, p, why))
		return false;
	if (*currency && strcmp(currency, "USD") != 0)
		return err_field(why, ERR_INVALID, "currency", "prices are in USD") == ERR_OK;
	return price_check(&(struct price){ .input = p->input_microusd, .cached_input = p->cached_input_microusd, .output = p->output_microusd,
			   .gpu_hour = p->gpu_hour_microusd, .kwh = p->kwh_microusd, .provider = str_of(p->provider), .backend = str_of(p->backend),
			   .model = str_of(p->model) }, why);
}

static enum step send_if(struct req *r, struct ask *a, bool good, const struct why *why)
{
	if (good)
		return ask_send(a);
	ask_drop(a);
	return req_fail_why(r, why);
}

/* --- PUT /prices --- */

static void price_put(const Corral__PutPriceReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply || !reply->price) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	jo = ask_json(a, reply->was_there ? 200 : 201);
	price_members(&jo, reply->price);
	ask_json_done(a, &jo);
}

static void put_call(struct ask *a)
{
	Corral__PutPriceRequest q = CORRAL__PUT_PRICE_REQUEST__INIT;

	q.price = a->query;
	corral__usage_tracker__put_price(ledger_of(a), &q, price_put, a);
}

static enum step put(struct req *r)
{
	struct ask *a = ask_new(r, put_call);
	Corral__Price *p = arena_new_of(a->mem, Corral__Price);
	struct why why = { 0 };

	corral__price__init(p);
	p->set_by = arena_dup(a->mem, r->key_id.p ? r->key_id.p : "", r->key_id.n);
	a->query = p;
	return send_if(r, a, read_price(r, a, p, &why), &why);
}

/* --- POST /prices/reprice --- */

enum { REPRICE_MS = 120000 };

static void repriced(const Corral__RepriceReply *reply, void *arg)
{
	struct ask *a = arg;
	const Corral__RepriceRequest *q = a->query;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	jo = ask_json(a, 200);
	jw_kv_u64(&jo, "attempts", reply->attempts);
	jw_kv_u64(&jo, "changed", reply->changed);
	jw_kv_i64(&jo, "before_microusd", reply->before_microusd);
	jw_kv_i64(&jo, "after_microusd", reply->after_microusd);
	jw_kv_bool(&jo, "dry_run", q->dry_run);
	ask_json_done(a, &jo);
}

static void reprice_call(struct ask *a)
{
	rpc_deadline(a->gw->ledger, REPRICE_MS);
	corral__usage_tracker__reprice(ledger_of(a), a->query, repriced, a);
	rpc_deadline(a->gw->ledger, 5000);
}

static bool read_reprice(struct req *r, struct ask *a, Corral__RepriceRequest *q, struct why *why)
{
	static const char *const known[] = { "from", "to", "dry_run", NULL };
	struct json doc;
	bool dry_run = false;

	if (!read_object(r, &doc, known, why) || !read_time(&doc, "from", a, &q->from_us, why) || !read_time(&doc, "to", a, &q->to_us, why) ||
	    !json_opt_bool(&doc, 0, "dry_run", &dry_run, why))
		return false;
	q->dry_run = dry_run;
	if (!q->from_us || !q->to_us)
		return err_field(why, ERR_MALFORMED, q->from_us ? "to" : "from", "from and to say which requests: those that came in [from, to)") == ERR_OK;
	if (q->to_us <= q->from_us || q->to_us - q->from_us > INT64_C(86400000000))
		return err_field(why, ERR_INVALID, "to", "to is later than from, by a day at most: ask once for each day") == ERR_OK;
	return true;
}

static enum step reprice(struct req *r)
{
	struct ask *a = ask_new(r, reprice_call);
	Corral__RepriceRequest *q = arena_new_of(a->mem, Corral__RepriceRequest);
	struct why why = { 0 };

	corral__reprice_request__init(q);
	a->query = q;
	return send_if(r, a, read_reprice(r, a, q, &why), &why);
}

const struct stage stage_prices = { "prices", prices }, stage_price_put = { "price_put", put }, stage_reprice = { "reprice", reprice };
