#!/bin/sh
# Make a bootable disk with plain Debian on it, as a provider hands a machine over: firmware, GRUB from
# the disk, Debian's kernel, sshd with one key, Python; nothing of Xen. No loop device, no mount.
# usage: debian-disk.sh SUITE PUBLIC_KEY SIZE OUTPUT SOURCE...     (SOURCE: a line of a sources.list)
# LAB_PACKAGES in the environment: more packages, with commas between them.
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
suite=$1 key=$2 size=$3 output=$4
shift 4

# One builder at a time; what a killed one left is removed by the next.
exec 9>"$output.lock"
flock 9
[ ! -e "$output" ] || exit 0
rm -rf "$output".work.*
work=$(mktemp -d "$output.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

packages=linux-image-amd64,grub-pc,systemd-sysv,udev,dbus,ifupdown,iproute2,iputils-ping,openssh-server,python3,python3-apt
packages=$packages,ca-certificates,sudo,kmod,initramfs-tools,netbase,procps,e2fsprogs,zstd
packages=$packages${LAB_PACKAGES:+,$LAB_PACKAGES}
case $suite in
  bookworm) packages=$packages,isc-dhcp-client ;;
  *) packages=$packages,dhcpcd-base ;;
esac

cat >"$work/customize" <<CUSTOMIZE
#!/bin/sh
set -eu
root=\$1
mkdir -p -m 700 "\$root/root/.ssh"
cat >"\$root/root/.ssh/authorized_keys" <'$key'
echo 'LABEL=root / ext4 errors=remount-ro,noatime 0 1' >"\$root/etc/fstab"
# Several machines boot from it: each learns its name from its firmware, before anything asks for it, and keeps it.
rm -f "\$root/etc/hostname"
echo '127.0.0.1 localhost' >"\$root/etc/hosts"
cat >"\$root/etc/systemd/system/machine-name.service" <<'UNIT'
[Unit]
Description=Take the name that the firmware has for this machine
DefaultDependencies=no
ConditionPathExists=!/etc/hostname
After=systemd-remount-fs.service
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cp /sys/class/dmi/id/chassis_asset_tag /etc/hostname && hostname -F /etc/hostname && \
  sed "s/^/127.0.1.1 /" /etc/hostname >>/etc/hosts'
[Install]
WantedBy=sysinit.target
UNIT
mkdir -p "\$root/etc/systemd/system/sysinit.target.wants"
ln -s ../machine-name.service "\$root/etc/systemd/system/sysinit.target.wants/machine-name.service"
printf 'auto lo\niface lo inet loopback\n\nauto ens3\niface ens3 inet dhcp\n' >"\$root/etc/network/interfaces"
chroot "\$root" passwd -l root >/dev/null
sed -i -e 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=1/' \
  -e 's/^GRUB_CMDLINE_LINUX=.*/GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"/' "\$root/etc/default/grub"
printf 'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --speed=115200"\n' >>"\$root/etc/default/grub"
# A mirror's snapshot may be older than its release file allows.
echo 'Acquire::Check-Valid-Until "false";' >"\$root/etc/apt/apt.conf.d/90lab"
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim man-db; do
  ln -sf /dev/null "\$root/etc/systemd/system/\$timer.timer"
done
# GRUB's modules and core image come from the disk's own packages, so update-grub inside works as on any machine.
mkdir -p "\$root/boot/grub"
cp -r "\$root/usr/lib/grub/i386-pc" "\$root/boot/grub/"
printf 'search --no-floppy --label root --set=root\nset prefix=(\$root)/boot/grub\n' >"\$root/boot/grub/early.cfg"
chroot "\$root" grub-mkimage -O i386-pc -p /boot/grub -c /boot/grub/early.cfg -o /boot/grub/core.img \
  biosdisk part_msdos ext2 search search_label normal linux serial terminal echo configfile multiboot2 gzio boot
cat >"\$root/boot/grub/grub.cfg" <<'GRUB'
serial --speed=115200
terminal_output serial
search --no-floppy --label root --set=root
linux /vmlinuz root=LABEL=root ro console=tty0 console=ttyS0,115200
initrd /initrd.img
boot
GRUB
CUSTOMIZE
chmod 755 "$work/customize"
# Drivers that no machine of the lab has: a third of the bytes.
excludes=
for drivers in gpu media infiniband iio staging net/wireless net/ethernet isdn sound scsi usb/serial mtd hwmon input video; do
  excludes="$excludes --dpkgopt=path-exclude=/lib/modules/*/kernel/drivers/$drivers/*"
  excludes="$excludes --dpkgopt=path-exclude=/usr/lib/modules/*/kernel/drivers/$drivers/*"
done

# Word splitting is meant for $excludes; the stars in it are for dpkg, and the hooks' $1 is for mmdebstrap.
set -f
# shellcheck disable=SC2016,SC2086
mmdebstrap --quiet --skip=cleanup/apt/lists --variant=minbase --mode=root --format=directory --include="$packages" \
  --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' $excludes \
  --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"; echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"; printf "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n" >"$1/etc/initramfs-tools/modules"' \
  --essential-hook='echo grub-pc grub-pc/install_devices_empty boolean true | chroot "$1" debconf-set-selections' \
  --customize-hook="'$work/customize'"' "$1"' \
  "$suite" "$work/root" "$@"

truncate -s "$size" "$work/raw"
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q "$work/raw"
mke2fs -q -t ext4 -L root -E offset=1048576,lazy_itable_init=1,lazy_journal_init=1 -d "$work/root" -F "$work/raw" \
  $((($(stat -c %s "$work/raw") - 1048576) / 1024))k
# GRUB: first stage into the boot sector, core image into the gap before the partition.
dd if="$work/root/boot/grub/i386-pc/boot.img" of="$work/raw" bs=440 count=1 conv=notrunc status=none
dd if="$work/root/boot/grub/core.img" of="$work/raw" bs=512 seek=1 conv=notrunc status=none
qemu-img convert -O qcow2 "$work/raw" "$work/qcow2"
if [ -n "${SUDO_UID:-}" ]; then chown "$SUDO_UID" "$work/qcow2"; fi
mv "$work/qcow2" "$output"
