/* berth-join: `runc exec --detach` without runc. Its own binary is a sealed memfd, so that nothing
 * in the container can reach a file of the node through it. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "join.h"

/* Passed by the plugin. */
enum { FD_PROCESS = 3, FD_CONFIG = 4, FD_SELF = 5 };

#define END_WAIT_MS 1000

char join_words[JOIN_WORDS];
static bool refused;

struct options {
	pid_t pid;
	uint64_t start;
	const char *id, *pid_file, *log, *filter, *console;
	int pid_fd, log_fd;
};

int join_fail(int errnum, const char *what, const char *detail)
{
	if (!join_words[0])
		snprintf(join_words, sizeof(join_words), "%s%s%.512s%s%s", what, detail ? ": " : "",
		        detail ? detail : "", errnum ? ": " : "", errnum ? strerror(errnum) : "");
	return -1;
}

int join_refuse(const char *what, const char *detail)
{
	refused = refused || !join_words[0];
	return join_fail(0, what, detail);
}

static int options_read(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"pid", required_argument, NULL, 'p'},
	        {"start", required_argument, NULL, 's'}, {"id", required_argument, NULL, 'i'},
	        {"pid-file", required_argument, NULL, 'f'}, {"log", required_argument, NULL, 'l'},
	        {"filter", required_argument, NULL, 'b'}, {"console", required_argument, NULL, 'c'},
	        {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (c) {
		case 'p':
			o->pid = (pid_t)strtol(optarg, NULL, 10);
			break;
		case 's':
			o->start = strtoull(optarg, NULL, 10);
			break;
		case 'i':
			o->id = optarg;
			break;
		case 'f':
			o->pid_file = optarg;
			break;
		case 'l':
			o->log = optarg;
			break;
		case 'b':
			o->filter = optarg;
			break;
		case 'c':
			o->console = optarg;
			break;
		default:
			return join_fail(0, "wrong usage", NULL);
		}
	}
	return o->pid > 1 && o->id && o->pid_file && o->log && o->filter
	               ? 0
	               : join_fail(0, "wrong usage", NULL);
}

static json_t *read_json(int fd, const char *what)
{
	struct stat st;
	char *text = NULL;
	json_t *j = NULL;
	size_t n = 0;

	if (fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= (off_t)JOIN_JSON_MAX)
		text = malloc((size_t)st.st_size);
	while (text && n < (size_t)st.st_size) {
		ssize_t r = pread(fd, text + n, (size_t)st.st_size - n, (off_t)n);
		if (r <= 0)
			break;
		n += (size_t)r;
	}
	if (text && n == (size_t)st.st_size)
		j = json_loadb(text, n, 0, NULL);
	free(text);
	close(fd);
	if (!json_is_object(j))
		join_refuse("the form of", what);
	return j;
}

/* What this program does not do is refused, never left out. */
static int check_config(const json_t *config, const json_t *process)
{
	static const char *const linux_keys[] = {"personality", "intelRdt", "timeOffsets"};
	static const char *const process_keys[] = {
	        "scheduler", "ioPriority", "execCPUAffinity", "selinuxLabel"};
	const json_t *l = json_object_get(config, "linux");

	for (size_t i = 0; i < sizeof(linux_keys) / sizeof(linux_keys[0]); i++)
		if (json_object_get(l, linux_keys[i]))
			return join_refuse("linux of config.json has", linux_keys[i]);
	for (size_t i = 0; i < sizeof(process_keys) / sizeof(process_keys[0]); i++)
		if (json_object_get(process, process_keys[i]))
			return join_refuse("process of config.json has", process_keys[i]);
	return 0;
}

static int connect_console(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", name) >= (int)sizeof(sa.sun_path))
		errno = ENAMETOOLONG;
	else if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
		return fd;
	join_fail(errno, "console socket", name);
	if (fd >= 0)
		close(fd);
	return -1;
}

/* The child says nothing where its command has begun. */
static int await_begin(int fd, pid_t child)
{
	size_t n = 0;
	ssize_t r;

	while (n < sizeof(join_words) - 1 &&
	        ((r = read(fd, join_words + n, sizeof(join_words) - 1 - n)) > 0 ||
	                (r < 0 && errno == EINTR)))
		n += r > 0 ? (size_t)r : 0;
	join_words[n] = '\0';
	if (n == 0)
		return 0;
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return -1;
}

static int get_filter(const struct options *o, const json_t *config, struct sock_fprog *ret)
{
	const json_t *seccomp = json_object_get(json_object_get(config, "linux"), "seccomp");

	if (!seccomp || join_filter_read(o->filter, ret))
		return 0;
	if (join_filter_compile(seccomp, ret) < 0)
		return -1;
	join_filter_keep(o->filter, ret);
	return 0;
}

struct job {
	json_t *process, *config;
	struct join_process p;
	struct sock_fprog filter;
	int init, console, into, later;
};

static int prepare(const struct options *o, struct job *j)
{
	if (!(j->process = read_json(FD_PROCESS, "process")) ||
	        !(j->config = read_json(FD_CONFIG, "config.json")) ||
	        check_config(j->config, j->process) < 0 ||
	        join_process_read(j->process, &j->p) < 0 ||
	        get_filter(o, j->config, &j->filter) < 0)
		return -1;
	if (j->p.terminal && !o->console)
		return join_fail(0, "a terminal needs a console socket", NULL);
	return j->p.terminal && (j->console = connect_console(o->console)) < 0 ? -1 : 0;
}

static int enter(const struct options *o, struct job *j)
{
	const json_t *path = json_object_get(json_object_get(j->config, "linux"), "cgroupsPath");

	if ((j->init = join_open_init(o->pid, o->start)) < 0)
		return -1;
	return join_process_prepare(&j->p) < 0 ||
	                       join_cgroups(o->pid, json_string_value(path), &j->into) < 0 ||
	                       join_namespaces(o->pid, j->init, &j->later) < 0
	               ? -1
	               : 0;
}

static int start(const struct options *o, const struct job *j)
{
	int say[2];

	if (pipe2(say, O_CLOEXEC) < 0)
		return join_fail(errno, "pipe", NULL);
	pid_t child = join_fork(j->into);
	/* A PID namespace whose init is about to end has no pids. */
	if (child < 0 && errno == ENOMEM && join_init_ended(j->init, END_WAIT_MS))
		return join_fail(0, JOIN_STOPPED, NULL);
	if (child < 0)
		return join_fail(errno, "fork", NULL);
	if (child == 0) {
		close(o->pid_fd);
		close(o->log_fd);
		close(say[0]);
		if (j->into >= 0)
			close(j->into);
		if (join_namespaces_later(j->init, j->later) == 0) {
			close(j->init);
			join_become(&j->p, o->id, (j->later & CLONE_NEWUSER) != 0, &j->filter,
			        j->console);
		}
		ssize_t n = write(say[1], join_words, strlen(join_words));
		_exit(n < 0 ? 126 : 127);
	}
	close(say[1]);
	if (j->console >= 0)
		close(j->console);
	if (await_begin(say[0], child) < 0)
		return -1;
	return dprintf(o->pid_fd, "%d", (int)child) > 0 ? 0 : join_fail(errno, "pid file", NULL);
}

static int run(const struct options *o)
{
	struct job j = {.init = -1, .console = -1, .into = -1};

	if (prepare(o, &j) == 0 && enter(o, &j) == 0 && start(o, &j) == 0)
		return 0;
	/* Its end has many faces. */
	if (!refused && j.init >= 0 && join_init_ended(j.init, 0)) {
		join_words[0] = '\0';
		join_fail(0, JOIN_STOPPED, NULL);
	}
	return -1;
}

static json_t *make_line(void)
{
	return json_pack("{s:s, s:s+}", "level", refused ? "refused" : "error", "msg",
	        refused ? "berth-join does not know " : "", join_words);
}

static void tell(const struct options *o)
{
	json_t *j = make_line();

	for (char *c = join_words; !j && *c; c++)
		*c = (*c & 0x80) ? '?' : *c; /* cut in the middle of a character */
	j = j ? j : make_line();
	char *line = j ? json_dumps(j, JSON_COMPACT) : NULL;
	if (o->log_fd >= 0 && line)
		dprintf(o->log_fd, "%s\n", line);
	fprintf(stderr, "%s\n", join_words);
}

int main(int argc, char **argv)
{
	struct options o = {0};

	/* Nobody may look into this process, its memory and its descriptors from within. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	close_range(FD_SELF, ~0u, 0);
	o.log_fd = o.pid_fd = -1;
	int r = options_read(argc, argv, &o);
	if (r == 0) {
		/* Now: the paths mean something else in there. */
		const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
		o.log_fd = open(o.log, flags | O_APPEND, 0600);
		o.pid_fd = open(o.pid_file, flags | O_TRUNC, 0600);
		r = o.log_fd < 0 || o.pid_fd < 0 ? join_fail(errno, "its files", NULL) : run(&o);
	}
	if (r == 0)
		return 0;
	tell(&o);
	return 1;
}
