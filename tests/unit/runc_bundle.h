/* A bundle with busybox and the least OCI configuration that runc and crun take. */
#ifndef BERTH_TEST_RUNC_BUNDLE_H
#define BERTH_TEST_RUNC_BUNDLE_H

/* %s: terminal, args (JSON array), cgroup path */
#define RUNC_CONFIG                                                                              \
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"terminal\":%s,\"user\":{\"uid\":0,\"gid\":0}," \
	"\"args\":%s,\"env\":[\"PATH=/bin\",\"TERM=xterm\"],\"cwd\":\"/\","                      \
	"\"capabilities\":{\"bounding\":[\"CAP_KILL\"],\"effective\":[\"CAP_KILL\"],"            \
	"\"permitted\":[\"CAP_KILL\"]}},\"root\":{\"path\":\"rootfs\"},\"hostname\":\"h\","      \
	"\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"         \
	"{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\","                     \
	"\"options\":[\"nosuid\",\"mode=755\"]},{\"destination\":\"/dev/pts\","                  \
	"\"type\":\"devpts\",\"source\":\"devpts\",\"options\":[\"newinstance\","                \
	"\"ptmxmode=0666\"]}],\"linux\":{\"cgroupsPath\":\"%s\",\"namespaces\":["                \
	"{\"type\":\"pid\"},{\"type\":\"ipc\"},{\"type\":\"uts\"},{\"type\":\"mount\"}]}}"

#endif
