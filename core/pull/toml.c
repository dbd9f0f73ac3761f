#include "pull/toml.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { DEPTH_MAX = 16 };

struct reader {
	const char *p, *end;
	unsigned int line;
	struct berth_error **err;
};

static int fail(struct reader *r, const char *what)
{
	return berth_error_set(r->err, BERTH_INVALID_ARGUMENT, "line %u: %s", r->line, what);
}

static int peek(const struct reader *r)
{
	return r->p < r->end ? (unsigned char)*r->p : -1;
}

static void skip_blanks(struct reader *r)
{
	while (peek(r) == ' ' || peek(r) == '\t')
		r->p++;
}

static void skip_comment(struct reader *r)
{
	if (peek(r) == '#')
		while (r->p < r->end && *r->p != '\n')
			r->p++;
}

static void skip_lines(struct reader *r)
{
	for (;;) {
		skip_blanks(r);
		skip_comment(r);
		if (peek(r) == '\r' && r->p + 1 < r->end && r->p[1] == '\n')
			r->p++;
		if (peek(r) != '\n')
			return;
		r->line++;
		r->p++;
	}
}

static int end_of_line(struct reader *r)
{
	skip_blanks(r);
	skip_comment(r);
	if (peek(r) == '\r' && r->p + 1 < r->end && r->p[1] == '\n')
		r->p++;
	if (peek(r) != '\n' && peek(r) != -1)
		return fail(r, "something follows the value");
	return 0;
}

static bool take(struct reader *r, char c)
{
	if (peek(r) != c)
		return false;
	r->p++;
	return true;
}

static void add_utf8(struct berth_buf *b, unsigned long c)
{
	char u[4];
	size_t n;

	if (c < 0x80) {
		u[0] = (char)c;
		n = 1;
	} else if (c < 0x800) {
		u[0] = (char)(0xc0 | (c >> 6));
		u[1] = (char)(0x80 | (c & 0x3f));
		n = 2;
	} else if (c < 0x10000) {
		u[0] = (char)(0xe0 | (c >> 12));
		u[1] = (char)(0x80 | ((c >> 6) & 0x3f));
		u[2] = (char)(0x80 | (c & 0x3f));
		n = 3;
	} else {
		u[0] = (char)(0xf0 | (c >> 18));
		u[1] = (char)(0x80 | ((c >> 12) & 0x3f));
		u[2] = (char)(0x80 | ((c >> 6) & 0x3f));
		u[3] = (char)(0x80 | (c & 0x3f));
		n = 4;
	}
	berth_buf_add(b, u, n);
}

static int unicode_escape(struct reader *r, int digits, struct berth_buf *b)
{
	unsigned long c = 0;

	for (int i = 0; i < digits; i++, r->p++) {
		int x = peek(r);
		if (x < 0 || !isxdigit(x))
			return fail(r, "a malformed \\u escape");
		c = c * 16 + (unsigned long)(isdigit(x) ? x - '0' : (x | 0x20) - 'a' + 10);
	}
	if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return fail(r, "an escape that is no character");
	add_utf8(b, c);
	return 0;
}

static int escape(struct reader *r, struct berth_buf *b)
{
	static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
	int c = peek(r);
	const char *at = c > 0 ? strchr(from, c) : NULL;

	if (c == 'u' || c == 'U') {
		r->p++;
		return unicode_escape(r, c == 'u' ? 4 : 8, b);
	}
	if (!at)
		return fail(r, "an unknown escape in a string");
	berth_buf_add(b, to + (at - from), 1);
	r->p++;
	return 0;
}

/* "..." or '...'; the quote is next. */
static int quoted(struct reader *r, char **ret)
{
	struct berth_buf b = {0};
	char quote = *r->p++;
	int result = 0;

	if (peek(r) == quote && r->p + 1 < r->end && r->p[1] == quote)
		return fail(r, "strings of several lines are not supported");
	while (result == 0 && peek(r) != quote) {
		int c = peek(r);
		if (c < 0 || c == '\n' || (c < 0x20 && c != '\t') || c == 0x7f) {
			result = fail(r, "a string does not end on its line");
		} else if (c == '\\' && quote == '"') {
			r->p++;
			result = escape(r, &b);
		} else {
			berth_buf_add(&b, r->p++, 1);
		}
	}
	if (result < 0) {
		berth_buf_finish(&b);
		return -1;
	}
	r->p++;
	*ret = berth_buf_steal(&b);
	return 0;
}

static int simple_key(struct reader *r, char **ret)
{
	const char *start = r->p;

	if (peek(r) == '"' || peek(r) == '\'')
		return quoted(r, ret);
	while (r->p < r->end && (isalnum((unsigned char)*r->p) || *r->p == '-' || *r->p == '_'))
		r->p++;
	if (r->p == start)
		return fail(r, "a key is expected");
	*ret = berth_strndup(start, (size_t)(r->p - start));
	return 0;
}

static int set(struct reader *r, json_t *table, const char *key, json_t *value)
{
	if (json_object_get(table, key)) {
		json_decref(value);
		berth_error_set(r->err, BERTH_INVALID_ARGUMENT, "line %u: '%.100s' is there twice",
		        r->line, key);
		return -1;
	}
	if (json_object_set_new(table, key, value) < 0)
		return fail(r, "it is not UTF-8");
	return 0;
}

/* Walks down a dotted key and leaves its last part in *ret_key. Tables on the way are made, and of
 * an array of tables the last is meant. */
static int dotted(struct reader *r, json_t *table, json_t **ret_table, char **ret_key)
{
	_cleanup_free_ char *key = NULL;

	for (int depth = 0;; depth++) {
		skip_blanks(r);
		if (simple_key(r, &key) < 0)
			return -1;
		skip_blanks(r);
		if (!take(r, '.'))
			break;
		if (depth == DEPTH_MAX)
			return fail(r, "a key has too many parts");
		json_t *next = json_object_get(table, key);
		if (!next) {
			next = json_object();
			if (set(r, table, key, next) < 0)
				return -1;
		}
		if (json_is_array(next))
			next = json_array_get(next, json_array_size(next) - 1);
		if (!json_is_object(next))
			return fail(r, "a part of the key is no table");
		table = next;
		free(berth_take(key));
	}
	*ret_table = table;
	*ret_key = berth_take(key);
	return 0;
}

static int value(struct reader *r, int depth, json_t **ret);

static int pair(struct reader *r, json_t *table, int depth)
{
	_cleanup_free_ char *key = NULL;
	json_t *at, *v;

	if (dotted(r, table, &at, &key) < 0)
		return -1;
	if (!take(r, '='))
		return fail(r, "'=' is expected");
	skip_blanks(r);
	if (value(r, depth, &v) < 0)
		return -1;
	return set(r, at, key, v);
}

static int inline_table(struct reader *r, json_t *table, int depth)
{
	skip_blanks(r);
	if (take(r, '}'))
		return 0;
	for (;;) {
		if (pair(r, table, depth) < 0)
			return -1;
		skip_blanks(r);
		if (take(r, '}'))
			return 0;
		if (!take(r, ','))
			return fail(r, "',' or '}' is expected");
	}
}

static int array(struct reader *r, json_t *list, int depth)
{
	for (;;) {
		json_t *v;
		skip_lines(r);
		if (take(r, ']'))
			return 0;
		if (value(r, depth, &v) < 0)
			return -1;
		json_array_append_new(list, v);
		skip_lines(r);
		if (!take(r, ',') && peek(r) != ']')
			return fail(r, "',' or ']' is expected");
	}
}

static int word(struct reader *r, json_t **ret)
{
	char text[32], *end;
	size_t n = 0;

	while (r->p + n < r->end && n < sizeof(text) - 1 && r->p[n] &&
	        !strchr(" \t\r\n,]}#", r->p[n]))
		n++;
	memcpy(text, r->p, n);
	text[n] = '\0';
	if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
		*ret = json_boolean(text[0] == 't');
	} else {
		errno = 0;
		long long i = strtoll(text, &end, 10);
		if (n == 0 || *end || errno || isspace((unsigned char)text[0]))
			return fail(r, "a value that is not supported");
		*ret = json_integer(i);
	}
	r->p += n;
	return 0;
}

static int string(struct reader *r, json_t **ret)
{
	_cleanup_free_ char *s = NULL;

	if (quoted(r, &s) < 0)
		return -1;
	*ret = json_string(s);
	return *ret ? 0 : fail(r, "a string is not UTF-8");
}

static int value(struct reader *r, int depth, json_t **ret)
{
	int result;

	if (depth >= DEPTH_MAX)
		return fail(r, "values are nested too deep");
	if (peek(r) == '"' || peek(r) == '\'')
		return string(r, ret);
	if (peek(r) != '[' && peek(r) != '{')
		return word(r, ret);
	bool is_array = *r->p++ == '[';
	json_t *v = is_array ? json_array() : json_object();
	result = is_array ? array(r, v, depth + 1) : inline_table(r, v, depth + 1);
	if (result < 0) {
		json_decref(v);
		return -1;
	}
	*ret = v;
	return 0;
}

/* [a.b] or [[a.b]]; the first bracket is taken. */
static int header(struct reader *r, json_t *root, json_t **ret)
{
	_cleanup_free_ char *key = NULL;
	bool several = take(r, '[');
	json_t *at;

	if (dotted(r, root, &at, &key) < 0)
		return -1;
	if (!take(r, ']') || (several && !take(r, ']')))
		return fail(r, "']' is expected");
	json_t *there = json_object_get(at, key);
	if (several) {
		if (!there && set(r, at, key, there = json_array()) < 0)
			return -1;
		if (!json_is_array(there))
			return fail(r, "it is no array of tables");
		*ret = json_object();
		return json_array_append_new(there, *ret);
	}
	if (!there) {
		*ret = json_object();
		return set(r, at, key, *ret);
	}
	if (!json_is_object(there))
		return fail(r, "it is no table");
	*ret = there;
	return 0;
}

static int document(struct reader *r, json_t *root)
{
	json_t *table = root;

	for (;;) {
		skip_lines(r);
		if (peek(r) == -1)
			return 0;
		int result = take(r, '[') ? header(r, root, &table) : pair(r, table, 0);
		if (result < 0 || end_of_line(r) < 0)
			return -1;
	}
}

int pull_toml_parse(const char *text, size_t len, json_t **ret, struct berth_error **ret_err)
{
	struct reader r = {text, text + len, 1, ret_err};
	json_t *root = json_object();

	if (document(&r, root) < 0) {
		json_decref(root);
		return -1;
	}
	*ret = root;
	return 0;
}
