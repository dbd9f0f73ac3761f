#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

int main(int argc, char **argv)
{
	struct ctl c = {.arena = berth_arena_new()};
	struct berth_error *err = NULL;
	bool help = false;
	int code = CTL_USAGE;

	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_DFL);
	if (argc > 1 && strcmp(argv[1], "__complete") == 0) {
		code = ctl_complete(&c, argc - 2, argv + 2);
	} else if (ctl_parse(&c, argc, argv, &help, &err) == 0) {
		if (help) {
			ctl_help(stdout, c.command);
			code = CTL_OK;
		} else {
			code = c.command->run(&c, &err);
		}
	}
	if (err) {
		fprintf(stderr, "berthctl: %s\n", err->msg);
		if (code < 0)
			code = CTL_FAILED;
	}
	if (fflush(stdout) != 0 && code == CTL_OK)
		code = CTL_FAILED;
	berth_error_free(err);
	berth_grpc_client_free(c.client);
	ctl_parse_finish(&c);
	berth_arena_free(c.arena);
	return code;
}
