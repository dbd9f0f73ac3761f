/* The table of commands. */
#include "ctl/wire.h"

#define QUIET                                             \
	{                                                 \
		'q', "quiet", CTL_FLAG, NULL, "ids alone" \
	}
#define NO_TRUNC                                           \
	{                                                  \
		0, "no-trunc", CTL_FLAG, NULL, "whole ids" \
	}
#define FORCE                                                          \
	{                                                              \
		'f', "force", CTL_FLAG, NULL, "stop it first, at once" \
	}
#define CREDS                                                                        \
	{                                                                            \
		0, "creds", CTL_TEXT, "USER:PASSWORD", "credentials of the registry" \
	}
#define RUNTIME                                                                    \
	{                                                                          \
		0, "runtime", CTL_TEXT, "HANDLER", "for the storage of this one's" \
	}
#define END                                   \
	{                                     \
		0, NULL, CTL_FLAG, NULL, NULL \
	}

static const struct ctl_option stream_options[] = {
        {'i', "stdin", CTL_FLAG, NULL, "pass the standard input on"},
        {'t', "tty", CTL_FLAG, NULL, "with a terminal"}, CTL_STREAM_OPTIONS, END};
static const struct ctl_option forward_options[] = {
        {0, "address", CTL_LIST, "ADDRESS", "to listen at (127.0.0.1)"}, CTL_STREAM_OPTIONS, END};
static const struct ctl_option image_options[] = {QUIET, NO_TRUNC, END};
static const struct ctl_option pull_options[] = {CREDS, RUNTIME, END};
static const struct ctl_option import_options[] = {RUNTIME, END};
static const struct ctl_option migrate_options[] = {
        {0, "from", CTL_TEXT, "DRIVER", "the storage driver that has them"},
        {0, "to", CTL_TEXT, "DRIVER", "the one that shall have them as well"}, END};
static const struct ctl_option pod_options[] = {QUIET, NO_TRUNC, END};
static const struct ctl_option force_options[] = {FORCE, END};
static const struct ctl_option ps_options[] = {
        {'a', "all", CTL_FLAG, NULL, "not only the running ones"},
        {'p', "pod", CTL_TEXT, "POD", "those of one pod"}, QUIET, NO_TRUNC, END};
static const struct ctl_option stop_options[] = {
        {'t', "time", CTL_NUMBER, "SECONDS", "before it is killed (10)"}, END};
static const struct ctl_option log_options[] = {
        {'f', "follow", CTL_FLAG, NULL, "go on until the container ends"},
        {'t', "timestamps", CTL_FLAG, NULL, "with the time of each line"},
        {0, "tail", CTL_NUMBER, "N", "the last N lines"}, END};
static const struct ctl_option run_options[] = {
        {0, "name", CTL_TEXT, "NAME", "of the pod and its container"},
        {0, "namespace", CTL_TEXT, "NAME", "the pod's namespace in Kubernetes (default)"},
        {0, "net", CTL_TEXT, "host|pod", "the host's network or one of its own (pod)"},
        {'p', "publish", CTL_LIST, "PORT", "[IP:]HOST:CONTAINER[/tcp|udp|sctp]"},
        {'e', "env", CTL_LIST, "NAME=VALUE", "a variable of the environment"},
        {'v', "volume", CTL_LIST, "MOUNT", "/HOST:/CONTAINER[:ro]"},
        {'u', "user", CTL_TEXT, "USER", "a name, UID or UID:GID"},
        {'w', "workdir", CTL_TEXT, "DIR", "the working directory"},
        {0, "entrypoint", CTL_TEXT, "PROGRAM", "in place of the image's"},
        {0, "privileged", CTL_FLAG, NULL, "with all rights of the host"},
        {0, "read-only", CTL_FLAG, NULL, "with a read-only root file system"},
        {0, "runtime", CTL_TEXT, "HANDLER", "the runtime handler"},
        {0, "log-dir", CTL_TEXT, "DIR", "for the log (/var/log/pods/...)"},
        {0, "cgroup-parent", CTL_TEXT, "CGROUP", "the pod's cgroup parent"},
        {0, "pull", CTL_TEXT, "WHEN", "always, missing or never (missing)"}, CREDS,
        {0, "wait", CTL_FLAG, NULL, "print the log until it ends, return its status"},
        {0, "rm", CTL_FLAG, NULL, "with --wait: remove the pod afterwards"},
        {0, "pod", CTL_TEXT, "FILE", "a PodSandboxConfig in JSON or YAML, as crictl's"},
        {0, "ctr", CTL_TEXT, "FILE", "a ContainerConfig in JSON or YAML"}, END};

const struct ctl_command ctl_commands[] = {
        {"run", "IMAGE [ARGUMENT...]", "Start a pod with one container",
                "Prints the container's id. ARGUMENTs replace the image's CMD. With --pod and "
                "--ctr\neverything comes from files and there is no IMAGE.",
                true, 0, -1, run_options, ctl_cmd_run},
        {"ps", "", "List containers", NULL, false, 0, 0, ps_options, ctl_cmd_ps},
        {"pods", "", "List pods", NULL, false, 0, 0, pod_options, ctl_cmd_pods},
        {"logs", "CONTAINER", "Print a container's log",
                "Reads the file that the runtime names: it must be on this machine.", false, 1, 1,
                log_options, ctl_cmd_logs},
        {"exec", "CONTAINER COMMAND [ARGUMENT...]", "Run a command in a container",
                "Without -i and -t it waits, then prints the output. Returns the command's exit "
                "status.\n--timeout ends it, and so does the end of berthctl.",
                true, 2, -1, stream_options, ctl_cmd_exec},
        {"attach", "CONTAINER", "Attach to a running container",
                "-t has to be given for a container with a terminal, and for no other. Ctrl-P "
                "Ctrl-Q\ndetaches from a terminal. Returns the exit status of a container that "
                "has ended.",
                false, 1, 1, stream_options, ctl_cmd_attach},
        {"port-forward", "POD [LOCAL:]PORT...", "Forward ports of this machine to a pod",
                "Connections to LOCAL (PORT; nothing before the colon: any that is free) go to "
                "PORT of\nthe pod's loopback. Goes on until it is interrupted.",
                false, 2, -1, forward_options, ctl_cmd_port_forward},
        {"start", "CONTAINER...", "Start created containers", NULL, false, 1, -1, NULL,
                ctl_cmd_start},
        {"stop", "CONTAINER...", "Stop containers", NULL, false, 1, -1, stop_options, ctl_cmd_stop},
        {"rm", "CONTAINER...", "Remove containers", NULL, false, 1, -1, force_options, ctl_cmd_rm},
        {"stopp", "POD...", "Stop pods", NULL, false, 1, -1, NULL, ctl_cmd_stopp},
        {"rmp", "POD...", "Remove pods", NULL, false, 1, -1, force_options, ctl_cmd_rmp},
        {"inspect", "CONTAINER", "Tell all about a container, in JSON", NULL, false, 1, 1, NULL,
                ctl_cmd_inspect},
        {"inspectp", "POD", "Tell all about a pod, in JSON", NULL, false, 1, 1, NULL,
                ctl_cmd_inspectp},
        {"images", "[IMAGE]", "List images", NULL, false, 0, 1, image_options, ctl_cmd_images},
        {"pull", "IMAGE", "Pull an image",
                "Shows its progress on standard error and prints the image's id.", false, 1, 1,
                pull_options, ctl_cmd_pull},
        {"image import", "PATH [NAME]", "Import images from a file or directory",
                "PATH is an OCI layout, an oci-archive or a docker-archive. NAME is the name of "
                "the "
                "only\nimage in it; without it images keep the names they have there.",
                false, 1, 2, import_options, ctl_cmd_image_import},
        {"image export-store", "DIRECTORY [IMAGE...]", "Write images into a store for other nodes",
                "Adds all images, or those that are named, to the image store there, as a rule on "
                "a network file\nsystem; nodes that have it in images.additional_stores use them "
                "in place.",
                false, 1, -1, NULL, ctl_cmd_image_export_store},
        {"inspecti", "IMAGE", "Tell all about an image, in JSON", NULL, false, 1, 1, NULL,
                ctl_cmd_inspecti},
        {"rmi", "IMAGE...", "Remove images", NULL, false, 1, -1, NULL, ctl_cmd_rmi},
        {"storage migrate", "[IMAGE...]", "Bring images into another storage driver",
                "Makes the images of one storage driver, or those that are named, anew in another, "
                "without a\nregistry. Those of the first stay; 'rmi' removes an image from all "
                "drivers. It may be interrupted,\nand goes on where it was when it is run again.",
                false, 0, -1, migrate_options, ctl_cmd_storage_migrate},
        {"status", "", "Tell whether the runtime is ready",
                "The exit status is 1 where a condition is not met.", false, 0, 0, NULL,
                ctl_cmd_status},
        {"plugins", "", "List the plugins of berthd", NULL, false, 0, 0, NULL, ctl_cmd_plugins},
        {"version", "", "Print versions", NULL, false, 0, 0, NULL, ctl_cmd_version},
        {NULL, NULL, NULL, NULL, false, 0, 0, NULL, NULL},
};
