#!/bin/bash
# mutants.sh CHECK HELPERS [NAME...]: does berth-plugin-check notice? Plugins that are wrong in one way each (tests/mutants)
# must fail the test named here, and without the mutation pass it.
set -u
check=$(realpath "$1") helpers=$2 # before the directory changes
cd "$(dirname "$0")/../.." || exit 1
shift 2
[ "$(id -u)" = 0 ] || { echo "skipped: not root"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/berth-mutants.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

echo '{}' >"$tmp/none.yaml"
echo '{cp: /bin/cp}' >"$tmp/storage.yaml"

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
ASKS_FOR_ALL life.types
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
LEAKS_STDIO leaks.fds
CHECKPOINTS_NOTHING runtime.checkpoint
CHECKPOINTS_STOPPED runtime.checkpoint'

build() { # build KIND MUTANT
	"${CC:-cc}" -shared -fPIC -fvisibility=hidden -g -w -pthread -Isdk/include -DMUTANT="$2" "tests/mutants/$1.c" \
		-o "$tmp/$1-$2.so" || echo "FAILED $1 $2 does not build"
}

passes() { # passes SO TEST OUT
	local dir=/tmp config=$tmp/none.yaml
	[ -w /dev/shm ] && [[ $1 == */storage-* ]] && dir=/dev/shm
	[[ $1 == */storage-* ]] && config=$tmp/storage.yaml
	"$check" --brief --config "$config" --dir "$dir" --helpers "$helpers" --only "$2" "$1" >"$3" 2>&1
}

good() { # good KIND TEST: without a mutation
	local out=$tmp/$1-NONE-$2
	passes "$tmp/$1-NONE.so" "$2" "$out" || { echo "FAILED $1: $2 fails without a mutation:"; cat "$out"; }
}

noticed() { # noticed KIND MUTANT TEST
	local out=$tmp/$1-$2-$3
	if passes "$tmp/$1-$2.so" "$3" "$out"; then
		echo "FAILED $1: $3 does not notice $2:"
		cat "$out"
	elif ! grep -q '^not ok' "$out"; then
		echo "FAILED $1: $2 was not tested:"
		cat "$out"
	else
		echo "noticed $1 $2: $3: $(grep '^# ' "$out" | grep -Ev '^# (/|note|took)' | tail -n 1)"
	fi
}

wanted() { # wanted KIND MUTANT NAME...: no names: all
	local kind=$1 mutant=$2 n
	shift 2
	[ $# -gt 0 ] || return 0
	for n; do [ "$n" = "$mutant" ] || [ "$n" = "$kind" ] && return 0; done
	return 1
}

# Some at once: they wait more than they work.
job() {
	while [ "$(jobs -rp | wc -l)" -ge 4 ]; do wait -n; done
	started=$((started + 1))
	"$@" >"$tmp/$started.result" 2>&1 &
}

# A sanitizer takes stack of its own, so none is measured.
sanitized=$(nm "$check" 2>/dev/null | grep -cE '__(a|t)san_init')
started=0 mutants=0
for kind in storage network runtime; do
	while read -r mutant _; do
		wanted $kind "$mutant" "$@" && [ ! -f "$tmp/$kind-$mutant" ] && touch "$tmp/$kind-$mutant" && job build $kind "$mutant"
	done <<<"NONE
${!kind}"
	job build $kind NONE
	wait
	while read -r mutant test; do
		wanted $kind "$mutant" "$@" || continue
		[ "$mutant" = NEEDS_STACK ] && [ "$sanitized" != 0 ] && { echo "built with a sanitizer: no $mutant"; continue; }
		[ -f "$tmp/$kind-$test" ] || { touch "$tmp/$kind-$test"; job good $kind "$test"; }
		job noticed $kind "$mutant" "$test"
		mutants=$((mutants + 1))
	done <<<"${!kind}"
	wait
done
cat "$tmp"/*.result
bad=$(cat "$tmp"/*.result | grep -c '^FAILED')
caught=$(cat "$tmp"/*.result | grep -c '^noticed')
echo "$caught of $mutants mutants were noticed"
[ "$bad" = 0 ] && [ "$caught" = "$mutants" ] && [ "$caught" != 0 ]
