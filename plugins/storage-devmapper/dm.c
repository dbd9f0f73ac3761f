#include "dm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CONTROL "/dev/mapper/control"
#define LIST_MAX (16u << 20) /* bytes: more than 100,000 devices */

/* What udev's rules are told in the upper half of an event's cookie: no scan, no links, leave the
 * device alone. The lower half names a semaphore that libdevmapper would wait for; there is none.
 */
#define UDEV_HANDS_OFF (0x006fu << 16)

union request {
	struct dm_ioctl h;
	char bytes[sizeof(struct dm_ioctl) + sizeof(struct dm_target_spec) + DM_STATUS_MAX];
};

static int begin(struct dm_ioctl *h, size_t size, const char *name)
{
	memset(h, 0, sizeof(*h));
	h->version[0] = 4; /* the major must be the kernel's; 4 since 2003 */
	h->data_size = (uint32_t)size;
	h->data_start = sizeof(*h);
	if (!name)
		return 0;
	if (strlen(name) > DM_NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(h->name, name, strlen(name) + 1);
	return 0;
}

static int call(int ctl, unsigned long request, struct dm_ioctl *h)
{
	int r;

	do
		r = ioctl(ctl, request, h);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* A request without data. */
static int simple(int ctl, unsigned long request, const char *name, uint32_t flags, uint32_t event,
        struct dm_ioctl *h)
{
	int r = begin(h, sizeof(*h), name);

	h->flags = flags;
	h->event_nr = event;
	return r < 0 ? r : call(ctl, request, h);
}

int dm_open(void)
{
	int fd = open(CONTROL, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int dm_has_target(int ctl, const char *target)
{
	union request q;
	int r = begin(&q.h, sizeof(q), target);

	if (r == 0)
		r = call(ctl, DM_GET_TARGET_VERSION, &q.h);
	if (r == -ENOTTY) /* before 5.4; the table's load will tell */
		return 0;
	return r == -EINVAL ? -ENOENT : r;
}

static void take(const struct dm_ioctl *h, struct dm_dev *ret)
{
	ret->major = major(h->dev);
	ret->minor = minor(h->dev);
	ret->opened = h->open_count;
	ret->live = h->flags & DM_ACTIVE_PRESENT_FLAG;
	ret->suspended = h->flags & DM_SUSPEND_FLAG;
	ret->deferred = h->flags & DM_DEFERRED_REMOVE;
}

int dm_find(int ctl, const char *name, struct dm_dev *ret)
{
	struct dm_ioctl h;
	int r = simple(ctl, DM_DEV_STATUS, name, 0, 0, &h);

	if (r == 0)
		take(&h, ret);
	return r;
}

static int load(int ctl, const char *name, const struct dm_table *t)
{
	union request q;
	struct dm_target_spec *spec = (void *)(q.bytes + sizeof(q.h));
	char *params = (char *)(spec + 1);
	size_t n = strlen(t->params);
	int r = begin(&q.h, sizeof(q), name);

	if (r < 0)
		return r;
	if (n > DM_PARAMS_MAX || strlen(t->type) >= sizeof(spec->target_type))
		return -ENAMETOOLONG;
	memset(spec, 0, sizeof(*spec));
	q.h.target_count = 1;
	q.h.flags = t->readonly ? DM_READONLY_FLAG : 0;
	spec->length = t->sectors;
	memcpy(spec->target_type, t->type, strlen(t->type) + 1);
	memcpy(params, t->params, n + 1);
	spec->next = (uint32_t)((sizeof(*spec) + n + 1 + 7) & ~7ul);
	return call(ctl, DM_TABLE_LOAD, &q.h);
}

int dm_make(int ctl, const char *name, const struct dm_table *t, struct dm_dev *ret)
{
	struct dm_ioctl h;
	int r = simple(ctl, DM_DEV_CREATE, name, 0, 0, &h);

	if (r < 0)
		return r;
	r = load(ctl, name, t);
	if (r == 0)
		r = simple(ctl, DM_DEV_SUSPEND, name, 0, UDEV_HANDS_OFF, &h);
	if (r < 0) {
		(void)dm_remove(ctl, name, true);
		return r;
	}
	take(&h, ret);
	return 0;
}

int dm_remove(int ctl, const char *name, bool deferred)
{
	struct dm_ioctl h;

	return simple(
	        ctl, DM_DEV_REMOVE, name, deferred ? DM_DEFERRED_REMOVE : 0, UDEV_HANDS_OFF, &h);
}

int dm_suspend(int ctl, const char *name)
{
	struct dm_ioctl h;

	return simple(ctl, DM_DEV_SUSPEND, name, DM_SUSPEND_FLAG, 0, &h);
}

int dm_resume(int ctl, const char *name)
{
	struct dm_ioctl h;

	return simple(ctl, DM_DEV_SUSPEND, name, 0, UDEV_HANDS_OFF, &h);
}

int dm_message(int ctl, const char *name, const char *format, ...)
{
	union request q;
	struct dm_target_msg *m = (void *)(q.bytes + sizeof(q.h));
	va_list ap;
	int r = begin(&q.h, sizeof(q), name);

	if (r < 0)
		return r;
	m->sector = 0;
	va_start(ap, format);
	int n = vsnprintf(m->message, DM_PARAMS_MAX, format, ap);
	va_end(ap);
	if (n < 0 || n >= DM_PARAMS_MAX)
		return -ENAMETOOLONG;
	return call(ctl, DM_TARGET_MSG, &q.h);
}

int dm_status(int ctl, const char *name, bool table, char type[16], char text[DM_STATUS_MAX])
{
	union request q;
	const struct dm_target_spec *spec = (const void *)(q.bytes + sizeof(q.h));
	int r = begin(&q.h, sizeof(q), name);

	if (r < 0)
		return r;
	/* It tells as it is now: without the flag the kernel would commit and flush first. */
	q.h.flags = table ? DM_STATUS_TABLE_FLAG : DM_NOFLUSH_FLAG;
	r = call(ctl, DM_TABLE_STATUS, &q.h);
	if (r < 0)
		return r;
	if (q.h.flags & DM_BUFFER_FULL_FLAG)
		return -EFBIG;
	if (q.h.target_count < 1)
		return -ENODATA;
	memcpy(type, spec->target_type, 16);
	type[15] = '\0';
	snprintf(text, DM_STATUS_MAX, "%.*s", DM_STATUS_MAX - 1, (const char *)(spec + 1));
	return 0;
}

static int list(int ctl, struct dm_ioctl **ret)
{
	for (size_t size = 16384; size <= LIST_MAX; size *= 4) {
		struct dm_ioctl *h = calloc(1, size);
		if (!h)
			return -ENOMEM;
		int r = begin(h, size, NULL);
		if (r == 0)
			r = call(ctl, DM_LIST_DEVICES, h);
		if (r == 0 && !(h->flags & DM_BUFFER_FULL_FLAG)) {
			*ret = h;
			return 0;
		}
		free(h);
		if (r < 0)
			return r;
	}
	return -EFBIG;
}

int dm_each(int ctl, const char *prefix, void (*fn)(void *arg, const char *name), void *arg)
{
	struct dm_ioctl *h;
	int r = list(ctl, &h);

	if (r < 0)
		return r;
	const char *at = (const char *)h + h->data_start, *end = (const char *)h + h->data_size;
	while (end - at >= (ptrdiff_t)sizeof(struct dm_name_list)) {
		const struct dm_name_list *e = (const void *)at;
		if (e->dev && strncmp(e->name, prefix, strlen(prefix)) == 0)
			fn(arg, e->name);
		if (e->next == 0)
			break;
		at += e->next;
	}
	free(h);
	return 0;
}
