/* rpc.c - see rpc.h: nng request/reply contexts, seen from a loop.
 *
 * A call (client) and a seat (server) each own one nng context and one aio for life and are used over and over.
 * nng's threads run exactly two functions here, call_moved() and seat_moved(): they start the next half of the exchange
 * or put the finished thing into the mailbox. Everything else runs on the loop's thread.
 *
 *   call: idle -> SENDING -> WAITING -> mailbox -> idle     (over = its closure has run; it only waits to come home)
 *   seat: RECEIVING -> mailbox -> in a method -> REPLYING -> RECEIVING
 *
 * Envelopes are opened in rpc_envelope.c. */
#include "common/io/rpc.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/io/mailbox.h"
#include "common/io/rpc_envelope.h"
#include "common/io/wire.h"
#include "rpc.pb-c.h"

enum {
	CALLS_MAX = 4096,             /* outstanding, one client */
	SEATS_FIRST = 8,
	SEATS_MAX = 1024,
	SERVICES_MAX = 16,
	REQUEST_ID_MAX = 36,
	REPLY_SEND_MS = 10000         /* a peer that does not read must not keep a seat */
};

enum call_phase { CALL_SENDING, CALL_WAITING };

struct call {
	struct list all;              /* client->all */
	struct list link;             /* client->pending or client->idle; none while over */
	struct list mail;
	struct rpc_client *client;
	nng_ctx ctx;
	nng_aio *aio;
	struct loop_timer deadline;
	_Atomic enum call_phase phase;
	atomic_bool over;             /* set by the loop; tells nng's side to stop waiting */
	nng_msg *reply;               /* set by call_moved(), taken by the loop */
	int result;
	uint64_t id;
	const ProtobufCMessageDescriptor *output;
	ProtobufCClosure closure;
	void *arg;
	struct why refused;           /* code is not OK: never sent, fails at the next turn */
	unsigned tries;               /* this one included */
	bool again;                   /* cancelled by the loop, to be sent once more when it comes home */
	nng_msg *copy;                /* of the request, while it may be sent again */
	int64_t until_us;             /* mono: the deadline of all tries */
};

struct stub {
	ProtobufCService base;
	struct rpc_client *client;
	struct stub *next;
};

struct rpc_client {
	struct loop *loop;
	struct mailbox *mailbox;
	nng_socket socket;
	struct wire *wire;
	atomic_int pipes;
	struct list all, pending, idle;
	unsigned n_calls;
	struct stub *stubs;
	int64_t deadline_ms;
	unsigned tries;               /* of the next call; 0 = 1 */
	char request_id[REQUEST_ID_MAX + 1];
	struct why why;
	bool closing;
	char *url;
};

struct seat {
	struct list all;
	struct list mail;
	struct rpc_server *server;
	nng_ctx ctx;
	nng_aio *aio;
	atomic_bool replying;
	nng_msg *request;             /* set by seat_moved(), taken by the loop */
};

/* One request in a method: the closure's data. Lives until the closure or rpc_fail(). */
struct asked {
	struct list link;             /* server->asked; on no list when the server is gone */
	struct rpc_server *server;
	struct seat *seat;
	uint64_t call_id;
	char request_id[REQUEST_ID_MAX + 1];
};

struct rpc_server {
	struct loop *loop;
	struct mailbox *mailbox;
	nng_socket socket;
	struct wire *wire;
	struct list all, asked;
	unsigned n_seats, n_busy;
	ProtobufCService *services[SERVICES_MAX];
	void (*destroy[SERVICES_MAX])(ProtobufCService *);        /* theirs, noted when they were added: one without may be gone first */
	size_t n_services;
};

static bool client_open(struct rpc_client *);
static void client_drop_calls(struct rpc_client *);
static void call_finish(struct call *, ProtobufCMessage *reply);
static void on_call_home(void *owner, struct list *mail);
static void on_deadline(struct loop_timer *);
static void stub_invoke(ProtobufCService *, unsigned method, const ProtobufCMessage *input, ProtobufCClosure, void *arg);
static enum err server_open(struct rpc_server *, const char *url, struct why *);
static void on_request(void *owner, struct list *mail);
static bool seat_add(struct rpc_server *);
static void seat_free(struct seat *);
static void reply_send(struct asked *, const Corral__RpcReply *);

/* --- nng's threads --- */

/* Two per core for tasks, four that resolve names, and more: nng 1.5 cannot be told otherwise, 1.10 can. */
static void few_threads(void)
{
#if NNG_MAJOR_VERSION == 1 && NNG_MINOR_VERSION >= 10
	nng_init_set_parameter(NNG_INIT_NUM_TASK_THREADS, 4);
	nng_init_set_parameter(NNG_INIT_NUM_EXPIRE_THREADS, 1);
	nng_init_set_parameter(NNG_INIT_NUM_POLLER_THREADS, 1);
	nng_init_set_parameter(NNG_INIT_NUM_RESOLVER_THREADS, 1);
#endif
}

void rpc_few_threads(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)pthread_once(&once, few_threads);
}

/* --- the client's public side --- */

struct rpc_client *rpc_client_new(struct loop *loop, const char *url)
{
	struct rpc_client *client = x_calloc(1, sizeof *client);

	client->loop = loop;
	client->url = x_strdup(url);
	client->deadline_ms = 5000;
	list_init(&client->all);
	list_init(&client->pending);
	list_init(&client->idle);
	if (!client_open(client)) {
		fprintf(stderr, "rpc: no descriptors or memory left for a client of %s\n", url);
		abort();
	}
	return client;
}

void rpc_client_close(struct rpc_client *client)
{
	struct list ended = LIST_INIT(ended);

	client->closing = true;
	while (!list_empty(&client->pending)) {
		struct list *link = client->pending.next;

		list_del(link);
		list_push(&ended, link);
	}
	while (!list_empty(&ended)) {
		struct call *call = list_entry(ended.next, struct call, link);

		list_del(&call->link);
		loop_timer_del(&call->deadline);
		atomic_store(&call->over, true);
		if (call->aio)
			nng_aio_cancel(call->aio);
		err_set(&client->why, ERR_UNAVAILABLE, "the client of %s was closed", client->url);
		call_finish(call, NULL);
	}
}

void rpc_client_free(struct rpc_client *client)
{
	bool closed;

	if (!client)
		return;
	client->closing = true;
	wire_free(client->wire);
	closed = wire_close(client->socket);
	list_each(it, &client->all)
		if (list_entry(it, struct call, all)->aio)
			nng_aio_stop(list_entry(it, struct call, all)->aio);
	mailbox_free(client->mailbox);
	client_drop_calls(client);

	for (struct stub *stub = client->stubs, *next; stub; stub = next) {
		next = stub->next;
		free(stub);
	}
	free(client->url);
	if (closed)                   /* else pipe_changed() may still come */
		free(client);
}

ProtobufCService *rpc_stub(struct rpc_client *client, const ProtobufCServiceDescriptor *descriptor)
{
	struct stub *stub;

	for (stub = client->stubs; stub; stub = stub->next)
		if (stub->base.descriptor == descriptor)
			return &stub->base;

	stub = x_calloc(1, sizeof *stub);
	stub->base = (ProtobufCService){ .descriptor = descriptor, .invoke = stub_invoke };
	stub->client = client;
	stub->next = client->stubs;
	client->stubs = stub;
	return &stub->base;
}

void rpc_asked_for(struct rpc_client *client, const char *request_id)
{
	(void)str_copy(client->request_id, sizeof(client->request_id), str_of(request_id));
}

int64_t rpc_deadline(struct rpc_client *client, int64_t ms)
{
	int64_t before = client->deadline_ms;

	client->deadline_ms = ms > 0 ? ms : 1;
	return before;
}

void rpc_tries(struct rpc_client *client, unsigned tries)
{
	client->tries = tries;
}

const struct why *rpc_error(const struct rpc_client *client)
{
	return &client->why;
}

void rpc_reconnect(struct rpc_client *client)
{
	if (!client->closing)
		wire_redial(client->wire);
}

bool rpc_connected(const struct rpc_client *client)
{
	return atomic_load(&client->pipes) > 0;
}

/* --- the client: connection and calls --- */

static void pipe_changed(nng_pipe pipe, nng_pipe_ev event, void *arg)      /* nng's thread */
{
	struct rpc_client *client = arg;

	(void)pipe;
	atomic_fetch_add(&client->pipes, event == NNG_PIPE_EV_ADD_POST ? 1 : -1);
}

/* A URL that cannot be dialled leaves a client without a peer: its calls end with UNAVAILABLE. */
static bool client_open(struct rpc_client *client)
{
	rpc_few_threads();
	if (nng_req0_open(&client->socket))
		return false;
	(void)nng_socket_set_ms(client->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
	(void)nng_socket_set_size(client->socket, NNG_OPT_RECVMAXSZ, RPC_MAX_BYTES);
	(void)nng_pipe_notify(client->socket, NNG_PIPE_EV_ADD_POST, pipe_changed, client);
	(void)nng_pipe_notify(client->socket, NNG_PIPE_EV_REM_POST, pipe_changed, client);
	client->mailbox = mailbox_new(client->loop, on_call_home, client);
	if (!client->mailbox) {
		(void)nng_close(client->socket);
		return false;
	}
	client->wire = wire_dial(client->loop, client->socket, client->url);
	return true;
}

static void call_free(struct call *call)
{
	if (call->aio)
		nng_aio_free(call->aio);
	nng_msg_free(call->reply);
	nng_msg_free(call->copy);
	free(call);
}

/* Every pending closure hears NULL; then the calls themselves go. */
static void client_drop_calls(struct rpc_client *client)
{
	err_set(&client->why, ERR_UNAVAILABLE, "the client of %s was closed", client->url);
	while (!list_empty(&client->pending)) {
		struct call *call = list_entry(client->pending.next, struct call, link);

		list_del(&call->link);
		loop_timer_del(&call->deadline);
		call->closure(NULL, call->arg);
	}
	list_each_safe(it, &client->all)
		call_free(list_entry(it, struct call, all));
}

static void call_put_home(struct call *call)
{
	mailbox_put(call->client->mailbox, &call->mail);
}

static void call_moved(void *arg)      /* nng's thread */
{
	struct call *call = arg;

	call->result = nng_aio_result(call->aio);
	if (atomic_load(&call->phase) == CALL_SENDING) {
		if (call->result) {
			nng_msg_free(nng_aio_get_msg(call->aio));
			nng_aio_set_msg(call->aio, NULL);
			call_put_home(call);
			return;
		}
		atomic_store(&call->phase, CALL_WAITING);
		nng_ctx_recv(call->ctx, call->aio);
		/* The deadline may have cancelled between the two halves, when there was nothing to cancel. */
		if (atomic_load(&call->over))
			nng_aio_cancel(call->aio);
		return;
	}
	if (!call->result) {
		call->reply = nng_aio_get_msg(call->aio);
		nng_aio_set_msg(call->aio, NULL);
	}
	call_put_home(call);
}

static struct call *call_new(struct rpc_client *client)
{
	struct call *call = x_calloc(1, sizeof *call);

	if (nng_ctx_open(&call->ctx, client->socket)) {
		free(call);
		return NULL;
	}
	if (nng_aio_alloc(&call->aio, call_moved, call)) {
		(void)nng_ctx_close(call->ctx);
		free(call);
		return NULL;
	}
	call->client = client;
	list_init(&call->link);
	list_init(&call->mail);
	list_push(&client->all, &call->all);
	client->n_calls++;
	return call;
}

static struct call *call_take(struct rpc_client *client)
{
	struct call *call;

	if (list_empty(&client->idle))
		return client->n_calls < CALLS_MAX ? call_new(client) : NULL;
	/* The last one used is the warmest. */
	call = list_entry(client->idle.prev, struct call, link);
	list_del(&call->link);
	return call;
}

static void call_recycle(struct call *call)
{
	nng_msg_free(call->reply);
	nng_msg_free(call->copy);
	call->reply = call->copy = NULL;
	call->again = false;
	list_push(&call->client->idle, &call->link);
}

/* Runs the closure; the client may be gone afterwards. */
static void call_finish(struct call *call, ProtobufCMessage *reply)
{
	ProtobufCClosure closure = call->closure;
	void *arg = call->arg;

	call->closure = NULL;
	closure(reply, arg);
	if (reply)
		protobuf_c_message_free_unpacked(reply, NULL);
}

/* The share of one try. */
static void deadline_set(struct call *call)
{
	int64_t left_us = call->until_us - mono_us();

	loop_timer_set(call->client->loop, &call->deadline, left_us > 0 ? left_us / call->tries : 0, on_deadline);
}

static void on_deadline(struct loop_timer *timer)
{
	struct call *call = list_entry(timer, struct call, deadline);
	struct rpc_client *client = call->client;

	if (call->tries > 1 && !call->again) {
		call->tries--;
		deadline_set(call);
		/* One that is still being sent waits for a connection, and needs no second one. */
		call->again = atomic_load(&call->phase) == CALL_WAITING;
		if (call->again)
			nng_aio_cancel(call->aio);
		return;
	}
	atomic_store(&call->over, true);
	list_del(&call->link);
	nng_aio_cancel(call->aio);
	if (atomic_load(&call->phase) == CALL_SENDING && !rpc_connected(client))
		err_set(&client->why, ERR_UNAVAILABLE, "nothing answers at %s", client->url);
	else
		err_set(&client->why, ERR_DEADLINE, "no answer from %s in time", client->url);
	call_finish(call, NULL);
}

/* Calls that were never sent fail on the next turn, so that no closure runs before its stub returned. */
static void on_refused(struct loop_timer *timer)
{
	struct call *call = list_entry(timer, struct call, deadline);

	ProtobufCClosure closure = call->closure;
	void *arg = call->arg;

	list_del(&call->link);
	call->client->why = call->refused;
	if (call->aio) {
		call_recycle(call);
	} else {
		list_del(&call->all);
		free(call);
	}
	closure(NULL, arg);
}

static enum err transport_error(const struct call *call, struct why *why)
{
	if (call->result == NNG_EMSGSIZE)
		return err_set(why, ERR_TOO_LARGE, "the reply of %s is larger than %u bytes", call->client->url, RPC_MAX_BYTES);
	return err_set(why, ERR_UNAVAILABLE, "the connection to %s broke: %s", call->client->url, nng_strerror(call->result));
}

static bool call_again(struct call *call)
{
	nng_msg *msg;

	if (!call->result || call->result == NNG_EMSGSIZE || !call->copy || mono_us() >= call->until_us || (!call->again && call->tries < 2) ||
	    nng_msg_dup(&msg, call->copy))
		return false;
	call->tries -= !call->again;
	call->again = false;
	atomic_store(&call->phase, CALL_SENDING);
	nng_aio_set_msg(call->aio, msg);
	nng_ctx_send(call->ctx, call->aio);
	return true;
}

static void on_call_home(void *owner, struct list *mail)
{
	struct call *call = list_entry(mail, struct call, mail);
	ProtobufCMessage *reply = NULL;

	(void)owner;
	if (atomic_load(&call->over)) {
		/* call_moved() may still be about to cancel: it must not hit the next call. */
		nng_aio_wait(call->aio);
		call_recycle(call);
		return;
	}
	if (call_again(call))
		return;
	loop_timer_del(&call->deadline);
	list_del(&call->link);
	if (call->result)
		transport_error(call, &call->client->why);
	else
		(void)rpc_open_reply(str_n(nng_msg_body(call->reply), nng_msg_len(call->reply)), call->id, call->output, &reply,
				     &call->client->why);
	call_recycle(call);
	call_finish(call, reply);
}

/* The envelope with 'input' in it; NULL with *why when it is too large. */
static nng_msg *request_pack(const struct call *call, const ProtobufCServiceDescriptor *service, unsigned method,
			     const ProtobufCMessage *input, struct why *why)
{
	Corral__RpcRequest request = CORRAL__RPC_REQUEST__INIT;
	size_t inner = protobuf_c_message_get_packed_size(input), size;
	nng_msg *msg;

	if (inner > RPC_MAX_BYTES - 1024) {
		err_set(why, ERR_TOO_LARGE, "the request has %zu bytes, the limit is %u", inner, RPC_MAX_BYTES - 1024);
		return NULL;
	}
	request.call_id = call->id;
	request.service = (char *)service->name;
	request.method = method;
	request.deadline_ms = call->client->deadline_ms;
	request.request_id = call->client->request_id;
	request.body.data = x_malloc(inner + 1);
	request.body.len = protobuf_c_message_pack(input, request.body.data);
	size = corral__rpc_request__get_packed_size(&request);
	if (nng_msg_alloc(&msg, size) == 0) {
		(void)corral__rpc_request__pack(&request, nng_msg_body(msg));
	} else {
		err_set(why, ERR_INTERNAL, "no memory for a request of %zu bytes", size);
		msg = NULL;
	}
	free(request.body.data);
	return msg;
}

static struct call *call_refuse(struct rpc_client *client)
{
	struct call *call = x_calloc(1, sizeof *call);

	call->client = client;
	list_init(&call->link);
	list_init(&call->mail);
	list_push(&client->all, &call->all);
	err_set(&call->refused, ERR_UNAVAILABLE, "%u calls to %s are already waiting", client->n_calls, client->url);
	return call;
}

static void stub_invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *input, ProtobufCClosure closure, void *arg)
{
	struct rpc_client *client = list_entry(service, struct stub, base)->client;
	struct call *call = client->closing ? NULL : call_take(client);
	nng_msg *msg = NULL;

	if (!call)
		call = call_refuse(client);
	else
		call->refused.code = ERR_OK;
	call->id = rand_u64();
	call->output = service->descriptor->methods[method].output;
	call->closure = closure;
	call->arg = arg;
	call->tries = client->tries ? client->tries : 1;
	call->until_us = mono_us() + client->deadline_ms * 1000;
	client->tries = 0;
	atomic_store(&call->over, false);
	list_push(&client->pending, &call->link);
	if (call->refused.code == ERR_OK)
		msg = request_pack(call, service->descriptor, method, input, &call->refused);
	if (!msg) {
		loop_timer_set(client->loop, &call->deadline, 0, on_refused);
		return;
	}
	atomic_store(&call->phase, CALL_SENDING);
	deadline_set(call);
	if (call->tries > 1 && nng_msg_dup(&call->copy, msg))
		call->copy = NULL;
	nng_aio_set_msg(call->aio, msg);
	nng_ctx_send(call->ctx, call->aio);
}

/* --- the server's public side --- */

struct rpc_server *rpc_server_new(struct loop *loop, const char *url, struct why *why)
{
	struct rpc_server *server = x_calloc(1, sizeof *server);

	list_init(&server->all);
	list_init(&server->asked);
	server->loop = loop;
	server->mailbox = mailbox_new(loop, on_request, server);
	if (!server->mailbox) {
		err_set(why, ERR_INTERNAL, "no descriptor left for the RPC endpoint %s", url);
		free(server);
		return NULL;
	}
	if (server_open(server, url, why) == ERR_OK)
		return server;
	rpc_server_free(server);
	return NULL;
}

void rpc_server_add(struct rpc_server *server, ProtobufCService *impl)
{
	if (server->n_services == SERVICES_MAX) {
		fprintf(stderr, "rpc: more than %d services at one endpoint\n", SERVICES_MAX);
		abort();
	}
	server->destroy[server->n_services] = impl->destroy;
	server->services[server->n_services++] = impl;
}

ProtobufCService *rpc_server_find(const struct rpc_server *server, const char *name)
{
	for (size_t i = 0; i < server->n_services; i++)
		if (!strcmp(server->services[i]->descriptor->name, name))
			return server->services[i];
	return NULL;
}

void rpc_server_free(struct rpc_server *server)
{
	if (!server)
		return;
	wire_free(server->wire);
	(void)wire_close(server->socket);
	list_each_safe(it, &server->all)
		seat_free(list_entry(it, struct seat, all));
	mailbox_free(server->mailbox);
	list_each_safe(it, &server->asked) {
		list_entry(it, struct asked, link)->server = NULL;
		list_del(it);
	}
	for (size_t i = 0; i < server->n_services; i++)
		if (server->destroy[i])
			server->destroy[i](server->services[i]);
	free(server);
}

const char *rpc_request_id(const void *closure_data) { return ((const struct asked *)closure_data)->request_id; }

void rpc_fail(void *closure_data, enum err code, const char *text)
{
	Corral__RpcReply reply = CORRAL__RPC_REPLY__INIT;

	LOG_DEBUG("a question was refused", LOG_S("request_id", rpc_request_id(closure_data)), LOG_S("code", err_name(code)), LOG_S("error", text));

	reply.error = code;
	reply.text = (char *)text;
	reply_send(closure_data, &reply);
}

/* --- the server: seats and requests --- */

static enum err server_open(struct rpc_server *server, const char *url, struct why *why)
{
	int rv;

	rpc_few_threads();
	rv = nng_rep0_open(&server->socket);
	if (rv)
		return err_set(why, ERR_INTERNAL, "cannot open an RPC endpoint: %s", nng_strerror(rv));
	(void)nng_socket_set_size(server->socket, NNG_OPT_RECVMAXSZ, RPC_MAX_BYTES);
	server->wire = wire_listen(server->loop, server->socket, url, why);
	if (!server->wire)
		return why->code;
	for (int i = 0; i < SEATS_FIRST; i++)
		if (!seat_add(server))
			return err_set(why, ERR_INTERNAL, "no memory for the RPC endpoint %s", url);
	return ERR_OK;
}

static void seat_moved(void *arg)      /* nng's thread */
{
	struct seat *seat = arg;
	int result = nng_aio_result(seat->aio);

	if (atomic_load(&seat->replying)) {
		if (result) {
			nng_msg_free(nng_aio_get_msg(seat->aio));
			nng_aio_set_msg(seat->aio, NULL);
		}
		if (result == NNG_ECLOSED)
			return;
		atomic_store(&seat->replying, false);
		nng_aio_set_timeout(seat->aio, NNG_DURATION_INFINITE);
		nng_ctx_recv(seat->ctx, seat->aio);
		return;
	}
	if (result == NNG_ECLOSED || result == NNG_ECANCELED)
		return;
	seat->request = result ? NULL : nng_aio_get_msg(seat->aio);
	nng_aio_set_msg(seat->aio, NULL);
	mailbox_put(seat->server->mailbox, &seat->mail);
}

static bool seat_add(struct rpc_server *server)
{
	struct seat *seat = x_calloc(1, sizeof *seat);

	if (nng_ctx_open(&seat->ctx, server->socket) || nng_aio_alloc(&seat->aio, seat_moved, seat)) {
		free(seat);
		return false;
	}
	seat->server = server;
	list_init(&seat->mail);
	list_push(&server->all, &seat->all);
	server->n_seats++;
	nng_aio_set_timeout(seat->aio, NNG_DURATION_INFINITE);
	nng_ctx_recv(seat->ctx, seat->aio);
	return true;
}

static void seat_free(struct seat *seat)
{
	nng_aio_stop(seat->aio);
	nng_aio_free(seat->aio);
	nng_msg_free(seat->request);
	free(seat);
}

static void on_answer(const ProtobufCMessage *message, void *closure_data)
{
	Corral__RpcReply reply = CORRAL__RPC_REPLY__INIT;
	size_t size;

	if (!message) {
		rpc_fail(closure_data, ERR_INTERNAL, "the method gave no answer");
		return;
	}
	size = protobuf_c_message_get_packed_size(message);
	if (size > RPC_MAX_BYTES - 1024) {
		rpc_fail(closure_data, ERR_TOO_LARGE, "the answer is larger than a message may be");
		return;
	}
	reply.body.data = x_malloc(size + 1);
	reply.body.len = protobuf_c_message_pack(message, reply.body.data);
	reply_send(closure_data, &reply);
	free(reply.body.data);
}

/* Sends *reply as the answer to what was asked, whose end this is. */
static void reply_send(struct asked *asked, const Corral__RpcReply *reply)
{
	Corral__RpcReply whole = *reply;
	struct seat *seat = asked->seat;
	nng_msg *msg;

	if (asked->server) {
		asked->server->n_busy--;
		list_del(&asked->link);
		whole.call_id = asked->call_id;
		if (nng_msg_alloc(&msg, corral__rpc_reply__get_packed_size(&whole)))
			abort();      /* out of memory, as everywhere */
		(void)corral__rpc_reply__pack(&whole, nng_msg_body(msg));
		atomic_store(&seat->replying, true);
		nng_aio_set_timeout(seat->aio, REPLY_SEND_MS);
		nng_aio_set_msg(seat->aio, msg);
		nng_ctx_send(seat->ctx, seat->aio);
	}
	free(asked);
}

static struct asked *asked_new(struct seat *seat)
{
	struct asked *asked = x_calloc(1, sizeof *asked);

	asked->server = seat->server;
	asked->seat = seat;
	list_push(&seat->server->asked, &asked->link);
	/* Methods may keep closures for long: there is always a seat left to receive. */
	if (++seat->server->n_busy >= seat->server->n_seats && seat->server->n_seats < SEATS_MAX)
		(void)seat_add(seat->server);
	return asked;
}

static void on_request(void *owner, struct list *mail)
{
	struct seat *seat = list_entry(mail, struct seat, mail);
	struct rpc_server *server = owner;
	struct rpc_opened opened;
	struct asked *asked;
	struct arena *mem;
	struct why why;
	enum err err;

	if (!seat->request) {
		nng_ctx_recv(seat->ctx, seat->aio);
		return;
	}
	asked = asked_new(seat);
	/* Room for the envelope, the body and what is made of it: a batch of facts is thousands of small pieces. */
	mem = arena_new(4096 + 3 * nng_msg_len(seat->request));
	err = rpc_open_request(mem, str_n(nng_msg_body(seat->request), nng_msg_len(seat->request)), server->services, server->n_services, &opened,
			       &why);
	nng_msg_free(seat->request);
	seat->request = NULL;
	asked->call_id = opened.call_id;
	str_copy(asked->request_id, sizeof(asked->request_id), opened.request_id);
	if (err)
		rpc_fail(asked, err, why.text);
	else          /* the method may free the server: only the input is ours afterwards */
		opened.service->invoke(opened.service, opened.method, opened.input, on_answer, asked);
	arena_free(mem);
}
