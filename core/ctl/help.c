#include <string.h>

#include "ctl/ctl.h"

#define OPTION_COLUMN 30

static void print_option(
        FILE *f, char letter, const char *name, const char *value, const char *help)
{
	char left[64];
	snprintf(left, sizeof(left), "  %c%c%s --%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
	        letter ? "," : " ", name, value ? " " : "", value ? value : "");
	fprintf(f, "%-*s %s\n", OPTION_COLUMN, left, help);
}

static void print_globals(FILE *f)
{
	fputs("\nOptions of all commands:\n", f);
	print_option(f, 0, "runtime-endpoint", "PATH",
	        "the socket (/run/berth/berth.sock, or BERTH_RUNTIME_ENDPOINT)");
	print_option(f, 'o', "output", "json|table", "what to print");
	print_option(f, 0, "timeout", "SECONDS", "give up after it; 0 = never");
	print_option(f, 'h', "help", NULL, "this text");
}

static void print_commands(FILE *f)
{
	fputs("Usage: berthctl [OPTIONS] COMMAND [ARGUMENTS]\n\n"
	      "A client of the Container Runtime Interface for people.\n\nCommands:\n",
	        f);
	for (const struct ctl_command *k = ctl_commands; k->name; k++)
		fprintf(f, "  %-14s %s\n", k->name, k->summary);
	print_globals(f);
	fputs("\n'berthctl COMMAND --help' says more about a command. Containers and pods are "
	      "called by\n"
	      "their name or the beginning of their id.\n\n"
	      "Exit status: 0, 1 after a failure, 2 after a mistake in the command line; exec and\n"
	      "run --wait return the program's, and 125 where it was not run.\n",
	        f);
}

void ctl_help(FILE *f, const struct ctl_command *k)
{
	if (!k) {
		print_commands(f);
		return;
	}
	fprintf(f, "Usage: berthctl %s%s%s%s\n\n%s\n", k->name, k->options ? " [OPTIONS]" : "",
	        *k->arguments ? " " : "", k->arguments, k->summary);
	if (k->details)
		fprintf(f, "\n%s\n", k->details);
	if (k->options)
		fputs("\nOptions:\n", f);
	for (const struct ctl_option *o = k->options; o && o->name; o++)
		print_option(f, o->letter, o->name, o->value, o->help);
	print_globals(f);
}
