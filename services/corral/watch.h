/* watch.h - jobs on models for people: what the gateway says of one, a bar while it runs, plain lines where nobody watches. */
#ifndef CORRAL_CORRAL_WATCH_H
#define CORRAL_CORRAL_WATCH_H
#include "services/corral/remote.h"

/* Until the job ends: EXIT_OK when it is done, EXIT_FAILED when it failed or was cancelled, with the reason on err.
 * With --json the job's last state is printed, once. */
int watch_job(struct cli *, const char *id);
/* "5.2 GB", "3 min 20 s", for people. In the arena. */
const char *bytes_text(struct arena *, int64_t bytes);
const char *seconds_text(struct arena *, int64_t s);
/* One line: "downloading 45 %, 2.4 of 5.2 GB, 3.1 MB/s, 12 s left". */
const char *job_line(struct cli *, const struct json *, uint32_t job);
#endif
