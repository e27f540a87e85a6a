/* chat.c - `corral chat`: one question, or a conversation at the terminal. */
#include <errno.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/json_write.h"
#include "services/corral/turn.h"

enum { MAX_INPUT_BYTES = 64 * 1024 * 1024 };

struct chat_opts {
	const char *model, *system, *message, *max_tokens;
	bool quiet;
};

static const struct flag flags[] = {
	FLAG(struct chat_opts, model, 0, "NAME", "The model to ask; auto (the default) lets Corral choose."),
	FLAG(struct chat_opts, system, 's', "TEXT", "Instructions that stand before the conversation."),
	FLAG(struct chat_opts, message, 'm', "TEXT", "What to ask, if not written as TEXT; useful when it begins with a dash."),
	FLAG(struct chat_opts, max_tokens, 0, "N", "The longest answer, in tokens."),
	FLAG(struct chat_opts, quiet, 'q', NULL, "Print the answer only, and not the line about it."),
	{ 0 }
};

struct chat {
	struct cli *cli;
	struct remote *remote;
	const struct chat_opts *opts;
	const char *model;
	char conversation[37];
	int64_t max_tokens;
	struct message *messages;     /* as many as were said, and room for more */
	unsigned n, room;
	bool thinking;                /* the last piece shown was a thought */
	char last;                    /* last character shown; '\n' at the start */
};

/* --- the conversation --- */

static void add_message(struct chat *ch, const char *role, struct str text)
{
	if (ch->n == ch->room) {
		ch->room = ch->room * 2 + 8;
		ch->messages = x_realloc(ch->messages, sizeof(*ch->messages) * ch->room);
	}
	ch->messages[ch->n++] = (struct message){ role, arena_str(ch->cli->mem, text) };
}

static void begin_conversation(struct chat *ch)
{
	uuid_format(uuid_v7(wall_us()), ch->conversation);
	ch->n = 0;
	if (*ch->opts->system)
		add_message(ch, "system", str_of(ch->opts->system));
}

/* --- showing --- */

static void show(struct chat *ch, struct str piece)
{
	struct buf clean = { 0 };

	/* a pipe gets the bytes as they are; a terminal nothing that it would obey */
	if (ch->cli->out_tty)
		add_shown(&clean, piece, true);
	else
		buf_str(&clean, piece);
	fwrite(buf_z(&clean), 1, clean.n, ch->cli->out);
	if (clean.n)
		ch->last = clean.p[clean.n - 1];
	buf_free(&clean);
}

/* Thoughts are shown to people only: what is written to a file or a pipe is the answer. */
static void on_text(void *arg, struct str piece, bool thinking)
{
	struct chat *ch = arg;
	struct cli *c = ch->cli;

	if (c->json || (thinking && !c->out_tty))
		return;
	if (thinking != ch->thinking) {
		if (!thinking)
			show(ch, ch->last == '\n' ? STR("\n") : STR("\n\n"));
		fputs(thinking ? tone_on(c->colour, TONE_FAINT) : tone_off(c->colour, TONE_FAINT), c->out);
		ch->thinking = thinking;
	}
	show(ch, piece);
	fflush(c->out);
}

static void end_shown(struct chat *ch)
{
	if (ch->thinking)
		fputs(tone_off(ch->cli->colour, TONE_FAINT), ch->cli->out);
	if (ch->last != '\n')
		fputc('\n', ch->cli->out);
	ch->thinking = false;
	ch->last = '\n';
	fflush(ch->cli->out);
}

static void print_json(struct cli *c, const struct turn *t)
{
	static const char *const ends[] = { "done", "interrupted", "failed", "unreachable" };
	struct buf b = { 0 };
	struct json_out jo;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "end", ends[t->end]);
	jw_kv_strz(&jo, "error", t->end == TURN_FAILED || t->end == TURN_UNREACHABLE ? t->error : NULL);
	jw_kv_strz(&jo, "request_id", t->request_id);
	jw_kv_strz(&jo, "model", t->model);
	jw_kv_strz(&jo, "backend", t->backend);
	jw_kv_strz(&jo, "reason", t->reason);
	jw_kv_str(&jo, "content", buf_as_str(&t->text));
	jw_kv_strz(&jo, "finish_reason", *t->finish ? t->finish : NULL);
	jw_key(&jo, "prompt_tokens"), t->prompt_tokens >= 0 ? jw_i64(&jo, t->prompt_tokens) : jw_null(&jo);
	jw_key(&jo, "completion_tokens"), t->completion_tokens >= 0 ? jw_i64(&jo, t->completion_tokens) : jw_null(&jo);
	jw_kv_double(&jo, "ttft_ms", (double)t->first_us / 1000);
	jw_kv_double(&jo, "latency_ms", (double)t->total_us / 1000);
	json_done(&jo);
	fprintf(c->out, "%s\n", buf_z(&b));
	fflush(c->out);
	buf_free(&b);
}

static void print_summary(struct cli *c, const struct turn *t)
{
	struct buf b = { 0 };

	turn_summary(t, &b);
	fprintf(c->err, "%s%s%s\n", tone_on(c->colour_err, TONE_FAINT), buf_z(&b), tone_off(c->colour_err, TONE_FAINT));
	buf_free(&b);
}

static int report(struct chat *ch, const struct turn *t)
{
	struct cli *c = ch->cli;

	switch (t->end) {
	case TURN_UNREACHABLE:
		return cli_answer_failed(c, &(struct answer){ .error = t->error });
	case TURN_FAILED:
		return cli_answer_failed(c, &(struct answer){ .status = t->status >= 400 ? t->status : 502, .error = t->error });
	case TURN_INTERRUPTED:
		fprintf(c->err, "%s(interrupted)%s\n", tone_on(c->colour_err, TONE_FAINT), tone_off(c->colour_err, TONE_FAINT));
		return EXIT_INTERRUPTED;
	default:
		if (!c->json && !ch->opts->quiet)
			print_summary(c, t);
		return EXIT_OK;
	}
}

/* One question and its answer. What was said before an interruption stays in the conversation. */
static int say(struct chat *ch, struct str text)
{
	struct question q;
	struct turn t;
	int status;

	add_message(ch, "user", text);
	q = (struct question){ .model = ch->model, .messages = ch->messages, .n_messages = ch->n, .conversation = ch->conversation, .max_tokens = ch->max_tokens };
	ch->last = '\n';
	turn_run(ch->remote, &q, on_text, ch, &t);
	if (ch->cli->json)
		print_json(ch->cli, &t);
	else
		end_shown(ch);
	status = report(ch, &t);
	if (t.text.n)
		add_message(ch, "assistant", buf_as_str(&t.text));
	else
		ch->n--;
	turn_free(&t);
	return status;
}

/* --- at the terminal --- */

static const char commands_help[] =
	"  /model NAME   ask this model from now on; auto lets Corral choose\n"
	"  /new          forget what was said\n"
	"  /help         print this\n"
	"  /quit         end; so does Ctrl-D\n"
	"Ctrl-C ends the answer in progress, and the program when pressed again.\n"
	"A line that begins with a blank is sent as it is.\n";

enum reading { LINE, NO_MORE, CTRL_C };

/* A line of the terminal, without its end. The terminal edits the line; a read gives whole lines. */
static enum reading read_line(struct cli *c, struct buf *line)
{
	char part[4096];

	buf_clear(line);
	for (;;) {
		ssize_t n;

		if (!interrupts_wait(c->in_fd))
			return CTRL_C;
		n = read(c->in_fd, part, sizeof(part));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return line->n ? LINE : NO_MORE;
		buf_add(line, part, (size_t)n);
		if (line->p[line->n - 1] == '\n' || line->n > MAX_INPUT_BYTES) {
			while (line->n && (line->p[line->n - 1] == '\n' || line->p[line->n - 1] == '\r'))
				line->n--;
			return LINE;
		}
	}
}

static void set_model(struct chat *ch, struct str name)
{
	if (!name.n)
		fprintf(ch->cli->err, "Asking %s. /model NAME asks another; 'corral models' lists them.\n", ch->model);
	else
		fprintf(ch->cli->err, "Asking %s from now on.\n", ch->model = arena_str(ch->cli->mem, name).p);
}

/* False: end. */
static bool obey(struct chat *ch, struct str line)
{
	struct str rest = line, word;

	str_split(&rest, ' ', &word);
	rest = str_trim(rest);
	if (str_eqz(word, "/quit") || str_eqz(word, "/exit") || str_eqz(word, "/bye"))
		return false;
	if (str_eqz(word, "/model"))
		set_model(ch, rest);
	else if (str_eqz(word, "/new")) {
		begin_conversation(ch);
		fprintf(ch->cli->err, "A new conversation.\n");
	} else if (str_eqz(word, "/help") || str_eqz(word, "/?"))
		fputs(commands_help, ch->cli->err);
	else
		fprintf(ch->cli->err, "There is no " STR_FMT "; these are there:\n%s", STR_ARG(word), commands_help);
	return true;
}

static bool handle(struct chat *ch, struct str line)
{
	struct str text = str_trim(line);

	if (!text.n)
		return true;
	if (line.p[0] == '/')
		return obey(ch, text);
	interrupts_forget();
	(void)say(ch, text);
	return true;
}

static int converse(struct chat *ch)
{
	struct cli *c = ch->cli;
	struct buf line = { 0 };
	bool warned = false, going = true;

	fprintf(c->err, "Asking %s at %s. /help lists what you can type, Ctrl-D ends.\n", ch->model, remote_url(ch->remote));
	while (going) {
		bool after_answer = interrupts > 0;   /* the last answer was interrupted: the next Ctrl-C ends */
		enum reading what;

		interrupts_forget();
		warned |= after_answer;
		fprintf(c->err, "%s>>>%s ", tone_on(c->colour_err, TONE_STRONG), tone_off(c->colour_err, TONE_STRONG));
		fflush(c->err);
		what = read_line(c, &line);
		if (what == LINE) {
			warned = false;
			going = handle(ch, buf_as_str(&line));
		} else if (what == NO_MORE || warned) {
			fputc('\n', c->err);
			going = false;
		} else {
			fprintf(c->err, "\n(Ctrl-C again, Ctrl-D or /quit ends.)\n");
			interrupts_forget();
			warned = true;
		}
	}
	buf_free(&line);
	return EXIT_OK;
}

/* --- a single question --- */

static bool read_all(struct cli *c, struct buf *b)
{
	ssize_t n;

	do {
		buf_reserve(b, 65536);
		n = interrupts_wait(c->in_fd) ? read(c->in_fd, b->p + b->n, 65536) : -1;
		b->n += n > 0 ? (size_t)n : 0;
	} while ((n > 0 && b->n <= MAX_INPUT_BYTES) || (n < 0 && !interrupts && errno == EINTR));
	return n == 0;
}

/* The words, or standard input; "-" among the words is standard input too. */
static bool gather(struct cli *c, const struct chat_opts *o, struct buf *b)
{
	if (*o->message)
		buf_addz(b, o->message);
	else if (!c->n_args)
		return read_all(c, b);
	for (unsigned i = 0; i < c->n_args; i++) {
		if (i)
			buf_char(b, ' ');
		if (strcmp(c->args[i], "-") != 0)
			buf_addz(b, c->args[i]);
		else if (!read_all(c, b))
			return false;
	}
	return true;
}

static int ask_once(struct chat *ch)
{
	struct buf text = { 0 };
	int status;

	if (!gather(ch->cli, ch->opts, &text))
		status = interrupts ? EXIT_INTERRUPTED : cli_fail(ch->cli, EXIT_FAILED, "standard input could not be read, or is larger than 64 MiB");
	else if (!str_trim(buf_as_str(&text)).n)
		status = cli_usage(ch->cli, "there is nothing to ask");
	else if (!str_utf8_valid(buf_as_str(&text)))
		status = cli_fail(ch->cli, EXIT_FAILED, "what is to be asked is not UTF-8 text");
	else
		status = say(ch, buf_as_str(&text));
	buf_free(&text);
	return status;
}

static int run(struct cli *c)
{
	const struct chat_opts *o = c->opts;
	struct chat ch = { .cli = c, .opts = o, .model = *o->model ? o->model : "auto", .last = '\n' };
	int status;

	if (*o->message && c->n_args)
		return cli_usage(c, "--message and TEXT exclude each other");
	if (*o->max_tokens && (!str_i64(str_of(o->max_tokens), &ch.max_tokens) || ch.max_tokens < 1))
		return cli_usage(c, "--max-tokens is a number above 0, not '%s'", o->max_tokens);
	ch.remote = remote_gateway(c);
	if (!ch.remote)
		return EXIT_USAGE;
	begin_conversation(&ch);
	interrupts_forget();
	interrupts_watch();
	status = c->in_tty && !*o->message && !c->n_args ? converse(&ch) : ask_once(&ch);
	interrupts_release();
	free(ch.messages);
	return status;
}

const struct command cmd_chat = {
	.name = "chat", .args = "[TEXT ...]", .summary = "Ask a model and watch it answer; without TEXT, a conversation.",
	.flags = flags, .opts_size = sizeof(struct chat_opts), .max_args = 10000, .run = run,
	.text = "The answer goes to standard output as it comes. Afterwards one line on standard error says which model answered, where and "
		"why, with tokens and times. Without TEXT and --message, standard input is the question; at a terminal it is a conversation. "
		"The word - among TEXT stands for standard input. Ctrl-C ends the answer in progress. --json prints one object an answer.",
	.examples = (const struct example[]){
		{ "corral chat \"What is a spool?\"", "One question; Corral chooses the model." },
		{ "corral chat", "A conversation; it stays with its model where that is good." },
		{ "git diff | corral chat \"Review this change:\" -", "Words and a pipe." },
		{ "corral chat --model tiny -q -m hello >answer.txt", "A certain model, the answer only." },
		{ 0 } },
};
