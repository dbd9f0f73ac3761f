#!/bin/bash
# compat.sh CHECK HELPERS: plugins built with the headers of each earlier minor work on the host of today. Those of this minor
# are today's plugins, which run everything elsewhere.
set -u
check=$(realpath "$1") helpers=$2 # before the directory changes
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d "${TMPDIR:-/tmp}/berth-compat.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
bad=0

for old in sdk/compat/*/; do
	only=(--only life)
	cmp -s "$old/berth/plugin.h" sdk/include/berth/plugin.h || only=()
	flags=(-shared -fPIC -fvisibility=hidden -w -pthread -D_GNU_SOURCE "-I$old" -Isdk/include)
	for so in storage-dir:storage_dir.c net-loopback:net-loopback.c runtime-oci:runtime-oci.c fake:; do
		source=${so#*:} so=$tmp/${so%%:*}.so
		if [ -n "$source" ]; then
			"${CC:-cc}" "${flags[@]}" "sdk/example/$source" -o "$so"
		else
			"${CC:-cc}" "${flags[@]}" $(pkg-config --cflags jansson) tests/fake/*.c -o "$so" $(pkg-config --libs jansson)
		fi || { echo "FAILED $so: does not build with $old"; bad=1; continue; }
		"$check" --brief --helpers "$helpers" "${only[@]}" "$so" >"$tmp/out" 2>&1
		case $? in
		0) echo "${so##*/} of $old: $(grep -c '^ok' "$tmp/out") tests" ;;
		77) echo "${so##*/} of $old: as far as can be without root" ;;
		*) echo "FAILED ${so##*/} of $old"; cat "$tmp/out"; bad=1 ;;
		esac
	done
done
exit $bad
