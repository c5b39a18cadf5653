//! What a twin shows of the host's files: several file systems, nested and odd mounts, kept directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use place::Fate;
use serde_json::json;

use crate::session::{Ground, Who, everybody};

#[test]
fn what_is_written_within_is_seen_by_commands_and_not_by_the_host() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let file = ground.play().join("file");
        fs::write(&file, "host").unwrap();
        ground.give(&file);
        let mut twin = ground.twin();
        assert_eq!(twin.ask(&json!({ "Read": file })), "host");
        assert_eq!(twin.ask(&json!({ "Write": [file, "twin"] })), json!(null));
        assert_eq!(twin.must(&format!("cat {}", file.display())), "twin");
        twin.must(&format!("echo -n command > {}", file.display()));
        assert_eq!(twin.ask(&json!({ "Read": file })), "command");
        assert_eq!(fs::read_to_string(&file).unwrap(), "host");
    }
}

#[test]
fn links_lead_to_the_twins_files() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let (secret, below) = (ground.play().join("secret"), ground.play().join("below"));
        fs::write(&secret, "host").unwrap();
        ground.give(&secret);
        symlink(&secret, &below).unwrap();
        let mut twin = ground.twin();
        let (secret, play) = (secret.display().to_string(), ground.play());
        twin.must(&format!(
            "echo -n twin > {secret}; ln -s {secret} {0}/above; ln -s ../../../../../../../..{secret} {0}/up",
            play.display()
        ));
        for link in ["below", "above", "up"] {
            assert_eq!(twin.ask(&json!({ "Read": play.join(link) })), "twin", "{link}");
            // Written through, the host's file stays as it is.
            assert_eq!(twin.ask(&json!({ "Write": [play.join(link), "twin"] })), json!(null));
        }
        for way in ["/proc/1/root", "/proc/self/root/proc/1/root", "/proc/1/cwd"] {
            let answer = twin.ask(&json!({ "Read": format!("{way}{secret}") }));
            assert_ne!(answer, "host", "{way}");
        }
        assert_eq!(fs::read_to_string(&secret).unwrap(), "host");
    }
}

#[test]
fn owners_and_modes_are_those_of_the_host() {
    let ground = Ground::new(Who::Root);
    let mut twin = ground.twin();
    let compare = "stat -c '%a %u %g %n' / /etc /var /var/tmp /tmp /etc/passwd /root /usr/bin";
    assert_eq!(twin.must(compare), ground.on_host(compare).out.text());
    assert!(twin.report().renames_directories && !twin.report().scratch_in_memory);
}

#[test]
fn every_file_system_is_overlaid_and_single_files_are_copied() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let play = ground.play();
        // Names that would be options or lists; a mount in a mount; a mount that covers another; a file.
        let preparation = format!(
            "cd {play}; p() {{ mkdir -p \"$1\"; mount -t tmpfs -o mode=777 tmpfs \"$1\"; echo -n \"$2\" > \"$1/file\"; chown {owner} \"$1/file\"; }}
            p one one; p one/two two; p 'odd, na:me\\x' odd; p covered hidden; p covered covering
            p frozen frozen; mount -o remount,ro frozen
            echo -n mounted > source; echo -n covered > single; mount --bind source single
            truncate -s 2M large; echo -n below > too-large; mount --bind large too-large; cd /",
            play = play.display(),
            owner = ground.owner()
        );
        let mut twin = ground.twin_after(&preparation, &[&play]);
        let files = [("one", "one"), ("one/two", "two"), ("odd, na:me\\x", "odd"), ("covered", "covering")];
        for (folder, content) in files {
            let file = play.join(folder).join("file");
            assert_eq!(twin.ask(&json!({ "Read": file })), content, "{who:?}");
            assert_eq!(twin.ask(&json!({ "Write": [file, "changed"] })), json!(null), "{who:?} {folder}");
            assert_eq!(twin.ask(&json!({ "Read": file })), "changed");
            // What the session's own namespace has, which is the host to this twin.
            let seen = format!("/proc/{}/root{}", twin.child.id(), file.display());
            assert_eq!(fs::read_to_string(seen).unwrap(), content);
        }
        assert_eq!(twin.ask(&json!({ "Read": play.join("frozen/file") })), "frozen");
        let refused = twin.ask(&json!({ "Write": [play.join("frozen/file"), "x"] }));
        assert!(refused["error"].as_str().unwrap().contains("Read-only"), "{refused}");
        assert_eq!(twin.ask(&json!({ "Read": play.join("single") })), "mounted");
        let fate = |name: &str| {
            let mounts = twin.report().mounts.iter().filter(|mount| mount.path == play.join(name));
            mounts.map(|mount| mount.fate.clone()).collect::<Vec<_>>()
        };
        assert_eq!(fate("one/two"), [Fate::Overlaid]);
        assert_eq!(fate("covered"), [Fate::Overlaid], "the one that is covered is not shown");
        assert_eq!(fate("single"), [Fate::Copied]);
        assert!(matches!(fate("too-large")[..], [Fate::LeftOut(_)]));
        // Root sees what the mount covers; an ordinary user must not, on the host and here.
        let below = twin.ask(&json!({ "Read": play.join("too-large") }));
        assert_eq!(below == "below", who == Who::Root, "{below}");
    }
}

#[test]
fn fresh_directories_are_fresh_and_kept_ones_are_kept() {
    for &who in everybody() {
        let ground = Ground::below(who, Path::new("/tmp"));
        let estate = ground.play().join("estate");
        fs::create_dir(&estate).unwrap();
        fs::write(estate.join("file"), "host").unwrap();
        ground.give(&estate);
        ground.give(&estate.join("file"));
        let mount = format!(
            "cd {0}; mkdir disk; mount -t tmpfs -o mode=777 x disk; echo -n on-disk > disk/file; chown {1} disk/file",
            estate.display(),
            ground.owner()
        );
        let absent = ground.play().join("absent");
        let mut twin = ground.twin_after(&mount, &[&estate, &estate.join("disk"), &absent]);
        assert_eq!(
            twin.must("ls -A /tmp").trim(),
            ground.play().parent().unwrap().file_name().unwrap().to_str().unwrap()
        );
        assert_eq!(twin.must(&format!("ls -A {}", ground.play().display())), "estate\n");
        assert_eq!(twin.ask(&json!({ "Read": estate.join("file") })), "host");
        assert_eq!(twin.ask(&json!({ "Read": estate.join("disk/file") })), "on-disk");
        twin.must(&format!(
            "cd {} && rm -rf file && echo x > disk/file && mkdir new && mv new newer",
            estate.display()
        ));
        assert_eq!(fs::read_to_string(estate.join("file")).unwrap(), "host");

        let mut other = Ground::new(who).twin();
        assert_eq!(other.must("ls -A /tmp /dev/shm"), "/dev/shm:\n\n/tmp:\n");
    }
}

#[test]
fn only_directories_can_be_kept() {
    let ground = Ground::below(Who::Root, Path::new("/tmp"));
    let file = ground.play().join("file");
    fs::write(&file, "x").unwrap();
    let refusal = ground.open("", &[&file]).map(drop).unwrap_err();
    assert!(refusal.contains("keep") && refusal.contains("directory"), "{refusal}");
    assert_eq!(
        fs::read_dir(ground.scratch()).unwrap().count(),
        0,
        "something is left in the scratch directory"
    );
}

#[test]
fn a_scratch_directory_that_can_hold_no_upper_layer_is_replaced_by_memory() {
    let ground = Ground::new(Who::Root);
    // An overlay cannot lie above an overlay: as in a container.
    let preparation = format!(
        "cd {}; mkdir l u w; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay {}; cd /",
        ground.play().display(),
        ground.scratch().display()
    );
    let mut twin = ground.twin_after(&preparation, &[]);
    assert!(twin.report().scratch_in_memory);
    twin.must("echo x > /etc/passwd && test $(cat /etc/passwd) = x");
    assert_ne!(fs::read_to_string("/etc/passwd").unwrap(), "x\n");
}

#[test]
fn the_scratch_directory_is_not_shown() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let mut twin = ground.twin();
        assert_eq!(twin.must(&format!("ls -A {0} | cat", ground.scratch().display())).trim(), "");
        assert!(fs::read_dir(ground.scratch()).unwrap().count() > 0);
    }
}

#[test]
fn a_directory_of_the_host_is_renamed_where_the_report_says_so() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let folder = ground.play().join("folder");
        fs::create_dir(&folder).unwrap();
        ground.give(&folder);
        let mut twin = ground.twin();
        // `mv` would copy where it cannot rename.
        let (from, to) = (folder.display(), ground.play().join("moved"));
        let rename = format!("{} rename {from} {} && test -d {1}", ground.helper().display(), to.display());
        let renamed = twin.run(&rename);
        assert_eq!(renamed.success, twin.report().renames_directories, "{who:?}: {}", renamed.text);
        assert_eq!(twin.report().renames_directories, who == Who::Root);
        assert!(folder.exists());
    }
}

#[test]
fn what_is_to_be_gone_is_gone_in_the_twin_alone_and_can_be_made_anew() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let (estate, disk) = (ground.play().join("estate"), ground.play().join("disk"));
        for directory in [&estate, &estate.join("tree"), &estate.join("tree/deep"), &disk] {
            fs::create_dir(directory).unwrap();
            ground.give(directory);
        }
        for file in ["tree/deep/file", "alone", "stays"] {
            fs::write(estate.join(file), "host").unwrap();
            ground.give(&estate.join(file));
        }
        std::os::unix::fs::symlink(&estate, ground.play().join("link")).unwrap();
        let mount = format!("mount -t tmpfs -o mode=777 x {}", disk.display());
        let gone = |path: &Path| PathBuf::from(format!("-{}", path.display()));
        // By another way, more than once, with nothing there, and with a mount that is needed.
        let asked = [
            gone(&estate.join("tree")),
            gone(&ground.play().join("link/alone")),
            gone(&estate.join("alone")),
            gone(&estate.join("absent")),
            gone(&ground.play().join("nowhere/absent")),
            gone(&disk),
        ];
        let mut kept: Vec<&Path> = asked.iter().map(PathBuf::as_path).collect();
        kept.push(&estate);
        let mut twin = ground.twin_after(&mount, &kept);
        assert_eq!(twin.must(&format!("ls -A {}", estate.display())), "stays\n");
        assert_eq!(twin.must(&format!("ls -d {0}/disk", ground.play().display())).lines().count(), 1);
        let mode = format!("stat -c %a:%u {}", estate.display());
        assert_eq!(twin.must(&mode), ground.on_host(&mode).out.text(), "the way there is as it was");
        twin.must(&format!(
            "cd {} && mkdir tree.new && echo twin > tree.new/file && mv tree.new tree && ls -A tree | grep -x file && \
             test ! -e tree/deep && echo twin > alone",
            estate.display()
        ));
        assert_eq!(fs::read_to_string(estate.join("tree/deep/file")).unwrap(), "host");
        assert_eq!(fs::read_to_string(estate.join("alone")).unwrap(), "host");
    }
}
