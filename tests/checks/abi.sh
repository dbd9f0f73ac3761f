#!/bin/bash
# Does the ABI differ from what is written down of it? And would that be noticed: breaks are made in copies of the headers,
# and the gate that stands against each must close.
cd "$(dirname "$0")/../../sdk" || exit 1
. abi/lib.sh
tmp=$(mktemp -d "${TMPDIR:-/tmp}/berth-abi.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
bad=0 breaks=0

complain() { printf 'FAILED %s\n' "$*"; bad=1; }

abidiff_serves() { [ "$(uname -m)" = x86_64 ] && command -v abidiff abidw gcc >/dev/null; }

layout_holds() { "${CC:-gcc}" -std=gnu11 -fsyntax-only -w -I"$1" abi/layout.c; }

no_comments() { sed -E 's#/\*[^*]*\*/##g' "$1"/berth/plugin.h "$1"/berth/monitor.h; }

# What the headers define is in the list of the witness, and in that of the layout.
all_is_listed() {
	local s c
	for s in $(grep -hoE '^struct berth_\w+ \{' "$1"/berth/{plugin,monitor}.h | awk '{print $2}'); do
		grep -q "WITNESS($s)" abi/witness.c || { echo "witness.c lacks $s"; return 1; }
		grep -q "SIZE($s," abi/layout.c || { echo "layout.c lacks $s"; return 1; }
	done
	for c in $(no_comments "$1" | grep -oE 'BERTH_[A-Z0-9_]+ (=|[0-9(])|^#define BERTH_\w+ 0x' | grep -oE 'BERTH_\w+' | sort -u); do
		[ "$c" = BERTH_ABI_MINOR ] || grep -q "VALUE($c," abi/layout.c || { echo "layout.c lacks $c"; return 1; }
	done
}

# The frozen headers of this minor are these: who changes one of them raises BERTH_ABI_MINOR or, in 0.x, takes note.
is_frozen() {
	local h minor
	minor=$(abi_version "$1")
	for h in plugin.h monitor.h; do
		cmp -s "$1/berth/$h" "compat/$minor/berth/$h" || { echo "$h is not that of compat/$minor"; return 1; }
	done
	grep -q "^$minor" CHANGES || { echo "CHANGES has nothing of $minor"; return 1; }
}

abi_holds() { abi_witness "$1" "$tmp/witness.so" && abi_same abi/v0.abi "$tmp/witness.so"; }

# changed NAME FILE SED: a copy of the headers with a change in it, in $tmp/NAME.
changed() {
	mkdir -p "$tmp/$1"
	cp -r include/berth "$tmp/$1/"
	sed -E -i "$3" "$tmp/$1/berth/$2"
	! cmp -s "include/berth/$2" "$tmp/$1/berth/$2" || { complain "$1: the change does not apply any more"; return 1; }
	breaks=$((breaks + 1))
}

# caught GATE NAME FILE SED / passes GATE NAME FILE SED
caught() {
	changed "$2" "$3" "$4" || return
	! "$1" "$tmp/$2" >"$tmp/out" 2>&1 || complain "$1 does not notice: $2"
}
passes() {
	changed "$2" "$3" "$4" || return
	"$1" "$tmp/$2" >"$tmp/out" 2>&1 || complain "$1 refuses what is allowed: $2 $(cat "$tmp/out")"
}

all_is_listed include || complain "complete the lists"
layout_holds include || complain "the layout differs from layout.c"
is_frozen include || complain "see ABI-POLICY.md; then run sdk/abi/update"

caught is_frozen a-comment plugin.h 's/^ \* LAYOUT:/ * LAYOUT :/'
caught is_frozen a-new-minor-without-its-copy plugin.h 's/^(#define BERTH_ABI_MINOR) 0u/\1 1u/'
caught all_is_listed an-unlisted-struct monitor.h 's/^struct berth_monitor_args \{/struct berth_more { int32_t x; };\n&/'
caught all_is_listed an-unlisted-constant plugin.h 's/^#define BERTH_PLUGIN_SERIAL.*/&\n#define BERTH_PLUGIN_MORE 2u/'
caught layout_holds a-constant plugin.h 's/BERTH_ST_RUNNING, BERTH_ST_STOPPED/BERTH_ST_STOPPED, BERTH_ST_RUNNING/'
caught layout_holds two-fields-swapped plugin.h 's/\*key, \*parent, \*name;/*parent, *key, *name;/'
caught layout_holds a-wider-field plugin.h 's/^  int32_t signal; /  int64_t signal; /'
caught layout_holds an-op-removed plugin.h '/^  berth_status \(\*cleanup\)/d'
caught layout_holds an-op-in-the-middle plugin.h 's/^  berth_status \(\*commit\).*/  berth_status (*squash)(struct berth_op *);\n&/'

if abidiff_serves; then
	abi_holds include >"$tmp/out" 2>&1 || complain "the ABI differs from v0.abi: $(cat "$tmp/out")"
	caught abi_holds fields-swapped plugin.h 's/\*key, \*parent, \*name;/*parent, *key, *name;/'
	caught abi_holds a-field-removed plugin.h 's/^  const char \*cwd, \*cgroup;/  const char *cwd;/'
	caught abi_holds a-sign plugin.h 's/^  int32_t wait_status;/  uint32_t wait_status;/'
	caught abi_holds another-pointer plugin.h 's/const struct berth_kv \*labels;/const struct berth_port *labels;/'
	caught abi_holds op-removed plugin.h '/^  berth_status \(\*list\)\(struct berth_op \*, void \*self, struct berth_ctr_list/d'
	caught abi_holds op-in-the-middle plugin.h 's/^  berth_status \(\*commit\).*/  berth_status (*squash)(struct berth_op *);\n&/'
	caught abi_holds an-ops-argument plugin.h 's/^(  berth_status \(\*status\)\(struct berth_op \*, void \*self)\)/\1, int32_t force)/'
	caught abi_holds an-ops-return plugin.h 's/^  int32_t \(\*op_cancelled\)/  int64_t (*op_cancelled)/'
	caught abi_holds an-extensions-table monitor.h 's/uint16_t width, uint16_t height/uint32_t width, uint32_t height/'
	caught abi_holds the-entry-symbol plugin.h 's/berth_plugin_v0\(uint32_t host_minor\)/berth_plugin_v0(uint64_t host_minor)/'
	passes abi_holds a-field-appended plugin.h 's/^  const char \*sandbox_state_json;.*/&\n  uint32_t more, reserved0;/'
	passes abi_holds an-op-appended plugin.h 's/^  berth_status \(\*cleanup\).*/&\n  berth_status (*squash)(struct berth_op *);/'
	passes abi_holds a-struct-added plugin.h 's/^struct berth_kv .*/&\nstruct berth_more { int32_t x; };/'
else
	echo "abidiff is not there, or this is another machine than the baseline's: only layout.c was asked"
fi

# The scripts beside this one, on breaks of their own.
mkdir -p "$tmp/tree/tests"
cp -r ../tests/checks "$tmp/tree/tests/"
cp -r ../sdk "$tmp/tree/"
rm -r "$tmp/tree/sdk/check"/* # it includes core/
mkdir -p "$tmp/tree/core/base" "$tmp/tree/plugins"
closes() { # closes SCRIPT WHAT [ARGUMENT...]
	local script=$1 what=$2
	shift 2
	breaks=$((breaks + 1))
	! "$tmp/tree/tests/checks/$script" "$@" >"$tmp/out" 2>&1 || complain "$script does not notice: $what"
}
"$tmp/tree/tests/checks/includes.sh" >"$tmp/out" || complain "includes.sh fails without a break: $(cat "$tmp/out")"
sed -i 's/#include <stdint.h>/&\n#include <sys\/types.h>/' "$tmp/tree/sdk/include/berth/plugin.h"
closes includes.sh "a header that needs more than stddef.h and stdint.h"
cp include/berth/plugin.h "$tmp/tree/sdk/include/berth/"
sed -i 's/^  int32_t signal; /  int32_t signal, template; /' "$tmp/tree/sdk/include/berth/plugin.h"
closes headers.sh "a word of C++"
cp include/berth/plugin.h "$tmp/tree/sdk/include/berth/"
sed -i 's/^struct berth_snap_info { uint32_t size, kind;/struct berth_snap_info { uint32_t size, kind; uint8_t odd;/' \
	"$tmp/tree/sdk/include/berth/plugin.h"
closes headers.sh "padding"
cp include/berth/plugin.h "$tmp/tree/sdk/include/berth/"
sed -i 's/^struct berth_exit { uint32_t flags; int32_t code; };/struct berth_exit { uint32_t flags; union { int32_t code; }; };/' \
	"$tmp/tree/sdk/include/berth/plugin.h"
closes headers.sh "what C99 lacks"
plugin() { "${CC:-gcc}" -shared -fPIC -w -Iinclude "$@" -x c - -o "$tmp/p.so"; }
echo '#include <berth/plugin.h>
const struct berth_plugin *berth_plugin_v0(uint32_t m) { (void)m; return 0; } BERTH_EXPORT int more;' | plugin -fvisibility=hidden
closes symbols.sh "a second symbol" "$tmp/p.so"
echo '#include <berth/plugin.h>
void *berth_arena_alloc(void *, unsigned long);
const struct berth_plugin *berth_plugin_v0(uint32_t m) { return berth_arena_alloc(0, m); }' | plugin -fvisibility=hidden
closes symbols.sh "a symbol of the host" "$tmp/p.so"

[ $bad -eq 0 ] && echo "the ABI is as written; $breaks changes were judged rightly"
exit $bad
