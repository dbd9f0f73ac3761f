/* The arguments of a network's attach(): ports, and what plugins get as capabilities. */
#include "pod/netargs.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "spec/podfiles.h"

/* Annotations of ours: others have no source for these at all. */
#define IPS "berth.io/ips"
#define MAC "berth.io/mac"
#define MAX_IPS 8
/* What Kubernetes takes for reasonable; and a burst as others give it, which limits nothing. */
#define MIN_RATE 1000ull
#define MAX_RATE 1000000000000000ull
#define BURST (UINT32_MAX * 8ll - 1)

static uint32_t protocol_number(const char *name)
{
	return strcmp(name, "udp") == 0 ? 17 : strcmp(name, "sctp") == 0 ? 132 : 6;
}

static json_t *strings(char **v, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, json_string(v[i]));
	return a;
}

static void add_cap(struct pod_netargs *in, const char *key, json_t *value)
{
	char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(value);
	in->texts[in->args.n_caps] = text;
	in->caps[in->args.n_caps++] = (struct berth_kv){key, text};
}

static const char *annotation_of(const struct berth_pod *p, const char *key)
{
	for (size_t i = 0; i < p->config->n_annotations; i++)
		if (strcmp(p->config->annotations[i]->key, key) == 0)
			return p->config->annotations[i]->value;
	return NULL;
}

/* One direction, in bits a second: "10M". */
static int add_rate(struct berth_pod *p, json_t *cap, const char *annotation, const char *rate,
        const char *burst, struct berth_error **ret_err)
{
	const char *text = annotation_of(p, annotation);
	uint64_t bits = 0;

	if (!text)
		return 0;
	if (berth_size_parse(text, &bits) < 0 || bits < MIN_RATE || bits > MAX_RATE)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "annotation %s: \"%.64s\" is no number of bits a second within 1k and 1P",
		        annotation, text);
	json_object_set_new(cap, rate, json_integer((json_int_t)bits));
	json_object_set_new(cap, burst, json_integer(BURST));
	return 0;
}

static int add_bandwidth(struct berth_pod *p, struct pod_netargs *in, struct berth_error **ret_err)
{
	json_t *cap = json_object();
	int r = add_rate(
	        p, cap, "kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst", ret_err);

	if (r == 0)
		r = add_rate(p, cap, "kubernetes.io/egress-bandwidth", "egressRate", "egressBurst",
		        ret_err);
	if (r == 0 && json_object_size(cap) > 0)
		add_cap(in, "bandwidth", json_incref(cap));
	json_decref(cap);
	return r;
}

/* "10.1.2.3" or, with a prefix, "10.1.2.3/24". */
static bool is_address(const char *text, size_t n)
{
	unsigned char bytes[sizeof(struct in6_addr)];
	char s[INET6_ADDRSTRLEN + 4], *end;

	if (n >= sizeof(s))
		return false;
	memcpy(s, text, n);
	s[n] = '\0';
	char *slash = strchr(s, '/');
	if (slash)
		*slash = '\0';
	int bits = inet_pton(AF_INET, s, bytes) == 1    ? 32
	           : inet_pton(AF_INET6, s, bytes) == 1 ? 128
	                                                : -1;
	if (bits < 0 || !slash)
		return bits > 0;
	if (slash[1] < '0' || slash[1] > '9')
		return false;
	long prefix = strtol(slash + 1, &end, 10);
	return !*end && prefix <= bits;
}

static int add_ips(struct berth_pod *p, struct pod_netargs *in, struct berth_error **ret_err)
{
	const char *text = annotation_of(p, IPS);
	json_t *ips = json_array();

	for (const char *at = text; at;) {
		size_t n = strcspn(at, ",");
		if (json_array_size(ips) == MAX_IPS || !is_address(at, n)) {
			json_decref(ips);
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "annotation " IPS
			        ": \"%.128s\" is no list of at most %d addresses, "
			        "with commas between them",
			        text, MAX_IPS);
		}
		json_array_append_new(ips, json_stringn(at, n));
		at = at[n] ? at + n + 1 : NULL;
	}
	if (text)
		add_cap(in, "ips", json_incref(ips));
	json_decref(ips);
	return 0;
}

static int add_mac(struct berth_pod *p, struct pod_netargs *in, struct berth_error **ret_err)
{
	const char *text = annotation_of(p, MAC);
	bool good = text && strlen(text) == strlen("02:00:00:00:00:01");

	for (size_t i = 0; good && text[i]; i++)
		good = i % 3 == 2 ? text[i] == ':' : isxdigit((unsigned char)text[i]);
	if (!text)
		return 0;
	if (!good)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "annotation " MAC ": \"%.64s\" is no MAC address", text);
	add_cap(in, "mac", json_string(text));
	return 0;
}

int pod_netargs_fill(struct berth_pod *p, struct pod_netargs *in, struct berth_error **ret_err)
{
	const Runtime__V1__PodSandboxMetadata *m = p->config->metadata;

	memset(in, 0, sizeof(*in));
	if (berth_pod_port_mappings(p->config, &in->mappings, &in->n_mappings, ret_err) < 0)
		return -1;
	in->netns = berth_pod_ns_path(p, "net");
	in->ports = berth_new_array(struct berth_port, in->n_mappings + 1);
	for (size_t i = 0; i < in->n_mappings; i++)
		in->ports[i] = (struct berth_port){.host_port = in->mappings[i].host_port,
		        .ctr_port = in->mappings[i].container_port,
		        .proto = protocol_number(in->mappings[i].protocol),
		        .host_ip = in->mappings[i].host_ip};
	in->args = (struct berth_net_args){
	        .size = sizeof(in->args),
	        .sandbox_id = p->id,
	        .pod_name = m->name,
	        .pod_namespace = m->namespace_,
	        .pod_uid = m->uid,
	        .netns = in->netns,
	        .ifname = POD_IFNAME,
	        .ports = in->ports,
	        .n_ports = (uint32_t)in->n_mappings,
	        .caps = in->caps,
	};
	const Runtime__V1__DNSConfig *dns = p->config->dns_config;
	if (dns)
		add_cap(in, "dns",
		        json_pack("{s:o, s:o, s:o}", "servers",
		                strings(dns->servers, dns->n_servers), "searches",
		                strings(dns->searches, dns->n_searches), "options",
		                strings(dns->options, dns->n_options)));
	json_t *notes = json_object();
	for (size_t i = 0; i < p->config->n_annotations; i++)
		json_object_set_new(notes, p->config->annotations[i]->key,
		        json_string(p->config->annotations[i]->value));
	add_cap(in, "io.kubernetes.cri.pod-annotations", notes);
	if (p->config->linux && *p->config->linux->cgroup_parent)
		add_cap(in, "cgroupPath", json_string(p->config->linux->cgroup_parent));
	if (add_bandwidth(p, in, ret_err) < 0 || add_ips(p, in, ret_err) < 0)
		return -1;
	return add_mac(p, in, ret_err);
}

void pod_netargs_finish(struct pod_netargs *in)
{
	berth_port_mappings_free(in->mappings, in->n_mappings);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(in->texts); i++)
		free(in->texts[i]);
	free(in->ports);
	free(in->netns);
}
