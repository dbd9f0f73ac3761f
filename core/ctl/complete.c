/* What may stand where the cursor is, for the shells' completion: by the table of commands, so that
 * it never lags behind, and by what the runtime has. */
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

#define ANSWER_MS 1000 /* a user waits for it */

struct place {
	struct ctl *c;
	const char *word; /* up to the cursor */
	const struct ctl_command *command;
	const struct ctl_option *pending; /* the word is this one's value */
	bool global;                      /* or that of a global option */
	const char *global_name;
	int n_args; /* before the word */
	bool no_options;
};

static void offer(const struct place *p, const char *s)
{
	if (strncmp(s, p->word, strlen(p->word)) == 0)
		puts(s);
}

static void offer_all(const struct place *p, const char *const *words)
{
	for (; *words; words++)
		offer(p, *words);
}

/* ---- what the runtime has ---- */

static void offer_containers(const struct place *p, bool running)
{
	Runtime__V1__ListContainersRequest req = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	struct berth_error *err = NULL;
	Runtime__V1__ListContainersResponse *res = ctl_call(p->c, "RuntimeService/ListContainers",
	        &req.base, &runtime__v1__list_containers_response__descriptor, ANSWER_MS, &err);

	for (size_t i = 0; res && i < res->n_containers; i++) {
		const Runtime__V1__Container *k = res->containers[i];
		if (running && k->state != RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING)
			continue;
		if (k->metadata && *k->metadata->name)
			offer(p, k->metadata->name);
		offer(p, k->id);
	}
	ctl_free_message(res);
	berth_error_free(err);
}

static void offer_pods(const struct place *p)
{
	Runtime__V1__ListPodSandboxRequest req = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	struct berth_error *err = NULL;
	Runtime__V1__ListPodSandboxResponse *res = ctl_call(p->c, "RuntimeService/ListPodSandbox",
	        &req.base, &runtime__v1__list_pod_sandbox_response__descriptor, ANSWER_MS, &err);

	for (size_t i = 0; res && i < res->n_items; i++) {
		if (res->items[i]->metadata && *res->items[i]->metadata->name)
			offer(p, res->items[i]->metadata->name);
		offer(p, res->items[i]->id);
	}
	ctl_free_message(res);
	berth_error_free(err);
}

static void offer_images(const struct place *p)
{
	Runtime__V1__ListImagesRequest req = RUNTIME__V1__LIST_IMAGES_REQUEST__INIT;
	struct berth_error *err = NULL;
	Runtime__V1__ListImagesResponse *res = ctl_call(p->c, "ImageService/ListImages", &req.base,
	        &runtime__v1__list_images_response__descriptor, ANSWER_MS, &err);

	for (size_t i = 0; res && i < res->n_images; i++)
		for (size_t j = 0; j < res->images[i]->n_repo_tags; j++)
			offer(p, res->images[i]->repo_tags[j]);
	ctl_free_message(res);
	berth_error_free(err);
}

static void offer_storage(const struct place *p)
{
	Berth__Admin__V1__PluginsRequest req = BERTH__ADMIN__V1__PLUGINS_REQUEST__INIT;
	struct berth_error *err = NULL;
	Berth__Admin__V1__PluginsResponse *res = ctl_admin_call(p->c, "Plugins", &req.base,
	        &berth__admin__v1__plugins_response__descriptor, ANSWER_MS, &err);

	for (size_t i = 0; res && i < res->n_plugins; i++)
		for (size_t j = 0; j < res->plugins[i]->n_kinds; j++)
			if (strcmp(res->plugins[i]->kinds[j], "storage") == 0)
				offer(p, res->plugins[i]->instance);
	ctl_free_message(res);
	berth_error_free(err);
}

/* ---- the line ---- */

static const char *const globals[] = {
        "--runtime-endpoint", "--output", "--timeout", "--help", NULL};

static const struct ctl_option *find_option(const struct ctl_command *k, const char *word)
{
	for (const struct ctl_option *o = k ? k->options : NULL; o && o->name; o++) {
		if (strncmp(word, "--", 2) == 0 && strcmp(word + 2, o->name) == 0)
			return o;
		/* The last one of -it: the others take no value. */
		if (word[0] == '-' && word[1] && word[1] != '-' && o->letter &&
		        word[strlen(word) - 1] == o->letter)
			return o;
	}
	return NULL;
}

/* "image" alone is the command of two words as well. */
static const struct ctl_command *find_command(const char *first, const char *second, bool *ret_two)
{
	for (const struct ctl_command *k = ctl_commands; k->name; k++) {
		size_t n = strcspn(k->name, " ");
		if (strlen(first) != n || strncmp(k->name, first, n) != 0)
			continue;
		*ret_two = k->name[n] != '\0';
		if (!*ret_two || (second && strcmp(k->name + n + 1, second) == 0))
			return k;
	}
	return NULL;
}

static bool global_with_value(const char *word)
{
	return strcmp(word, "-o") == 0 || strcmp(word, "--runtime-endpoint") == 0 ||
	       strcmp(word, "--output") == 0 || strcmp(word, "--timeout") == 0;
}

static void take_global(struct place *p, const char *name, const char *value)
{
	if (strcmp(name, "--runtime-endpoint") == 0)
		p->c->endpoint = value;
}

static void take_option(struct place *p, const char *word, int *at, int n, char *const *words)
{
	static const char endpoint[] = "--runtime-endpoint=";
	const struct ctl_option *o = find_option(p->command, word);
	bool global = !o && global_with_value(word);

	if (strncmp(word, endpoint, sizeof(endpoint) - 1) == 0)
		p->c->endpoint = word + sizeof(endpoint) - 1;
	if (!global && (!o || o->type == CTL_FLAG))
		return;
	if (*at + 1 < n) {
		(*at)++;
		if (global)
			take_global(p, word, words[*at]);
		return;
	}
	p->pending = o;
	p->global = global;
	p->global_name = word;
}

/* Everything before the word. False where there is nothing to say about it. */
static bool read_line(struct place *p, int n, char *const *words)
{
	for (int i = 0; i < n; i++) {
		bool option = words[i][0] == '-' && words[i][1] && !p->no_options;
		if (p->command && p->command->options_first && p->n_args > 0)
			p->no_options = true; /* the rest is another program's */
		else if (option && strcmp(words[i], "--") == 0)
			p->no_options = true;
		else if (option)
			take_option(p, words[i], &i, n, words);
		else if (p->command)
			p->n_args++;
		else if (strcmp(words[i], "help") != 0) {
			bool two = false;
			p->command = find_command(words[i], i + 1 < n ? words[i + 1] : NULL, &two);
			if (!p->command && !two)
				return false;
			if (!p->command && i + 1 == n) { /* its second word is wanted */
				p->global_name = words[i];
				return true;
			}
			i += two;
		}
	}
	return true;
}

static void offer_commands(const struct place *p)
{
	const char *first = p->global_name;

	for (const struct ctl_command *k = ctl_commands; k->name; k++) {
		size_t n = strcspn(k->name, " ");
		_cleanup_free_ char *word = berth_strndup(k->name, n);
		if (!first)
			offer(p, word);
		else if (strcmp(first, word) == 0 && k->name[n])
			offer(p, k->name + n + 1);
	}
	if (!first)
		offer(p, "help");
}

static void offer_options(const struct place *p)
{
	for (const struct ctl_option *o = p->command ? p->command->options : NULL; o && o->name;
	        o++) {
		_cleanup_free_ char *word = berth_asprintf("--%s", o->name);
		offer(p, word);
	}
	offer_all(p, globals);
}

static void offer_value(const struct place *p)
{
	static const char *const outputs[] = {"json", "table", NULL},
	                         *const nets[] = {"host", "pod", NULL},
	                         *const pulls[] = {"always", "missing", "never", NULL};
	const char *name = p->pending ? p->pending->name : "";

	if (p->global && strcmp(p->global_name, "--runtime-endpoint") != 0 &&
	        strcmp(p->global_name, "--timeout") != 0)
		offer_all(p, outputs);
	else if (strcmp(name, "net") == 0)
		offer_all(p, nets);
	else if (strcmp(name, "pull") == 0)
		offer_all(p, pulls);
	else if (p->pending && p->pending->value && strcmp(p->pending->value, "DRIVER") == 0)
		offer_storage(p);
	else if (strcmp(name, "pod") == 0 && strcmp(p->pending->value, "POD") == 0)
		offer_pods(p);
}

static void offer_arguments(const struct place *p)
{
	const struct ctl_command *k = p->command;
	const char *what = k->arguments + (*k->arguments == '[');
	bool more = strstr(k->arguments, "...") != NULL && !strchr(k->arguments, ' ');

	if (p->n_args > 0 && !more)
		return;
	if (strncmp(what, "CONTAINER", 9) == 0)
		offer_containers(p, k->run == ctl_cmd_exec || k->run == ctl_cmd_attach);
	else if (strncmp(what, "POD", 3) == 0)
		offer_pods(p);
	else if (strncmp(what, "IMAGE", 5) == 0)
		offer_images(p);
}

int ctl_complete(struct ctl *c, int n, char *const *words)
{
	const char *env = getenv("BERTH_RUNTIME_ENDPOINT");
	struct place p = {.c = c, .word = n > 0 ? words[n - 1] : ""};

	c->endpoint = env && *env ? env : CTL_ENDPOINT;
	if (!read_line(&p, n > 0 ? n - 1 : 0, words))
		return CTL_OK;
	if (p.pending || p.global)
		offer_value(&p);
	else if (p.word[0] == '-' && !p.no_options &&
	         !(p.command && p.command->options_first && p.n_args > 0))
		offer_options(&p);
	else if (!p.command)
		offer_commands(&p);
	else
		offer_arguments(&p);
	return CTL_OK;
}
