#!/bin/sh
# Is every C file as .clang-format wants it? Changes nothing.
cd "$(dirname "$0")/../.." || exit 1
command -v clang-format >/dev/null || { echo "skipped: no clang-format"; exit 77; }
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { echo "skipped: no git work tree"; exit 77; }
# Releases differ in what they do; the project is formatted by one of them.
clang-format --version | grep -q 'version 14\.' || { echo "skipped: not clang-format 14"; exit 77; }
bad=$(git ls-files -cz '*.c' '*.h' | xargs -0 sh -c 'for f; do [ ! -f "$f" ] || printf "%s\0" "$f"; done' - |
	xargs -0 clang-format --dry-run -Werror 2>&1 | sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: .*/\1/p' | sort -u)
[ -z "$bad" ] && exit 0
printf 'not formatted (clang-format -i FILE):\n%s\n' "$bad"
exit 1
