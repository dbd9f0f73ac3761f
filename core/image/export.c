/* Images written into an image store for other nodes: a copy (copy.c) whose other end is not a
 * storage driver but a directory, where berth-pull does all the writing (core/pull/export.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/copy.h"

static json_t *names(char *const *v)
{
	json_t *a = json_array();
	for (; v && *v; v++)
		json_array_append_new(a, json_string(*v));
	return a;
}

static int send_record(struct berth_pull *p, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = json_dumps(p->copied->record, JSON_COMPACT);
	_cleanup_close_ int fd = memfd_create("berth-record", MFD_CLOEXEC);

	int r = !text ? -EINVAL : fd < 0 ? -errno : berth_write_all(fd, text, strlen(text));
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s: its record", p->key);
	pull_send(p, json_pack("{s:s}", "t", "record"), fd);
	return 0;
}

json_t *pull_export_packet(const struct berth_pull *p)
{
	return json_pack("{s:s, s:o, s:o, s:s}", "t", "export", "tags", names(p->copied->tags),
	        "digests", names(p->copied->digests), "whiteout", "overlay");
}

static int begin(struct berth_pull *p, int dir, struct berth_error **ret_err)
{
	p->copied->copies++;
	if (p->d->draining) {
		p->ended = true;
		return berth_error_set(ret_err, BERTH_UNAVAILABLE, "berthd is shutting down");
	}
	if (pull_set_layers(p, json_object_get(p->copied->record, "layers"), ret_err) < 0 ||
	        pull_start(p, ret_err) < 0) {
		p->ended = true; /* it has not begun */
		return -1;
	}
	const struct berth_pull_request none = {.import_fd = -1};
	pull_send(p, pull_first_packet(p, &none), dir);
	return send_record(p, ret_err);
}

struct berth_pull_part *berth_image_export(struct berth_daemon *d, struct berth_image *i, int dir,
        berth_pull_progress_fn progress, berth_image_fn fn, void *arg)
{
	_cleanup_close_ int own = dir;
	struct berth_error *err = NULL;
	struct berth_instance *from = i->store ? NULL : berth_image_home(d, i, NULL);

	if (!from) {
		berth_error_set(&err, BERTH_FAILED_PRECONDITION,
		        "image %s is in no storage driver of this node", i->id);
		return berth_pull_refuse(d, err, fn, arg);
	}
	struct berth_pull *p = pull_new(d, from);
	p->copied = berth_image_ref(i);
	p->from = from;
	p->export = true;
	p->key = berth_asprintf("export of %s", i->id);
	struct berth_pull_part *part = pull_take_part(p, progress, fn, arg);
	if (begin(p, own, &err) < 0)
		pull_fail(p, err);
	return part;
}
