//! What happens in a twin does not leave it: each way out is tried, and tried on the host first where that is
//! harmless, so that a probe that never works is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use crate::session::{Ground, Session, Who, everybody};

fn as_everybody(test: impl Fn(&Ground, &mut Session)) {
    for &who in everybody() {
        let ground = Ground::new(who);
        let mut session = ground.twin();
        test(&ground, &mut session);
    }
}

/// Everything of a tree that a command could change.
fn digest(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            format!("{:?}", fs::read(&path).unwrap())
        };
        let (ino, mode, links) = (meta.ino(), meta.mode(), meta.nlink());
        let (owner, modified, changed) =
            ((meta.uid(), meta.gid()), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        let all = format!("{ino} {mode:o} {links} {owner:?} {modified:?} {changed:?} {content}");
        found.insert(path, all);
    }
    found
}

fn plant(ground: &Ground) -> PathBuf {
    let tree = ground.play().join("tree");
    for folder in ["a/b/c", "empty", "other/deep"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    for (name, content) in
        [("a/one", "1"), ("a/b/two", "22"), ("a/b/c/three", "333"), ("other/deep/four", "4444")]
    {
        fs::write(tree.join(name), content).unwrap();
    }
    fs::hard_link(tree.join("a/one"), tree.join("other/one-again")).unwrap();
    symlink(tree.join("a"), tree.join("link")).unwrap();
    fs::set_permissions(tree.join("a/b/two"), fs::Permissions::from_mode(0o640)).unwrap();
    std::process::Command::new("chown")
        .args(["-R", "--no-dereference", ground.owner()])
        .arg(&tree)
        .status()
        .unwrap();
    tree
}

#[test]
fn destruction_stays_in_the_twin() {
    as_everybody(|ground, twin| {
        let tree = plant(ground);
        let before = digest(&tree);
        assert!(before.len() > 10);
        let orders = [
            "echo more >> a/one; echo all > a/b/two; truncate -s 0 a/b/c/three",
            "test $(cat a/b/two) = all && test ! -s a/b/c/three",
            "ln a/b/two hard && echo x >> hard && ln other/deep/four a/four",
            "chmod -R 700 a && chmod 4755 other/deep/four && touch -d @1 a other/deep",
            "mkdir fresh && mv fresh empty/ && rmdir empty/fresh empty && mkdir empty && touch empty/new",
            "mv a moved && mv moved/b other/ && mv other/deep a && test -e a/four && test -e other/b/c/three",
            "mkfifo pipe && ln -sfn /nowhere link",
            "setfattr -n user.x -v y a/four || ! command -v setfattr",
            "dd if=/dev/zero of=other/one-again bs=1k count=64 conv=fsync",
            "sh -c 'for f in $(find . -type f); do : > $f; done'",
            "rm -rf ./* && test -z \"$(ls -A)\" && cd .. && rmdir tree && test ! -e tree",
        ];
        for order in orders {
            twin.must(&format!("cd {} && {order}", tree.display()));
        }
        assert!(digest(&tree) == before, "{:?} changed the host", ground.who);
    });
}

#[test]
fn even_the_whole_system_can_be_destroyed() {
    let ground = Ground::new(Who::Root);
    let tree = plant(&ground);
    let before = (digest(&tree), fs::read("/etc/passwd").unwrap(), fs::metadata("/usr/bin").unwrap().mtime());
    let mut twin = ground.twin();
    twin.run("chmod 000 /dev/null; chown 1 /etc/passwd; rm -rf /etc /home /var /usr /dev /run /tmp /root");
    let answer = twin.ask(&serde_json::json!({ "Read": "/etc/passwd" }));
    assert!(answer.get("error").is_some(), "{answer}");
    let after = (digest(&tree), fs::read("/etc/passwd").unwrap(), fs::metadata("/usr/bin").unwrap().mtime());
    assert!(before == after);
    assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o777, 0o666);
}

#[test]
fn no_address_of_the_host_is_reachable() {
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = everywhere.local_addr().unwrap().port();
    // A datagram socket that is connected sends nothing, but knows the address it would send from.
    let outward = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut addresses = vec!["127.0.0.1".to_owned()];
    if outward.connect("192.0.2.1:9").is_ok() {
        addresses.push(outward.local_addr().unwrap().ip().to_string());
    }
    as_everybody(|ground, twin| {
        for address in &addresses {
            let probe = format!("timeout 5 {} probe tcp {address}:{port}", ground.helper().display());
            assert!(ground.on_host(&probe).success(), "{address}");
            twin.must_not(&probe);
        }
        let interfaces = twin.must("ls /sys/class/net 2>/dev/null || awk -F: 'NR>2{print $1}' /proc/net/dev");
        assert_eq!(interfaces.trim(), "lo");
        twin.must_not("ip link add eth0 type dummy");
    });
}

#[test]
fn sockets_of_the_host_are_out_of_reach() {
    as_everybody(|ground, twin| {
        let path = ground.play().join("socket");
        let name = format!("lifeboat-place-{}-{:?}", std::process::id(), ground.who);
        let _named = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let helper = ground.helper();
        for (kind, target) in [("unix", path.to_str().unwrap()), ("abstract", name.as_str())] {
            let probe = format!("timeout 5 {} probe {kind} {target}", helper.display());
            assert!(ground.on_host(&probe).success(), "{kind}");
            let said = twin.must_not(&probe);
            assert!(said.contains("refused"), "{said}");
        }
        // The file is there: it is the server behind it that is not.
        twin.must(&format!("test -S {}", path.display()));
        twin.must("test -z \"$(find /run /tmp /dev -type s)\"");
    });
}

#[test]
fn processes_of_the_host_are_out_of_reach() {
    as_everybody(|ground, twin| {
        let mut sleeper = std::process::Command::new("sleep").arg("1234567").spawn().unwrap();
        let pid = sleeper.id();
        let seen = twin.must("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
        assert!(!seen.contains("1234567"), "{seen}");
        twin.must_not(&format!("test -e /proc/{pid}"));
        twin.must_not(&format!("kill -0 {pid}"));
        twin.run("kill -9 -1");
        assert!(sleeper.try_wait().unwrap().is_none());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        // The first process has seen the host; nobody looks into it, and nobody kills it.
        for secret in ["root/", "cwd/", "fd/", "environ", "maps", "mem"] {
            twin.must_not(&format!("ls /proc/1/{secret} > /dev/null && cat /proc/1/{secret}"));
        }
        twin.run("kill -9 1; kill -STOP 1; kill -TERM 1");
        twin.must("true");
        assert_eq!(ground.on_host("true").left_behind, 0);
    });
}

#[test]
fn there_are_no_disks_and_none_can_be_made() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let node = ground.play().join("zero");
        // A device node that lies about on the host, harmless and open to all.
        let made = std::process::Command::new("mknod").arg("-m666").arg(&node).args(["c", "1", "5"]).status();
        assert!(made.unwrap().success());
        let mut twin = ground.twin();
        let read = format!("head -c 1 {} > /dev/null", node.display());
        assert!(ground.on_host(&read).success());
        twin.must_not(&read);
        assert_eq!(twin.must("find /dev -type b"), "");
        for command in ["mknod /dev/disk b 254 0", "mknod /tmp/zero c 1 5", "mknod /root/zero c 1 5"] {
            twin.must_not(command);
        }
        twin.must_not("chmod 600 /dev/null");
        let devices = "head -c 9 /dev/zero | wc -c; head -c 9 /dev/urandom | wc -c; echo gone > /dev/null; : > /dev/shm/x";
        assert_eq!(twin.must(devices).split_whitespace().collect::<Vec<_>>(), ["9", "9"]);
    }
}

#[test]
fn the_kernel_cannot_be_changed() {
    let settings = ["vm/swappiness", "kernel/core_pattern", "net/ipv4/ip_forward", "kernel/hostname"];
    as_everybody(|ground, twin| {
        for setting in settings {
            let write = format!("v=$(cat /proc/sys/{setting}) && echo \"$v\" > /proc/sys/{setting}");
            assert!(ground.who != Who::Root || ground.on_host(&write).success(), "{setting}");
            twin.must_not(&write);
        }
        for command in [
            "echo h > /proc/sysrq-trigger",
            "mount -o remount,rw,bind /proc/sys",
            "umount /proc/sys",
            "mount -o remount,dev /",
            "mount -t proc proc /mnt",
            "mount -t tmpfs tmpfs /mnt",
            "mount --bind /etc /mnt",
            "mount -o remount,rw /sys",
            "date -s @$(date +%s)",
            "hostname twin",
            "dmesg",
            "swapoff -a; false",
            "head -c 1 /proc/kcore | grep -q .",
            "modprobe dummy || insmod /tmp/none.ko",
            "chattr +i /etc/passwd",
            "cat /sys/kernel/mm/ksm/run > /sys/kernel/mm/ksm/run",
        ] {
            twin.must_not(command);
        }
        let reboot = format!("{} probe reboot x", ground.helper().display());
        let said = twin.must_not(&reboot);
        assert!(said.contains("not permitted"), "{said}");
        let capabilities = twin.must("grep -E 'Cap(Prm|Bnd|Amb|Inh)' /proc/self/status");
        let of = |name: &str| {
            let line = capabilities.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        let allowed = 0xa004_e5fb;
        assert_eq!((of("CapBnd") & !allowed, of("CapAmb"), of("CapInh")), (0, 0, 0), "{capabilities}");
        let permitted = if ground.who == Who::Root { allowed } else { 0 };
        assert_eq!(of("CapPrm") & !permitted, 0, "{capabilities}");
    });
}

#[test]
fn no_namespace_can_be_made_to_get_rights_in() {
    as_everybody(|ground, twin| {
        let nested = "unshare --user --map-root-user --mount --pid --fork sh -c";
        assert!(ground.on_host(&format!("{nested} true")).success());
        for command in [
            "true",
            "mount -t proc proc /proc && echo 1 > /proc/sys/vm/swappiness",
            "umount /dev/null && chmod 600 /dev/null",
            "mount -t cgroup2 none /mnt",
        ] {
            twin.must_not(&format!("{nested} '{command}'"));
        }
        let said = twin.must_not("unshare --user true");
        assert!(said.contains("not permitted"), "{said}");
        // Threads and processes start as ever.
        twin.must(
            "sh -c 'sh -c true & wait'; dd if=/dev/zero of=/dev/null count=1; sort --parallel=4 /etc/passwd",
        );
    });
}

#[test]
fn a_crash_starts_no_handler_of_the_host() {
    as_everybody(|_, twin| {
        let limit = twin.must("grep 'Max core file size' /proc/self/limits");
        assert_eq!(limit.split_whitespace().collect::<Vec<_>>()[4..6], ["1", "1"]);
        twin.must_not("ulimit -Hc unlimited");
        twin.must_not("cd /tmp && sh -c 'kill -SEGV $$'; ls | grep core");
    });
}

#[test]
fn pipes_of_the_host_are_out_of_reach() {
    as_everybody(|ground, twin| {
        let pipe = ground.play().join("pipe");
        ground.on_host(&format!("mkfifo -m 666 {}", pipe.display()));
        let mut reader =
            std::process::Command::new("cat").arg(&pipe).stdout(std::process::Stdio::null()).spawn().unwrap();
        let write = format!("timeout 1 sh -c 'echo word > {}'", pipe.display());
        twin.must_not(&write);
        assert!(reader.try_wait().unwrap().is_none(), "somebody wrote to the host's pipe");
        assert!(ground.on_host(&write).success());
        assert!(reader.wait().unwrap().success());
    });
}

#[test]
fn nothing_that_this_process_inherited_leaks_in() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let mut twin = ground.twin_after("exec 8</ 9</etc/passwd", &[]);
        let open = twin.must("ls /proc/$$/fd");
        assert_eq!(open.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    }
}

#[test]
fn sudo_keeps_working_because_setuid_does() {
    let ground = Ground::new(Who::Root);
    let mut twin = ground.twin();
    assert_eq!(twin.must("grep NoNewPrivs /proc/self/status").split_whitespace().last(), Some("0"));
    let setuid = "cp /usr/bin/id /usr/local/id && chmod 4755 /usr/local/id && \
        setpriv --reuid=65534 --regid=65534 --clear-groups /usr/local/id -u --real && \
        setpriv --reuid=65534 --regid=65534 --clear-groups /usr/local/id -u";
    assert_eq!(twin.must(setuid).split_whitespace().collect::<Vec<_>>(), ["65534", "0"]);
    assert!(!Path::new("/usr/local/id").exists());
}

#[test]
fn calls_that_no_namespace_covers_are_refused() {
    let (keyctl, add_key) = if cfg!(target_arch = "aarch64") { (219, 217) } else { (250, 248) };
    let key = "my @a = (\"user\", \"lifeboat-place\", \"x\")";
    let calls = [
        (format!("syscall({keyctl}, 0, -4, 1)"), "Operation not permitted"),
        (format!("{key}; syscall({add_key}, @a, 1, -4)"), "Operation not permitted"),
        ("syscall(425, 0, 0)".to_owned(), "Operation not permitted"),
        ("syscall(435, 0, 0)".to_owned(), "Function not implemented"),
        ("socket(S, 40, 1, 0) ? 0 : -1".to_owned(), "Address family not supported"),
    ];
    as_everybody(|ground, twin| {
        for (call, answer) in &calls {
            let probe = format!("perl -e 'my $r = do {{ {call} }}; print $!; exit($r == -1)'");
            let on_host = ground.on_host(&probe);
            assert_ne!(on_host.out.text(), *answer, "the host refuses {call} itself: the test shows nothing");
            let said = twin.must_not(&probe);
            assert!(said.contains(answer), "{call}: {said}");
        }
        twin.must("perl -e 'socket(S, 2, 1, 0) && socket(S, 1, 1, 0) && socket(S, 10, 2, 0) || die $!'");
    });
}

#[test]
fn an_ordinary_user_can_do_in_the_twin_what_he_can_on_the_host_and_no_more() {
    let ground = Ground::new(Who::Ordinary);
    if !everybody().contains(&Who::Ordinary) {
        return; // `everybody` has asserted that the reason is told.
    }
    let mut twin = ground.twin();
    for command in [
        "touch /etc/x",
        "echo >> /etc/passwd",
        "touch /x",
        "ls /root",
        "mkdir /var/x",
        "rm /etc/passwd",
        "cat /etc/shadow",
    ] {
        assert!(!ground.on_host(command).success(), "{command}");
        twin.must_not(command);
    }
    twin.must(&format!("touch {0}/x /tmp/x /var/tmp/x /dev/shm/x && rm {0}/x", ground.play().display()));
}

#[test]
fn a_system_that_forbids_user_namespaces_is_told_by_its_setting() {
    let ground = Ground::new(Who::Root);
    // A user namespace whose own limit of further ones is none, and in it a root without rights.
    let forbid = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all {} twin {}",
        ground.helper().display(),
        ground.scratch().display()
    );
    let said = ground.on_host(&format!("unshare --user --map-root-user sh -c '{forbid}' 2>&1")).out.text();
    assert!(said.contains("as an ordinary user") && said.contains("user.max_user_namespaces is 0"), "{said}");
    assert!(said.contains("raise user.max_user_namespaces, or run the drill as root"), "{said}");
    assert_eq!(fs::read_dir(ground.scratch()).unwrap().count(), 0);
}
