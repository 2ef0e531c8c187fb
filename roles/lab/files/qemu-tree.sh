#!/bin/sh
# Install the QEMU of a Debian release into a folder; nothing in it runs as a system.
# usage: qemu-tree.sh SUITE FOLDER SOURCE...     (SOURCE: a line of a sources.list)
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
suite=$1 folder=$2
shift 2
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
[ ! -e "$folder" ] || exit 0
rm -rf "$folder".work.*
work=$(mktemp -d "$folder.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mmdebstrap --quiet --variant=extract --mode=root --include=qemu-system-x86,qemu-utils,seabios \
  --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' "$suite" "$work/tree" "$@"
chmod 755 "$work/tree"
mv "$work/tree" "$folder"
