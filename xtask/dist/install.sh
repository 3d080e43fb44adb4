#!/bin/sh
# Installs shoal from the folder this file is in, or removes what it installed.
#
#   ./install.sh              into PREFIX (default /usr/local), below DESTDIR (default none)
#   ./install.sh --uninstall  removes the files listed by the installation; the configuration and all data stay
#
# The configuration (/etc/shoal) is written once and never replaced. No service is enabled or started.
set -eu
cd "$(dirname "$0")"
: "${PREFIX:=/usr/local}" "${DESTDIR:=}"
case "$PREFIX" in /*) ;; *) echo "install.sh: PREFIX is not an absolute path: $PREFIX" >&2; exit 2 ;; esac
list=$DESTDIR$PREFIX/share/shoal/installed

case "${1:-}" in
  '') ;;
  --uninstall)
    [ -f "$list" ] || { echo "install.sh: nothing is installed below $DESTDIR$PREFIX ($list is missing)" >&2; exit 1; }
    while IFS= read -r file; do rm -f "$DESTDIR$file"; done < "$list"
    rm -f "$list"
    # Folders of ours alone; those that others use are not empty and stay.
    for folder in share/shoal/apparmor share/shoal share/doc/shoal/docs/how-to share/doc/shoal/docs share/doc/shoal; do
      rmdir "$DESTDIR$PREFIX/$folder" 2>/dev/null || :
    done
    echo "removed shoal from $DESTDIR$PREFIX; configuration in $DESTDIR/etc/shoal and data in /var/lib/shoal stay"
    exit 0 ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2 ;;
esac

mkdir -p "$(dirname "$list")"
: > "$list.new"
put() { # FILE TARGET MODE: through a temporary name, since a container may be running the old program
  mkdir -p "$DESTDIR$(dirname "$2")"
  sed_prefix "$1" > "$DESTDIR$2.new" && chmod "$3" "$DESTDIR$2.new" && mv -f "$DESTDIR$2.new" "$DESTDIR$2"
  printf '%s\n' "$2" >> "$list.new"
}
sed_prefix() { case "$1" in *.service) sed "s|@PREFIX@|$PREFIX|g" "$1" ;; *) cat "$1" ;; esac; }
for file in bin/*; do put "$file" "$PREFIX/$file" 755; done
find share -type f | sort > "$list.files"
while IFS= read -r file; do put "$file" "$PREFIX/$file" 644; done < "$list.files"
for file in systemd/*; do put "$file" "$PREFIX/lib/systemd/system/${file##*/}" 644; done
mkdir -p "$DESTDIR/etc/shoal"
[ -e "$DESTDIR/etc/shoal/node.env" ] || { cat etc/node.env > "$DESTDIR/etc/shoal/node.env"; chmod 600 "$DESTDIR/etc/shoal/node.env"; }
rm -f "$list.files"
mv -f "$list.new" "$list"
echo "installed shoal below $DESTDIR$PREFIX; remove with: PREFIX=$PREFIX DESTDIR=$DESTDIR $0 --uninstall"
