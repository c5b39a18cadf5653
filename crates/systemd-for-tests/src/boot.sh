# Makes a machine out of this one's programs, in the mount namespace that the caller has made, and becomes systemd in it:
# a copy of /etc, everything below /usr to be read, all else empty and in memory. It is no overlay, because tests make
# overlays of it, and the kernel stacks no more than two.
# Arguments: an empty directory, the name of a control group, a directory to be shown at its own path.
set -eu
scratch=$1 group=$2 shown=$3
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch/root" "$scratch/groups" "$scratch/shown"
# A control group of its own, as the root of what it sees: the namespace is made by unshare below.
mount -t cgroup2 cgroup2 "$scratch/groups"
mkdir "$scratch/groups/$group"
echo $$ > "$scratch/groups/$group/cgroup.procs"
umount "$scratch/groups"
mount --bind "$shown" "$scratch/shown"
exec unshare --pid --uts --ipc --net --cgroup --fork --kill-child /bin/sh -euc '
scratch=$1 shown=$2 root=$scratch/root
mount -t tmpfs -o mode=755 tmpfs "$root"
cp -a /etc "$root/etc"
cd "$root"
mkdir dev home media mnt opt proc root run srv sys tmp usr var
mkdir var/cache var/lib var/log var/tmp
for name in usr bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then
        cp -a "/$name" "$name"
    elif [ -d "/$name" ]; then
        mkdir -p "$name"
        mount --bind "/$name" "$name"
        mount -o remount,bind,ro "$name"
    fi
done
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for fresh in run tmp var/tmp dev; do mount -t tmpfs -o mode=1777 tmpfs "$root/$fresh"; done
chmod 755 "$root/run" "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# No unit of this machine, only what default dependencies name.
hidden="systemd/system systemd/system-generators systemd/system-environment-generators"
for directory in usr/lib usr/local/lib lib; do
    for name in $hidden; do
        if [ -d "$directory/$name" ]; then mount -t tmpfs -o mode=755 tmpfs "$directory/$name"; fi
    done
done
rm -rf etc/systemd/system
mkdir -p etc/systemd/system
for unit in sysinit basic shutdown lifeboat; do
    printf "[Unit]\nDefaultDependencies=no\n" > "etc/systemd/system/$unit.target"
done
mkdir -p "$root$shown" "$root/run/host"
mount --bind "$scratch/shown" "$root$shown"
pivot_root . run/host
umount -l /run/host
exec env -i container=lifeboat-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=lifeboat.target --log-target=console --show-status=no
' sh "$scratch" "$shown"
