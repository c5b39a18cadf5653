# Makes an overlay of this machine in namespaces that the caller has made, and becomes systemd in it.
# Arguments: an empty directory, the name of a control group, a directory to be shown at its own path.
set -eu
scratch=$1 group=$2 shown=$3
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root" "$scratch/groups" "$scratch/shown"
# A control group of its own, as the root of what it sees: the namespace is made by unshare below.
mount -t cgroup2 cgroup2 "$scratch/groups"
mkdir "$scratch/groups/$group"
echo $$ > "$scratch/groups/$group/cgroup.procs"
umount "$scratch/groups"
mount --bind "$shown" "$scratch/shown"
exec unshare --pid --uts --ipc --net --cgroup --fork --kill-child /bin/sh -euc '
scratch=$1 shown=$2 root=$scratch/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
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
for directory in usr/lib/systemd/system lib/systemd/system etc/systemd/system usr/local/lib/systemd/system; do
    mkdir -p "$root/$directory"
    mount -t tmpfs -o mode=755 tmpfs "$root/$directory"
done
for unit in sysinit basic shutdown lifeboat; do
    printf "[Unit]\nDefaultDependencies=no\n" > "$root/usr/lib/systemd/system/$unit.target"
done
for directory in systemd/system-generators systemd/system-environment-generators; do
    if [ -d "$root/usr/lib/$directory" ]; then mount -t tmpfs tmpfs "$root/usr/lib/$directory"; fi
done
mkdir -p "$root$shown" "$root/run/host"
mount --bind "$scratch/shown" "$root$shown"
cd "$root"
pivot_root . run/host
umount -l /run/host
exec env -i container=lifeboat-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=lifeboat.target --log-target=console --show-status=no
' sh "$scratch" "$shown"
