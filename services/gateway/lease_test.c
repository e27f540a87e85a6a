/* lease_test.c - slots that are lent, against a registry that is scripted: alone, shared, silent, and back again. */
#include "services/gateway/gateway_test.h"

#include "services/gateway/lease.h"
#include "services/gateway/sharers.h"

/* --- the registry --- */

static struct rpc_server *registry;
static struct lease *lease;
static enum { LENDS, SAYS_NOTHING, REFUSES_IT } registry_does;
static bool everything, wants_whole;
static uint32_t gateways, granted_a, granted_before;
static uint64_t power_of_a;       /* microwatts of a slot; 0 = it has no part */
static unsigned reports;
static struct { uint64_t seq, epoch; bool whole, leaving; size_t n_claims, n_active; uint32_t held_a, wanted_a, active_a; size_t id_n; } told;
static void *unanswered[64];
static size_t n_unanswered;

static void note(const Corral__LeaseRequest *r)
{
	told.seq = r->seq, told.epoch = r->epoch, told.whole = r->whole, told.leaving = r->leaving;
	told.id_n = r->gateway.len, told.n_claims = r->n_claims, told.n_active = r->n_active;
	told.active_a = 0;
	for (size_t i = 0; i < r->n_claims; i++)
		if (strcmp(r->claims[i]->backend, "a") == 0 && strcmp(r->claims[i]->model, "m") == 0)
			told.held_a = r->claims[i]->held, told.wanted_a = r->claims[i]->wanted;
	for (size_t i = 0; i < r->n_active; i++)
		if (strcmp(r->active[i]->backend, "a") == 0 && strcmp(r->active[i]->model, "m") == 0)
			told.active_a = r->active[i]->in_use;
}

static void lend(Corral__Slots_Service *service, const Corral__LeaseRequest *r, Corral__LeaseReply_Closure closure, void *data)
{
	Corral__LeaseReply say = CORRAL__LEASE_REPLY__INIT;
	Corral__SlotGrant grant = CORRAL__SLOT_GRANT__INIT, *grants[] = { &grant };
	Corral__BackendPower power = CORRAL__BACKEND_POWER__INIT, *powers[] = { &power };
	Corral__SlotPower part = CORRAL__SLOT_POWER__INIT, *parts[] = { &part };

	reports++;
	note(r);
	if (registry_does == SAYS_NOTHING) {
		assert_true(n_unanswered < 64);
		unanswered[n_unanswered++] = data;
		return;
	}
	if (registry_does == REFUSES_IT) {
		rpc_fail(data, ERR_INVALID, "an older report came later");
		return;
	}
	say.epoch = 7;
	say.gateways = gateways;
	say.everything = everything;
	say.ask_whole = wants_whole && !r->whole;
	grant.backend = (char *)"a", grant.model = (char *)"m", grant.slots = granted_a;
	say.grants = grants;
	say.n_grants = !everything && (r->n_claims > 0 || granted_a != granted_before);
	granted_before = granted_a;
	power.backend = part.backend = (char *)"a", part.model = (char *)"m";
	power.most_milliwatts = 2 * power_of_a / 1000;
	part.microwatts = power_of_a;
	say.powers = powers;
	say.parts_of_power = parts;
	say.n_powers = say.n_parts_of_power = power_of_a > 0;
	closure(&say, data);
}

static Corral__Slots_Service slots_service = { .base = { .descriptor = &corral__slots__descriptor, .invoke = protobuf_c_service_invoke_internal } };

static void registry_open(void)
{
	struct why why;

	slots_service.lease = lend;
	registry = rpc_server_new(h.loop, "inproc://gateway-test-registry", &why);
	assert_non_null(registry);
	rpc_server_add(registry, &slots_service.base);
}

static void registry_away(void)
{
	rpc_server_free(registry);
	registry = NULL;
	while (n_unanswered)
		rpc_fail(unanswered[--n_unanswered], ERR_UNAVAILABLE, "the end");
}

static int open_all(void **state)
{
	house_open(state);
	registry_does = LENDS;
	everything = true, wants_whole = false;
	gateways = 1, granted_a = granted_before = 1, reports = 0;
	power_of_a = 0;
	memset(&told, 0, sizeof(told));
	registry_open();
	return 0;
}

static int close_all(void **state)
{
	reply_free(&reply);
	run_until(no_requests);
	turn();
	rpc_client_close(h.gw.registry);      /* as the runtime does: what is under way ends first */
	lease_free(lease);
	lease = NULL;
	registry_away();
	return house_close(state);
}

/* As the service does it: the lease is there before the first world. */
static void begin(void)
{
	struct replica_table *before = h.gw.replicas;

	h.gw.replicas = replica_table_new(h.gw.metrics);
	lease = lease_new(&h.gw);
	set_world();
	replica_table_free(before);
}

/* Looked for, not made: replica() would say how many slots there are. */
static struct replica_state *a(void)
{
	struct replica_state *s = replica_table_first(h.gw.replicas);

	while (s && (strcmp(s->model, "m") != 0 || strcmp(s->backend, "a") != 0))
		s = s->next;
	assert_non_null(s);
	return s;
}

static uint32_t slots_of_a(void) { return atomic_load(&a()->slots); }
static bool has_a_slot(void) { return slots_of_a() > 0; }
static bool has_reported(void) { return reports > 0; }
static bool has_claimed(void) { return told.n_claims > 0; }
static bool has_said_all(void) { return told.whole && told.n_claims == 3; }

static unsigned want_reports;
static bool has_reported_again(void) { return reports >= want_reports; }

static void after_reports(unsigned n)
{
	want_reports = reports + n;
	run_until(has_reported_again);
}

/* --- tests --- */

static void until_the_registry_has_spoken_nothing_is_sent_anywhere(void **state)
{
	registry_does = SAYS_NOTHING;
	begin();
	assert_int_equal(slots_of_a(), 0);
	assert_false(slot_take(a()));
	run_until(has_reported);
	assert_int_equal(told.seq, 1);
	assert_int_equal(told.epoch, 0);
	assert_int_equal(told.id_n, 16);
	assert_int_equal(slots_of_a(), 0);
}

static void alone_it_has_all_slots_and_claims_none(void **state)
{
	begin();
	run_until(has_a_slot);
	assert_true(slot_take(a()));
	after_reports(2);
	assert_int_equal(told.n_claims, 0);
	assert_int_equal(told.epoch, 7);
	assert_int_equal(told.active_a, 1);       /* the registry looks after the engines by it */
	slot_free(a(), 0);
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
}

static bool has_shared(void) { return told.epoch == 7 && told.n_claims > 0; }
static bool has_none(void) { return slots_of_a() == 0; }
static bool has_it_back(void) { return slots_of_a() == 1; }

static void what_is_lent_to_another_is_not_used_here(void **state)
{
	everything = false, gateways = 2, granted_a = 1;
	begin();
	run_until(has_shared);
	run_until(has_it_back);
	granted_a = 0;
	assert_true(slot_take(a()));        /* a change: it is told, and the answer takes the slot away */
	lease_renew(lease);
	run_until(has_none);
	assert_int_equal(atomic_load(&a()->in_use), 1);     /* what runs is let end */
	lease_renew(lease);
	slot_free(a(), 0);
	assert_false(slot_take(a()));
}

static bool wants_one(void) { return told.wanted_a == 1; }

/* Who waits is told of at once, not at the next turn; the slot that is lent then is his. */
static void who_waits_gets_the_slot_that_is_lent_for_him(void **state)
{
	everything = false, gateways = 2, granted_a = 0;
	begin();
	run_until(has_shared);
	send_chat(CHAT("m", ""));
	run_until(wants_one);
	assert_int_equal(h.calls + h.calls_b, 0);
	granted_a = 1;
	lease_renew(lease);
	run_until(replied);
	assert_int_equal(reply.status, 200);
	assert_int_equal(h.calls, 1);
	run_until(no_requests);
}

static void a_registry_that_has_forgotten_is_told_everything_again(void **state)
{
	everything = false, gateways = 2;
	begin();
	run_until(has_claimed);
	wants_whole = true;
	run_until(has_said_all);
}

/* A gateway that starts while the registry is away serves with its part, by what it knew before. */
static void a_start_without_the_registry_takes_its_part_and_at_least_one(void **state)
{
	registry_away();
	sharers_save(&h.gw, "gateways", 4);
	begin();
	assert_int_equal(slots_of_a(), 0);
	run_until(has_a_slot);
	assert_int_equal(slots_of_a(), 1);                /* 1 / 4, but never none */
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	registry_open();
	run_until(has_reported);
	assert_true(told.epoch == 0);
}

static void a_registry_that_goes_away_takes_nothing_with_it(void **state)
{
	everything = false, gateways = 2;
	begin();
	run_until(has_shared);
	run_until(has_it_back);
	registry_away();
	turn();
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	wants_whole = true;                               /* the new one knows nothing of it */
	registry_open();
	run_until(has_said_all);
	assert_int_equal(slots_of_a(), 1);
}

static void a_report_that_is_refused_changes_nothing(void **state)
{
	begin();
	run_until(has_a_slot);
	registry_does = REFUSES_IT;
	after_reports(2);
	assert_int_equal(slots_of_a(), 1);
	registry_does = LENDS;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
}

/* How many share is kept for a start without the registry, and is no number of nothing when the file is broken. */
static void how_many_share_is_kept_on_disk(void **state)
{
	char path[128];
	FILE *f;

	assert_int_equal(sharers_load(&h.gw, "gateways"), 1);
	gateways = 3, everything = false;
	begin();
	run_until(has_shared);
	assert_int_equal(sharers_load(&h.gw, "gateways"), 3);
	snprintf(path, sizeof(path), "%s/gateways", h.dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("none", f);
	fclose(f);
	assert_int_equal(sharers_load(&h.gw, "gateways"), 1);
	f = fopen(path, "w");
	fputs("0", f);
	fclose(f);
	assert_int_equal(sharers_load(&h.gw, "gateways"), 1);
}

static bool is_leaving(void) { return told.leaving; }

static void who_drains_says_so(void **state)
{
	begin();
	run_until(has_a_slot);
	lease_leave(lease);
	run_until(is_leaving);
}

static void reports_are_numbered_and_never_two_under_way(void **state)
{
	registry_does = SAYS_NOTHING;
	begin();
	run_until(has_reported);
	for (int i = 0; i < 5; i++)
		lease_renew(lease);
	turn();
	assert_int_equal(reports, 1);
	registry_does = LENDS;
	rpc_fail(unanswered[--n_unanswered], ERR_UNAVAILABLE, "try again");
	after_reports(1);
	assert_int_equal(told.seq, 2);
	lease_free(NULL);
}

static int64_t met(void) { return meter_read(&a()->meter, mono_us()); }

static void a_slot_has_the_part_of_power_that_the_registry_tells(void **state)
{
	int64_t before, since, used;

	begin();
	after_reports(2);
	assert_int_equal(met(), 0);
	power_of_a = 250000000;
	after_reports(2);
	since = mono_us();
	before = met();
	after_reports(4);
	used = met() - before;
	assert_in_range(used, 1, 250 * (mono_us() - since));
	assert_int_equal(atomic_load(&a()->meter.most_uw), 500000000);
	assert_true(atomic_load(&a()->meter.uw) > 0);
	replica_state_get(h.gw.replicas, STR("a"), STR("m"), 2);
	assert_int_equal(atomic_load(&a()->meter.uw), 0);     /* of two slots none has the part that one had */
	power_of_a = 0;                               /* no more of it */
	after_reports(2);
	before = met();
	after_reports(1);
	assert_int_equal(met(), before);
	power_of_a = 250000000;
	after_reports(2);
	registry_does = SAYS_NOTHING;                 /* it goes on for two seconds, and not for ever */
	since = atomic_load(&a()->meter.until_us);
	assert_true(since <= mono_us() + METER_HOLD_US);
	assert_int_equal(meter_read(&a()->meter, since + 3600000000), meter_read(&a()->meter, since));
}

int main(void)
{
#define L(f) cmocka_unit_test_setup_teardown(f, open_all, close_all)
	const struct CMUnitTest tests[] = {
		L(until_the_registry_has_spoken_nothing_is_sent_anywhere), L(alone_it_has_all_slots_and_claims_none), L(what_is_lent_to_another_is_not_used_here),
		L(who_waits_gets_the_slot_that_is_lent_for_him), L(a_registry_that_has_forgotten_is_told_everything_again),
		L(a_start_without_the_registry_takes_its_part_and_at_least_one), L(a_registry_that_goes_away_takes_nothing_with_it),
		L(a_report_that_is_refused_changes_nothing), L(how_many_share_is_kept_on_disk), L(who_drains_says_so), L(reports_are_numbered_and_never_two_under_way),
		L(a_slot_has_the_part_of_power_that_the_registry_tells),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
