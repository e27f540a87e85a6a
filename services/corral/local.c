/* local.c - see local.h. With main.c the only file here that knows another service's functions. */
#include "services/corral/local.h"

#include "services/access/service.h"

const struct svc_def *const *cli_services;
unsigned cli_n_services;

static enum err look(struct cli *c, const struct local_place *p, enum err (*fn)(void *, const void *, const char *, struct why *), void *arg, struct why *why)
{
	char *argv[4] = { (char *)"corral" };
	int argc = 1;

	if (p->state_dir[0])
		argv[argc++] = arena_printf(c->mem, "--state-dir=%s", p->state_dir);
	if (p->config[0])
		argv[argc++] = arena_printf(c->mem, "--config=%s", p->config);
	return svc_look(cli_services, cli_n_services, "access", argc, argv, fn, arg, why);
}

struct making {
	struct cli *cli;
	const Corral__Key *wanted;
	Corral__CreateKeyReply *ret;
	const char **ret_file;
};

static const char *file_of(struct cli *c, const void *config, const char *dir)
{
	const char *file = access_file(config, dir, c->mem);

	return file ? arena_printf(c->mem, "%s", file) : NULL;
}

static enum err make(void *arg, const void *config, const char *dir, struct why *why)
{
	struct making *m = arg;

	*m->ret_file = file_of(m->cli, config, dir);
	return access_make_key(config, dir, m->wanted, m->cli->mem, m->ret, why);
}

enum err local_make_key(struct cli *c, const struct local_place *p, const Corral__Key *wanted, Corral__CreateKeyReply *ret, const char **ret_file,
			struct why *why)
{
	struct making m = { c, wanted, ret, ret_file };

	return look(c, p, make, &m, why);
}

enum err local_upgrade(struct cli *c, const struct local_place *p, const char *program, struct why *why)
{
	char *argv[4] = { (char *)(uintptr_t)"corral" };
	int argc = 1;

	if (p->state_dir[0])
		argv[argc++] = arena_printf(c->mem, "--state-dir=%s", p->state_dir);
	if (p->config[0])
		argv[argc++] = arena_printf(c->mem, "--config=%s", p->config);
	return svc_upgrade(cli_services, cli_n_services, program, argc, argv, why);
}

struct finding { struct cli *cli; const char **ret_file; };

static enum err find(void *arg, const void *config, const char *dir, struct why *why)
{
	struct finding *f = arg;

	*f->ret_file = file_of(f->cli, config, dir);
	return *f->ret_file ? ERR_OK : err_set(why, ERR_UNAVAILABLE, "the audit log is in no file of this machine");
}

enum err local_audit_file(struct cli *c, const struct local_place *p, const char **ret_file, struct why *why)
{
	struct finding f = { c, ret_file };

	return look(c, p, find, &f, why);
}

enum err local_verify(struct cli *c, const char *file, uint64_t head_seq, const uint8_t *head, Corral__AuditVerifyReply *ret, struct why *why)
{
	return access_verify_file(file, head_seq, head, c->mem, ret, why);
}
