//! Building the twin's tree of mounts, as seen by the one process that does it: the twin's first.
//!
//! Every file system of the host that holds files gets an overlay of its own: below it, read-only by
//! construction, the host's directory; above it a directory of the scratch. Overlays do not look into what
//! is mounted below their lower directory, so each mount is handled by itself, parents first. What is not a
//! directory is copied. What a machine makes anew when it boots is fresh (`fresh`).
//!
//! In a user namespace two things are different. The kernel refuses an overlay over a directory below which
//! the host has mounts, lest what they hide be seen; such a directory is *split*: made anew, with an overlay
//! for each of its entries. And nothing of another owner can be copied up (EOVERFLOW), which an overlay does
//! with every directory on the way to what is written; so the *ways* to where a scenario writes are laid in
//! the upper directories beforehand.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::mounts::{self, Class, FRESH, Mount};
use super::{Fate, Mounted, fresh, user};

/// A larger file that is mounted by itself, or lies in a directory that is split, is not copied.
const COPIED_BYTES_MAX: u64 = 1 << 20;

/// A directory with more entries is not split: each entry costs a mount.
const SPLIT_ENTRIES_MAX: usize = 2000;

/// What every twin lacks that a program might ask for.
const OF_EVERYBODY: &str = "there is no network but lo, no systemd and no D-Bus; nothing can be mounted, traced or \
    scheduled as real-time; user namespaces, io_uring, kernel keyrings, sockets to the hypervisor and 32-bit programs are refused; \
    a crash leaves no core";

/// What a twin of an ordinary user lacks.
const OF_AN_ORDINARY_USER: &str = "there is one user and one group: files of others can be read as far as this \
    user may, and be removed and replaced, and not be changed in place; directories of others can be written in \
    only on the way to what is kept; ports below 1024 are closed as on the host";

/// What the first process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The twin's own scratch directory.
    pub scratch: PathBuf,
    pub keep: Vec<PathBuf>,
    pub gone: Vec<PathBuf>,
}

/// What it answers when all is built.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Built {
    pub mounts: Vec<Mounted>,
    pub scratch_in_memory: bool,
    pub renames_directories: bool,
    pub limits: Vec<String>,
}

/// A step that failed, and why.
#[derive(Debug)]
pub(super) struct Failed {
    pub what: String,
    pub reason: io::Error,
}

/// Names the step in which an error came up.
pub(super) trait Named<T> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T, Failed> {
        self.map_err(|reason| Failed { what: what(), reason: reason.into() })
    }
}

/// Builds everything and moves into it; afterwards nothing of the host can be reached by a path.
pub(super) fn build(spec: &Spec) -> Result<Built, Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).named(|| "part its mounts from the host's".into())?;
    let listed = fs::read("/proc/self/mountinfo").named(|| "read /proc/self/mountinfo".into())?;
    let listed = mounts::parse(&listed)
        .map_err(|line| io::Error::new(io::ErrorKind::InvalidData, line))
        .named(|| "read the list of mounts".into())?;
    let keep = kept(&spec.keep)?;
    let mut builder = Builder::new(spec, listed, keep)?;
    builder.show_root()?;
    fresh::mount_all(&builder.root, &mut builder.built.limits)?;
    builder.show_rest()?;
    builder.hide_scratch()?;
    let Builder { root, built, .. } = builder;
    move_into(&root).named(|| format!("make {} its root", root.display()))?;
    Ok(built)
}

/// What is not to be shown, without links on the way, and without what holds a mount or something kept.
fn gone(paths: &[PathBuf], listed: &[Mount], keep: &[PathBuf]) -> Vec<PathBuf> {
    let place = |path: &PathBuf| Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    let needed = |gone: &PathBuf| {
        listed.iter().map(|mount| &mount.path).chain(keep).any(|needed| needed.starts_with(gone))
    };
    paths.iter().filter_map(place).filter(|gone| !needed(gone)).collect()
}

/// The directories to keep, without links on the way, without those that lie in another.
fn kept(wanted: &[PathBuf]) -> Result<Vec<PathBuf>, Failed> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in wanted {
        let canonical = match path.canonicalize() {
            // What the host does not have, the twin need not show.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.named(|| format!("keep {}", path.display()))?,
        };
        if !canonical.is_dir() {
            let reason = io::Error::new(
                io::ErrorKind::NotADirectory,
                "only a directory can be kept; name the one it lies in",
            );
            return Err(reason).named(|| format!("keep {}", path.display()));
        }
        kept.push(canonical);
    }
    kept.sort_by_key(|path| path.components().count());
    let mut outermost: Vec<PathBuf> = Vec::new();
    for path in kept {
        if !outermost.iter().any(|outer| path.starts_with(outer)) {
            outermost.push(path);
        }
    }
    Ok(outermost)
}

struct Builder {
    /// Where the twin's root is built.
    root: PathBuf,
    /// Where the upper directories are.
    layers: PathBuf,
    layers_made: usize,
    /// Options of every overlay, begun with a comma.
    options: &'static str,
    scratch: PathBuf,
    in_user_namespace: bool,
    listed: Vec<Mount>,
    keep: Vec<PathBuf>,
    gone: Vec<PathBuf>,
    built: Built,
}

impl Builder {
    fn new(spec: &Spec, listed: Vec<Mount>, keep: Vec<PathBuf>) -> Result<Self, Failed> {
        let (root, layers) = (spec.scratch.join("root"), spec.scratch.join("layers"));
        for directory in [&root, &layers] {
            fs::create_dir(directory).named(|| format!("make {}", directory.display()))?;
        }
        let scratch = spec.scratch.clone();
        let in_user_namespace = user::in_user_namespace();
        let mut built = Built { limits: vec![OF_EVERYBODY.to_owned()], ..Built::default() };
        if in_user_namespace {
            built.limits.push(OF_AN_ORDINARY_USER.to_owned());
        }
        let (layers_made, options) = (0, "");
        let gone = gone(&spec.gone, &listed, &keep);
        let mut builder = Self {
            root,
            layers,
            layers_made,
            options,
            scratch,
            in_user_namespace,
            listed,
            keep,
            gone,
            built,
        };
        builder.choose_layers()?;
        Ok(builder)
    }

    /// Finds out by trial where upper directories can be and what overlays can do there.
    fn choose_layers(&mut self) -> Result<(), Failed> {
        let in_user_namespace = self.in_user_namespace;
        // `metacopy` keeps a change of mode or owner from copying the data.
        let choices: &[&'static str] = if in_user_namespace {
            &[",userxattr"]
        } else {
            &[",redirect_dir=on,metacopy=on", ",redirect_dir=on", ""]
        };
        let attribute = if in_user_namespace { "user.overlay.trial" } else { "trusted.overlay.trial" };
        let mut failure = io::Error::from(io::ErrorKind::Unsupported);
        for in_memory in [false, true] {
            if in_memory {
                mount_tmpfs(&self.layers, MountFlags::NODEV, "mode=700")
                    .named(|| "keep the scratch in memory".into())?;
            }
            for options in choices {
                self.options = options;
                match self.trial(attribute) {
                    Ok(()) => {
                        self.built.scratch_in_memory = in_memory;
                        self.built.renames_directories = options.contains("redirect_dir");
                        return Ok(());
                    }
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure).named(|| format!("lay an overlay in {} or in memory", self.scratch.display()))
    }

    fn trial(&mut self, attribute: &str) -> io::Result<()> {
        let lower = self.layers.join(format!("trial-{}", self.layers_made));
        fs::create_dir(&lower)?;
        rustix::fs::setxattr(&lower, attribute, b"x", XattrFlags::empty())?;
        rustix::fs::removexattr(&lower, attribute)?;
        let root = self.root.clone();
        self.overlay(&lower, &root, MountFlags::empty())?;
        Ok(rustix::mount::unmount(&root, UnmountFlags::empty())?)
    }

    /// Lays an overlay of the directory `path` at `target`, with its owner and mode.
    fn overlay(&mut self, path: &Path, target: &Path, flags: MountFlags) -> io::Result<()> {
        let layer = self.layers.join(self.layers_made.to_string());
        self.layers_made += 1;
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir(&layer)?;
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let lower = open_path(path)?;
        take_attributes(&upper, path)?;
        if self.in_user_namespace {
            self.lay_ways(path, &upper)?;
        }
        self.leave_out(path, &upper)?;
        let (upper, work) = (open_path(&upper)?, open_path(&work)?);
        // Descriptors, because commas and colons in paths would be taken for options and lists.
        let by = |descriptor: &OwnedFd| format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let data =
            format!("lowerdir={},upperdir={},workdir={}{}", by(&lower), by(&upper), by(&work), self.options);
        // Without device nodes: one that lies about on the host must not open a disk.
        mount("overlay", target, "overlay", flags | MountFlags::NODEV, &data)
    }

    /// Makes the directories in `upper` by which what is kept, and `/var/tmp`, is reached from `path`.
    fn lay_ways(&self, path: &Path, upper: &Path) -> io::Result<()> {
        for end in self.keep.iter().map(PathBuf::as_path).chain([Path::new("/var/tmp")]) {
            if let Ok(way) = end.strip_prefix(path) {
                lay_way(path, way, upper)?;
            }
        }
        Ok(())
    }

    /// Marks in `upper` what of `path` is not to be shown, as the overlay itself does with what is removed: in no time,
    /// however much lies there.
    fn leave_out(&self, path: &Path, upper: &Path) -> io::Result<()> {
        for gone in &self.gone {
            let (Some(parent), Some(name)) = (gone.parent(), gone.file_name()) else { continue };
            let Ok(way) = parent.strip_prefix(path) else { continue };
            // What cannot be marked is there, and can still be removed.
            if let Some(parent) = lay_way(path, way, upper)?
                && fs::symlink_metadata(gone).is_ok()
            {
                let whiteout = parent.join(name);
                match rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0) {
                    Ok(()) | Err(Errno::EXIST | Errno::PERM | Errno::ACCESS) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn show_root(&mut self) -> Result<(), Failed> {
        let at = Path::new("/");
        let mount = self.listed.iter().rev().find(|mount| mount.path == at).cloned();
        let kind = mount.as_ref().map_or_else(String::new, |mount| mount.kind.clone());
        self.show_directory(at, mount.as_ref().map_or(MountFlags::empty(), flags_of))
            .named(|| "lay an overlay over /".into())?;
        self.built.mounts.push(Mounted { path: at.into(), kind, fate: Fate::Overlaid });
        Ok(())
    }

    /// Shows every other mount, and the kept directories, in an order in which parents come first.
    fn show_rest(&mut self) -> Result<(), Failed> {
        let mut hidden: Vec<PathBuf> = Vec::new();
        let mut left: Vec<(PathBuf, Option<Mount>)> =
            self.keep.iter().map(|path| (path.clone(), None)).collect();
        left.extend(self.listed.iter().map(|mount| (mount.path.clone(), Some(mount.clone()))));
        // A stable sort: a kept directory stands before a mount at the same path.
        left.sort_by_key(|(path, _)| path.components().count());
        for (path, mount) in left {
            if path == Path::new("/") || hidden.iter().any(|hidden| path.starts_with(hidden)) {
                continue;
            }
            match mount {
                None if mounts::is_fresh(&path) => self.show_kept(&path)?,
                None => {}
                Some(mount) => {
                    if let Some(fate) = self.show_mount(&mount) {
                        if matches!(fate, Fate::LeftOut(_)) {
                            hidden.push(path.clone());
                        }
                        self.built.mounts.push(Mounted { path, kind: mount.kind, fate });
                    }
                }
            }
        }
        Ok(())
    }

    /// A kept directory that would be fresh otherwise; the way to it is made like the host's.
    fn show_kept(&mut self, path: &Path) -> Result<(), Failed> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|folder| !self.target(folder).is_dir()).collect();
        for folder in missing.into_iter().rev() {
            self.make_directory_like(folder).named(|| format!("make {} in it", folder.display()))?;
        }
        self.show_directory(path, MountFlags::empty()).named(|| format!("show {} in it", path.display()))
    }

    /// `None` for what is not the twin's to show.
    fn show_mount(&mut self, mount: &Mount) -> Option<Fate> {
        let is_kept =
            self.keep.iter().any(|kept| kept.starts_with(&mount.path) || mount.path.starts_with(kept));
        let is_fresh = mounts::is_fresh(&mount.path);
        if mount.class() == Class::Kernel
            || (is_fresh && !self.keep.iter().any(|kept| mount.path.starts_with(kept)))
        {
            return None;
        }
        if mount.class() == Class::Remote && !is_kept {
            return Some(Fate::LeftOut("it is a file system of the network or of a program".into()));
        }
        let seen = match open_path(&mount.path) {
            Ok(seen) => seen,
            Err(error) => return Some(Fate::LeftOut(error.to_string())),
        };
        if mount_id(&seen).is_ok_and(|id| id != mount.id) {
            return None; // Another mount covers it.
        }
        let shown =
            match rustix::fs::fstat(&seen).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode)) {
                Ok(rustix::fs::FileType::Directory) => self.show_mounted(mount),
                Ok(_) => copy_file(&mount.path, &self.target(&mount.path)).map(|()| Fate::Copied),
                Err(error) => Err(error.into()),
            };
        Some(shown.unwrap_or_else(|error| Fate::LeftOut(error.to_string())))
    }

    fn show_mounted(&mut self, mount: &Mount) -> io::Result<Fate> {
        fs::create_dir_all(self.target(&mount.path))?;
        self.show_directory(&mount.path, flags_of(mount)).map(|()| Fate::Overlaid)
    }

    /// Lays an overlay over a directory of the host, or splits it where the kernel refuses one.
    fn show_directory(&mut self, path: &Path, flags: MountFlags) -> io::Result<()> {
        let target = self.target(path);
        let overlaid = self.overlay(path, &target, flags);
        let holds_mounts = self.listed.iter().any(|mount| mount.path != path && mount.path.starts_with(path));
        match overlaid {
            Err(error) if holds_mounts && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.split(path, flags)
            }
            other => other,
        }
    }

    fn split(&mut self, path: &Path, flags: MountFlags) -> io::Result<()> {
        let target = self.target(path);
        mount_tmpfs(&target, flags.difference(MountFlags::RDONLY) | MountFlags::NODEV, "mode=755")?;
        take_attributes(&target, path)?;
        let entries: Vec<fs::DirEntry> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
        if entries.len() > SPLIT_ENTRIES_MAX {
            let reason =
                format!("{} has mounts in it and more than {SPLIT_ENTRIES_MAX} entries", path.display());
            return Err(io::Error::other(reason));
        }
        for entry in entries {
            let entry = entry.path();
            if let Err(error) = self.show_entry(&entry, flags) {
                self.built.limits.push(format!("{} is not there: {error}", entry.display()));
            }
        }
        self.built.limits.push(format!(
            "what lies directly in {} can be changed and not be removed or renamed, because the host has mounts below",
            path.display()
        ));
        Ok(())
    }

    /// One entry of a directory that is split; mount points are only made here and shown in their turn.
    fn show_entry(&mut self, path: &Path, flags: MountFlags) -> io::Result<()> {
        let target = self.target(path);
        let is_mount = self.listed.iter().any(|mount| mount.path == path);
        let is_fresh = FRESH.iter().any(|fresh| path == Path::new(fresh));
        let kind = fs::symlink_metadata(path)?.file_type();
        if kind.is_symlink() {
            symlink(fs::read_link(path)?, target)
        } else if kind.is_dir() && (is_mount || is_fresh) {
            fs::create_dir(target)
        } else if kind.is_dir() {
            self.make_directory_like(path)?;
            self.show_directory(path, flags)
        } else if kind.is_file() && !is_mount {
            copy_file(path, &target)
        } else if kind.is_socket() || kind.is_fifo() || is_mount {
            Ok(())
        } else {
            Err(io::Error::other("it is a device node"))
        }
    }

    fn make_directory_like(&self, path: &Path) -> io::Result<()> {
        let target = self.target(path);
        fs::create_dir(&target)?;
        take_attributes(&target, path)
    }

    /// Covers the scratch directories of all twins, where the twin shows them.
    fn hide_scratch(&self) -> Result<(), Failed> {
        let all = self.scratch.parent().unwrap_or(&self.scratch);
        let target = self.target(all);
        if !target.is_dir() {
            return Ok(());
        }
        mount_tmpfs(&target, MountFlags::RDONLY | MountFlags::NODEV, "mode=700,size=4k")
            .named(|| format!("hide {}", all.display()))
    }

    fn target(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Gives `target` the owner and mode of the host's file at `path`.
///
/// In a user namespace everything belongs to its one user. What belongs to another on the host must not be
/// open to him for that; he gets the rights that he has there, or a drill would do what a recovery cannot.
/// Makes the directories in `upper` that lead along `way` from `path`, as the host has them, and tells where they lead.
///
/// `None` when the host's way is another: a link, no directory, or out of reach.
fn lay_way(path: &Path, way: &Path, upper: &Path) -> io::Result<Option<PathBuf>> {
    let (mut from, mut to) = (path.to_owned(), upper.to_owned());
    for step in way {
        from.push(step);
        to.push(step);
        match fs::symlink_metadata(&from) {
            Ok(like) if !like.is_dir() => return Ok(None),
            Ok(_) if to.is_dir() => {}
            Ok(_) => {
                fs::create_dir(&to)?;
                take_attributes(&to, &from)?;
            }
            Err(_) => return Ok(None), // The host's user cannot get there either.
        }
    }
    Ok(Some(to))
}

pub(super) fn take_attributes(target: &Path, path: &Path) -> io::Result<()> {
    let like = fs::metadata(path)?;
    let mut mode = like.mode() & 0o7777;
    if !user::in_user_namespace() {
        chown(target, Some(like.uid()), Some(like.gid()))?;
    } else {
        let may = [(Access::READ_OK, 0o400), (Access::WRITE_OK, 0o200), (Access::EXEC_OK, 0o100)];
        let granted = may.iter().filter(|(access, _)| rustix::fs::access(path, *access).is_ok());
        // Neither are setuid and setgid programs of others his.
        mode = granted.fold(mode & 0o1077, |mode, (_, bit)| mode | bit);
    }
    fs::set_permissions(target, fs::Permissions::from_mode(mode))
}

fn copy_file(path: &Path, target: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > COPIED_BYTES_MAX {
        let reason = format!("it is not a directory and not a file of at most {COPIED_BYTES_MAX} bytes");
        return Err(io::Error::other(reason));
    }
    fs::write(target, fs::read(path)?)?;
    take_attributes(target, path)
}

fn flags_of(mount: &Mount) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, mount.read_only);
    flags.set(MountFlags::NOSUID, mount.no_suid);
    flags.set(MountFlags::NOEXEC, mount.no_exec);
    flags
}

/// Opens a path for naming it and nothing else.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn mount_id(seen: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(seen.as_fd(), "", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Mounts with options as text; the kernel's answer names no path, so the caller must.
pub(super) fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> io::Result<()> {
    let data = std::ffi::CString::new(data)?;
    Ok(rustix::mount::mount(source, target, kind, flags, Some(data.as_c_str()))?)
}

pub(super) fn mount_tmpfs(target: &Path, flags: MountFlags, data: &str) -> io::Result<()> {
    mount("tmpfs", target, "tmpfs", flags, data)
}

/// Makes the new root the root, and lets go of the old one with everything that is mounted in it.
fn move_into(root: &Path) -> io::Result<()> {
    rustix::process::chdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // Both roots are stacked at one path now, the old one on top.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}
