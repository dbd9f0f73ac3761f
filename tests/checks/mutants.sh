#!/bin/bash
# mutants.sh CHECK HELPERS [NAME...]: does berth-plugin-check notice? Plugins that are wrong in one way each (tests/mutants)
# must fail the test named here, and without the mutation pass it.
set -u
cd "$(dirname "$0")/../.." || exit 1
check=$1 helpers=$2
shift 2
[ "$(id -u)" = 0 ] || { echo "skipped: not root"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/berth-mutants.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
bad=0 caught=0

storage='LEAKS_FD leaks.fds
LEAKS_THREAD leaks.threads
LEAKS_MEMORY leaks.memory
LEAKS_PROCESS leaks.processes
LEAKS_MOUNT leaks.mounts
LEAVES_THREAD leaks.stop
LEAVES_FD leaks.stop
IS_MUTE errors.said
NAMES_NOTHING storage.unknown
SAYS_ANOTHER errors.said
WRITES_BEHIND_RESULT sizes.first
FILLS_UNKNOWN_RESULT sizes.results-larger
READS_BEHIND_ARGS sizes.first
WANTS_ITS_ARGS sizes.args-larger
READS_BEHIND_HOST sizes.host-first
WANTS_ITS_HOST sizes.host-larger
SETS_UMASK hygiene.thread
CHANGES_DIRECTORY hygiene.thread
BLOCKS_SIGNALS hygiene.thread
TAKES_SIGNAL hygiene.thread
SETS_FSUID hygiene.thread
LEAVES_NAMESPACE hygiene.thread
NAMES_THREAD hygiene.thread
NEEDS_STACK hygiene.stack
KEEPS_MEMORY memory.arena
OVERRUNS_MEMORY memory.arena
KEEPS_ARGUMENT memory.arguments
WRITES_ARGUMENT memory.arguments
IGNORES_CANCEL storage.cancel
IGNORES_CANCEL storage.deadline
REMOVES_ONCE storage.twice
TAKES_FLAGS storage.flags
OVERWRITES storage.taken
SHARES_PARENT storage.commit
WRITES_VIEW storage.view
MAKES_HALF storage.cancel
FORGETS storage.killed-between
FORGETS storage.reboot
TAKES_PATHS storage.names
TAKES_NO_NAME storage.nameless
ASKS_FOR_ALL life.typo
LISTS_TWICE storage.list
MISTAKES_KIND storage.prepare
SHARES_TEMPORARY storage.crowd
LIMITS_NOTHING storage.quota
MARKS_TWICE life.features
COUNTS_WRONG storage.usage
ENDS_EARLY storage.deep
HIDES_ROOT storage.root
LIVES_ONCE life.cycle
LACKS_STAT life.ops
FAILS_LOUD life.cycle
DROPS_CHILDREN storage.children
CRASHES storage.prepare'
network='DETACHES_ONCE network.netns-gone
GIVES_ONE_ADDRESS network.addresses
GIVES_NO_ADDRESS network.attach
GIVES_WORDS network.attach
TAKES_FLAGS network.arguments
IS_NEVER_READY network.status
WAITS network.cancel'
runtime='REMOVES_ONCE runtime.wrong-state
FORGETS runtime.killed-between
LOSES_EXIT runtime.life
KILLS_NOTHING runtime.signals
TAKES_FLAGS runtime.arguments
LEAVES_FAILED runtime.bundles
LEAKS_STDIO leaks.fds'

build() { # build KIND MUTANT
	"${CC:-cc}" -shared -fPIC -fvisibility=hidden -g -w -pthread -Isdk/include -DMUTANT="$2" "tests/mutants/$1.c" \
		-o "$tmp/$1-$2.so" || { echo "FAILED $1 $2 does not build"; bad=1; return 1; }
}

passes() { # passes SO TEST; what it printed is in $tmp/out
	local dir=/tmp
	[ -w /dev/shm ] && [[ $1 == */storage-* ]] && dir=/dev/shm
	"$check" --brief --dir "$dir" --helpers "$helpers" --only "$2" "$1" >"$tmp/out" 2>&1
}

wanted() { # wanted KIND MUTANT NAME...: no names: all
	local kind=$1 mutant=$2 n
	shift 2
	[ $# -gt 0 ] || return 0
	for n; do [ "$n" = "$mutant" ] || [ "$n" = "$kind" ] && return 0; done
	return 1
}

for kind in storage network runtime; do
	[ -f "tests/mutants/$kind.c" ] && build $kind NONE || continue
	tried=
	while read -r mutant test; do
		wanted $kind "$mutant" "$@" || continue
		[[ " $tried " == *" $test "* ]] || passes "$tmp/$kind-NONE.so" "$test" ||
			{ echo "FAILED $kind: $test fails without a mutation:"; cat "$tmp/out"; bad=1; }
		tried="$tried $test"
		[ -f "$tmp/$kind-$mutant.so" ] || build $kind "$mutant" || continue
		if passes "$tmp/$kind-$mutant.so" "$test"; then
			echo "FAILED $kind: $test does not notice $mutant:"
			cat "$tmp/out"
			bad=1
		elif ! grep -q '^not ok' "$tmp/out"; then
			echo "FAILED $kind: $mutant was not tested:"
			cat "$tmp/out"
			bad=1
		else
			caught=$((caught + 1))
			echo "$kind $mutant: $test: $(grep '^# ' "$tmp/out" | grep -Ev '^# (/|note|took)' | tail -n 1)"
		fi
	done <<<"${!kind}"
done
[ $bad -eq 0 ] && echo "$caught mutants were noticed"
exit $bad
