/* http_server_fuzz.c - a whole server connection fed with anything, in pieces of any size, and left at any moment.
 *
 * The first byte of the input chooses the size of the pieces and how the client leaves. What must hold: whatever the server
 * says is a sequence of well-formed answers, each request that reached the handler ends once (answered or gone), no
 * connection stays. */
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/io/http_server.h"
#include "tests/fuzz/http_fuzz.h"

static struct loop *loop;
static struct http_server *server;
static struct sockaddr_un at = { .sun_family = AF_UNIX };
static struct http_xchg *held;
static int open_exchanges;

static void on_gone(struct http_xchg *x, const char *why)
{
	MUST(x == held && open_exchanges == 1);
	held = NULL;
	open_exchanges--;
}

static size_t on_head(struct http_xchg *x, void *arg)
{
	if (x->path.n == 2)
		http_reply(x, 403, STR(""), STR("no"));
	return x->path.n == 3 ? 16 : 0;
}

static void on_request(struct http_xchg *x, void *arg)
{
	MUST(open_exchanges == 0 && x->path.n > 0);
	MUST(x->head.framing != HTTP_LENGTH || x->body.n == x->head.content_length);
	for (uint32_t i = 0; i < x->head.n_headers; i++)
		MUST(x->head.headers[i].name.n && memchr(x->head.headers[i].name.p, ':', x->head.headers[i].name.n) == NULL);
	if (x->path.n == 4) {
		x->on_gone = on_gone;
		held = x;
		open_exchanges++;
		return;
	}
	http_reply_start(x, 200, STR(""), x->path.n % 2 ? -1 : 6);
	http_reply_data(x, STR("answer"));
	http_reply_end(x);
}

/* The server's own text may speak of HTTP/1.1, which check_answers() would take for the next answer. */
static void on_refused(struct http_xchg *x, const struct why *why, void *arg)
{
	MUST(why->code != ERR_OK && why->text[0]);
	http_reply(x, err_status(why->code), STR(""), STR("refused"));
}

static void stop(void *arg) { loop_stop(loop); }
static void stop_next(void *arg) { loop_post(loop, stop, NULL); }      /* what is posted runs before the loop looks at descriptors */

static void turns(int n)
{
	while (n--) {
		loop_post(loop, stop_next, NULL);
		loop_run(loop);
	}
}

static void start(void)
{
	static const struct http_handler handler = { .on_head = on_head, .on_request = on_request, .on_refused = on_refused };
	char address[64];
	struct why why;

	signal(SIGPIPE, SIG_IGN);
	loop = loop_new();
	snprintf(address, sizeof(address), "unix:/tmp/http_server_fuzz.%d", (int)getpid());
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", address + 5);
	server = http_server_new(loop, address, &handler, NULL, &why);
	MUST(server);
}

static void read_answers(int fd, struct buf *got)
{
	ssize_t n;

	do {
		buf_reserve(got, 65536);
		n = recv(fd, got->p + got->n, 65536, 0);
		got->n += n > 0 ? (size_t)n : 0;
	} while (n > 0);
}

/* Whether it was an answer to HEAD is not known here: a head alone is accepted where a body is announced. */
static void check_answers(struct str in)
{
	while (in.n) {
		struct http_head *h = malloc(sizeof(*h));
		enum http_parse r = http_parse_response(h, in, 0, true, NULL, &(struct why){ 0 });

		MUST(r != HTTP_BAD);
		if (r == HTTP_MORE)
			in.n = 0;
		else
			in = str_from(in, h->head_len);
		free(h);
		/* the body: up to the next status line */
		in = str_from(in, str_find(in, STR("HTTP/1.1 ")) ? (size_t)(str_find(in, STR("HTTP/1.1 ")) - in.p) : in.n);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const size_t sizes[] = { 1, 7, 64, 4096 };
	struct buf got = { 0 };
	size_t piece;
	bool accepted;
	int fd;

	if (!loop)
		start();
	if (n < 1 || n > 20000)
		return 0;
	piece = sizes[data[0] & 3];
	if (n / piece > 400)
		piece = n / 400 + 1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	MUST(connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0);
	turns(1);
	accepted = http_server_conns(server) == 1;
	for (size_t i = 1; i < n; i += piece) {
		(void)!send(fd, data + i, piece < n - i ? piece : n - i, MSG_NOSIGNAL);
		turns(1);
		if (held && (data[0] & 4)) {
			struct http_xchg *x = held;

			held = NULL;
			open_exchanges--;
			http_reply(x, 200, STR("X: y\r\n"), STR("late"));
		}
	}
	turns(2);
	read_answers(fd, &got);
	if (data[0] & 8) {
		shutdown(fd, SHUT_WR);
		turns(2);
		read_answers(fd, &got);
	}
	close(fd);
	for (int i = 0; http_server_conns(server) && i < 20; i++)
		turns(1);
	MUST(accepted && http_server_conns(server) == 0 && open_exchanges == 0);
	check_answers(buf_as_str(&got));
	buf_free(&got);
	return 0;
}
