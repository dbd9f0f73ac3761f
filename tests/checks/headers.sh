#!/bin/bash
# Do the ABI's headers stand alone, in strict C99, C11 and C++, without padding that nobody sees?
cd "$(dirname "$0")/../.." || exit 1
bad=0 tried=0

try() { # try LANGUAGE COMPILER STANDARD HEADER FLAG...
	local lang=$1 cc=$2 std=$3 h=$4
	shift 4
	command -v "$cc" >/dev/null || return 0
	tried=$((tried + 1))
	printf '#include <%s>\n#include <%s>\n' "$h" "$h" |
		"$cc" -x "$lang" -std="$std" -pedantic -Wall -Wextra -Werror -fsyntax-only -Isdk/include "$@" - ||
		{ echo "$h: $cc -std=$std"; bad=1; }
}

for h in berth/plugin.h berth/monitor.h berth/util.h; do
	for cc in gcc clang; do
		try c $cc c99 $h -Wpadded
		try c $cc c11 $h -Wpadded
	done
	for cc in g++ clang++; do
		try c++ $cc c++11 $h
		try c++ $cc c++17 $h
	done
done
[ $tried -gt 0 ] || { echo "skipped: no compiler"; exit 77; }
exit $bad
