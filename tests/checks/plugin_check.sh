#!/bin/bash
# plugin_check.sh CHECK HELPERS PLUGIN.so [--full] [OPTION...]: the short form of berth-plugin-check, or all of it, for one of
# our own plugins, with the configuration that it needs. CHECK --list alone: does docs/plugin-check.md say what is tested?
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
check=$1
tmp=$(mktemp -d "${TMPDIR:-/tmp}/berth-plugin-check.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

if [ "$2" = --list ]; then
	"$check" --list | awk -F '\t' '{ sub(/ +$/, "", $2); gsub(/ root$|^root$/, "", $2)
		printf "| `%s` | %s | %s |\n", $1, ($2 == "storage runtime network" ? "all" : $2), $3 }' >"$tmp/is"
	grep '^| `' "$root/docs/plugin-check.md" >"$tmp/written"
	diff "$tmp/written" "$tmp/is" && exit 0
	echo "docs/plugin-check.md is not what is tested (< written, > is)"
	exit 1
fi

args=(--helpers "$2") more=("${@:4}")
if [ "${more[0]:-}" = --full ]; then more=("${more[@]:1}"); else args+=(--brief); fi
echo '{}' >"$tmp/config.yaml"
skip() { echo "skipped: $*"; exit 77; }

# A file system of its own on a file, where the driver's is not the one that is there anyway.
loop_fs() { # loop_fs TYPE
	command -v "mkfs.$1" >/dev/null || skip "no mkfs.$1"
	mkdir "$tmp/fs"
	truncate -s 1G "$tmp/image"
	"mkfs.$1" -q "$tmp/image" >/dev/null 2>&1 && mount -o loop "$tmp/image" "$tmp/fs" || skip "no $1 can be mounted here"
	trap 'umount -l "$tmp/fs"; rm -rf "$tmp"' EXIT
	chmod 755 "$tmp/fs"
	args+=(--dir "$tmp/fs")
}

# A pool outlives the tests: one state directory for all, and what is left of it goes in the end.
loop_pool() {
	dmsetup version >/dev/null 2>&1 || skip "no device mapper here"
	args+=(--state "$tmp/state")
	echo "{loop_size: 4G, base_size: 64M}" >"$tmp/config.yaml"
	# Others on this machine have pools of their own.
	trap 'tag=$(find "$tmp/state" -name pool -exec sed -n "s/.*tag=\([0-9a-f]*\).*/\1/p" {} + | head -n 1)
		for i in 1 2 3; do
			dmsetup ls | awk -v own="berth-${tag:-none}-" "index(\$1, own) == 1 { print \$1 }" |
				xargs -r -n 1 dmsetup remove --retry >/dev/null 2>&1
		done
		losetup -n -O NAME,BACK-FILE | awk -v d="$tmp/" "index(\$2, d) == 1 { print \$1 }" | xargs -r losetup -d
		rm -rf "$tmp"' EXIT
}

case $(basename "$3") in
storage-btrfs.so)
	loop_fs btrfs
	echo 'quota: full' >"$tmp/config.yaml"
	;;
storage-devmapper.so) loop_pool ;;
storage-aufs.so)
	grep -qw aufs /proc/filesystems || modprobe -q aufs 2>/dev/null || skip "this kernel has no aufs"
	loop_fs ext4 # on what nodes have; its user attributes are more than those of a tmpfs
	;;
storage-* | fake.so)
	# In memory: each commit syncs the file system, and that of a busy machine has much to write.
	[ -w /dev/shm ] && args+=(--dir /dev/shm)
	;;
net-cni.so)
	[ -x /usr/lib/cni/bridge ] || skip "no /usr/lib/cni/bridge (containernetworking-plugins)"
	mkdir "$tmp/net.d"
	cat >"$tmp/net.d/1.conflist" <<-JSON
		{"cniVersion": "1.0.0", "name": "check", "plugins": [{"type": "bridge", "bridge": "check0", "ipam":
		{"type": "host-local", "dataDir": "$tmp/ipam", "ranges": [[{"subnet": "10.88.0.0/16"}]]}}]}
	JSON
	echo "{conf_dir: $tmp/net.d, bin_dirs: [/usr/lib/cni]}" >"$tmp/config.yaml"
	;;
runtime-runc.so)
	runc=$(command -v runc || command -v crun) || skip "no runc, no crun"
	echo "path: $runc" >"$tmp/config.yaml"
	;;
esac
export TSAN_OPTIONS="${TSAN_OPTIONS:-} atexit_sleep_ms=0" # each test is a process
"$check" "${args[@]}" --config "$tmp/config.yaml" "${more[@]}" "$3"
