//! The walk: directories are listed, their entries compared with earlier snapshots, and what differs is read.

use std::ffi::OsStr;
use std::io::Read;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::chunker::{Chunker, Fixed, ZERO_RUN_BYTES};
use crate::event::{Change, Context, Event, Task as EventTask};
use crate::format::{BlobKind, Node, NodeKind, SnapshotSummary, Time, parse_tree};
use crate::reader::BlobReader;
use crate::writer::{BlobWriter, WriterTotals};
use crate::{Error, Id, Index, Repository, Result, Sealer, Users};

use super::file::{ChunkTask, FileTask, ReadError, ZeroChunk};
use super::members::{LaterPlace, MemberCounts, StreamTask, Streams, ThenMembers, Totals};
use super::node::{self, Metadata};
use super::pool::Pool;
use super::targets::{self, Children, Target};
use super::tree::{Earlier, PendingDir, Place, Slot};
use super::{BackupOptions, CHECKPOINT_EVERY, ProblemKind, SourceProblem};

/// A backup under way: what all workers share.
pub(super) struct Run<'a> {
    pub options: &'a BackupOptions,
    pub context: Context<'a>,
    pub writer: &'a BlobWriter,
    pub pool: Pool<Task<'a>>,
    /// Streams of members.
    pub streams: Mutex<Streams<'a>>,
    /// Places kept free for members that are known later.
    pub later: Mutex<Vec<LaterPlace>>,
    pub chunker: Arc<Chunker>,
    pub counts: Counts,
    pub threads: usize,
    /// Bytes of chunks that wait for another worker than their reader.
    pub handed_bytes: AtomicUsize,
    /// Files up to this size are one chunk.
    pub small_file_bytes_max: u64,
    /// The chunk that runs of zeros are cut into.
    pub zeros: ZeroChunk,
    reader: BlobReader<'a>,
    users: Users,
    /// Root trees of earlier snapshots, the nearest first.
    parents: Vec<Id>,
    root: Mutex<Option<Id>>,
    failure: Mutex<Option<Error>>,
    problems: Mutex<Vec<SourceProblem>>,
}

/// What one worker keeps between tasks.
pub(super) struct Worker {
    pub sealer: Sealer,
    pub buffer: Vec<u8>,
}

/// The unit of work.
pub(super) enum Task<'a> {
    /// List a directory.
    Directory(DirectoryTask<'a>),
    /// Read a file.
    File(FileTask),
    /// Save a chunk.
    Chunk(ChunkTask),
    /// Read a member's stream.
    Stream(Box<StreamTask<'a>>),
}

/// A directory that is to be listed.
pub(super) struct DirectoryTask<'a> {
    place: Place,
    /// The directory above, when that was listed; closed with the last task that needs it.
    upper: Option<Arc<OwnedFd>>,
    path: PathBuf,
    name: Box<[u8]>,
    /// The file system to stay on, when the walk stays on one.
    device: Option<u64>,
    /// Members that stand in place of what it holds, and what leads to them.
    inner: Children<'a>,
}

/// An open directory, its node, and the names in it in order.
type Listed = (OwnedFd, Node, Vec<Box<[u8]>>);

/// What a walk came to.
pub(super) struct Finished {
    pub tree: Id,
    pub counts: Counts,
    pub problems: Vec<SourceProblem>,
}

impl<'a> Run<'a> {
    pub fn new(
        repository: &'a Repository,
        index: &'a Index,
        writer: &'a BlobWriter,
        options: &'a BackupOptions,
        users: Users,
        parents: Vec<Id>,
        context: Context<'a>,
    ) -> Result<Self> {
        let chunker = match options.block_bytes.map(|bytes| NonZeroUsize::new(bytes as usize)) {
            Some(Some(bytes)) => Chunker::Fixed(Fixed::new(bytes)),
            Some(None) => return Err(Error::Refused("blocks of 0 bytes make no sense".into())),
            None => repository.chunker()?,
        };
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self {
            options,
            context,
            writer,
            pool: Pool::new(),
            streams: Mutex::default(),
            later: Mutex::default(),
            small_file_bytes_max: chunker.min_bytes().min(ZERO_RUN_BYTES) as u64,
            counts: Counts::default(),
            threads: options.threads.unwrap_or(cores).max(1),
            handed_bytes: AtomicUsize::new(0),
            zeros: ZeroChunk::of(&chunker),
            chunker: Arc::new(chunker),
            reader: BlobReader::new(repository, index),
            users,
            parents,
            root: Mutex::new(None),
            failure: Mutex::new(None),
            problems: Mutex::default(),
        })
    }

    /// Backs up what leads on from `target`, the root, and among it so many members.
    ///
    /// When that is done, asks `then` for more. Calls `checkpoint` now and then, and when interrupted, with the tree finished so far.
    pub fn targets<'m: 'a>(
        mut self,
        target: Target<'a>,
        members: usize,
        then: Option<ThenMembers<'m>>,
        checkpoint: impl Fn(Id) -> Result<()>,
    ) -> Result<Finished> {
        self.counts.members.resize_with(members, MemberCounts::default);
        let mut worker = self.worker();
        let earlier = self.earlier_trees(self.parents.iter().copied());
        let root = PendingDir::new(PathBuf::from("/"), false, earlier, root_node(), None);
        self.upper(&mut worker, &root, target.children)?;
        // Last, so that they are begun first: whoever streams may hold something open for it.
        self.start_streams();
        self.work_off(&mut worker, &root, &checkpoint);
        if let Some(then) = then
            && !self.has_failed()
        {
            let begun =
                then().map_err(Error::Refused).and_then(|members| self.begin_later(&mut worker, members));
            match begun {
                Ok(()) => {
                    self.start_streams();
                    self.work_off(&mut worker, &root, &checkpoint);
                }
                Err(error) => self.fail(error),
            }
        }
        self.finished()
    }

    /// Has workers do all tasks there are.
    fn work_off(&self, worker: &mut Worker, root: &Arc<PendingDir>, checkpoint: &impl Fn(Id) -> Result<()>) {
        std::thread::scope(|scope| {
            for number in 0..self.threads {
                let work = move || {
                    let mut worker = self.worker();
                    self.pool.work(|task| self.perform(&mut worker, task));
                };
                let named = std::thread::Builder::new().name(format!("backup {number}"));
                if let Err(error) = named.spawn_scoped(scope, work) {
                    self.fail(Error::io("start a thread for", "the backup", error));
                }
            }
            self.watch(worker, root, checkpoint);
        });
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().expect("no holder panics").is_some()
    }

    /// Saves checkpoints while the workers work.
    fn watch(&self, worker: &mut Worker, root: &Arc<PendingDir>, checkpoint: &impl Fn(Id) -> Result<()>) {
        /// How soon an interrupted run is noticed.
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        let every = self.options.checkpoint_every.unwrap_or(CHECKPOINT_EVERY);
        let mut last = Instant::now();
        while !self.pool.wait(LOOK_EVERY) {
            if last.elapsed() >= every {
                let saved = self.save_partial(&mut worker.sealer, root).and_then(checkpoint);
                if let Err(error) = saved {
                    self.fail(error);
                }
                last = Instant::now();
            }
        }
        let interrupted =
            matches!(&*self.failure.lock().expect("no holder panics"), Some(Error::Interrupted));
        if interrupted {
            // Best effort: the run is over, and a checkpoint that cannot be saved costs time only.
            let _lost = self.save_partial(&mut worker.sealer, root).and_then(checkpoint);
        }
    }

    /// Backs up one file of the given name from `reader`.
    pub fn stream(
        self,
        name: &Path,
        mut reader: Box<dyn Read + Send + '_>,
        finish: Box<dyn FnOnce() -> std::result::Result<(), String> + Send + '_>,
    ) -> Result<Finished> {
        let name = targets::clean(&Path::new("/").join(name));
        let mut names: Vec<&[u8]> =
            name.components().skip(1).map(|part| part.as_os_str().as_bytes()).collect();
        let Some(file_name) = names.pop() else {
            return Err(Error::Refused("a stream needs a file name".into()));
        };
        let now = Time::from(jiff::Timestamp::now());
        let mut directory = PendingDir::new(PathBuf::from("/"), false, Vec::new(), root_node(), None);
        directory.fill(vec![Slot::Waiting]);
        for name in names {
            let node = made_up(name, NodeKind::Dir, now);
            let place = Place { directory: Arc::clone(&directory), slot: 0, member: None };
            directory = PendingDir::new(
                directory.path.join(OsStr::from_bytes(name)),
                false,
                Vec::new(),
                node,
                Some(place),
            );
            directory.fill(vec![Slot::Waiting]);
        }
        let node = made_up(file_name, NodeKind::File, now);
        let place = Place { directory, slot: 0, member: None };
        let mut worker = self.worker();
        self.expect(1, 0);
        self.pool.hold();
        let read = std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|| {
                    let mut worker = self.worker();
                    self.pool.work(|task| self.perform(&mut worker, task));
                });
            }
            let read = self.stream_file(&mut worker, place, node, name.clone(), &self.chunker, &mut *reader);
            self.pool.release();
            if read.is_err() {
                self.pool.stop();
            }
            self.pool.work(|task| self.perform(&mut worker, task));
            read
        });
        match read {
            Ok(()) => finish()
                .map_err(|why| Error::Refused(format!("{} was not backed up: {why}", name.display())))?,
            Err(ReadError::Source(error)) => return Err(Error::io("read", &name, error)),
            Err(ReadError::Repository(error)) => return Err(error),
        }
        self.finished()
    }

    fn finished(self) -> Result<Finished> {
        if let Some(error) = self.failure.into_inner().expect("no holder panics") {
            return Err(error);
        }
        let tree =
            self.root.into_inner().expect("no holder panics").expect("a walk that did not fail has a root");
        let mut problems = self.problems.into_inner().expect("no holder panics");
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        if !self.counts.found_anything() {
            let why = problems.first().map_or("there is nothing to back up".into(), |problem| {
                format!(
                    "nothing could be read; the first problem: {}: {}",
                    problem.path.display(),
                    problem.error
                )
            });
            return Err(Error::Refused(why));
        }
        Ok(Finished { tree, counts: self.counts, problems })
    }

    pub fn worker(&self) -> Worker {
        Worker { sealer: self.writer.sealer(), buffer: Vec::new() }
    }

    pub fn users(&self) -> &Users {
        &self.users
    }

    pub fn set_root(&self, tree: Id) {
        *self.root.lock().expect("no holder panics") = Some(tree);
    }

    fn perform(&self, worker: &mut Worker, task: Task<'a>) {
        let result = self.context.check().and_then(|()| match task {
            Task::Directory(task) => self.directory(worker, task),
            Task::File(task) => self.file(worker, &task),
            Task::Chunk(task) => self.chunk(worker, task),
            Task::Stream(task) => self.member_stream(worker, *task),
        });
        if let Err(error) = result {
            self.fail(error);
        }
    }

    fn fail(&self, error: Error) {
        self.failure.lock().expect("no holder panics").get_or_insert(error);
        self.pool.stop();
    }

    pub fn problem(&self, path: PathBuf, kind: ProblemKind, error: &dyn std::fmt::Display) {
        let error = error.to_string();
        self.context.tell(Event::Problem { item: &path.to_string_lossy(), error: &error });
        self.problems.lock().expect("no holder panics").push(SourceProblem { path, kind, error });
    }

    pub fn problem_reading_xattrs(&self, path: PathBuf, error: Errno) {
        let error = format!("its extended attributes could not be read: {}", std::io::Error::from(error));
        self.problem(path, ProblemKind::Changed, &error);
    }

    pub fn expect(&self, items: u64, bytes: u64) {
        self.context.tell(Event::Expect { task: EventTask::Backup, items, bytes });
    }

    pub fn advance(&self, items: u64, bytes: u64) {
        self.context.tell(Event::Advance { task: EventTask::Backup, items, bytes });
    }

    /// Tells and counts a file that was read.
    pub fn file_done(&self, path: &Path, member: Option<usize>, node: &Node, change: Change) {
        self.counts.file(member, change, node.size);
        self.advance(1, 0);
        self.context.tell(Event::Item { path, change, bytes: node.size });
    }

    /// Sets up the part of the tree above the targets and pushes the targets themselves.
    fn upper(&self, worker: &mut Worker, directory: &Arc<PendingDir>, children: Children<'a>) -> Result<()> {
        if directory.fill(children.iter().map(|_| Slot::Waiting).collect()) {
            return self.finish(&mut worker.sealer, directory);
        }
        for (slot, (name, child)) in children.into_iter().enumerate() {
            let member = child.member.or(directory.member());
            let place = Place { directory: Arc::clone(directory), slot, member };
            self.target(worker, place, &name, child)?;
        }
        Ok(())
    }

    /// Sets up a directory that leads on to targets and is not itself listed.
    pub fn leads_on(
        &self,
        worker: &mut Worker,
        place: Place,
        name: &[u8],
        path: PathBuf,
        children: Children<'a>,
    ) -> Result<()> {
        let node = match self.upper_node(name, &path) {
            Ok(node) => node,
            // The paths of a snapshot of members need not be paths of this machine.
            Err(_) if self.counts.has_members() => made_up(name, NodeKind::Dir, Time::default()),
            Err(error) => {
                self.problem(path, ProblemKind::Unreadable, &std::io::Error::from(error));
                return self.complete(&mut worker.sealer, &place, None);
            }
        };
        let earlier = self.earlier_of(&place.directory, name);
        let directory = PendingDir::new(path, false, earlier, node, Some(place));
        self.upper(worker, &directory, children)
    }

    /// The node of a directory on the way to a target; a link to a directory stands for that directory.
    fn upper_node(&self, name: &[u8], path: &Path) -> rustix::io::Result<Node> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(node::look(&fd, OsStr::new(""))?.node(name, &self.users, self.options.with_atime))
    }

    /// Begins a target that is a file or directory of this machine.
    pub fn whole(
        &self,
        worker: &mut Worker,
        place: Place,
        name: &[u8],
        path: PathBuf,
        inner: Children<'a>,
    ) -> Result<()> {
        if self.options.selection.excludes_path(&path) {
            return self.left_out(worker, place, name, path, inner);
        }
        let metadata = match node::look(rustix::fs::CWD, path.as_os_str()) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.problem(path.clone(), ProblemKind::Unreadable, &std::io::Error::from(error));
                return self.left_out(worker, place, name, path, inner);
            }
        };
        let device = self.options.selection.one_file_system.then_some(metadata.device);
        match metadata.kind {
            NodeKind::Dir => {
                let task = DirectoryTask { place, upper: None, path, name: name.into(), device, inner };
                self.pool.push([Task::Directory(task)]);
                Ok(())
            }
            _ if !inner.is_empty() => {
                let path = path.display();
                Err(Error::Refused(format!("{path} is no directory, yet another member is to lie in it")))
            }
            // Anything else is looked at in its directory, as if it were found by listing that.
            _ => self.lone_entry(worker, place, name, path),
        }
    }

    /// Completes a target that is not taken, but for the members in it.
    fn left_out(
        &self,
        worker: &mut Worker,
        place: Place,
        name: &[u8],
        path: PathBuf,
        inner: Children<'a>,
    ) -> Result<()> {
        if inner.is_empty() {
            return self.complete(&mut worker.sealer, &place, None);
        }
        self.leads_on(worker, place, name, path, inner)
    }

    fn lone_entry(&self, worker: &mut Worker, place: Place, name: &[u8], path: PathBuf) -> Result<()> {
        let upper = path.parent().unwrap_or(Path::new("/"));
        let here = path.file_name().map_or(name, OsStr::as_bytes);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(upper, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => {
                self.problem(path, ProblemKind::Unreadable, &std::io::Error::from(error));
                return self.complete(&mut worker.sealer, &place, None);
            }
        };
        let earlier = place.directory.earlier(name).cloned().collect::<Vec<_>>();
        let found = self.entry(upper, &fd, here, None, earlier.iter());
        match found {
            Found::Node(mut node) => {
                node.name = name.to_vec();
                self.lone_node(place.member, &node);
                self.complete(&mut worker.sealer, &place, Some(*node))
            }
            Found::Left => self.complete(&mut worker.sealer, &place, None),
            Found::Directory(path) => {
                // It became one since it was looked at; the next backup takes it as that.
                self.problem(path, ProblemKind::Changed, &"it became a directory while it was read");
                self.complete(&mut worker.sealer, &place, None)
            }
            Found::File(metadata, change) => {
                self.expect(1, metadata.size);
                let upper = Arc::new(fd);
                let task = FileTask { place, upper, name: name.into(), path: Some(path), metadata, change };
                self.pool.push([Task::File(task)]);
                Ok(())
            }
        }
    }

    /// Counts a target that needs no reading and is no directory.
    fn lone_node(&self, member: Option<usize>, node: &Node) {
        if node.kind != NodeKind::File {
            return self.counts.lone_entry(member);
        }
        self.expect(1, node.size);
        self.counts.unchanged(member, 1, node.size);
        self.advance(1, node.size);
    }

    fn directory(&self, worker: &mut Worker, task: DirectoryTask<'a>) -> Result<()> {
        self.context.tell(Event::Current(&task.path));
        match self.list(&task) {
            Ok((fd, node, names)) => self.entries(worker, task, fd, node, names),
            Err(error) => {
                let kind =
                    if error == Errno::NOENT { ProblemKind::Vanished } else { ProblemKind::Unreadable };
                self.problem(task.path.clone(), kind, &std::io::Error::from(error));
                let DirectoryTask { place, name, path, inner, .. } = task;
                self.left_out(worker, place, &name, path, inner)?;
                self.start_streams();
                Ok(())
            }
        }
    }

    fn list(&self, task: &DirectoryTask<'a>) -> rustix::io::Result<Listed> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |flags| match &task.upper {
            Some(upper) => rustix::fs::openat(upper, OsStr::from_bytes(&task.name), flags, Mode::empty()),
            None => rustix::fs::open(&task.path, flags, Mode::empty()),
        };
        let fd = match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags)?,
            other => other?,
        };
        let metadata = node::look(&fd, OsStr::new(""))?;
        let mut node = metadata.node(&task.name, &self.users, self.options.with_atime);
        match node::xattrs_of_file(&fd) {
            Ok(xattrs) => node.xattrs = xattrs,
            Err(error) => self.problem_reading_xattrs(task.path.clone(), error),
        }
        let foreign = task.device.is_some_and(|device| device != metadata.device);
        // A mount point is kept, what is mounted there is not.
        let mut names = if foreign { Vec::new() } else { names_in(&fd)? };
        if let Some(mark) = self.options.selection.mark_of(&task.path) {
            names.retain(|name| **name == *mark.as_bytes());
        }
        names.sort_unstable();
        Ok((fd, node, names))
    }

    fn entries(
        &self,
        worker: &mut Worker,
        mut task: DirectoryTask<'a>,
        fd: OwnedFd,
        node: Node,
        mut names: Vec<Box<[u8]>>,
    ) -> Result<()> {
        let mut inner = std::mem::take(&mut task.inner);
        if !inner.is_empty() {
            names.extend(inner.keys().map(|name| name.as_slice().into()));
            names.sort_unstable();
            names.dedup();
        }
        let earlier = self.earlier_of(&task.place.directory, &task.name);
        let directory = PendingDir::new(task.path, true, earlier, node, Some(task.place));
        let mut slots = Vec::with_capacity(names.len());
        let mut files = Vec::new();
        let mut directories = Vec::new();
        let mut targets = Vec::new();
        let (mut known, mut known_bytes, mut new_bytes) = (0, 0, 0);
        for name in names {
            let slot = slots.len();
            let found = match inner.remove(&*name) {
                Some(target) if self.is_walked(&directory.path, &fd, &name, &target) => {
                    let path = directory.path.join(OsStr::from_bytes(&name));
                    directories.push((slot, name, path, target.children));
                    slots.push(Slot::Waiting);
                    continue;
                }
                Some(target) => {
                    targets.push((slot, name, target));
                    slots.push(Slot::Waiting);
                    continue;
                }
                None => self.entry(&directory.path, &fd, &name, task.device, directory.earlier(&name)),
            };
            match found {
                Found::Left => {}
                Found::Node(node) => {
                    if node.kind == NodeKind::File {
                        known += 1;
                        known_bytes += node.size;
                    }
                    slots.push(Slot::Done(node));
                }
                Found::File(metadata, change) => {
                    new_bytes += metadata.size;
                    files.push((slot, name, metadata, change));
                    slots.push(Slot::Waiting);
                }
                Found::Directory(path) => {
                    directories.push((slot, name, path, Children::new()));
                    slots.push(Slot::Waiting);
                }
            }
        }
        self.expect(known + files.len() as u64, known_bytes + new_bytes);
        self.counts.unchanged(directory.member(), known, known_bytes);
        self.advance(known, known_bytes);
        if directory.fill(slots) {
            return self.finish(&mut worker.sealer, &directory);
        }
        let fd = Arc::new(fd);
        let place = |slot| Place { directory: Arc::clone(&directory), slot, member: directory.member() };
        for (slot, name, mut target) in targets {
            if target.whole.is_none() {
                target.path = directory.path.join(OsStr::from_bytes(&name));
            }
            let member = target.member.or(directory.member());
            self.target(worker, Place { member, ..place(slot) }, &name, target)?;
        }
        let upper = || Arc::clone(&fd);
        // The last pushed is done first: files before directories, both in the order of their names.
        let directories = directories.into_iter().rev().map(|(slot, name, path, inner)| {
            let (place, upper, device) = (place(slot), Some(upper()), task.device);
            Task::Directory(DirectoryTask { place, upper, path, name, device, inner })
        });
        let files = files.into_iter().rev().map(|(slot, name, metadata, change)| {
            Task::File(FileTask { place: place(slot), upper: upper(), name, path: None, metadata, change })
        });
        self.pool.push(directories.chain(files));
        self.start_streams();
        Ok(())
    }

    /// Whether what only leads to members in a directory that is walked is itself such a directory.
    fn is_walked(&self, upper: &Path, fd: &OwnedFd, name: &[u8], target: &Target<'_>) -> bool {
        let name = OsStr::from_bytes(name);
        let is_directory = || node::look(fd, name).is_ok_and(|metadata| metadata.kind == NodeKind::Dir);
        target.whole.is_none() && is_directory() && !self.options.selection.excludes_path(&upper.join(name))
    }

    /// Looks at one entry and decides what is to be done with it.
    fn entry<'n>(
        &self,
        upper: &Path,
        fd: &OwnedFd,
        name: &[u8],
        device: Option<u64>,
        earlier: impl Iterator<Item = &'n Node>,
    ) -> Found {
        let os_name = OsStr::from_bytes(name);
        let selection = &self.options.selection;
        if selection.has_patterns() && selection.excludes_path(&upper.join(os_name)) {
            return Found::Left;
        }
        let metadata = match node::look(fd, os_name) {
            Ok(metadata) => metadata,
            Err(error) => {
                let kind =
                    if error == Errno::NOENT { ProblemKind::Vanished } else { ProblemKind::Unreadable };
                self.problem(upper.join(os_name), kind, &std::io::Error::from(error));
                return Found::Left;
            }
        };
        match metadata.kind {
            NodeKind::Dir => Found::Directory(upper.join(os_name)),
            NodeKind::File if selection.excludes_size(metadata.size) => Found::Left,
            NodeKind::File if device.is_some_and(|device| device != metadata.device) => Found::Left,
            NodeKind::File => self.file_entry(upper, name, metadata, earlier),
            _ => self.other_entry(upper, fd, name, &metadata),
        }
    }

    fn file_entry<'n>(
        &self,
        upper: &Path,
        name: &[u8],
        metadata: Metadata,
        earlier: impl Iterator<Item = &'n Node>,
    ) -> Found {
        let BackupOptions { ignore_ctime, ignore_inode, with_atime, is_live, .. } = *self.options;
        let mut change = Change::New;
        for before in earlier {
            if before.kind == NodeKind::File {
                change = Change::Changed;
            }
            let is_same = !is_live && node::is_unchanged(before, &metadata, ignore_ctime, ignore_inode);
            if !is_same || !self.is_stored(before) {
                continue;
            }
            let mut node = metadata.node(name, &self.users, with_atime);
            node.content.clone_from(&before.content);
            if ignore_ctime {
                match node::xattrs_of_path(&upper.join(OsStr::from_bytes(name))) {
                    Ok(xattrs) => node.xattrs = xattrs,
                    Err(error) => self.problem_reading_xattrs(upper.join(OsStr::from_bytes(name)), error),
                }
            } else {
                // Attributes do not change without the inode's time of change.
                node.xattrs.clone_from(&before.xattrs);
            }
            return Found::Node(Box::new(node));
        }
        Found::File(metadata, change)
    }

    /// Whether all of an earlier file's content is in the repository; what was lost since is read again.
    pub fn is_stored(&self, node: &Node) -> bool {
        node.error.is_empty()
            && node
                .content
                .as_ref()
                .is_some_and(|content| content.iter().all(|id| self.writer.contains(BlobKind::Data, id)))
    }

    fn other_entry(&self, upper: &Path, fd: &OwnedFd, name: &[u8], metadata: &Metadata) -> Found {
        let os_name = OsStr::from_bytes(name);
        let mut node = metadata.node(name, &self.users, self.options.with_atime);
        if metadata.kind == NodeKind::Symlink {
            match rustix::fs::readlinkat(fd.as_fd(), os_name, Vec::new()) {
                Ok(target) => node.link_target = target.into_bytes(),
                Err(error) => {
                    self.problem(upper.join(os_name), ProblemKind::Unreadable, &std::io::Error::from(error));
                    return Found::Left;
                }
            }
        }
        match node::xattrs_of_path(&upper.join(os_name)) {
            Ok(xattrs) => node.xattrs = xattrs,
            Err(error) => self.problem_reading_xattrs(upper.join(os_name), error),
        }
        Found::Node(Box::new(node))
    }

    /// The directory `name` of an upper directory as it was in the earlier snapshots.
    fn earlier_of(&self, upper: &PendingDir, name: &[u8]) -> Vec<Earlier> {
        self.earlier_trees(upper.earlier(name).filter_map(|node| node.subtree))
    }

    /// Loads trees of earlier snapshots. One that cannot be read compares with nothing: it is saved anew.
    fn earlier_trees(&self, trees: impl Iterator<Item = Id>) -> Vec<Earlier> {
        let mut earlier: Vec<Earlier> = Vec::new();
        for tree in trees {
            if earlier.iter().any(|earlier| earlier.tree == tree) {
                continue;
            }
            let nodes = self.reader.read(BlobKind::Tree, &tree).ok().and_then(|json| parse_tree(&json).ok());
            earlier.extend(nodes.map(|nodes| Earlier { tree, nodes }));
        }
        earlier
    }
}

/// What is to be done with an entry.
enum Found {
    /// Nothing: it is left out, or it could not be looked at.
    Left,
    /// Nothing more: this is its node.
    Node(Box<Node>),
    /// It is to be read.
    File(Metadata, Change),
    /// It is to be listed.
    Directory(PathBuf),
}

/// The names in an open directory, without `.` and `..`.
fn names_in(directory: &OwnedFd) -> rustix::io::Result<Vec<Box<[u8]>>> {
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok(names)
}

fn root_node() -> Node {
    made_up(b"", NodeKind::Dir, Time::default())
}

/// A node for what is on no file system: the root above all targets, and a stream.
fn made_up(name: &[u8], kind: NodeKind, now: Time) -> Node {
    const GO_DIRECTORY: u32 = 1 << 31;
    let (mode, content) =
        if kind == NodeKind::File { (0o644, Some(Vec::new())) } else { (GO_DIRECTORY | 0o755, None) };
    Node {
        mode,
        mtime: now,
        atime: now,
        ctime: now,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        content,
        ..Node::new(name, kind)
    }
}

/// What was found, counted by all workers.
#[derive(Default)]
pub(super) struct Counts {
    files: [AtomicU64; 3],
    directories: [AtomicU64; 3],
    lone_entries: AtomicU64,
    bytes: AtomicU64,
    /// The same for each member.
    members: Vec<MemberCounts>,
}

impl Counts {
    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    pub fn members(&self) -> impl Iterator<Item = Totals> {
        self.members.iter().map(MemberCounts::totals)
    }

    fn of_member(&self, member: Option<usize>, found: Totals) {
        if let Some(member) = member {
            self.members[member].add(found);
        }
    }

    /// Counts a target that is neither file nor directory.
    fn lone_entry(&self, member: Option<usize>) {
        self.lone_entries.fetch_add(1, Ordering::Relaxed);
        self.of_member(member, Totals { others: 1, ..Totals::default() });
    }

    fn found_anything(&self) -> bool {
        let counters = self.files.iter().chain(&self.directories).chain([&self.lone_entries]);
        counters.map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>() > 0
    }

    fn file(&self, member: Option<usize>, change: Change, bytes: u64) {
        self.files[change as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.of_member(member, Totals { files: 1, bytes, ..Totals::default() });
    }

    fn unchanged(&self, member: Option<usize>, files: u64, bytes: u64) {
        self.files[Change::Unchanged as usize].fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.of_member(member, Totals { files, bytes, ..Totals::default() });
    }

    /// Counts a member that is taken over from the snapshot before.
    pub fn as_before(&self, member: Option<usize>, totals: Totals) {
        self.files[Change::Unchanged as usize].fetch_add(totals.files, Ordering::Relaxed);
        self.directories[Change::Unchanged as usize].fetch_add(totals.dirs, Ordering::Relaxed);
        self.lone_entries.fetch_add(totals.others, Ordering::Relaxed);
        self.bytes.fetch_add(totals.bytes, Ordering::Relaxed);
        self.of_member(member, totals);
    }

    pub fn directory(&self, member: Option<usize>, was_there: bool, is_same: bool) {
        let change = match (was_there, is_same) {
            (false, _) => Change::New,
            (true, false) => Change::Changed,
            (true, true) => Change::Unchanged,
        };
        self.directories[change as usize].fetch_add(1, Ordering::Relaxed);
        self.of_member(member, Totals { dirs: 1, ..Totals::default() });
    }

    pub fn summary(&self, start: Time, end: Time, added: WriterTotals) -> SnapshotSummary {
        let [files_new, files_changed, files_unmodified] =
            [0, 1, 2].map(|change| self.files[change].load(Ordering::Relaxed));
        let [dirs_new, dirs_changed, dirs_unmodified] =
            [0, 1, 2].map(|change| self.directories[change].load(Ordering::Relaxed));
        SnapshotSummary {
            backup_start: start,
            backup_end: end,
            files_new,
            files_changed,
            files_unmodified,
            dirs_new,
            dirs_changed,
            dirs_unmodified,
            data_blobs: added.data_blobs as i64,
            tree_blobs: added.tree_blobs as i64,
            data_added: added.plain_bytes,
            data_added_packed: added.sealed_bytes,
            total_files_processed: files_new + files_changed + files_unmodified,
            total_bytes_processed: self.bytes.load(Ordering::Relaxed),
        }
    }
}
