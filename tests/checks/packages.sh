#!/bin/sh
# Does tools/packages-build.txt name what every dependency of the build comes from? The tests' machine has more, and would
# build without it. pkg-config's dependencies alone are seen.
cd "$(dirname "$0")/../.." || exit 1
command -v dpkg >/dev/null && command -v pkg-config >/dev/null || { echo "skipped: no dpkg, no pkg-config"; exit 77; }
bad=0
for name in $(meson introspect --scan-dependencies meson.build 2>/dev/null |
	python3 -c 'import json, sys; print(*(d["name"] for d in json.load(sys.stdin) if d["required"] and not d["conditional"]))'); do
	[ "$name" != threads ] || continue
	dir=$(pkg-config --variable=pcfiledir "$name") || { echo "$name: pkg-config does not know it"; bad=1; continue; }
	package=$(dpkg -S "$(readlink -f "$dir/$name.pc")" | sed 's/[:,].*//')
	grep -qx "$package" tools/packages-build.txt || { echo "$name: tools/packages-build.txt lacks $package"; bad=1; }
done
exit $bad
