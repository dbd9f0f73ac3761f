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
	berth_status r = s ? (berth_status)BERTH_OK : check_strange(st, op, key);
	if (r != BERTH_OK)
		return r;
	/* What is on the disk but not in the index was found broken at the start. Nobody makes
	 * another of its name while that is looked for. */
	*ret = s = s ? s : index_add(x, key, 0);
	if (s->children > 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' cannot be removed: '%s' stands on it", key, a_child(x, s));
	s->phase = PHASE_REMOVING;
	return BERTH_OK;
}

struct fate {
	bool gone;              /* it has no name any more */
	char trash[TRASH_NAME]; /* what it is called there; "" = it is not there */
};

static void tell_left(struct store *st, struct berth_op *op, const char *key, const char *dir,
        const char *name, int r)
{
	char msg[768];

	snprintf(msg, sizeof(msg),
	        "%s: snapshot '%s' is removed, but its content in '%s/%s/%s' is not: %s; tried "
	        "again",
	        st->host->plugin_name, key, st->root, dir, name, strerror(-r));
	st->host->log(st->host, op, BERTH_LOG_WARN, msg);
}

/* On a full btrfs nothing can be renamed, but much deleted; and who removes wants room. Not for
 * what lies outside of the directory, which is known from there alone. */
static int remove_where_it_is(struct store *st, struct berth_op *op, const struct snap *s, int from,
        const char *name, int why, struct fate *ret)
{
	if (st->driver->outside)
		return why;
	int r = trash_disown(from, name);
	if (r < 0)
		return r;
	ret->gone = true;
	r = trash_delete_at(st, op, from, name);
	/* There may be room by now. */
	if (r < 0 && trash_add(st, from, name, TRASH_SNAPSHOT, ret->trash) < 0)
		tell_left(st, op, s->key, from == st->layers_fd ? "layers" : "active", name, r);
	return 0;
}

/* 0; -ENOENT where there is no directory of this name. */
static int remove_from(struct store *st, struct berth_op *op, const struct snap *s, int from,
        const char *name, struct fate *ret)
{
	int r;

	/* A crash must not bring the name back over a tree that is half deleted, or over what is
	 * destroyed elsewhere. What a container has written is not asked for after one. */
	if (from == st->layers_fd || st->driver->outside) {
		r = trash_add_surely(st, op, from, name, ret->trash, &ret->gone);
	} else {
		r = trash_add(st, from, name, TRASH_SNAPSHOT, ret->trash);
		ret->gone = r == 0;
	}
	if (!ret->gone && (r == -ENOSPC || r == -EDQUOT))
		r = remove_where_it_is(st, op, s, from, name, r, ret);
	return r;
}

static void delete_now(
        struct store *st, struct berth_op *op, const char *key, const char gone[TRASH_NAME])
{
	int r = trash_delete(st, op, gone, REMOVE_BUDGET_NS);

	if (r == -ETIME || r == -ECANCELED) {
		trash_sweep_soon(st, false);
	} else if (r < 0) {
		tell_left(st, op, key, "trash", gone, r);
		trash_sweep_soon(st, true);
	}
}

berth_status op_remove(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct store *st = self;
	struct index *x = &st->own->index;
	char name[NAME_LIMIT + 1];
	struct fate fate = {0};
	struct snap *s = NULL;
	berth_status r = check_key(st, op, "key", a->key, name);

	if (r != BERTH_OK)
		return r;
	pthread_mutex_lock(&x->lock);
	r = claim_remove(st, op, a->key, &s);
	pthread_mutex_unlock(&x->lock);
	if (r != BERTH_OK)
		return r;

	int e = remove_from(st, op, s, store_dirfd(st, s->kind), name, &fate);
	if (e == -ENOENT && !s->kind)
		e = remove_from(st, op, s, st->layers_fd, name, &fate);
	bool over = fate.gone || e == -ENOENT || !s->kind;
	if (over)
		index_let_go(s);
	pthread_mutex_lock(&x->lock);
	if (over) {
		index_remove(x, s);
	} else {
		s->phase = PHASE_READY;
		pthread_cond_broadcast(&x->settled);
	}
	pthread_mutex_unlock(&x->lock);
	if (e < 0 && e != -ENOENT)
		return store_fail(
		        st, op, e, fate.gone ? "remove it for good" : "remove it", a->key);
	if (*fate.trash)
		delete_now(st, op, a->key, fate.trash);
	return BERTH_OK;
}

berth_status op_cleanup(struct berth_op *op, void *self)
{
	struct store *st = self;
	char where[NAME_LIMIT + 1];
	int r = trash_empty(st, op, where);

	return r < 0 ? store_fail(st, op, r, "delete leftovers", where) : (berth_status)BERTH_OK;
}
