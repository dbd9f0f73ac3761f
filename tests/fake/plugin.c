#include "fake.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "berth/util.h"

berth_status fake_fail(
        struct fake *f, struct berth_op *op, int errnum, const char *what, const char *id)
{
	errno = errnum < 0 ? -errnum : errnum;
	return berth_fail(f->host, op,
	        errno == EINVAL || errno == ENAMETOOLONG ? BERTH_E_INVALID : BERTH_E_INTERNAL,
	        "fake: %s '%s': %s", what, id ? id : "", strerror(errno));
}

berth_status fake_flags(
        struct fake *f, struct berth_op *op, const char *id, uint32_t flags, uint32_t known)
{
	errno = 0;
	if (flags & ~known)
		return berth_fail(f->host, op, BERTH_E_INVALID, "fake: '%s': unknown flags 0x%x",
		        id ? id : "", (unsigned)flags);
	return BERTH_OK;
}

static void fake_destroy(void *self)
{
	struct fake *f = self;

	runtime_stop(f);
	inject_finish(f);
	pthread_mutex_destroy(&f->lock);
	free(f->state);
	free(f->run);
	free(f);
}

static berth_status fake_create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	struct fake *f = calloc(1, sizeof(*f));

	(void)op;
	if (!f || !(f->state = strdup(h->state_dir)) || !(f->run = strdup(h->run_dir)))
		abort();
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	f->born = (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
	f->host = h;
	pthread_mutex_init(&f->lock, NULL);
	inject_init(f, c);
	*self = f;
	return BERTH_OK;
}

static berth_status fake_start(struct berth_op *op, void *self)
{
	return inject_before(self, op, "plugin.start");
}

static berth_status fake_stop(struct berth_op *op, void *self)
{
	(void)op;
	runtime_stop(self);
	return BERTH_OK;
}

static const struct berth_plugin plugin = {
        .size = sizeof(plugin),
        .abi_minor = BERTH_ABI_MINOR,
        .features = BERTH_F_CHECKPOINT,
        .name = "fake",
        .version = "0.1",
        .storage = &fake_storage,
        .runtime = &fake_runtime,
        .network = &fake_network,
        .create = fake_create,
        .start = fake_start,
        .stop = fake_stop,
        .destroy = fake_destroy,
};

BERTH_PLUGIN_NEEDS(0)

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
