//! Members: several things of different kinds in one snapshot, each at a path of the snapshot's own.
//!
//! A recovery point is made of files as they lie on the disk, of what a database streams, and of what is as
//! it was last time. What a member is stands here; the walk takes it in.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::chunker::{Chunker, Fixed};
use crate::event::{Change, Context, Event};
use crate::format::{BlobKind, Node, NodeKind, Time, mode_from_unix};
use crate::reader::BlobReader;
use crate::trees::{BlobSet, find_entry, walk_trees};
use crate::{Error, Id, Index, Repository, Result};

use super::file::ReadError;
use super::targets::{self, Target, Whole};
use super::tree::Place;
use super::walk::{Run, Task, Worker};

/// One thing in a snapshot.
pub struct Member<'a> {
    /// Where it is in the snapshot: absolute, below `/`, without `.` and `..`.
    ///
    /// A member may lie inside a [`MemberContent::Host`] directory: it then stands in place of what the directory
    /// holds there, if that holds anything. No two members may have the same path.
    pub path: PathBuf,
    /// What it is.
    pub content: MemberContent<'a>,
}

/// What a member is.
pub enum MemberContent<'a> {
    /// A file or directory of this machine, under whatever path; walked as `Source::Paths` is.
    ///
    /// What the selection leaves out is said by paths of this machine. When it is not there, or cannot be read, that is
    /// a `SourceProblem` with its path on this machine, and the member's totals say that it was not taken.
    Host(PathBuf),
    /// A file whose content is read from a stream.
    ///
    /// Several are read beside each other, one fewer than there are workers and in no particular order; one may be
    /// opened long after another has ended, or never when the backup fails before. Reading is not interrupted from outside: when the
    /// caller cancels, the reader must come to an end.
    Stream {
        /// What the file's node says.
        attributes: StreamAttributes,
        /// Cuts it into blocks of this many bytes, at most 8 MiB; as the repository cuts when `None`.
        block_bytes: Option<u32>,
        /// Begins the stream. A reader whose producer failed must end with an error, not with the end of the
        /// content: the error fails the backup.
        open: OpenStream<'a>,
        /// How many bytes come; any other number fails the backup. Not checked when `None`.
        size: Option<u64>,
        /// The file that it is read from; the stream is not begun when the parent snapshot has that very file.
        origin: Option<Origin<'a>>,
    },
    /// What the parent snapshot has at the member's path, as it is there; no other member may lie in it.
    ///
    /// Fails the backup with [`Error::NotAsBefore`], before anything is read, when there
    /// is no parent, when it has nothing there, or when a blob of it is no longer in the repository's index.
    AsBefore,
    /// What is known only when all other members have been read: whatever [`super::Source::MembersThen`] gives then at this
    /// path or below it. When it gives nothing, nothing is there, which the member's totals say.
    ///
    /// A directory that only leads to what is given takes its attributes from the directory of that path on this
    /// machine.
    Later,
}

/// Begins a stream.
pub type OpenStream<'a> = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send + 'a>> + Send + 'a>;

/// The file of this machine that a stream gives as it is, as it was found before the stream is begun.
///
/// It is compared with the parent snapshot's at the same path, and goes into the stream's node unless the file was changed
/// so shortly before it is read that another change could leave the same time.
pub struct Origin<'a> {
    /// The device that holds it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its length.
    pub size: u64,
    /// Last change of the inode.
    pub ctime: Time,
    /// Called when the content is taken from the parent snapshot; the stream is never begun then. When `None`, it is begun
    /// in any case.
    pub as_before: Option<Box<dyn FnOnce() + Send + 'a>>,
}

/// How long a file must have been as it is when it is read, for its times to tell every later change. File systems count
/// in steps of up to one second.
const SETTLED: Duration = Duration::from_secs(2);

/// Whether a file with these times tells every change from now on.
fn is_settled(node: &Node) -> bool {
    let newest = node.ctime.to_timestamp().max(node.mtime.to_timestamp());
    jiff::Timestamp::now().duration_since(newest) >= SETTLED.try_into().expect("it is short")
}

/// What the node of a streamed file says beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAttributes {
    /// Unix permission bits: `0o600`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Time,
}

/// Gives the members that are known only when all others have been read; the reason in words when it cannot, and then
/// no snapshot is written. Called at most once, on the thread of the backup's caller.
pub type ThenMembers<'a> = Box<dyn FnOnce() -> std::result::Result<Vec<Member<'a>>, String> + 'a>;

/// What of one member is in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberTotals {
    /// Its path in the snapshot.
    pub path: PathBuf,
    /// Whether there is something at that path; not when it could not be read or the selection leaves it out.
    pub is_taken: bool,
    /// Regular files.
    pub files: u64,
    /// Directories, the member itself among them.
    pub dirs: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// What of a member was found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub files: u64,
    pub dirs: u64,
    pub bytes: u64,
    /// The member itself, when it is neither file nor directory.
    pub others: u64,
}

impl Totals {
    /// As the report has them.
    pub fn of_member(self, path: PathBuf) -> MemberTotals {
        let Self { files, dirs, bytes, others } = self;
        MemberTotals { path, is_taken: files + dirs + others > 0, files, dirs, bytes }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            dirs: self.dirs.saturating_add(other.dirs),
            bytes: self.bytes.saturating_add(other.bytes),
            others: self.others.saturating_add(other.others),
        }
    }
}

/// What of a member was found so far, counted by all workers.
#[derive(Default)]
pub(super) struct MemberCounts {
    files: AtomicU64,
    dirs: AtomicU64,
    bytes: AtomicU64,
    others: AtomicU64,
}

impl MemberCounts {
    pub fn add(&self, found: Totals) {
        self.files.fetch_add(found.files, Ordering::Relaxed);
        self.dirs.fetch_add(found.dirs, Ordering::Relaxed);
        self.bytes.fetch_add(found.bytes, Ordering::Relaxed);
        self.others.fetch_add(found.others, Ordering::Relaxed);
    }

    pub fn totals(&self) -> Totals {
        let [files, dirs, bytes, others] = [&self.files, &self.dirs, &self.bytes, &self.others]
            .map(|counter| counter.load(Ordering::Relaxed));
        Totals { files, dirs, bytes, others }
    }
}

/// A stream before its turn.
pub(super) struct StreamSource<'a> {
    attributes: StreamAttributes,
    /// How it is cut, when not as everything else is.
    chunker: Option<Chunker>,
    open: OpenStream<'a>,
    size: Option<u64>,
    origin: Option<Origin<'a>>,
}

/// A stream that is to be read.
pub(super) struct StreamTask<'a> {
    place: Place,
    node: Node,
    path: PathBuf,
    source: StreamSource<'a>,
}

/// A place that is kept free for what comes later.
pub(super) struct LaterPlace {
    place: Place,
    name: Vec<u8>,
    /// Where it is in the snapshot.
    path: PathBuf,
}

/// Streams that wait for their turn, and how many are being read.
#[derive(Default)]
pub(super) struct Streams<'a> {
    waiting: VecDeque<Box<StreamTask<'a>>>,
    reading: usize,
}

/// Blocks longer than the chunks of files would only take memory.
const BLOCK_BYTES_MAX: u32 = 8 << 20;

/// Arranges members in a tree; finds what is taken over `before`, the root tree of the snapshot before.
pub(super) fn arrange<'m: 'a, 'a>(members: Vec<Member<'m>>, before: &Before<'_>) -> Result<Target<'a>> {
    let mut root = Target::default();
    let mut sums = Sums::new(before.reader.index());
    for (number, Member { path, content }) in members.into_iter().enumerate() {
        let names = names_of(&path)?;
        let (at, whole) = match content {
            MemberContent::AsBefore => {
                let (node, totals) = before.find(&path, &mut sums)?;
                (path.clone(), Whole::AsBefore(Box::new(node), totals))
            }
            MemberContent::Later => (path.clone(), Whole::Later),
            other => read_anew(&path, other)?,
        };
        root.insert_member(&path, &names, Some(number), at, whole)?;
    }
    Ok(root)
}

/// Arranges members that were known only later.
fn arrange_later<'m: 'a, 'a>(members: Vec<Member<'m>>) -> Result<Target<'a>> {
    let mut root = Target::default();
    for Member { path, content } in members {
        let names = names_of(&path)?;
        let (at, whole) = read_anew(&path, content)?;
        root.insert_member(&path, &names, None, at, whole)?;
    }
    Ok(root)
}

/// What a member becomes that is read now, and where it is.
fn read_anew<'m: 'a, 'a>(path: &Path, content: MemberContent<'m>) -> Result<(PathBuf, Whole<'a>)> {
    match content {
        MemberContent::Host(host) => {
            let absolute = std::path::absolute(&host).map_err(|error| Error::io("resolve", &host, error))?;
            Ok((targets::clean(&absolute), Whole::Host))
        }
        MemberContent::Stream { attributes, block_bytes, open, size, origin } => {
            let chunker = block_bytes.map(|bytes| blocks(path, bytes)).transpose()?;
            // The walk is shorter than the members' own life, which the type of a function cannot show.
            let open = Box::new(move || open().map(|reader| reader as Box<dyn Read + Send + 'a>));
            let origin = origin.map(|Origin { device, inode, size, ctime, as_before }| {
                let as_before = as_before.map(|told| told as Box<dyn FnOnce() + Send + 'a>);
                Origin { device, inode, size, ctime, as_before }
            });
            let source = StreamSource { attributes, chunker, open, size, origin };
            Ok((path.to_owned(), Whole::Stream(Box::new(source))))
        }
        MemberContent::AsBefore | MemberContent::Later => {
            let path = path.display();
            Err(Error::Refused(format!("{path} must be read: it came when all else had been read")))
        }
    }
}

/// The names on the way to a member.
fn names_of(path: &Path) -> Result<Vec<Vec<u8>>> {
    let refuse = || {
        let path = path.display();
        Err(Error::Refused(format!(
            "{path} is no place for a member: it must be absolute, below /, without `..`"
        )))
    };
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return refuse();
    }
    let mut names = Vec::new();
    for component in components {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => names.push(name.as_bytes().to_vec()),
            _ => return refuse(),
        }
    }
    if names.is_empty() { refuse() } else { Ok(names) }
}

fn blocks(path: &Path, bytes: u32) -> Result<Chunker> {
    match NonZeroUsize::new(bytes as usize) {
        Some(length) if bytes <= BLOCK_BYTES_MAX => Ok(Chunker::Fixed(Fixed::new(length))),
        _ => {
            let path = path.display();
            Err(Error::Refused(format!("blocks of {bytes} bytes for {path}: give 1 to {BLOCK_BYTES_MAX}")))
        }
    }
}

impl<'a> Target<'a> {
    fn insert_member(
        &mut self,
        path: &Path,
        names: &[Vec<u8>],
        number: Option<usize>,
        at: PathBuf,
        whole: Whole<'a>,
    ) -> Result<()> {
        let refuse = |why: &str| Err(Error::Refused(format!("{} cannot be a member: {why}", path.display())));
        let (mut place, mut so_far) = (self, PathBuf::from("/"));
        for name in names {
            if !matches!(place.whole, None | Some(Whole::Host)) {
                return refuse("it would lie in another one that is no directory of this machine");
            }
            so_far.push(OsStr::from_bytes(name));
            place = place.children.entry(name.clone()).or_default();
            if place.whole.is_none() {
                place.path.clone_from(&so_far);
            }
        }
        if place.whole.is_some() {
            return refuse("there is another one with the same path");
        }
        if !place.children.is_empty() && !matches!(whole, Whole::Host) {
            return refuse("another one would lie in it, and it is no directory of this machine");
        }
        (place.path, place.whole, place.member) = (at, Some(whole), number);
        Ok(())
    }

    /// Takes out what is at `names`, if anything is.
    fn take(&mut self, names: &[Vec<u8>]) -> Option<Self> {
        let (last, upper) = names.split_last()?;
        let place = upper.iter().try_fold(self, |place, name| place.children.get_mut(name))?;
        place.children.remove(last)
    }

    /// The path of a member that was not taken out.
    fn left(&self) -> Option<&Path> {
        let here = self.whole.as_ref().map(|_| self.path.as_path());
        here.or_else(|| self.children.values().find_map(Self::left))
    }
}

/// The snapshot before, as members that are as before are taken from it.
pub(super) struct Before<'a> {
    pub repository: &'a Repository,
    pub reader: &'a BlobReader<'a>,
    /// Its root, if there is one.
    pub tree: Option<Id>,
    pub context: Context<'a>,
}

impl Before<'_> {
    /// Finds what is at `path`, makes sure that everything it needs is stored, and counts it.
    fn find(&self, path: &Path, sums: &mut Sums) -> Result<(Node, Totals)> {
        let refuse = |why: String| Error::NotAsBefore { path: path.to_owned(), why };
        let tree = self.tree.ok_or_else(|| refuse("there is no snapshot to compare with".into()))?;
        let node = match find_entry(self.reader, tree, path) {
            Ok(node) => node,
            Err(error) if error.is_isolated() => return Err(refuse(error.to_string())),
            Err(Error::NoSuchSnapshot(why)) => return Err(refuse(why)),
            Err(error) => return Err(error),
        };
        let mut sum = Sum::default();
        sum.add(self.reader.index(), &node).map_err(refuse)?;
        let Sum { files, bytes, subtrees } = sum;
        let others = u64::from(!matches!(node.kind, NodeKind::File | NodeKind::Dir));
        let mut totals = Totals { files, bytes, others, dirs: 0 };
        if let Some(subtree) = subtrees.first() {
            self.read_below(*subtree, sums, &refuse)?;
            totals = totals.plus(sums.fold(*subtree));
        }
        Ok((node, totals))
    }

    fn read_below(&self, tree: Id, sums: &mut Sums, refuse: &(dyn Fn(String) -> Error + Sync)) -> Result<()> {
        let index = self.reader.index();
        let found = Mutex::new(&mut sums.by_tree);
        walk_trees(self.repository, self.reader, [tree], &sums.seen, self.context, &|id, nodes| {
            let nodes = nodes.map_err(|error| refuse(error.to_string()))?;
            let mut sum = Sum::default();
            nodes.iter().try_for_each(|node| sum.add(index, node)).map_err(refuse)?;
            found.lock().expect("no holder panics").insert(*id, sum);
            Ok(())
        })
    }
}

/// What is in each tree by itself.
struct Sums {
    seen: BlobSet,
    by_tree: HashMap<Id, Sum>,
}

/// What is in one tree by itself.
#[derive(Default)]
struct Sum {
    files: u64,
    bytes: u64,
    subtrees: Vec<Id>,
}

impl Sum {
    /// Adds one entry; the reason in words when it is not whole.
    fn add(&mut self, index: &Index, node: &Node) -> std::result::Result<(), String> {
        let name = || String::from_utf8_lossy(&node.name);
        if !node.error.is_empty() {
            return Err(format!("{} was not read whole: {}", name(), node.error));
        }
        match (node.kind, &node.content, node.subtree) {
            (NodeKind::File, Some(content), _) => {
                if let Some(id) = content.iter().find(|id| index.find(BlobKind::Data, id).is_none()) {
                    return Err(format!("data blob {id} of {} is missing from the repository", name()));
                }
                self.files += 1;
                self.bytes = self.bytes.saturating_add(node.size);
            }
            (NodeKind::File, None, _) => return Err(format!("the file {} has no content", name())),
            (NodeKind::Dir, _, Some(subtree)) => self.subtrees.push(subtree),
            (NodeKind::Dir, _, None) => return Err(format!("the directory {} has no tree", name())),
            _ => {}
        }
        Ok(())
    }
}

impl Sums {
    fn new(index: &Index) -> Self {
        Self { seen: BlobSet::new(index), by_tree: HashMap::new() }
    }

    /// Counts a directory and all below it; a tree that several directories have counts for each.
    ///
    /// Without recursion: a tree may be deeper than a stack.
    fn fold(&self, root: Id) -> Totals {
        let mut folded: HashMap<Id, Totals> = HashMap::new();
        let mut open = vec![root];
        while let Some(tree) = open.last() {
            let sum = self.by_tree.get(tree).expect("every tree below was read, or the walk had failed");
            let unknown: Vec<Id> =
                sum.subtrees.iter().filter(|tree| !folded.contains_key(tree)).copied().collect();
            if unknown.is_empty() {
                let own = Totals { files: sum.files, bytes: sum.bytes, dirs: 1, others: 0 };
                let totals = sum.subtrees.iter().fold(own, |totals, tree| totals.plus(folded[tree]));
                folded.insert(*tree, totals);
                open.pop();
            } else {
                open.extend(unknown);
            }
        }
        folded[&root]
    }
}

impl<'a> Run<'a> {
    /// Begins what is at one place of the upper part of the tree.
    pub(super) fn target(
        &self,
        worker: &mut Worker,
        place: Place,
        name: &[u8],
        target: Target<'a>,
    ) -> Result<()> {
        let Target { path, whole, children, .. } = target;
        match whole {
            None => self.leads_on(worker, place, name, path, children),
            Some(Whole::Host) => self.whole(worker, place, name, path, children),
            Some(Whole::Stream(mut source)) => {
                let mut node = self.stream_node(name, source.attributes);
                if let Some(origin) = source.origin.take() {
                    (node.device_id, node.inode) = (origin.device, origin.inode);
                    (node.ctime, node.size) = (origin.ctime, origin.size);
                    if let Some(told) = origin.as_before
                        && let Some(before) = self.same_origin(&place, &node)
                    {
                        told();
                        return self.stream_as_before(
                            worker,
                            &place,
                            &path,
                            Node { content: before, ..node },
                        );
                    }
                }
                self.expect(1, source.size.unwrap_or(0));
                let task = Box::new(StreamTask { place, node, path, source: *source });
                self.streams.lock().expect("no holder panics").waiting.push_back(task);
                Ok(())
            }
            Some(Whole::Later) => {
                let later = LaterPlace { place, name: name.to_vec(), path };
                self.later.lock().expect("no holder panics").push(later);
                Ok(())
            }
            Some(Whole::AsBefore(node, totals)) => {
                self.expect(totals.files, totals.bytes);
                self.counts.as_before(place.member, totals);
                self.advance(totals.files, totals.bytes);
                self.complete(&mut worker.sealer, &place, Some(*node))
            }
        }
    }

    /// Begins what was known only later, in the places kept for it.
    pub(super) fn begin_later<'m: 'a>(&self, worker: &mut Worker, members: Vec<Member<'m>>) -> Result<()> {
        let mut root = arrange_later(members)?;
        let places = std::mem::take(&mut *self.later.lock().expect("no holder panics"));
        for LaterPlace { place, name, path } in places {
            match root.take(&names_of(&path)?) {
                Some(target) => self.target(worker, place, &name, target)?,
                None => self.complete(&mut worker.sealer, &place, None)?,
            }
        }
        match root.left() {
            None => Ok(()),
            Some(path) => {
                let path = path.display();
                Err(Error::Refused(format!("{path} came later, and no place was kept for it")))
            }
        }
    }

    fn stream_node(&self, name: &[u8], attributes: StreamAttributes) -> Node {
        let StreamAttributes { mode, uid, gid, mtime } = attributes;
        Node {
            mode: mode_from_unix(mode & 0o7777),
            mtime,
            atime: mtime,
            ctime: mtime,
            uid,
            gid,
            user: self.users().user(uid).to_owned(),
            group: self.users().group(gid).to_owned(),
            links: 1,
            ..Node::new(name, NodeKind::File)
        }
    }

    /// The content that the snapshot before has of the very file that a stream is read from.
    fn same_origin(&self, place: &Place, node: &Node) -> Option<Option<Vec<Id>>> {
        let is_same = |before: &&Node| {
            before.kind == NodeKind::File
                && (before.device_id, before.inode) == (node.device_id, node.inode)
                && (before.size, before.mtime, before.ctime) == (node.size, node.mtime, node.ctime)
                && self.is_stored(before)
        };
        place.directory.earlier(&node.name).find(is_same).map(|before| before.content.clone())
    }

    fn stream_as_before(&self, worker: &mut Worker, place: &Place, path: &Path, node: Node) -> Result<()> {
        self.expect(1, node.size);
        self.file_done(path, place.member, &node, Change::Unchanged);
        self.advance(0, node.size);
        self.complete(&mut worker.sealer, place, Some(node))
    }

    /// Hands streams that wait to the workers, but always leaves one of several to the walk and to chunks.
    pub(super) fn start_streams(&self) {
        let mut streams = self.streams.lock().expect("no holder panics");
        while streams.reading < self.threads.saturating_sub(1).max(1) {
            let Some(task) = streams.waiting.pop_front() else { return };
            streams.reading += 1;
            self.pool.push([Task::Stream(task)]);
        }
    }

    /// Reads a member's stream; whatever fails of it fails the backup.
    pub(super) fn member_stream(&self, worker: &mut Worker, task: StreamTask<'a>) -> Result<()> {
        let StreamTask { place, mut node, path, source: StreamSource { chunker, open, size, .. } } = task;
        self.context.tell(Event::Current(&path));
        if node.inode != 0 && !is_settled(&node) {
            (node.device_id, node.inode, node.ctime) = (0, 0, node.mtime);
        }
        let reader = open().map_err(|error| Error::io("open the stream of", &path, error))?;
        let mut reader = Measured { reader, read: 0, size };
        let chunker = chunker.as_ref().unwrap_or(&self.chunker);
        self.stream_file(worker, place, node, path.clone(), chunker, &mut reader).map_err(
            |error| match error {
                ReadError::Source(error) => Error::io("read the stream of", &path, error),
                ReadError::Repository(error) => error,
            },
        )?;
        drop(reader);
        self.streams.lock().expect("no holder panics").reading -= 1;
        self.start_streams();
        Ok(())
    }
}

/// A stream that must have a size: any other is an error of reading.
struct Measured<'a> {
    reader: Box<dyn Read + Send + 'a>,
    read: u64,
    size: Option<u64>,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.read += length as u64;
        let Some(size) = self.size else { return Ok(length) };
        if self.read > size {
            return Err(io::Error::other(format!("more than the {size} bytes came that were to come")));
        }
        if length == 0 && !buffer.is_empty() && self.read < size {
            let why = format!("it ended after {} bytes, and {size} were to come", self.read);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(length)
    }
}
