/* Images brought into another storage driver. [loop] */
#ifndef BERTH_IMAGE_COPY_H
#define BERTH_IMAGE_COPY_H

#include "image/pull.h"

/* Makes the layers that `to` lacks from those of `from` (NULL: of any driver that has the image);
 * joins one that is under way. As berth_pull_join(). */
struct berth_pull_part *berth_image_bring(struct berth_daemon *d, struct berth_image *i,
        struct berth_instance *from, struct berth_instance *to, berth_pull_progress_fn progress,
        berth_image_fn fn, void *arg);

/* Writes it into the image store open as `dir` (taken). fn is told of no image. */
struct berth_pull_part *berth_image_export(struct berth_daemon *d, struct berth_image *i, int dir,
        berth_pull_progress_fn progress, berth_image_fn fn, void *arg);

#endif
