/* rpc_envelope.c - see rpc_envelope.h. */
#include "common/io/rpc_envelope.h"

#include "rpc.pb-c.h"

static enum err open_inner(ProtobufCAllocator *, const Corral__RpcRequest *, ProtobufCService *const *, size_t n, struct rpc_opened *, struct why *);
static enum err open_answer(const Corral__RpcReply *, uint64_t call_id, const ProtobufCMessageDescriptor *, ProtobufCMessage **, struct why *);

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

enum err rpc_open_request(struct arena *mem, struct str bytes, ProtobufCService *const *services, size_t n, struct rpc_opened *ret,
			  struct why *why)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };
	Corral__RpcRequest *request = NULL;

	*ret = (struct rpc_opened){ .request_id = STR("") };
	if (bytes.n > RPC_MAX_BYTES)
		return err_set(why, ERR_TOO_LARGE, "the request has %zu bytes, the limit is %u", bytes.n, RPC_MAX_BYTES);
	request = corral__rpc_request__unpack(&alloc, bytes.n, (const uint8_t *)bytes.p);
	if (!request)
		return err_set(why, ERR_MALFORMED, "the request's envelope cannot be decoded");

	ret->call_id = request->call_id;
	ret->deadline_ms = request->deadline_ms;
	ret->request_id = str_of(request->request_id);
	return open_inner(&alloc, request, services, n, ret, why);
}

enum err rpc_open_reply(struct str bytes, uint64_t call_id, const ProtobufCMessageDescriptor *output, ProtobufCMessage **ret_message,
			struct why *why)
{
	Corral__RpcReply *reply = NULL;
	enum err err;

	*ret_message = NULL;
	if (bytes.n > RPC_MAX_BYTES)
		return err_set(why, ERR_TOO_LARGE, "the reply has %zu bytes, the limit is %u", bytes.n, RPC_MAX_BYTES);
	reply = corral__rpc_reply__unpack(NULL, bytes.n, (const uint8_t *)bytes.p);
	if (!reply)
		return err_set(why, ERR_MALFORMED, "the reply's envelope cannot be decoded");

	err = open_answer(reply, call_id, output, ret_message, why);
	corral__rpc_reply__free_unpacked(reply, NULL);
	return err;
}

static ProtobufCService *find_service(ProtobufCService *const *services, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(services[i]->descriptor->name, name))
			return services[i];
	return NULL;
}

static enum err open_inner(ProtobufCAllocator *alloc, const Corral__RpcRequest *request, ProtobufCService *const *services, size_t n,
			   struct rpc_opened *ret, struct why *why)
{
	ProtobufCService *service = find_service(services, n, request->service);
	const ProtobufCMethodDescriptor *method;

	if (!service)
		return err_set(why, ERR_NOT_IMPLEMENTED, "there is no service '%.80s' here", request->service);
	if (request->method >= service->descriptor->n_methods)
		return err_set(why, ERR_NOT_IMPLEMENTED, "service '%s' has no method %u", service->descriptor->name, request->method);

	method = &service->descriptor->methods[request->method];
	ret->input = protobuf_c_message_unpack(method->input, alloc, request->body.len, request->body.data);
	if (!ret->input)
		return err_set(why, ERR_MALFORMED, "the request of %s.%s cannot be decoded", service->descriptor->short_name, method->name);
	ret->service = service;
	ret->method = request->method;
	ret->output = method->output;
	return ERR_OK;
}

/* A code that this version does not know comes from a newer peer. */
static enum err known(uint32_t code)
{
	return code < ERR_COUNT ? (enum err)code : ERR_INTERNAL;
}

static enum err open_answer(const Corral__RpcReply *reply, uint64_t call_id, const ProtobufCMessageDescriptor *output,
			    ProtobufCMessage **ret_message, struct why *why)
{
	if (reply->error)
		return err_set(why, known(reply->error), "%s", reply->text);
	if (reply->call_id != call_id)
		return err_set(why, ERR_MALFORMED, "the reply belongs to another call");
	*ret_message = protobuf_c_message_unpack(output, NULL, reply->body.len, reply->body.data);
	if (!*ret_message)
		return err_set(why, ERR_MALFORMED, "the reply's %s cannot be decoded", output->short_name);
	return ERR_OK;
}
