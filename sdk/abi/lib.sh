# Shared by update and tests/checks/abi.sh; sourced by bash, in sdk/.

# abi_version INCLUDE: the ABI's version as its header has it, "0.0".
abi_version() {
	sed -nE 's/^#define BERTH_ABI_(MAJOR|MINOR) ([0-9]+)u.*/\2/p' "$1/berth/plugin.h" | paste -sd.
}

# abi_witness INCLUDE OUT: the witness of these headers. gcc: another compiler describes the same types in other words.
abi_witness() {
	gcc -std=gnu11 -g -O0 -w -shared -fPIC -fvisibility=hidden -I"$1" abi/witness.c -o "$2"
}

abi_write() {
	abidw --no-corpus-path --no-comp-dir-path --no-show-locs --no-elf-needed --type-id-style hash --out-file "$2" "$1"
}

# abi_same BASELINE WITNESS: 0 where nothing changed but by appending; prints what did. The report is read line by line, for
# abidiff's own rule for members "inserted at the end" lets through other changes of the structure as well.
abi_same() {
	local report
	report=$(abidiff --leaf-changes-only --harmless --no-show-locs "$1" "$2")
	[ $(($? & 3)) -eq 0 ] || { echo "abidiff failed: $report"; return 1; }
	report=$(grep -vE \
		-e '^$' \
		-e '^(Leaf changes|Changed leaf types) summary: ' \
		-e '^Removed/Changed/Added (functions|variables) summary: 0 Removed, 0 Changed' \
		-e '^[0-9]+ Added functions?:' -e "^  \[A\] 'function " \
		-e "^'struct berth_[a-z_]+' changed:" \
		-e '^  type size changed from [0-9]+ to [0-9]+ ' \
		-e '^  [0-9]+ data member insertions?:' -e "^    '.*', at offset [0-9]+ " \
		-e '^  ([0-9]+|one) impacted interfaces?' <<<"$report")
	[ -z "$report" ] || { echo "$report"; return 1; }
}
