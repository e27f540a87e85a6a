# Corral. `make` builds every program into build/bin; `make help` lists the rest.
#
# A file needs no line here: common/*/*.c become one library, services/NAME/*.c (without main.c and
# *_test.c) another, *_test.c beside a source is a cmocka program, tests/fuzz/*_fuzz.c a fuzz target.

BUILD   ?= build
CC      ?= cc
SAN     ?=
OPT     ?= -O2
# The programs of the request path are linked with optimisation across files (6 % of a request's CPU); what else is linked is not.
ifndef LTO
LTO     := $(if $(SAN)$(findstring clang,$(CC)),,-flto=auto -ffat-lto-objects)
endif
LINK_LTO = $(if $(LTO),-fno-lto)
WERROR  ?= -Werror

DEPS     = libevent nng libprotobuf-c libsqlite3 libpq yaml-0.1 libsodium hiredis rdkafka libcurl
CSTD     = -std=c11 -D_GNU_SOURCE
WARN     = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
           -Wformat=2 -Wno-unused-parameter -Wno-missing-field-initializers $(WERROR)
HARDEN   = -fstack-protector-strong -fstack-clash-protection -fPIE $(if $(SAN),,-D_FORTIFY_SOURCE=2)
# GCC's tuning for any x86 clears and copies what is larger than a cache line or two by 'rep stos' and 'rep movs', which are slow to start; the
# C library has better. A tenth of what a kept answer costs the gateway was that.
BY_LIBRARY := -mmemset-strategy=unrolled_loop:128:noalign,libcall:-1:noalign -mmemcpy-strategy=unrolled_loop:128:noalign,libcall:-1:noalign
BY_LIBRARY := $(if $(shell echo | $(CC) $(BY_LIBRARY) -x c -c -o /dev/null - 2>/dev/null && echo yes),$(BY_LIBRARY))
SANFLAGS = $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
CPPFLAGS_ALL = $(CSTD) -I. -I$(BUILD)/gen -include common/base/banned.h -DCORRAL_VERSION='"$(VERSION)"' $(CPPFLAGS)
CFLAGS_ALL   = $(OPT) $(BY_LIBRARY) $(LTO) -g $(WARN) $(HARDEN) $(SANFLAGS) $(CFLAGS)
LDFLAGS_ALL  = -pie -Wl,-z,relro,-z,now,-z,noexecstack $(SANFLAGS) $(LDFLAGS)
LIBS         = -levent_core -levent_pthreads -lnng -lmbedx509 -lmbedcrypto -lssl -lcrypto -lprotobuf-c -lsqlite3 -lpq -lyaml -lsodium -lhiredis -lrdkafka -lcurl -lpthread -lm -ldl

VERSION  := $(shell cat VERSION)

PROTOS   := $(wildcard proto/*.proto)
GEN_C    := $(PROTOS:proto/%.proto=$(BUILD)/gen/%.pb-c.c)
GEN_H    := $(GEN_C:.c=.h)

COMMON_C := $(filter-out %_test.c,$(wildcard common/*/*.c))
SERVICES := $(filter-out corral,$(notdir $(patsubst %/,%,$(wildcard services/*/))))
SVC_C    := $(filter-out %_test.c %/main.c,$(wildcard services/*/*.c services/*/*/*.c))
TEST_C   := $(wildcard common/*/*_test.c services/*/*_test.c services/*/*/*_test.c)
FAKE_C   := $(wildcard tests/fakes/*.c tests/bench/*.c tests/contract/*.c tests/proofs/*.c)
FUZZ_C   := $(wildcard tests/fuzz/*_fuzz.c)

obj       = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
COMMON_O := $(call obj,$(COMMON_C)) $(GEN_C:$(BUILD)/gen/%.c=$(BUILD)/obj/gen/%.o)
SVC_O    := $(call obj,$(SVC_C))
PROGRAMS := $(patsubst services/%/main.c,$(BUILD)/bin/%,$(wildcard services/*/main.c))
TESTS    := $(patsubst %.c,$(BUILD)/test/%,$(TEST_C))
FAKES    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(FAKE_C))

.PHONY: release bench-ledger bench-events proof-ledger proof-experiments proof-apart bench-cloud bench-scale proof-helm proof-revoke proof-timing proof-kill proof-leave proof-slots proof-budgets proof-cloud-budget proof-upgrade proof-fuzz fuzz-slice tsan tsan-run all help lib test-bins test asan fuzz fuzz-replay framing check docs bench clean fakes
.SECONDARY:
all: $(PROGRAMS)

help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST)

#: make             every program, into build/bin
#: make release     every program, laid out by a trial run for less CPU a request, into build/release/bin (scripts/build-release)
#: make test        build and run the unit tests
#: make asan        the same under AddressSanitizer and UBSan
#: make tsan        those where threads meet under ThreadSanitizer
#: make check       layers, format, twins, generated pages
#: make docs        write the generated pages (docs/reference)
#: make fuzz MINUTES=n   run every fuzz target that long
#: make fuzz-replay run every fuzz target over its corpus once
#: make fuzz-slice  the corpora and 20,000 seeded inputs each; make proof-fuzz: ten minutes each
#: make framing     our HTTP parser, nginx's and Node's over one table of messages
#: make bench ROUNDS=n SECONDS=s   corral, as make release builds it, beside nginx and haproxy, and what is promised
#: make bench-scale  discovery of 100 backends with 10,000 replicas, and deciding among 200
#: make bench-cloud  what Corral adds to a provider's own time once the circuit at home is open
#: make bench-events  CPU of one usage event, to a gateway's worker and to its process
#: make bench-ledger  facts a second into the ledger, on SQLite and on PostgreSQL, with the disk waited for
#: make proof-kill ROUNDS=n SEED=n   kill -9 in mixed traffic, 100 rounds; then the ledger against the backends' own books
#: make proof-ledger ROUNDS=n SEED=n   kill -9 of gateway, usage-tracker, PostgreSQL and Kafka in turn, 1,000 times, and again without Kafka; each attempt has one row
#: make proof-replay REQUESTS=n SEED=n   mixed requests of every kind, 1,000,000; the ledger's tokens are those of the backends
#: make proof-outage MINUTES=n   PostgreSQL, Redis and Kafka are gone for 30 minutes under load: nothing fails, and every event arrives after their return
#: make proof-apart  the services apart at 200 requests/s: each killed, stopped, restarted; a gateway that is cut off
#: make proof-slots  two gateways, one llama.cpp of two slots: nothing queues inside it, whoever is killed
#: make proof-budgets  200 parallel requests at a limit, in tokens and in micro-dollars, 100 rounds each, three gateways, PostgreSQL, Redis or the usage-tracker killed in half: nothing overspent
#: make proof-cloud-budget  200 parallel requests at a cap on money for the cloud, three gateways, two cloud-fallbacks, one of the parts killed in half of the rounds: nothing overspent
#: make proof-upgrade  the program is replaced under load with 100 open streams: no request fails, the books are right
#: make proof-revoke  100,000 keys, two gateways: how long a revoked key is good anywhere
#: make proof-timing  how long an unknown key takes beside a wrong secret, a million times each
#: make proof-helm  the chart on a real Kubernetes API server, by helm 3 and 4 (needs Go 1.26; builds for 25 minutes the first time)
#: make proof-experiments RUNS=n SEED=n   experiments with made-up outcomes, 10,000 of each kind, looked at after every outcome
#: make proof-rollback  a model of an experiment is exchanged for a worse one under llama.cpp: how soon nobody gets it any more
#: make proof-leave  how soon a backend is free of a client that left, 200 times at four moments

$(BUILD)/gen/%.pb-c.c $(BUILD)/gen/%.pb-c.h &: proto/%.proto
	@mkdir -p $(@D)
	@echo "  PB  $<"; protoc-c --proto_path=proto --c_out=$(BUILD)/gen $<

$(BUILD)/obj/gen/%.o: $(BUILD)/gen/%.c $(GEN_H)
	@mkdir -p $(@D)
	@echo "  CC  $<"; $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -Wno-error -MMD -MP -c -o $@ $<

$(BUILD)/obj/services/model-registry/strengths.o: services/model-registry/families.tsv
$(BUILD)/obj/services/hardware-probe/catalogue.o: services/hardware-probe/catalogue.tsv
$(BUILD)/obj/services/cloud-fallback/catalogue.o: services/cloud-fallback/catalogue.tsv

# where Debian has libpq-fe.h
$(BUILD)/obj/common/store/db_postgres.o $(BUILD)/obj-fuzz/common/store/db_postgres.o: CPPFLAGS += -isystem /usr/include/postgresql

$(BUILD)/obj/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	@echo "  CC  $<"; $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/libcorral.a: $(COMMON_O)
	@mkdir -p $(@D)
	@rm -f $@
	@$(AR) rcs $@ $^

$(BUILD)/libservices.a: $(SVC_O)
	@mkdir -p $(@D)
	@rm -f $@
	@$(AR) rcs $@ $^

lib: $(BUILD)/libcorral.a $(BUILD)/libservices.a

$(BUILD)/bin/corral $(BUILD)/bin/gateway: LINK_LTO = $(OPT) $(BY_LIBRARY) $(LTO)
$(BUILD)/bin/%: $(BUILD)/obj/services/%/main.o $(BUILD)/libservices.a $(BUILD)/libcorral.a
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CC) $(LINK_LTO) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/test/%: $(BUILD)/obj/%.o $(BUILD)/libservices.a $(BUILD)/libcorral.a
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CC) $(LINK_LTO) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LIBS)

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(BUILD)/libservices.a $(BUILD)/libcorral.a
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CC) $(LINK_LTO) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# a gateway's house, as its unit tests have it
$(BUILD)/tests/bench/event_bench: LIBS := -lcmocka $(LIBS)

fakes: $(FAKES)
test-bins: $(TESTS)

# What keeps something: once more, on PostgreSQL.
PG_TESTS = services/usage-tracker/ledger_test services/usage-tracker/budgets_test services/usage-tracker/prices_test \
           services/usage-tracker/reconcile_test services/usage-tracker/quality_test services/access/access_test services/selector/decisions_test services/gateway/run_store_test \
           services/model-registry/jobs_test services/ab-testing/ab_test

test: $(TESTS)
	@scripts/with-postgres scripts/run-unit-tests $(TESTS) --postgres $(PG_TESTS:%=$(BUILD)/test/%)

asan:
	@LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0 $(MAKE) BUILD=$(BUILD)/asan SAN=address,undefined OPT=-O1 test

FUZZ_CC  ?= clang-19
FUZZ_TARGETS := $(patsubst tests/fuzz/%_fuzz.c,$(BUILD)/fuzz/%,$(FUZZ_C))
MINUTES  ?= 1

FUZZ_CFLAGS = $(CPPFLAGS_ALL) -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ_O   := $(COMMON_C:%.c=$(BUILD)/obj-fuzz/%.o) $(GEN_C:$(BUILD)/gen/%.c=$(BUILD)/obj-fuzz/gen/%.o)

$(BUILD)/obj-fuzz/gen/%.o: $(BUILD)/gen/%.c $(GEN_H)
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj-fuzz/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	@echo "  FC  $<"; $(FUZZ_CC) $(FUZZ_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/libfuzz.a: $(FUZZ_O)
	@rm -f $@
	@$(AR) rcs $@ $^

$(BUILD)/fuzz/%: $(BUILD)/obj-fuzz/tests/fuzz/%_fuzz.o $(BUILD)/libfuzz.a
	@mkdir -p $(@D)
	@echo "  FZ  $@"; $(FUZZ_CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(LIBS)

# compares its decisions with cJSON's
$(BUILD)/fuzz/json: LIBS += -lcjson

# the registry's kinds, given answers instead of asking for them
$(BUILD)/fuzz/registry_answers: $(addprefix $(BUILD)/obj-fuzz/services/model-registry/,answer.o found.o kind_ollama.o kind_llamacpp.o kind_openai.o kind_probe.o)
$(BUILD)/fuzz/registry_answers: LIBS := $(BUILD)/libfuzz.a $(LIBS)

$(BUILD)/fuzz/run_input: $(BUILD)/obj-fuzz/services/gateway/run_input.o
$(BUILD)/fuzz/run_input: LIBS := $(BUILD)/libfuzz.a $(LIBS)

$(BUILD)/fuzz/recall_entry: $(BUILD)/obj-fuzz/services/gateway/recall_entry.o
$(BUILD)/fuzz/recall_entry: LIBS := $(BUILD)/libfuzz.a $(LIBS)

$(BUILD)/fuzz/runpod_message: $(BUILD)/obj-fuzz/services/runpod-worker/message.o
$(BUILD)/fuzz/runpod_message: LIBS := $(BUILD)/libfuzz.a $(LIBS)

$(BUILD)/fuzz/tar: $(BUILD)/obj-fuzz/services/corral/tar.o
$(BUILD)/fuzz/tar: LIBS := $(BUILD)/libfuzz.a $(LIBS)

fuzz-bins: $(FUZZ_TARGETS)

fuzz: $(FUZZ_TARGETS)
	@scripts/run-fuzz $(MINUTES) $(FUZZ_TARGETS)

fuzz-replay: $(FUZZ_TARGETS)
	@scripts/run-fuzz replay $(FUZZ_TARGETS)

fuzz-slice: $(FUZZ_TARGETS)
	@scripts/run-fuzz slice $(FUZZ_TARGETS)

proof-fuzz:
	@$(MAKE) fuzz MINUTES=$(if $(filter-out 1,$(MINUTES)),$(MINUTES),10)

# Where threads meet: the loop's posts, RPC and snapshots, logs, metrics, the spool's syncs, slots and queues, whole services.
TSAN_TESTS = common/io/loop_test common/io/http_test common/io/rpc_test common/io/snapshot_test common/io/snapshot_delta_test common/data/log_test common/data/metrics_test \
             common/store/spool_test common/store/cache_test common/store/db_thread_test common/svc/svc_test services/gateway/replicas_test services/gateway/flights_test
tsan:
	@$(MAKE) BUILD=$(BUILD)/tsan SAN=thread OPT=-O1 tsan-run
tsan-run: $(TSAN_TESTS:%=$(BUILD)/test/%)
	@TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp SPOOL_KILL_ROUNDS=20 setarch $$(uname -m) -R scripts/run-unit-tests $^

framing: $(BUILD)/tests/contract/framing_probe
	@tests/contract/framing_diff.py --probe $<

ROUNDS   ?= 100

proof-kill: all
	@BUILD=$(BUILD) tests/proofs/kill.py --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

proof-timing: $(BUILD)/test/services/gateway/stages/authenticate_test
	@AUTH_TIMING_ROUNDS=2000000 $<

proof-leave: all
	@BUILD=$(BUILD) tests/proofs/leave.py

proof-helm:
	@tests/proofs/helm.py --build --standbys

proof-apart: all
	@BUILD=$(BUILD) tests/proofs/apart.py $(if $(SEED),--seed $(SEED))
	@BUILD=$(BUILD) tests/proofs/apart.py --wire ipc --decide remote $(if $(SEED),--seed $(SEED))

proof-upgrade: all
	@BUILD=$(BUILD) tests/proofs/upgrade.py $(if $(SEED),--seed $(SEED))
proof-revoke: all
	@CORRAL_BIN=$(CURDIR)/$(BUILD)/bin/corral $$(scripts/venv)/bin/python tests/proofs/revoke.py

proof-slots: all
	@BUILD=$(BUILD) tests/proofs/slots.py $(if $(SEED),--seed $(SEED))

proof-experiments: $(BUILD)/tests/proofs/experiments
	@$< $(or $(RUNS),10000) $(SEED)

.PHONY: proof-rollback
proof-rollback: all
	@BUILD=$(BUILD) $$(scripts/venv)/bin/python tests/proofs/rollback.py --record docs/proofs.md

proof-cloud-budget: all
	@BUILD=$(BUILD) tests/proofs/cloud_budget.py --record docs/proofs.md $(if $(SEED),--seed $(SEED))
proof-budgets: all
	@BUILD=$(BUILD) tests/proofs/budgets.py --record docs/proofs.md $(if $(SEED),--seed $(SEED))
	@BUILD=$(BUILD) tests/proofs/budgets.py --money --record docs/proofs.md $(if $(SEED),--seed $(SEED))

.PHONY: proof-replay proof-outage
proof-outage: all
	@BUILD=$(BUILD) tests/proofs/outage.py --record docs/proofs.md $(if $(filter-out file,$(origin MINUTES)),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

proof-replay: all
	@BUILD=$(BUILD) tests/proofs/replay.py --record docs/proofs.md $(if $(REQUESTS),--requests $(REQUESTS)) $(if $(SEED),--seed $(SEED))

proof-ledger: all
	@BUILD=$(BUILD) tests/proofs/ledger.py --record docs/proofs.md $(if $(filter-out file,$(origin ROUNDS)),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))
	@BUILD=$(BUILD) tests/proofs/ledger.py --record docs/proofs.md --bus local $(if $(filter-out file,$(origin ROUNDS)),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

DOCS_BIN := $(if $(wildcard services/corral/main.c),$(BUILD)/bin/corral)

check: all
	@scripts/check-layers
	@scripts/check-format
	@scripts/check-twins
	$(if $(DOCS_BIN),@scripts/gen-docs --check $(DOCS_BIN))

docs: all
	@scripts/gen-docs $(DOCS_BIN)

ROUNDS  ?= 5
SECONDS ?= 3
RELEASE ?= build/release
BENCH   = ulimit -n "$$(ulimit -Hn)"; tests/bench/bench.py --build $(BUILD) --programs $(RELEASE)/bin --rounds $(ROUNDS) --seconds $(SECONDS)

release:
	@scripts/build-release --dir $(RELEASE)

bench: release fakes
	@$(BENCH) --cases post-1k,post-32k,sse-100,sse-1000
	@$(BENCH) --cases post-1k-1 --targets direct,nginx,floor,corral --base direct
	@$(BENCH) --cases post-1k --targets nginx,hit
	@$(BUILD)/tests/bench/policy_bench

bench-events: $(BUILD)/tests/bench/event_bench
	@$<

bench-ledger: $(BUILD)/tests/bench/ledger_bench
	@tests/bench/ledger $<

bench-cloud: all fakes
	@tests/bench/cloud.py --build $(BUILD)

bench-scale: all fakes
	@ulimit -n "$$(ulimit -Hn)"; tests/bench/scale.py --build $(BUILD)
	@$(BUILD)/tests/bench/policy_bench | grep decide

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj $(BUILD)/obj-fuzz -name '*.d' 2>/dev/null)
