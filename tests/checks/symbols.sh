#!/bin/sh
# symbols.sh PLUGIN.so...: each defines exactly one dynamic symbol, its entry, and wants none of the host's.
bad=0
for so in "$@"; do
	[ -f "$so" ] || { echo "$so: not there"; bad=1; continue; }
	defined=$(nm -D --defined-only "$so" | awk '{print $NF}')
	[ "$defined" = berth_plugin_v0 ] || { printf '%s defines:\n%s\n' "$so" "$defined"; bad=1; }
	wanted=$(nm -D --undefined-only "$so" | awk '{print $NF}' | grep '^berth_')
	[ -z "$wanted" ] || { printf '%s wants from the host:\n%s\n' "$so" "$wanted"; bad=1; }
done
exit $bad
