# A bash kernel. Cells come on descriptor 3: the number of the cell, as 16 characters for printf, the length of its code in
# bytes, as 8 digits, and the code. Events go on 4 (see kernelproc.go).
#
# A signal handler cannot leave a loop that it interrupts. But a handler of DEBUG runs before each command, and there
# "return" leaves the function, and the cell in the end.
exec 5<&-
set -T
trap '__msb_stop=1; trap "return 130 2>/dev/null" DEBUG; return 130 2>/dev/null' INT
printf '\0\0\0\5R\0\0\0\0' >&4
while LC_ALL=C read -r -N 24 -u 3 __msb_cell; do
	__msb_number=${__msb_cell:0:16}
	LC_ALL=C read -r -N "$((10#${__msb_cell:16}))" -u 3 __msb_cell
	[[ ! $__msb_stop ]] || trap - DEBUG # it came between two cells
	__msb_stop=
	printf "\\0\\0\\0\\5S$__msb_number" >&4
	source /dev/fd/5 5<<<"exec 5<&-; $__msb_cell" 3<&- 4>&- </dev/null # which is read to its end first
	__msb_code=$?
	if [[ $__msb_stop ]]; then
		trap - DEBUG
		__msb_status=i
	else
		__msb_status=o
	fi
	printf -v __msb_code '%03o' "$__msb_code"
	printf "\\0\\0\\0\\013D$__msb_number$__msb_status\\0\\0\\0\\$__msb_code\\0" >&4
done
