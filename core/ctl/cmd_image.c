/* pull, images, image import, rmi, inspecti */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"

struct pulling {
	struct ctl_progress *progress;
	struct berth_arena *arena;
	const char *id;
};

static int take_progress(const ProtobufCMessage *message, void *arg)
{
	struct pulling *p = arg;
	const Berth__Admin__V1__PullProgress *m = (const void *)message;
	ctl_progress_show(p->progress, m);
	if (m->image_id && *m->image_id)
		p->id = berth_arena_strdup(p->arena, m->image_id);
	return 0;
}

/* --creds USER[:PASSWORD] */
static void split_credentials(struct ctl *c, char **ret_user, char **ret_password)
{
	const char *creds = ctl_text(c, "creds");
	if (!creds)
		return;
	*ret_user = berth_arena_strdup(c->arena, creds);
	char *colon = strchr(*ret_user, ':');
	if (colon) {
		*colon = '\0';
		*ret_password = colon + 1;
	}
}

static int pull_with_progress(
        struct ctl *c, const char *image, const char **ret_id, struct berth_error **err)
{
	Berth__Admin__V1__AdminPullRequest req = BERTH__ADMIN__V1__ADMIN_PULL_REQUEST__INIT;
	Berth__Admin__V1__AdminAuth auth = BERTH__ADMIN__V1__ADMIN_AUTH__INIT;
	struct pulling p = {NULL, c->arena, NULL};

	req.image = (char *)(uintptr_t)image;
	if (ctl_text(c, "runtime"))
		req.runtime_handler = (char *)(uintptr_t)ctl_text(c, "runtime");
	split_credentials(c, &auth.username, &auth.password);
	if (ctl_text(c, "creds"))
		req.auth = &auth;
	if (ctl_connect(c, err))
		return -1;
	p.progress = ctl_progress_new(stderr, isatty(STDERR_FILENO) != 0);
	int r = berth_grpc_client_stream(c->client, "/berth.admin.v1.Admin/PullImage", &req.base,
	        &berth__admin__v1__pull_progress__descriptor, c->have_timeout ? c->timeout_ms : 0,
	        take_progress, &p, err);
	ctl_progress_free(p.progress);
	if (r == 0 && !p.id)
		return berth_error_set(
		        err, BERTH_INTERNAL, "pull %s: the server ended without an image", image);
	*ret_id = p.id;
	return r;
}

static int pull_by_cri(
        struct ctl *c, const char *image, const char **ret_id, struct berth_error **err)
{
	Runtime__V1__PullImageRequest req = RUNTIME__V1__PULL_IMAGE_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__AuthConfig auth = RUNTIME__V1__AUTH_CONFIG__INIT;

	spec.image = (char *)(uintptr_t)image;
	if (ctl_text(c, "runtime"))
		spec.runtime_handler = (char *)(uintptr_t)ctl_text(c, "runtime");
	req.image = &spec;
	split_credentials(c, &auth.username, &auth.password);
	if (ctl_text(c, "creds"))
		req.auth = &auth;
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "pulling %s (this runtime tells no progress)\n", image);
	Runtime__V1__PullImageResponse *res = ctl_call(c, "ImageService/PullImage", &req.base,
	        &runtime__v1__pull_image_response__descriptor, 0, err);
	if (!res)
		return -1;
	*ret_id = berth_arena_strdup(c->arena, res->image_ref);
	ctl_free_message(res);
	return 0;
}

int ctl_pull(struct ctl *c, const char *image, const char **ret_id, struct berth_error **err)
{
	int r = pull_with_progress(c, image, ret_id, err);
	if (r == 0 || (*err)->code != BERTH_UNIMPLEMENTED)
		return r;
	*err = berth_error_free(*err);
	return pull_by_cri(c, image, ret_id, err);
}

int ctl_cmd_pull(struct ctl *c, struct berth_error **err)
{
	const char *id = NULL;
	if (ctl_pull(c, c->args[0], &id, err))
		return -1;
	if (c->json)
		ctl_print_json(json_pack("{s:s}", "imageRef", id));
	else
		puts(id);
	return CTL_OK;
}

static void add_image(struct ctl *c, struct ctl_table *t, const Runtime__V1__Image *i,
        const char *name, const char *tag)
{
	const char *cells[] = {name, tag,
	        ctl_flag(c, "no-trunc") ? i->id : ctl_short_id(c->arena, i->id),
	        ctl_size(c->arena, i->size)};
	ctl_table_add(t, cells);
}

static void add_names(struct ctl *c, struct ctl_table *t, const Runtime__V1__Image *i)
{
	char *name = NULL, *tag = NULL;
	for (size_t j = 0; j < i->n_repo_tags; j++) {
		ctl_split_image(c->arena, i->repo_tags[j], &name, &tag);
		add_image(c, t, i, name, tag);
	}
	if (i->n_repo_tags == 0) {
		if (i->n_repo_digests)
			ctl_split_image(c->arena, i->repo_digests[0], &name, &tag);
		add_image(c, t, i, name ? name : "<none>", "<none>");
	}
}

int ctl_cmd_images(struct ctl *c, struct berth_error **err)
{
	static const char *const heads[] = {"IMAGE", "TAG", "IMAGE ID", "SIZE"};
	Runtime__V1__ListImagesRequest req = RUNTIME__V1__LIST_IMAGES_REQUEST__INIT;
	Runtime__V1__ImageFilter filter = RUNTIME__V1__IMAGE_FILTER__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	struct ctl_table t;

	if (c->n_args) {
		spec.image = c->args[0];
		filter.image = &spec;
		req.filter = &filter;
	}
	Runtime__V1__ListImagesResponse *res = ctl_call(c, "ImageService/ListImages", &req.base,
	        &runtime__v1__list_images_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	if (c->json) {
		ctl_print_message(res);
	} else if (ctl_flag(c, "quiet")) {
		for (size_t i = 0; i < res->n_images; i++)
			puts(res->images[i]->id);
	} else {
		ctl_table_init(&t, 4, heads);
		for (size_t i = 0; i < res->n_images; i++)
			add_names(c, &t, res->images[i]);
		ctl_table_print(&t, stdout);
	}
	ctl_free_message(res);
	return CTL_OK;
}

int ctl_cmd_image_import(struct ctl *c, struct berth_error **err)
{
	Berth__Admin__V1__ImportImageRequest req = BERTH__ADMIN__V1__IMPORT_IMAGE_REQUEST__INIT;
	/* berthd has another working directory. */
	_cleanup_free_ char *path = realpath(c->args[0], NULL);
	if (!path)
		return berth_error_errno(err, errno, "%s", c->args[0]);
	req.path = path;
	if (c->n_args > 1)
		req.reference = c->args[1];
	if (ctl_text(c, "runtime"))
		req.runtime_handler = (char *)(uintptr_t)ctl_text(c, "runtime");
	Berth__Admin__V1__ImportImageResponse *res = ctl_admin_call(c, "ImportImage", &req.base,
	        &berth__admin__v1__import_image_response__descriptor, 0, err);
	if (!res)
		return -1;
	if (c->json)
		ctl_print_message(res);
	for (size_t i = 0; !c->json && i < res->n_images; i++) {
		fputs(res->images[i]->image_id, stdout);
		for (size_t j = 0; j < res->images[i]->n_references; j++)
			printf(" %s", res->images[i]->references[j]);
		putchar('\n');
	}
	ctl_free_message(res);
	return CTL_OK;
}

static int image_status(struct ctl *c, const char *image, bool verbose,
        Runtime__V1__ImageStatusResponse **ret, struct berth_error **err)
{
	Runtime__V1__ImageStatusRequest req = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	spec.image = (char *)(uintptr_t)image;
	req.image = &spec;
	req.verbose = verbose;
	Runtime__V1__ImageStatusResponse *res = ctl_call(c, "ImageService/ImageStatus", &req.base,
	        &runtime__v1__image_status_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	if (!res->image) {
		ctl_free_message(res);
		return berth_error_set(err, BERTH_NOT_FOUND, "no image '%s'", image);
	}
	*ret = res;
	return 0;
}

int ctl_cmd_inspecti(struct ctl *c, struct berth_error **err)
{
	Runtime__V1__ImageStatusResponse *res = NULL;
	if (image_status(c, c->args[0], true, &res, err))
		return -1;
	ctl_print_message(res);
	ctl_free_message(res);
	return CTL_OK;
}

int ctl_cmd_rmi(struct ctl *c, struct berth_error **err)
{
	for (int i = 0; i < c->n_args; i++) {
		Runtime__V1__RemoveImageRequest req = RUNTIME__V1__REMOVE_IMAGE_REQUEST__INIT;
		Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
		Runtime__V1__ImageStatusResponse *status = NULL;
		/* The CRI's removal of what is not there succeeds; people want to know. */
		if (image_status(c, c->args[i], false, &status, err))
			return -1;
		ctl_free_message(status);
		spec.image = c->args[i];
		req.image = &spec;
		void *res = ctl_call(c, "ImageService/RemoveImage", &req.base,
		        &runtime__v1__remove_image_response__descriptor, CTL_LONG_MS, err);
		if (!res)
			return -1;
		ctl_free_message(res);
		puts(c->args[i]);
	}
	return CTL_OK;
}
