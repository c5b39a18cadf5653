//! Comparing two directories of snapshots.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::format::{BlobKind, Node, NodeKind};
use crate::trees::{BlobSet, load_tree};
use crate::{BlobReader, Context, Id, Result};

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Difference {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// It is of another kind: a file and a directory, say.
    Kind,
    /// Its content differs: of a file, the target of a link, the number of a device.
    Content,
    /// Its content is the same; mode, owner, times of change or attributes differ.
    Metadata,
}

/// An entry that differs.
#[derive(Debug)]
pub struct DiffEntry<'a> {
    /// Its path below the two directories, with a leading `/`.
    pub path: &'a Path,
    /// How it differs.
    pub difference: Difference,
    /// As the first has it.
    pub before: Option<&'a Node>,
    /// As the second has it.
    pub after: Option<&'a Node>,
}

/// All differences as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffSummary {
    /// Files with other content.
    pub files_changed: u64,
    /// Entries with other metadata only.
    pub metadata_changed: u64,
    /// Entries of another kind.
    pub kinds_changed: u64,
    /// What the second has more.
    pub added: DiffSide,
    /// What the first had more.
    pub removed: DiffSide,
}

/// What one side has and the other has not, among what differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffSide {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, devices and so on.
    pub others: u64,
    /// Data blobs.
    pub data_blobs: u64,
    /// Tree blobs.
    pub tree_blobs: u64,
    /// Plaintext bytes of these blobs.
    pub bytes: u64,
}

/// Compares the trees `before` and `after`, and hands over what differs in the order of the paths.
///
/// Directories that are the same tree are not looked into. The caller holds a lock.
pub fn diff(
    reader: &BlobReader<'_>,
    before: &Id,
    after: &Id,
    context: Context<'_>,
    each: &mut dyn FnMut(DiffEntry<'_>) -> Result<()>,
) -> Result<DiffSummary> {
    let sides = [BlobSet::new(reader.index()), BlobSet::new(reader.index())];
    let mut diff = Diff { reader, context, each, sides, summary: DiffSummary::default() };
    diff.run(before, after)?;
    let [removed, added] = diff.sides;
    let mut summary = diff.summary;
    for location in reader.index().iter() {
        let side = match (removed.contains(location.slot), added.contains(location.slot)) {
            (true, false) => &mut summary.removed,
            (false, true) => &mut summary.added,
            _ => continue,
        };
        side.bytes += u64::from(location.blob.plain_length());
        match location.blob.kind {
            BlobKind::Data => side.data_blobs += 1,
            BlobKind::Tree => side.tree_blobs += 1,
        }
    }
    Ok(summary)
}

struct Diff<'a> {
    reader: &'a BlobReader<'a>,
    context: Context<'a>,
    each: &'a mut dyn FnMut(DiffEntry<'_>) -> Result<()>,
    /// The blobs that were met on each side, in what differs.
    sides: [BlobSet; 2],
    summary: DiffSummary,
}

/// Two directories while they are compared; either may be absent.
struct Open {
    before: std::iter::Peekable<std::vec::IntoIter<Node>>,
    after: std::iter::Peekable<std::vec::IntoIter<Node>>,
}

impl Diff<'_> {
    fn run(&mut self, before: &Id, after: &Id) -> Result<()> {
        let mut path = PathBuf::from("/");
        let mut open = Vec::new();
        self.enter(Some(before), Some(after), &mut open)?;
        while let Some(directory) = open.last_mut() {
            self.context.check()?;
            let Some((before, after)) = directory.next_pair() else {
                open.pop();
                path.pop();
                continue;
            };
            let name = before.as_ref().or(after.as_ref()).map_or(&b""[..], |node| &node.name);
            path.push(OsStr::from_bytes(name));
            self.compare(&path, before.as_ref(), after.as_ref())?;
            let depth = open.len();
            let tree = |node: &Option<Node>| node.as_ref().and_then(|node| node.subtree);
            self.enter(tree(&before).as_ref(), tree(&after).as_ref(), &mut open)?;
            if open.len() == depth {
                path.pop();
            }
        }
        Ok(())
    }

    fn enter(&mut self, before: Option<&Id>, after: Option<&Id>, open: &mut Vec<Open>) -> Result<()> {
        if before == after {
            return Ok(());
        }
        let load = |side: usize, tree: Option<&Id>| -> Result<_> {
            let nodes = match tree {
                Some(tree) => {
                    meet(self.reader, &self.sides[side], BlobKind::Tree, tree);
                    load_tree(self.reader, tree)?
                }
                None => Vec::new(),
            };
            Ok(nodes.into_iter().peekable())
        };
        open.push(Open { before: load(0, before)?, after: load(1, after)? });
        Ok(())
    }

    fn compare(&mut self, path: &Path, before: Option<&Node>, after: Option<&Node>) -> Result<()> {
        let difference = match (before, after) {
            (Some(before), Some(after)) => match difference(before, after) {
                Some(difference) => difference,
                None => return Ok(()),
            },
            (Some(_), None) => Difference::Removed,
            _ => Difference::Added,
        };
        match difference {
            Difference::Content => self.summary.files_changed += 1,
            Difference::Metadata => self.summary.metadata_changed += 1,
            Difference::Kind => self.summary.kinds_changed += 1,
            Difference::Added => self.summary.added.count(after),
            Difference::Removed => self.summary.removed.count(before),
        }
        if difference != Difference::Metadata {
            for (side, node) in self.sides.iter().zip([before, after]) {
                for id in node.iter().flat_map(|node| node.content.iter().flatten()) {
                    meet(self.reader, side, BlobKind::Data, id);
                }
            }
        }
        (self.each)(DiffEntry { path, difference, before, after })
    }
}

fn meet(reader: &BlobReader<'_>, side: &BlobSet, kind: BlobKind, id: &Id) {
    if let Some(location) = reader.index().find(kind, id) {
        side.insert(location.slot);
    }
}

impl DiffSide {
    fn count(&mut self, node: Option<&Node>) {
        match node.map(|node| node.kind) {
            Some(NodeKind::File) => self.files += 1,
            Some(NodeKind::Dir) => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

impl Open {
    /// The next name, with the entries that either side has of it.
    fn next_pair(&mut self) -> Option<(Option<Node>, Option<Node>)> {
        let order = match (self.before.peek(), self.after.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.name.cmp(&after.name),
        };
        let before = if order.is_le() { self.before.next() } else { None };
        let after = if order.is_ge() { self.after.next() } else { None };
        Some((before, after))
    }
}

/// Compares two entries of one name; a directory's content is compared on its own, entry by entry.
fn difference(before: &Node, after: &Node) -> Option<Difference> {
    if before.kind != after.kind {
        return Some(Difference::Kind);
    }
    let content = |node: &Node| (node.content.clone(), node.link_target.clone(), node.device);
    if content(before) != content(after) {
        return Some(Difference::Content);
    }
    // Reading a file changes its time of access, which is no difference that anyone asks for; a directory's
    // times and inode change with what is in it.
    let metadata = |node: &Node| {
        let times = (node.kind != NodeKind::Dir).then_some((node.mtime, node.ctime));
        (node.mode, node.uid, node.gid, times, node.xattrs.clone(), node.generic_attributes.clone())
    };
    (metadata(before) != metadata(after)).then_some(Difference::Metadata)
}
