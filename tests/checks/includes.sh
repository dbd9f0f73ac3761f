#!/bin/bash
# Do includes point down only? sdk <- core/base <- core/* ; plugins/* include sdk alone, storage drivers storage-common, too;
# sdk/check is a host beside berthd.
cd "$(dirname "$0")/../.." || exit 1
bad=0

complain() {
	echo "$1: includes $2: $3"
	bad=1
}

# includes_of FILE: "q NAME" for #include "NAME", "a NAME" for #include <NAME>.
includes_of() {
	sed -nE 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"([^"]+)".*/q \1/p
		s/^[[:space:]]*#[[:space:]]*include[[:space:]]*<([^>]+)>.*/a \1/p' "$1"
}

each() { # each RULE DIR...
	local rule=$1 f how name
	shift
	while read -r f; do
		while read -r how name; do
			case $name in *..*) complain "$f" "$name" "a path that climbs" ;; esac
			"$rule" "$f" "$how" "$name"
		done < <(includes_of "$f")
	done < <(find "$@" -name '*.[ch]' | sort)
}

sdk_headers() {
	case $2:$3 in
	a:stddef.h | a:stdint.h | q:berth/plugin.h) ;;
	a:errno.h | a:stdarg.h | a:stdio.h | a:string.h) [ "$(basename "$1")" = util.h ] ||
		complain "$1" "$3" "the ABI's headers need stddef.h and stdint.h alone" ;;
	*) complain "$1" "$3" "the ABI's headers need stddef.h and stdint.h alone" ;;
	esac
}

plugins() {
	case $3 in
	berth/*) [ -f "sdk/include/$3" ] || complain "$1" "$3" "not a header of the sdk" ;;
	storage-common/internal.h) complain "$1" "$3" "storage-common's own" ;;
	storage-common/*) case $1 in
		plugins/storage-common/*) complain "$1" "$3" "its own file, without the directory" ;;
		plugins/storage-*) [ -f "plugins/$3" ] || complain "$1" "$3" "no such file of storage-common" ;;
		*) complain "$1" "$3" "for storage drivers alone" ;;
		esac ;;
	*) if [ "$2" = q ]; then
		[ -f "$(dirname "$1")/$3" ] || complain "$1" "$3" "a plugin includes sdk/ and its own files alone"
	elif [ -f "core/$3" ]; then
		complain "$1" "$3" "a plugin includes nothing of core/"
	fi ;;
	esac
}

core_base() {
	case $2:$3 in
	q:base/* | q:berth-config.h) ;;
	q:*) complain "$1" "$3" "core/base stands on libc alone" ;;
	a:berth/*) complain "$1" "$3" "core/base stands on libc alone" ;;
	a:*) [ -f "core/$3" ] && complain "$1" "$3" "core/base stands on libc alone" ;;
	esac
}

core() {
	case $3 in
	plugins/* | *storage-* | *net-cni* | *runtime-runc*) complain "$1" "$3" "the core includes no plugin" ;;
	esac
	[ "$2" = q ] && [[ $3 == */* ]] && [ ! -f "core/$3" ] && [ ! -f "sdk/include/$3" ] &&
		complain "$1" "$3" "no such file in core/ or sdk/"
}

# berth-plugin-check is a host, of the daemon's parts.
checker() {
	case $3 in
	berth/*) [ -f "sdk/include/$3" ] || complain "$1" "$3" "not a header of the sdk" ;;
	berth-config.h) ;;
	plugins/*) complain "$1" "$3" "it knows no plugin" ;;
	*) [ "$2" = a ] || [ -f "$(dirname "$1")/$3" ] || [ -f "core/$3" ] ||
		complain "$1" "$3" "no such file in sdk/check/ or core/" ;;
	esac
}

each sdk_headers sdk/include
each checker sdk/check
each core_base core/base
each core core
each plugins plugins
exit $bad
