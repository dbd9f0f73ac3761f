/* What a pull does: a bar for each layer on a terminal, else a line for each layer that is done. */
#include <string.h>
#include <sys/ioctl.h>

#include "ctl/ctl.h"

#define LAYERS_SHOWN 30 /* the bars of more would not fit a screen */
#define BAR_MAX 40

struct ctl_progress {
	FILE *f;
	bool terminal;
	size_t lines;      /* drawn by the last call */
	uint8_t told[512]; /* plain: layers whose end was told */
};

struct ctl_progress *ctl_progress_new(FILE *f, bool terminal)
{
	struct ctl_progress *p = berth_new(struct ctl_progress);
	p->f = f;
	p->terminal = terminal;
	return p;
}

struct ctl_progress *ctl_progress_free(struct ctl_progress *p)
{
	free(p);
	return NULL;
}

static bool is_done(const Berth__Admin__V1__LayerProgress *l)
{
	return l->state == BERTH__ADMIN__V1__LAYER_STATE__LAYER_UNPACKED ||
	       l->state == BERTH__ADMIN__V1__LAYER_STATE__LAYER_PRESENT;
}

static const char *state_text(const Berth__Admin__V1__LayerProgress *l)
{
	static const char *const texts[] = {"waiting", "downloading", "done", "already here"};
	size_t s = (size_t)l->state;
	return s < BERTH_ARRAY_LEN(texts) ? texts[s] : "";
}

static int bar_width(const struct ctl_progress *p)
{
	struct winsize w = {0};
	int columns = ioctl(fileno(p->f), TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
	int n = columns - 44; /* digest, sizes, brackets */
	return n < 0 ? 0 : n > BAR_MAX ? BAR_MAX : n;
}

static void draw_layer(struct ctl_progress *p, const Berth__Admin__V1__LayerProgress *l, int width)
{
	struct berth_arena *a = berth_arena_new();
	uint64_t total = l->total_bytes;
	uint64_t done = is_done(l) ? total : l->done_bytes < total ? l->done_bytes : total;
	char bar[BAR_MAX + 1];
	int full = total ? (int)((double)width * (double)done / (double)total) : 0;

	if (is_done(l))
		full = width;
	for (int i = 0; i < width; i++)
		bar[i] = i < full ? '=' : i == full && !is_done(l) ? '>' : ' ';
	bar[width] = '\0';
	fprintf(p->f, "\r%-13s [%s] ", ctl_short_id(a, l->digest), bar);
	if (l->state == BERTH__ADMIN__V1__LAYER_STATE__LAYER_DOWNLOADING)
		fprintf(p->f, "%s/%s", ctl_size(a, l->done_bytes),
		        total ? ctl_size(a, total) : "?");
	else
		fputs(state_text(l), p->f);
	fputs("\033[K\n", p->f);
	berth_arena_free(a);
}

static void draw(struct ctl_progress *p, const Berth__Admin__V1__PullProgress *m)
{
	size_t shown = m->n_layers < LAYERS_SHOWN ? m->n_layers : LAYERS_SHOWN;
	size_t done = 0, skip = 0;
	int width = bar_width(p);

	for (size_t i = 0; i < m->n_layers; i++)
		done += is_done(m->layers[i]);
	/* Where they do not fit: those that come next. */
	while (m->n_layers - skip > shown && is_done(m->layers[skip]))
		skip++;
	if (p->lines)
		fprintf(p->f, "\033[%zuA", p->lines);
	for (size_t i = skip; i < skip + shown; i++)
		draw_layer(p, m->layers[i], width);
	p->lines = shown;
	if (m->n_layers > shown) {
		fprintf(p->f, "\r%zu of %zu layers are done\033[K\n", done, m->n_layers);
		p->lines++;
	}
	fflush(p->f);
}

static void tell(struct ctl_progress *p, const Berth__Admin__V1__PullProgress *m)
{
	for (size_t i = 0; i < m->n_layers && i < BERTH_ARRAY_LEN(p->told); i++) {
		const Berth__Admin__V1__LayerProgress *l = m->layers[i];
		if (p->told[i] || !is_done(l))
			continue;
		struct berth_arena *a = berth_arena_new();
		p->told[i] = 1;
		fprintf(p->f, "layer %zu of %zu: %s %s%s%s\n", i + 1, m->n_layers,
		        ctl_short_id(a, l->digest), state_text(l), l->total_bytes ? ", " : "",
		        l->total_bytes ? ctl_size(a, l->total_bytes) : "");
		berth_arena_free(a);
	}
}

void ctl_progress_show(struct ctl_progress *p, const Berth__Admin__V1__PullProgress *m)
{
	if (m->n_layers == 0)
		return;
	if (p->terminal)
		draw(p, m);
	else
		tell(p, m);
}
