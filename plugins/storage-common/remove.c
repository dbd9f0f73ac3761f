/* remove and cleanup. */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

/* A container's layer is deleted by then, as a rule; an image's goes on in the background. */
#define REMOVE_BUDGET_NS 50000000ull

static const char *a_child(const struct index *x, const struct snap *s)
{
	for (size_t i = 0; i < INDEX_BUCKETS; i++)
		for (const struct snap *c = x->buckets[i]; c; c = c->next)
			if (c->parent == s)
				return c->key;
	return "";
}

static berth_status claim_remove(
        struct store *st, struct berth_op *op, const char *key, struct snap **ret)
{
	struct index *x = &st->own->index;
	struct snap *s;

	while ((s = index_find_settled(x, key)) && s->pins > 0)
		pthread_cond_wait(&x->settled, &x->lock);
	*ret = s;
	if (!s)
		return check_strange(st, op, key);
	if (s->children > 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' cannot be removed: '%s' stands on it", key, a_child(x, s));
	s->phase = PHASE_REMOVING;
	return BERTH_OK;
}

/* 0; -ENOENT where there is no directory of this name. */
static int into_trash(
        struct store *st, const struct snap *s, const char *name, char gone[TRASH_NAME])
{
	bool committed = s && s->kind == BERTH_SNAP_COMMITTED;
	int from = committed ? st->layers_fd : st->active_fd;
	int r = trash_add(st, from, name, TRASH_SNAPSHOT, gone);

	/* What is on the disk but not in the index was found broken at the start. */
	if (r == -ENOENT && !s) {
		from = st->layers_fd;
		r = trash_add(st, from, name, TRASH_SNAPSHOT, gone);
	}
	/* A crash must not bring the name back over a tree that is half deleted: where that cannot
	 * be had, it stays as it was. */
	if (r == 0 && (committed || st->driver->outside) && fsync(from) < 0) {
		r = -errno;
		(void)renameat2(st->trash_fd, gone, from, name, RENAME_NOREPLACE);
	}
	return r;
}

/* On a full btrfs nothing can be renamed, but much deleted; and who removes wants room. Not for
 * what lies outside of the directory, which is known from there alone, and no layer that could be
 * half deleted under its name. */
static int remove_where_it_is(
        struct store *st, struct berth_op *op, const struct snap *s, const char *name, int why)
{
	bool committed = s->kind == BERTH_SNAP_COMMITTED;

	if (st->driver->outside || (committed && !st->driver->destroy))
		return why;
	return trash_delete_at(st, op, committed ? st->layers_fd : st->active_fd, name, !committed);
}

static void delete_now(
        struct store *st, struct berth_op *op, const char *key, const char gone[TRASH_NAME])
{
	int r = trash_delete(st, op, gone, REMOVE_BUDGET_NS);
	char msg[512];

	if (r == -ETIME || r == -ECANCELED) {
		trash_sweep_soon(st, false);
	} else if (r < 0) {
		snprintf(msg, sizeof(msg),
		        "%s: snapshot '%s' is removed, but its content in '%s/trash/%s' is not: "
		        "%s; tried again",
		        st->host->plugin_name, key, st->root, gone, strerror(-r));
		st->host->log(st->host, op, BERTH_LOG_WARN, msg);
		trash_sweep_soon(st, true);
	}
}

berth_status op_remove(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct store *st = self;
	struct index *x = &st->own->index;
	char name[NAME_LIMIT + 1], gone[TRASH_NAME];
	struct snap *s = NULL;
	berth_status r = check_key(st, op, "key", a->key, name);

	if (r != BERTH_OK)
		return r;
	pthread_mutex_lock(&x->lock);
	r = claim_remove(st, op, a->key, &s);
	pthread_mutex_unlock(&x->lock);
	if (r != BERTH_OK)
		return r;

	bool moved = true;
	int e = into_trash(st, s, name, gone);
	if (s && (e == -ENOSPC || e == -EDQUOT)) {
		moved = false;
		e = remove_where_it_is(st, op, s, name, e);
	}
	if (s && (e == 0 || e == -ENOENT))
		index_let_go(s);
	pthread_mutex_lock(&x->lock);
	if (s && (e == 0 || e == -ENOENT)) {
		index_remove(x, s);
	} else if (s) {
		s->phase = PHASE_READY;
		pthread_cond_broadcast(&x->settled);
	}
	pthread_mutex_unlock(&x->lock);
	if (!moved) /* it may have got there all the same */
		trash_sweep_soon(st, false);
	if (e < 0)
		return e == -ENOENT ? (berth_status)BERTH_OK
		                    : store_fail(st, op, e, "remove it", a->key);
	if (moved)
		delete_now(st, op, a->key, gone);
	return BERTH_OK;
}

berth_status op_cleanup(struct berth_op *op, void *self)
{
	struct store *st = self;
	char where[NAME_LIMIT + 1];
	int r = trash_empty(st, op, where);

	return r < 0 ? store_fail(st, op, r, "delete leftovers", where) : (berth_status)BERTH_OK;
}
