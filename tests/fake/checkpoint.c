/* Checkpoints of containers that are rows of a table: the "images" are the row. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"
#include "fake.h"

static berth_status write_images(struct fake *f, struct berth_op *op, const struct row *r,
        const struct berth_checkpoint_args *a)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/row.img", a->image_dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int e = fd < 0 ? -errno : 0;
	size_t n = strlen(r->text);
	if (fd >= 0 && write(fd, r->text, n) != (ssize_t)n)
		e = errno ? -errno : -EIO;
	if (fd >= 0)
		close(fd);
	return e < 0 ? fake_fail(f, op, e, "write images of container", a->id) : BERTH_OK;
}

static berth_status checkpoint(
        struct fake *f, struct berth_op *op, const struct berth_checkpoint_args *a)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	char status[VALUE_LIMIT];
	berth_status st = fake_flags(f, op, a->id, a->flags, 0);

	if (st != BERTH_OK)
		return st;
	int e = row_load(f->run, "ctrs", a->id, r);
	if (e == -ENOENT)
		return berth_fail(
		        f->host, op, BERTH_E_NOT_FOUND, "fake container '%s' is not there", a->id);
	if (e < 0)
		return fake_fail(f, op, e, "read container", a->id);
	row_get(r, "status", status);
	if (strcmp(status, "running") != 0 && strcmp(status, "paused") != 0)
		return berth_fail(f->host, op, BERTH_E_PRECONDITION,
		        "fake container '%s' is not running", a->id);
	return write_images(f, op, r, a);
}

berth_status fake_checkpoint(struct berth_op *op, void *self, const struct berth_checkpoint_args *a)
{
	berth_status st = inject_before(self, op, "runtime.checkpoint");
	if (st == BERTH_OK)
		st = checkpoint(self, op, a);
	inject_after(self, "runtime.checkpoint");
	return st;
}
