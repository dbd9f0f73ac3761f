/* storage migrate, image export-store */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"

struct migrating {
	struct ctl *c;
	bool terminal;
	const char *done; /* what became of an image */
	uint64_t copied, present;
};

static const char *name_of(const Berth__Admin__V1__MigrateProgress *m, struct berth_arena *a)
{
	return *m->reference ? m->reference : ctl_short_id(a, m->image_id);
}

static int show(const ProtobufCMessage *message, void *arg)
{
	struct migrating *g = arg;
	const Berth__Admin__V1__MigrateProgress *m = (const void *)message;
	struct berth_arena *a = berth_arena_new();

	if (m->state == BERTH__ADMIN__V1__MIGRATE_STATE__MIGRATE_COPYING) {
		if (g->terminal)
			fprintf(stderr, "\r%u of %u: %s, %s\033[K", m->image, m->images,
			        name_of(m, a), ctl_size(a, m->done_bytes));
	} else {
		bool copied = m->state == BERTH__ADMIN__V1__MIGRATE_STATE__MIGRATE_COPIED;
		*(copied ? &g->copied : &g->present) += 1;
		fprintf(stderr, "%s%u of %u: %s: %s%s\n", g->terminal ? "\r" : "", m->image,
		        m->images, name_of(m, a), copied ? g->done : "already there",
		        g->terminal ? "\033[K" : "");
	}
	fflush(stderr);
	berth_arena_free(a);
	return 0;
}

int ctl_cmd_storage_migrate(struct ctl *c, struct berth_error **err)
{
	Berth__Admin__V1__MigrateStorageRequest req =
	        BERTH__ADMIN__V1__MIGRATE_STORAGE_REQUEST__INIT;
	struct migrating g = {.c = c, .terminal = isatty(STDERR_FILENO) != 0, .done = "copied"};

	if (!ctl_text(c, "from") || !ctl_text(c, "to"))
		return berth_error_set(err, BERTH_INVALID_ARGUMENT, "--from and --to are needed");
	req.from = (char *)(uintptr_t)ctl_text(c, "from");
	req.to = (char *)(uintptr_t)ctl_text(c, "to");
	req.images = c->args;
	req.n_images = (size_t)c->n_args;
	if (ctl_connect(c, err))
		return -1;
	int r = berth_grpc_client_stream(c->client, "/berth.admin.v1.Admin/MigrateStorage",
	        &req.base, &berth__admin__v1__migrate_progress__descriptor,
	        c->have_timeout ? c->timeout_ms : 0, show, &g, err);
	if (r < 0)
		return -1;
	if (c->json)
		ctl_print_json(json_pack("{s:I, s:I}", "copied", (json_int_t)g.copied, "present",
		        (json_int_t)g.present));
	return CTL_OK;
}

int ctl_cmd_image_export_store(struct ctl *c, struct berth_error **err)
{
	Berth__Admin__V1__ExportStoreRequest req = BERTH__ADMIN__V1__EXPORT_STORE_REQUEST__INIT;
	struct migrating g = {.c = c, .terminal = isatty(STDERR_FILENO) != 0, .done = "written"};
	/* berthd has another working directory. */
	_cleanup_free_ char *path = realpath(c->args[0], NULL);

	if (!path)
		return berth_error_errno(err, errno, "%s", c->args[0]);
	req.path = path;
	req.images = c->args + 1;
	req.n_images = (size_t)c->n_args - 1;
	if (ctl_connect(c, err))
		return -1;
	int r = berth_grpc_client_stream(c->client, "/berth.admin.v1.Admin/ExportStore", &req.base,
	        &berth__admin__v1__migrate_progress__descriptor,
	        c->have_timeout ? c->timeout_ms : 0, show, &g, err);
	if (r < 0)
		return -1;
	if (c->json)
		ctl_print_json(json_pack("{s:I}", "written", (json_int_t)g.copied));
	return CTL_OK;
}
