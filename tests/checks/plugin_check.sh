#!/bin/bash
# plugin_check.sh CHECK HELPERS PLUGIN.so [OPTION...]: the short form of berth-plugin-check for one of our own plugins, with
# the configuration that it needs. CHECK --list alone: does docs/plugin-check.md say what is tested?
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

args=(--brief --helpers "$2")
echo '{}' >"$tmp/config.yaml"
case $(basename "$3") in
storage-devmapper.so)
	[ -e /dev/mapper/control ] || { echo "skipped: no device mapper"; exit 77; }
	echo "{loop_size: 4G, base_size: 256M}" >"$tmp/config.yaml"
	;;
storage-btrfs.so)
	grep -qw btrfs /proc/filesystems && command -v mkfs.btrfs >/dev/null || { echo "skipped: no btrfs, or no mkfs.btrfs"; exit 77; }
	truncate -s 2G "$tmp/disk"
	mkdir "$tmp/btrfs"
	mkfs.btrfs -q "$tmp/disk" >/dev/null 2>&1 && mount -o loop "$tmp/disk" "$tmp/btrfs" || exit 1
	trap 'umount "$tmp/btrfs"; rm -rf "$tmp"' EXIT
	args+=(--dir "$tmp/btrfs")
	;;
storage-* | fake.so)
	# In memory: each commit syncs the file system, and that of a busy machine has much to write.
	[ -w /dev/shm ] && args+=(--dir /dev/shm)
	;;
net-cni.so)
	[ -x /usr/lib/cni/bridge ] || { echo "skipped: no /usr/lib/cni/bridge (containernetworking-plugins)"; exit 77; }
	mkdir "$tmp/net.d"
	cat >"$tmp/net.d/1.conflist" <<-JSON
		{"cniVersion": "1.0.0", "name": "check", "plugins": [{"type": "bridge", "bridge": "check0", "ipam":
		{"type": "host-local", "dataDir": "$tmp/ipam", "ranges": [[{"subnet": "10.88.0.0/16"}]]}}]}
	JSON
	echo "{conf_dir: $tmp/net.d, bin_dirs: [/usr/lib/cni]}" >"$tmp/config.yaml"
	;;
runtime-runc.so)
	runc=$(command -v runc || command -v crun) || { echo "skipped: no runc, no crun"; exit 77; }
	echo "path: $runc" >"$tmp/config.yaml"
	;;
esac
export TSAN_OPTIONS="${TSAN_OPTIONS:-} atexit_sleep_ms=0" # each test is a process
"$check" "${args[@]}" --config "$tmp/config.yaml" "${@:4}" "$3"
