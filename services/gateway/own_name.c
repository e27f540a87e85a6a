/* own_name.c - see own_name.h. */
#include "services/gateway/own_name.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/id.h"

bool own_name(struct gateway *g, const char *file, char ret[40], struct why *why)
{
	char path[1024];
	struct uuid id;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", svc_state_dir(g->svc), file);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	n = fd < 0 ? -1 : read(fd, ret, 36);
	ret[n > 0 ? n : 0] = '\0';
	if (n >= 0 && !uuid_parse(str_of(ret), &id)) {
		uuid_format(uuid_v7(wall_us()), ret);
		n = pwrite(fd, ret, 36, 0);
	}
	if (fd >= 0)
		close(fd);
	if (n != 36)
		err_set(why, ERR_STORE_FAILED, "%s cannot be written", path);
	return n == 36;
}
