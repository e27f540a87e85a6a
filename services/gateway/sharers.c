/* sharers.c - see sharers.h. */
#include "services/gateway/sharers.h"

#include <stdio.h>

#include "common/data/log.h"
#include "common/svc/svc.h"

static FILE *open_file(const struct gateway *g, const char *file, char path[1024], const char *mode)
{
	snprintf(path, 1024, "%s/%s", svc_state_dir(g->svc), file);
	return fopen(path, mode);
}

uint32_t sharers_load(const struct gateway *g, const char *file)
{
	char path[1024];
	unsigned n = 1;
	FILE *f = open_file(g, file, path, "re");

	if (f && fscanf(f, "%u", &n) != 1)
		n = 1;
	if (f)
		fclose(f);
	return n ? n : 1;
}

void sharers_save(const struct gateway *g, const char *file, uint32_t n)
{
	char path[1024];
	FILE *f = open_file(g, file, path, "we");

	if (!f || fprintf(f, "%u\n", n) < 0)
		LOG_WARN("how many gateways there are cannot be kept for the next start", LOG_S("path", path));
	if (f)
		fclose(f);
}
