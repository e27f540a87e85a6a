/* jobs_rpc.c - see jobs_rpc.h. */
#include "services/model-registry/jobs_rpc.h"

#include <stdlib.h>

#include "services/model-registry/acts.h"

enum { LIST_USUAL = 100, LIST_MOST = 500 };

struct jobs_endpoint {
	Corral__ModelJobs_Service base;       /* first: freed by the RPC server */
	struct jobs *jobs;            /* NULL: closed */
};

static void rpc_jobs_act(Corral__ModelJobs_Service *, const Corral__ModelAction *, Corral__ActionReply_Closure, void *);
static void rpc_jobs_jobs(Corral__ModelJobs_Service *, const Corral__JobsQuery *, Corral__JobsReply_Closure, void *);
static void rpc_jobs_cancel(Corral__ModelJobs_Service *, const Corral__JobRef *, Corral__Job_Closure, void *);
static void rpc_jobs_check(Corral__ModelJobs_Service *, const Corral__AdminCheck *, Corral__AdminTarget_Closure, void *);

static void destroy(ProtobufCService *service) { free(service); }

struct jobs_endpoint *jobs_endpoint_add(struct rpc_server *server, struct jobs *jobs)
{
	static const Corral__ModelJobs_Service methods = CORRAL__MODEL_JOBS__INIT(rpc_jobs_);
	struct jobs_endpoint *e = x_calloc(1, sizeof(*e));

	e->base = methods;
	e->base.base.destroy = destroy;
	e->jobs = jobs;
	rpc_server_add(server, &e->base.base);
	return e;
}

void jobs_endpoint_close(struct jobs_endpoint *e)
{
	if (e)
		e->jobs = NULL;
}

void jobs_endpoint_open(struct jobs_endpoint *e, struct jobs *jobs) { e->jobs = jobs; }

static struct jobs *jobs_of(Corral__ModelJobs_Service *service, void *data)
{
	struct jobs *jobs = ((struct jobs_endpoint *)(void *)service)->jobs;

	if (!jobs)
		rpc_fail(data, ERR_UNAVAILABLE, "the registry is shutting down");
	return jobs;
}

static void rpc_jobs_act(Corral__ModelJobs_Service *service, const Corral__ModelAction *q, Corral__ActionReply_Closure closure, void *data)
{
	struct jobs *jobs = jobs_of(service, data);
	Corral__ActionReply reply = CORRAL__ACTION_REPLY__INIT;
	struct arena *mem;
	Corral__Job pb;
	struct why why = { 0 };
	struct job *j;
	bool joined;

	if (!jobs)
		return;
	j = jobs_act(jobs, str_of(q->action), str_of(q->model), str_of(q->backend), q->grace_ms, &joined, &why);
	if (!j) {
		rpc_fail(data, why.code, why.text);
		return;
	}
	mem = arena_new(0);
	job_pb(j, mem, &pb);
	reply.job = &pb;
	reply.joined = joined;
	closure(&reply, data);
	arena_free(mem);
}

static void rpc_jobs_jobs(Corral__ModelJobs_Service *service, const Corral__JobsQuery *q, Corral__JobsReply_Closure closure, void *data)
{
	struct jobs *jobs = jobs_of(service, data);
	Corral__JobsReply reply = CORRAL__JOBS_REPLY__INIT;
	uint32_t most = !q->limit ? LIST_USUAL : q->limit > LIST_MOST ? LIST_MOST : q->limit;
	struct arena *mem;

	if (!jobs)
		return;
	mem = arena_new(0);
	reply.jobs = arena_array(mem, Corral__Job *, most + 1);
	for (struct list *it = jobs->all.prev; it != &jobs->all && reply.n_jobs < most; it = it->prev) {
		struct job *j = list_entry(it, struct job, node);

		if ((q->id[0] && strcmp(q->id, j->id) != 0) || (q->active_only && !job_is_active(j)))
			continue;
		reply.jobs[reply.n_jobs] = arena_new_of(mem, Corral__Job);
		job_pb(j, mem, reply.jobs[reply.n_jobs++]);
	}
	if (q->id[0] && !reply.n_jobs)
		rpc_fail(data, ERR_NOT_FOUND, "there is no such job, or it ended long ago");
	else
		closure(&reply, data);
	arena_free(mem);
}

static void rpc_jobs_cancel(Corral__ModelJobs_Service *service, const Corral__JobRef *q, Corral__Job_Closure closure, void *data)
{
	struct jobs *jobs = jobs_of(service, data);
	struct job *j = jobs ? jobs_find(jobs, str_of(q->id)) : NULL;
	struct arena *mem;
	struct why why = { 0 };
	Corral__Job pb;

	if (!jobs)
		return;
	if (!j) {
		rpc_fail(data, ERR_NOT_FOUND, "there is no such job, or it ended long ago");
	} else if (jobs_cancel(jobs, j, &why)) {
		rpc_fail(data, why.code, why.text);
	} else {
		mem = arena_new(0);
		job_pb(j, mem, &pb);
		closure(&pb, data);
		arena_free(mem);
	}
}

static void rpc_jobs_check(Corral__ModelJobs_Service *service, const Corral__AdminCheck *q, Corral__AdminTarget_Closure closure, void *data)
{
	struct jobs *jobs = jobs_of(service, data);
	struct arena *mem;
	Corral__AdminTarget target;
	struct why why = { 0 };

	if (!jobs)
		return;
	mem = arena_new(0);
	if (jobs_check(jobs, q, mem, &target, &why))
		rpc_fail(data, why.code, why.text);
	else
		closure(&target, data);
	arena_free(mem);
}
