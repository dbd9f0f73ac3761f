# bash completion of berthctl: the program itself knows what may stand where.
_berthctl() {
	local line=${COMP_LINE:0:COMP_POINT} words cur
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	cur=${words[-1]}
	mapfile -t COMPREPLY < <("$1" __complete "${words[@]:1}" 2>/dev/null)
	# Readline replaces what follows the last colon or equals sign alone.
	local i break=${cur%"${cur##*[:=]}"}
	for i in "${!COMPREPLY[@]}"; do
		COMPREPLY[i]=${COMPREPLY[i]#"$break"}
	done
}
complete -o default -F _berthctl berthctl
