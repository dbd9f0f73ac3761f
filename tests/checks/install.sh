#!/bin/bash
# install.sh: what a packager does. Builds releases with each compiler without a warning, installs one into a prefix and
# looks at what is there, lets the installed daemon find its own parts, builds a plugin outside of the tree, and builds
# a subset of plugins. Works in a directory of its own; takes some minutes.
set -u
src=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/berth-install.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
bad=0

complain() { printf 'FAILED %s\n' "$*"; bad=1; }

# build NAME OPTION...: configures and builds $tmp/NAME; any warning of the compiler fails it.
build() {
	local name=$1
	shift
	meson setup "$tmp/$name" "$src" --prefix="$tmp/prefix" -Dtests=disabled -Dwerror=true "$@" >"$tmp/$name.log" 2>&1 &&
		ninja -C "$tmp/$name" >>"$tmp/$name.log" 2>&1 && return 0
	tail -n 30 "$tmp/$name.log"
	complain "build $name: $*"
	return 1
}

installed() {
	(cd "$tmp/prefix" && find . -type f | sed 's#^\./##' | sort)
}

check_files() {
	local libdir=$1 want
	want=$(sort <<-LIST
		bin/berth-plugin-check
		bin/berthctl
		bin/berthd
		include/berth/monitor.h
		include/berth/plugin.h
		include/berth/util.h
		lib/systemd/system/berth.service
		$libdir/berth/plugins/net-cni.so
		$libdir/berth/plugins/runtime-runc.so
		$libdir/berth/plugins/storage-aufs.so
		$libdir/berth/plugins/storage-btrfs.so
		$libdir/berth/plugins/storage-devmapper.so
		$libdir/berth/plugins/storage-overlay.so
		$libdir/pkgconfig/berth-plugin.pc
		libexec/berth/berth-init
		libexec/berth/berth-join
		libexec/berth/berth-monitor
		libexec/berth/berth-ns
		libexec/berth/berth-pull
		libexec/berth/berth-tls.so
		share/bash-completion/completions/berthctl
		share/doc/berth/berth.yaml
		share/doc/berth/docs/plugin-check.md
		share/doc/berth/docs/plugins.md
		share/doc/berth/examples/net-loopback.c
		share/doc/berth/examples/net-loopback.rs
		share/doc/berth/examples/runtime-oci.c
		share/doc/berth/examples/storage_dir.c
		share/doc/berth/sdk/ABI-POLICY.md
		share/doc/berth/sdk/CHANGES
		share/doc/berth/sdk/README.md
	LIST
	)
	diff <(echo "$want") <(installed) || complain "other files than expected are installed (< expected, > there)"
}

# What the installed documents name by a link is installed, too.
check_links() {
	local f link
	for f in $(find "$tmp/prefix/share/doc/" -name '*.md'); do
		for link in $(grep -oE '\]\([^)#:]+' "$f" | cut -c 3-); do
			[ -e "$(dirname "$f")/$link" ] || complain "${f#"$tmp/prefix/"} names $link, which is not installed"
		done
	done
}

# PIE, full RELRO, no executable stack, no text relocations, no rpath; FORTIFY wherever a function has a checked form.
check_hardening() {
	local f=$1 name=${1#"$tmp/prefix/"} head dyn
	head=$(readelf -hlW "$f")
	dyn=$(readelf -dW "$f")
	grep -q 'Type: *DYN' <<<"$head" || complain "$name is not position independent"
	grep -q GNU_RELRO <<<"$head" || complain "$name has no RELRO"
	grep -Eq 'BIND_NOW|FLAGS_1.*NOW' <<<"$dyn" || complain "$name binds lazily"
	grep -E 'GNU_STACK.* RW ' <<<"$head" >/dev/null || complain "$name has an executable stack"
	! grep -Eq 'TEXTREL|RPATH|RUNPATH' <<<"$dyn" || complain "$name has text relocations or an rpath"
	if [[ $dyn != *NEEDED* ]]; then # linked statically: no undefined symbol tells, but what is said at the failure does
		grep -q 'buffer overflow detected' "$f" || complain "$name was built without FORTIFY"
		grep -q 'stack smashing detected' "$f" || complain "$name has no stack protector"
		return
	fi
	nm -D --undefined-only "$f" | grep -q '__[a-z_]*_chk' || complain "$name was built without FORTIFY"
	case $name in
	*.so) [[ $dyn == *NODELETE* ]] || complain "$name can be unloaded" ;;
	*) nm -D --undefined-only "$f" | grep -q __stack_chk_fail || complain "$name has no stack protector" ;;
	esac
}

# A monitor stays for each container: libc with its loader, and libcap-ng at most.
check_small() {
	local more
	more=$(readelf -dW "$tmp/prefix/libexec/berth/$1" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -Ev '^(lib(c|cap-ng)|ld-linux[-a-z0-9_]*)\.so')
	[ -z "$more" ] || complain "$1 needs" $more
}

check_parts() {
	local out h
	cat >"$tmp/berth.yaml" <<-YAML
		root: $tmp/root
		run: $tmp/run
		plugins: { storage-overlay: {}, runtime-runc: {}, net-cni: { conf_dir: $tmp } }
	YAML
	out=$("$tmp/prefix/bin/berthd" --config "$tmp/berth.yaml" check)
	for h in berth-monitor berth-pull berth-ns berth-init; do
		grep -q "^ok .*$tmp/prefix/libexec/berth/$h" <<<"$out" || complain "the installed berthd does not find $h"
	done
	for h in storage-overlay runtime-runc net-cni; do
		grep -q "^ok .*$tmp/prefix/.*/berth/plugins/$h.so" <<<"$out" || complain "the installed berthd does not find $h.so"
	done
	"$tmp/prefix/bin/berthd" --config "$src/docs/berth.yaml" config >/dev/null || complain "docs/berth.yaml is not valid"
	"$tmp/prefix/bin/berthctl" --help >/dev/null || complain "berthctl --help"
}

# example NAME SOURCE [CONFIG]: one of sdk/example, built as its reader would, passes the installed berth-plugin-check.
example() {
	local name=$1 so=$tmp/$1.so out examples
	examples=$(pkg-config --variable=examples berth-plugin)
	case $2 in
	*.rs) /usr/bin/rustc --edition 2021 --crate-type cdylib -C panic=abort -D warnings -o "$so" "$examples/$2" ;;
	*) "${CC:-cc}" -std=c99 -pedantic -Wall -Wextra -Werror -shared -fPIC -fvisibility=hidden -Wl,-z,defs -Wl,-z,nodelete \
		$(pkg-config --cflags berth-plugin) "$examples/$2" -o "$so" ;;
	esac || { complain "the example $2 does not build"; return; }
	"$src/tests/checks/symbols.sh" "$so" || complain "$2: other symbols than its entry"
	[ "$(id -u)" = 0 ] || { echo "not root: $2 is not tried"; return; }
	out=$("$(pkg-config --variable=check berth-plugin)" --brief --dir "${3:-/tmp}" "$so") || complain "berth-plugin-check $2: $out"
}

# The examples of sdk/ against the installed headers; one is loaded by the installed daemon from where a third party puts it.
check_sdk() {
	local pc pid i out
	pc=$(dirname "$(find "$tmp/prefix" -name berth-plugin.pc)")
	export PKG_CONFIG_PATH=$pc
	[ "$(pkg-config --variable=plugindir berth-plugin)" = "$(dirname "$(find "$tmp/prefix" -name net-cni.so)")" ] ||
		complain "berth-plugin.pc: plugindir is not the directory of plugins"
	[ "$(pkg-config --variable=abi berth-plugin)" = "$(. "$src/sdk/abi/lib.sh" && abi_version "$src/sdk/include")" ] ||
		complain "berth-plugin.pc: abi is $(pkg-config --variable=abi berth-plugin), not what the header has"
	example storage-dir storage_dir.c "$([ -w /dev/shm ] && echo /dev/shm)"
	if [ -x /usr/sbin/runc ]; then
		example runtime-oci runtime-oci.c
	else
		echo "no /usr/sbin/runc: the example of a runtime is not tried"
	fi
	# The ABI is not C's alone. Debian's compiler, without cargo and a crate.
	if [ -x /usr/bin/rustc ]; then
		example net-loopback net-loopback.rs
	else
		echo "no /usr/bin/rustc (Debian's rustc): the example in Rust is not tried"
	fi
	example net-loopback net-loopback.c
	[ "$(id -u)" != 0 ] || out=$("$src/tests/checks/mutants.sh" "$tmp/prefix/bin/berth-plugin-check" "$tmp/prefix/libexec/berth" \
		NEEDS_STACK LEAKS_MEMORY) || complain "what a build with sanitizers does not measure: $out"
	[ "$(id -u)" = 0 ] || { echo "not root: the example is not loaded"; return; }
	mkdir -p -m 755 /run/berth-install-test
	cp "$tmp/net-loopback.so" /run/berth-install-test/
	cat >"$tmp/sdk.yaml" <<-YAML
		root: $tmp/root
		run: /run/berth-install-test/run
		plugins: { storage-overlay: {}, runtime-runc: {}, net-loopback: { path: /run/berth-install-test/net-loopback.so } }
		network: { plugin: net-loopback }
	YAML
	"$tmp/prefix/bin/berthd" --config "$tmp/sdk.yaml" >"$tmp/sdk.log" 2>&1 &
	pid=$!
	for ((i = 0; i < 100; i++)); do
		out=$("$tmp/prefix/bin/berthctl" --runtime-endpoint /run/berth-install-test/run/berth.sock plugins 2>/dev/null) && break
		sleep 0.1
	done
	for i in storage-overlay runc net-loopback; do
		grep -q "$i" <<<"$out" || complain "the installed daemon did not load $i: $out $(tail -n 5 "$tmp/sdk.log")"
	done
	kill "$pid"
	wait "$pid" || complain "the installed daemon ended with $?: $(tail -n 5 "$tmp/sdk.log")"
	rm -rf /run/berth-install-test
}

# A docker-archive of busybox, for who has no registry.
busybox_archive() {
	local d=$tmp/image
	mkdir -p "$d/fs/bin"
	cp "$(command -v busybox)" "$d/fs/bin/echo"
	tar -C "$d/fs" -cf "$d/layer.tar" .
	echo '{"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids":
		["sha256:'"$(sha256sum <"$d/layer.tar" | cut -d ' ' -f 1)"'"]}}' >"$d/config.json"
	echo '[{"Config": "config.json", "RepoTags": ["docker.io/library/busybox:latest"], "Layers": ["layer.tar"]}]' >"$d/manifest.json"
	tar -C "$d" -cf "$tmp/image.tar" manifest.json config.json layer.tar
}

# sdk/README.md, to the letter: its blocks are one script. But the image is imported, and the tests of plugins are a few.
check_readme() {
	local out
	[ "$(id -u)" = 0 ] || { echo "not root: sdk/README.md is not followed"; return; }
	[ -x /usr/sbin/runc ] && command -v busybox >/dev/null || { echo "no runc or busybox: sdk/README.md is not followed"; return; }
	[ ! -e /run/berth-mine ] && [ ! -e /var/lib/berth-mine ] || { complain "/run/berth-mine or /var/lib/berth-mine is there already"; return; }
	busybox_archive
	mkdir -p "$tmp/readme/bin"
	printf '#!/bin/sh\nexec "$@"\n' >"$tmp/readme/bin/sudo"
	chmod 755 "$tmp/readme/bin/sudo"
	awk '/^## / { skip = /^## What is here/ } /^    / && !skip { print substr($0, 5) }' "$src/sdk/README.md" |
		sed "s#^\\\$ctl pull .*#\$ctl image import $tmp/image.tar#; s# --brief # --brief --only life #" >"$tmp/readme/steps"
	out=$(cd "$tmp/readme" && PATH=$tmp/readme/bin:$PATH timeout 120 bash -ec 'trap "r=\$?; kill %1 2>/dev/null; wait; exit \$r" EXIT; . ./steps; trap - EXIT' 2>&1) ||
		complain "sdk/README.md: it does not work as it says: $out"
	grep -q '^hello$' <<<"$out" || complain "sdk/README.md: its container says nothing: $out"
	grep -Eq '^storage-mine +storage-mine .*healthy' <<<"$out" || complain "sdk/README.md: its plugin is not listed: $out"
	rm -rf --one-file-system /run/berth-mine /var/lib/berth-mine
}

if build gcc -Dbuildtype=release; then
	meson install -C "$tmp/gcc" --no-rebuild --quiet || complain "meson install"
	check_files "$(meson introspect "$tmp/gcc" --buildoptions | python3 -c 'import json, sys
print([o["value"] for o in json.load(sys.stdin) if o["name"] == "libdir"][0])')"
	for f in "$tmp"/prefix/bin/* "$tmp"/prefix/libexec/berth/* $(find "$tmp/prefix" -name '*.so'); do
		check_hardening "$f"
	done
	check_small berth-monitor
	check_links
	check_parts
	check_sdk
	check_readme
fi
if command -v clang >/dev/null; then
	CC=clang build clang -Dbuildtype=release
fi
if build subset -Dauto_features=disabled -Dstorage-overlay=enabled -Doptimization=0; then
	rm -rf "$tmp/prefix"
	meson install -C "$tmp/subset" --no-rebuild --quiet
	[ "$(installed | grep '/plugins/.*\.so$' | xargs -n 1 basename)" = storage-overlay.so ] ||
		complain "a subset of storage-overlay alone installs:" $(installed | grep '\.so$')
	! readelf -dW "$tmp/prefix/libexec/berth/berth-pull" | grep -q isal || complain "ISA-L is used where it is disabled"
fi
[ $bad -eq 0 ] && echo "all is where it belongs"
exit $bad
