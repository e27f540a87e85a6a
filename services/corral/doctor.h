/* doctor.h - what the parts of `corral doctor` share. */
#ifndef CORRAL_CORRAL_DOCTOR_H
#define CORRAL_CORRAL_DOCTOR_H
#include "common/data/json_write.h"
#include "services/corral/remote.h"

struct doctor_opts { const char *config, *state_dir; };

enum finding { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct doctor {
	struct cli *cli;
	const struct doctor_opts *opts;
	struct remote *gateway;
	struct json_out json;         /* with --json: the findings so far */
	const char *settings;         /* what serve --check-config printed; NULL = it failed */
	unsigned count[3];            /* findings */
	unsigned backends;
	bool reachable;               /* the gateway answers */
};

/* Reports one finding: a check's name and a sentence that says, unless it is ok, what to do. */
void found(struct doctor *, enum finding, const char *check, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* doctor_machine.c; check_ports comes after the gateway was asked */
void check_config(struct doctor *);
void check_ports(struct doctor *);
void check_state_dir(struct doctor *);
void check_descriptors(struct doctor *);

/* The value in effect of an option of serve; "" when it is empty or not known. Lives in cli->mem. */
const char *config_value(struct doctor *, const char *name);
/* The same from a text as --check-config prints it. */
struct str setting_in(struct str text, const char *name);
#endif
