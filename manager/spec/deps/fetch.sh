#!/bin/sh
# fetch URL CHECK FILE downloads URL into FILE, and fails unless its SHA-256 is what
# CHECK says: sha256:SUM, or list:URL of a list of checksums that names it. On a
# failure there is no FILE.
set -eu
url=$1 check=$2 file=$3
trap 'rm -f "$file" "$file.sums"' EXIT

get() {
	curl --fail --silent --show-error --location --proto '=https' --proto-redir '=https' \
		--retry 3 --connect-timeout 30 --max-time 900 --max-filesize 2147483648 --output "$2" "$1"
}

get "$url" "$file"
case $check in
sha256:*) want=${check#sha256:} ;;
list:*)
	get "${check#list:}" "$file.sums"
	# Lines are "SUM  NAME" or "SUM *NAME"; a list of one file may be the sum alone.
	want=$(awk -v name="${url##*/}" '
		{ sub(/\r$/, ""); n = $2; sub(/^\*/, "", n); sub(/^.*\//, "", n) }
		n == name || (NR == 1 && NF == 1) { print $1; exit }
	' "$file.sums")
	;;
*) want= ;;
esac
case $want in
'' | *[!0-9a-f]*)
	echo "fetch: $check has no checksum of $url" >&2
	exit 1
	;;
esac
have=$(sha256sum "$file" | cut -d ' ' -f 1)
if [ "$have" != "$want" ]; then
	echo "fetch: the checksum of $url is $have and must be $want: this is not what was published" >&2
	exit 1
fi
rm -f "$file.sums"
trap - EXIT
