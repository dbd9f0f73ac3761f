#include "config/keys.h"

#include <string.h>

#include "base/limits.h"
#include "config/config.h"

static const char *const cgroup_drivers[] = {"cgroupfs", "systemd", NULL};
static const char *const tls_versions[] = {"VersionTLS12", "VersionTLS13", NULL};
static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};

#define AT(member) .offset = offsetof(struct berth_config, member)

const struct berth_key berth_keys[] = {
        {NULL, "root", BERTH_KEY_PATH, AT(root), .preset = "/var/lib/berth",
                .doc = "Persistent state: images, layers, what outlives a boot."},
        {NULL, "run", BERTH_KEY_PATH, AT(run), .preset = "/run/berth",
                .doc = "State of this boot: pods, containers, namespaces, sockets."},
        {NULL, "plugins", BERTH_KEY_OBJECTS, AT(plugins),
                .preset = "{storage-overlay: {}, runtime-runc: {}, net-cni: {}}",
                .doc = "The plugins to load, each with its own keys; nothing else is loaded. A "
                       "bare name is a file of the plugin directory, `path` names one "
                       "elsewhere."},
        {"storage", "driver", BERTH_KEY_TEXT, AT(storage.driver), .preset = "storage-overlay",
                .doc = "The plugin that keeps layers and root file systems, where a runtime "
                       "handler names no other."},
        {"storage", "also", BERTH_KEY_TEXTS, AT(storage.also), .preset = "[]",
                .doc = "Further storage drivers to load, though no handler uses them: what they "
                       "keep stays, and can be moved."},
        {"storage", "size_limit", BERTH_KEY_BYTES, AT(storage.size_limit), .preset = "0", .min = 0,
                .max = BERTH_GIB(1024 * 1024),
                .doc = "How much a container may write into its own layer, and the most that a "
                       "pod's annotation may ask for; 0 for any amount. The driver needs a quota "
                       "for it. A handler's own `size_limit` takes its place."},
        {"network", "plugin", BERTH_KEY_TEXT, AT(network.plugin), .may_be_empty = 1,
                .preset = "net-cni",
                .doc = "The plugin that connects pods; empty for none: then only pods of the "
                       "host's network run."},
        {"runtimes", "default", BERTH_KEY_TEXT, AT(runtimes.default_handler), .preset = "runc",
                .doc = "The handler of pods that ask for none."},
        {"runtimes", "handlers", BERTH_KEY_OBJECTS, AT(runtimes.handlers),
                .preset = "{runc: {plugin: runtime-runc}}",
                .doc = "Runtime handlers by name: `plugin`, `storage` for a storage driver of its "
                       "own in place of storage.driver, and keys that overlay those of "
                       "plugins.PLUGIN."},
        {"images", "registries", BERTH_KEY_PATH, AT(images.registries),
                .preset = "/etc/containers/registries.conf",
                .doc = "Mirrors, insecure and blocked registries, in the form of "
                       "containers-registries.conf(5), version 2. May be missing."},
        {"images", "policy", BERTH_KEY_PATH, AT(images.policy),
                .preset = "/etc/containers/policy.json",
                .doc = "Which images are accepted, in the form of containers-policy.json(5). "
                       "Missing: all."},
        {"images", "parallel_layers", BERTH_KEY_COUNT, AT(images.parallel_layers), .preset = "6",
                .min = 1, .max = 32,
                .doc = "How many layers of one image are fetched and unpacked at a time."},
        {"images", "parallel_downloads", BERTH_KEY_COUNT, AT(images.parallel_downloads),
                .preset = "24", .min = 1, .max = 1024,
                .doc = "How many layers the node downloads at a time, of all images."},
        {"images", "parallel_per_registry", BERTH_KEY_COUNT, AT(images.parallel_per_registry),
                .preset = "12", .min = 1, .max = 1024,
                .doc = "How many layers are downloaded at a time of images of one registry."},
        {"images", "partial_bytes", BERTH_KEY_BYTES, AT(images.partial_bytes), .preset = "4GiB",
                .min = 0, .max = BERTH_GIB(1024),
                .doc = "How much of downloads that did not come to their end is kept under "
                       "ROOT/partial for the next try to go on with, the oldest going first; 0 "
                       "for nothing."},
        {"images", "import_dir", BERTH_KEY_PATH, AT(images.import_dir), .may_be_empty = 1,
                .preset = "\"\"",
                .doc = "Archives and OCI layouts that lie here are imported at start-up."},
        {"images", "additional_stores", BERTH_KEY_PATHS, AT(images.additional_stores),
                .preset = "[]",
                .doc = "Image stores that other nodes have written (`berthctl image "
                       "export-store`), "
                       "as a rule on a network file system: what lies there is used in place, "
                       "and neither pulled nor copied."},
        {"images", "certs_dirs", BERTH_KEY_PATHS, AT(images.certs_dirs),
                .preset = "[/etc/containers/certs.d, /etc/docker/certs.d]",
                .doc = "Where HOST:PORT/ directories with a registry's CA and client "
                       "certificates are looked for, beside the system's CAs."},
        {"images", "auth_files", BERTH_KEY_PATHS, AT(images.auth_files),
                .preset = "[/run/containers/0/auth.json]",
                .doc = "Credentials of registries for pulls that bring none, in the form of "
                       "containers-auth.json(5). May be missing; the first match is taken."},
        {"images", "pinned", BERTH_KEY_TEXTS, AT(images.pinned), .preset = "[]",
                .doc = "Images that clients are told to keep: names with or without a tag, digest "
                       "references or ids; a * at the start or the end of one stands for "
                       "anything."},
        {"cri", "listen", BERTH_KEY_PATH, AT(cri.listen), .preset = "${run}/berth.sock",
                .doc = "The unix socket of the CRI."},
        {"cri", "stream_address", BERTH_KEY_TEXT, AT(cri.stream_address), .preset = "127.0.0.1",
                .doc = "The address that exec, attach and port-forward streams are served at."},
        {"cri", "stream_port", BERTH_KEY_COUNT, AT(cri.stream_port), .preset = "0", .min = 0,
                .max = 65535, .doc = "The port of the streams; 0 for one that is free."},
        {"cri", "stream_tls_cert", BERTH_KEY_PATH, AT(cri.stream_tls_cert), .may_be_empty = 1,
                .preset = "\"\"",
                .doc = "The certificate of the streaming server with its chain, in PEM: streams "
                       "are served over TLS then. It is read again when it has changed."},
        {"cri", "stream_tls_key", BERTH_KEY_PATH, AT(cri.stream_tls_key), .may_be_empty = 1,
                .preset = "\"\"",
                .doc = "The key of cri.stream_tls_cert, in PEM and without a password."},
        {"cri", "stream_tls_client_ca", BERTH_KEY_PATH, AT(cri.stream_tls_client_ca),
                .may_be_empty = 1, .preset = "\"\"",
                .doc = "Clients of streams must show a certificate that one of these has signed; "
                       "empty: none is asked for."},
        {"cri", "stream_tls_min_version", BERTH_KEY_CHOICE, AT(cri.stream_tls_min_version),
                .preset = "VersionTLS12", .choices = tls_versions,
                .doc = "The oldest version of TLS that is spoken, in the words of the kubelet."},
        {"cri", "cgroup_driver", BERTH_KEY_CHOICE, AT(cri.cgroup_driver), .preset = "cgroupfs",
                .choices = cgroup_drivers,
                .doc = "How cgroup parents are named; the kubelet's cgroupDriver must be the "
                       "same."},
        {"cri", "cdi_spec_dirs", BERTH_KEY_PATHS, AT(cri.cdi_spec_dirs),
                .preset = "[/etc/cdi, /var/run/cdi]",
                .doc = "Where specifications of CDI devices lie (*.json, *.yaml); a later "
                       "directory goes before an earlier one. They are read when a container "
                       "asks for such a device."},
        {"cri", "max_receive_bytes", BERTH_KEY_BYTES, AT(cri.max_receive_bytes), .preset = "16MiB",
                .min = BERTH_KIB(4), .max = BERTH_MIB(256), .doc = "The largest request."},
        {"cri", "max_send_bytes", BERTH_KEY_BYTES, AT(cri.max_send_bytes), .preset = "16MiB",
                .min = BERTH_KIB(4), .max = BERTH_MIB(256), .doc = "The largest response."},
        {"metrics", "listen", BERTH_KEY_TEXT, AT(metrics.listen), .may_be_empty = 1,
                .preset = "\"\"",
                .doc = "Where metrics are served for Prometheus, under /metrics: IP:PORT, "
                       "[IP]:PORT, or the path of a unix socket; empty: nowhere. TCP has neither "
                       "TLS nor a password."},
        {"log", "level", BERTH_KEY_CHOICE, AT(log.level), .preset = "info", .choices = log_levels,
                .doc = "The least important lines that are logged."},
};
const size_t berth_keys_count = BERTH_ARRAY_LEN(berth_keys);

const char *berth_key_group_doc(const char *group)
{
	static const struct {
		const char *name, *doc;
	} groups[] = {
	        {"storage", "Layers and root file systems"},
	        {"network", "Pod networks"},
	        {"runtimes", "What containers run with"},
	        {"images", "Images and registries"},
	        {"cri", "The Container Runtime Interface"},
	        {"metrics", "Metrics of berthd itself"},
	        {"log", "The log, on standard error"},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(groups); i++)
		if (strcmp(groups[i].name, group) == 0)
			return groups[i].doc;
	return NULL;
}
