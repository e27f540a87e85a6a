/* jobs_rpc.h - the service ModelJobs of jobs.proto over jobs.h. */
#ifndef REGISTRY_JOBS_RPC_H
#define REGISTRY_JOBS_RPC_H
#include "common/io/rpc.h"
#include "services/model-registry/jobs.h"

struct jobs_endpoint;
/* The server owns it. */
struct jobs_endpoint *jobs_endpoint_add(struct rpc_server *, struct jobs *);
void jobs_endpoint_open(struct jobs_endpoint *, struct jobs *);       /* again, after a close */
void jobs_endpoint_close(struct jobs_endpoint *);     /* before the jobs go; NULL is fine */
#endif
