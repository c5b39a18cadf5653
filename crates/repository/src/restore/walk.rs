//! Making the plan: reads the trees and looks at the target, directory by directory, and decides.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::event::{Event, Task};
use crate::format::{BlobKind, Node, NodeKind};
use crate::{BlobReader, Context, Error, Id, Index, Repository, Result};

use super::metadata::{Setter, has_xattrs};
use super::table::{Existing, NONE, Piece, Step, Tables};
use super::target::{Target, list, look};
use super::{Overwrite, RestoreOptions, RestorePlan, RestoreProblem, RestoreTotals, Subtree, compare, work};

/// Directories that are read before what they hold is added to the tables: enough to keep all threads busy.
const BATCH: usize = 256;

/// See [`RestorePlan::new`].
pub(super) fn plan<'a>(
    repository: &'a Repository,
    index: &'a Index,
    source: &Subtree,
    target: &Path,
    options: RestoreOptions,
    context: Context<'_>,
) -> Result<RestorePlan<'a>> {
    if let Subtree::Dir(_) = source {
        refuse_to_empty_the_machine(target, &options)?;
    }
    let open = open_target(target)?;
    let setter = Setter::new(options.ownership);
    let reader = BlobReader::new(repository, index);
    let walker = Walker { reader, target: open.as_ref(), path: target, options: &options, setter: &setter };
    let mut found = Found::default();
    let tree = if let Subtree::Dir(tree) = source { Some(*tree) } else { None };
    found.tables.add_root(tree, open.is_some());
    context.tell(Event::Begin(Task::Trees));
    if let Subtree::Entry(node) = source {
        let mut seen = SeenDir::default();
        walker.see(&found.tables, 0, Path::new(""), (**node).clone(), &mut seen)?;
        found.add(&walker, 0, seen)?;
    }
    walker.walk(&mut found, context)?;
    context.tell(Event::End(Task::Trees));
    if let Some(target) = &open {
        compare::decide(&mut found.tables, target, &walker, context)?;
    }
    found.finish_links();
    found.omit_unneeded_dirs();
    let uses = pieces_by_pack(&found.tables);
    let totals = totals(&found, &uses);
    let Found { tables, in_the_way, deletes, problems, .. } = found;
    let target = target.to_owned();
    Ok(RestorePlan {
        repository,
        index,
        target,
        options,
        is_entry: matches!(source, Subtree::Entry(_)),
        tables,
        uses,
        in_the_way,
        deletes,
        problems,
        totals,
    })
}

fn refuse_to_empty_the_machine(target: &Path, options: &RestoreOptions) -> Result<()> {
    let is_root = std::fs::canonicalize(target).is_ok_and(|path| path == Path::new("/"));
    if options.delete && is_root && options.include.is_empty() {
        return Err(Error::Refused(
            "restoring to / with delete would remove everything that the snapshot does not have; say with \
             include what is meant"
                .into(),
        ));
    }
    Ok(())
}

fn open_target(path: &Path) -> Result<Option<Target>> {
    match Target::open(path) {
        Ok(target) => Ok(Some(target)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io("open the target directory", path, error)),
    }
}

pub(super) struct Walker<'a> {
    reader: BlobReader<'a>,
    target: Option<&'a Target>,
    path: &'a Path,
    pub options: &'a RestoreOptions,
    pub setter: &'a Setter,
}

/// What a directory of the snapshot holds, and what the target has at the same names.
#[derive(Default)]
struct SeenDir {
    nodes: Vec<Seen>,
    surplus: Vec<PathBuf>,
    in_the_way: Vec<PathBuf>,
    problems: Vec<RestoreProblem>,
}

struct Seen {
    node: Node,
    chosen: bool,
    existing: Option<Existing>,
    pieces: Vec<Piece>,
    size: u64,
    /// Cannot be restored, as a problem says.
    broken: bool,
}

impl Walker<'_> {
    pub fn threads(&self) -> usize {
        self.options.threads.unwrap_or_else(super::execute::processors).max(1)
    }

    /// The path that problems name.
    pub fn full_path(&self, relative: &Path) -> PathBuf {
        self.path.join(relative)
    }

    fn walk(&self, found: &mut Found, context: Context<'_>) -> Result<()> {
        let threads = self.threads().max(self.reader.parallelism().min(16));
        let mut next = 0;
        while next < found.tables.dirs.len() {
            let batch = BATCH.min(found.tables.dirs.len() - next);
            let tables = &found.tables;
            let seen =
                work::map(threads, batch, context, |number| self.look_into(tables, (next + number) as u32))?;
            for (number, seen) in seen.into_iter().enumerate() {
                let items = seen.nodes.len() as u64;
                found.add(self, (next + number) as u32, seen)?;
                context.tell(Event::Advance { task: Task::Trees, items, bytes: 0 });
            }
            next += batch;
        }
        Ok(())
    }

    fn look_into(&self, tables: &Tables, number: u32) -> Result<SeenDir> {
        let dir = &tables.dirs[number as usize];
        let mut seen = SeenDir::default();
        let relative = tables.dir_path(number);
        let Some(tree) = dir.tree else {
            if number != 0 {
                let error = Error::damaged("the snapshot", "a directory has no tree");
                seen.problems.push(RestoreProblem { path: self.full_path(&relative), error });
            }
            return Ok(seen);
        };
        let nodes = match super::read_tree(&self.reader, &tree) {
            Ok(nodes) => nodes,
            Err(error) if error.is_isolated() => {
                seen.problems.push(RestoreProblem { path: self.full_path(&relative), error });
                return Ok(seen);
            }
            Err(error) => return Err(error),
        };
        if self.options.delete && dir.exists() {
            self.find_surplus(tables, number, &relative, &nodes, &mut seen);
        }
        for node in nodes {
            self.see(tables, number, &relative, node, &mut seen)?;
        }
        Ok(seen)
    }

    /// Looks at one node and adds it to `seen` if it is chosen, or something below it may be.
    fn see(&self, tables: &Tables, parent: u32, dir: &Path, node: Node, seen: &mut SeenDir) -> Result<()> {
        let relative = dir.join(OsStr::from_bytes(&node.name));
        let mut problem =
            |error| seen.problems.push(RestoreProblem { path: self.full_path(&relative), error });
        if !is_segment(&node.name) {
            problem(Error::damaged(
                "the snapshot",
                format!("{:?} is no name", OsStr::from_bytes(&node.name)),
            ));
            return Ok(());
        }
        let chosen = self.chooses(&relative);
        let leads_on = node.kind == NodeKind::Dir && self.may_choose_below(&relative);
        if !(chosen || leads_on) {
            return Ok(());
        }
        let mut broken = false;
        let existing = self.look(tables, parent, &node).unwrap_or_else(|error| {
            problem(Error::io("look at", self.full_path(&relative), error));
            broken = true;
            None
        });
        let (pieces, size) = match self.locate(&node) {
            Ok(located) => located,
            Err(error) => {
                problem(error);
                broken = true;
                (Vec::new(), 0)
            }
        };
        let in_the_way = node.kind != NodeKind::Dir
            && node.kind != NodeKind::Socket
            && self.options.overwrite != Overwrite::Never
            && existing.is_some_and(|existing| existing.kind == Some(NodeKind::Dir));
        if in_the_way && !broken {
            broken = !self.clear_dir(&relative, seen);
        }
        seen.nodes.push(Seen { node, chosen, existing, pieces, size, broken });
        Ok(())
    }

    fn chooses(&self, relative: &Path) -> bool {
        let RestoreOptions { include, exclude, .. } = self.options;
        if include.is_empty() && exclude.is_empty() {
            return true;
        }
        let path = Path::new("/").join(relative);
        !exclude.matches(&path) && (include.is_empty() || include.matches(&path))
    }

    fn may_choose_below(&self, relative: &Path) -> bool {
        let path = Path::new("/").join(relative);
        !self.options.exclude.matches(&path) && self.options.include.may_match_below(&path)
    }

    fn look(&self, tables: &Tables, parent: u32, node: &Node) -> rustix::io::Result<Option<Existing>> {
        let Some(target) = self.target.filter(|_| tables.dirs[parent as usize].exists()) else {
            return Ok(None);
        };
        let dir = target.dir(tables, parent)?;
        let Some(mut existing) = look(dir.as_fd(), &node.name)? else { return Ok(None) };
        if existing.kind == Some(node.kind) {
            existing.same_rest = has_xattrs(dir.as_fd(), &node.name, &node.xattrs)?
                && (node.kind != NodeKind::Symlink
                    || rustix::fs::readlinkat(&*dir, &node.name[..], Vec::new())?.as_bytes()
                        == node.link_target);
        }
        Ok(Some(existing))
    }

    /// Finds where the blobs of a file lie, and its size by them.
    fn locate(&self, node: &Node) -> Result<(Vec<Piece>, u64)> {
        let mut offset = 0;
        let mut pieces = Vec::new();
        if node.kind != NodeKind::File {
            return Ok((pieces, node.device));
        }
        let content = node.content.as_deref();
        for id in content.ok_or_else(|| Error::damaged("the snapshot", "a file has no content"))? {
            let location = self
                .reader
                .index()
                .find(BlobKind::Data, id)
                .ok_or_else(|| Error::Missing { what: format!("data blob {id}") })?;
            let bytes = u64::from(location.blob.plain_length());
            let (pack_offset, length) = (location.blob.offset, location.blob.length);
            pieces.push(Piece { id: *id, offset, pack: location.pack, pack_offset, length });
            offset += bytes;
        }
        Ok((pieces, offset))
    }

    /// Plans the removal of what a directory of the target holds where the snapshot has something else;
    /// `false` when it has to stay.
    fn clear_dir(&self, relative: &Path, seen: &mut SeenDir) -> bool {
        let Some(target) = self.target else { return true };
        let path = self.full_path(relative);
        match target.list(relative) {
            Ok(names) if names.is_empty() => true,
            Ok(_) if !self.options.delete => {
                let why = "a directory that is not empty is in the way; it is removed only with delete";
                seen.problems.push(RestoreProblem { path, error: Error::Refused(why.into()) });
                false
            }
            Ok(names) => names.into_iter().all(|(name, is_dir)| {
                let below = relative.join(OsStr::from_bytes(&name));
                self.remove_below(target, &below, is_dir, &mut seen.in_the_way, &mut seen.problems)
            }),
            Err(error) => {
                seen.problems.push(RestoreProblem { error: Error::io("list", &path, error), path });
                false
            }
        }
    }

    /// Finds what an existing directory holds and the snapshot's does not.
    fn find_surplus(
        &self,
        tables: &Tables,
        number: u32,
        relative: &Path,
        nodes: &[Node],
        seen: &mut SeenDir,
    ) {
        let Some(target) = self.target else { return };
        match target.dir(tables, number).and_then(|dir| list(dir.as_fd())) {
            Ok(names) => {
                for (name, is_dir) in names {
                    if nodes.binary_search_by(|node| node.name.cmp(&name)).is_err() {
                        let below = relative.join(OsStr::from_bytes(&name));
                        self.remove_below(target, &below, is_dir, &mut seen.surplus, &mut seen.problems);
                    }
                }
            }
            Err(error) => {
                let path = self.full_path(relative);
                seen.problems.push(RestoreProblem { error: Error::io("list", &path, error), path });
            }
        }
    }

    /// Plans the removal of something with all it holds, as far as it is chosen; `true` when nothing stays.
    fn remove_below(
        &self,
        target: &Target,
        relative: &Path,
        is_dir: bool,
        removals: &mut Vec<PathBuf>,
        problems: &mut Vec<RestoreProblem>,
    ) -> bool {
        let mut chosen = self.chooses(relative);
        if is_dir && (chosen || self.may_choose_below(relative)) {
            match target.list(relative) {
                Ok(names) => {
                    for (name, is_dir) in names {
                        let below = relative.join(OsStr::from_bytes(&name));
                        chosen &= self.remove_below(target, &below, is_dir, removals, problems);
                    }
                }
                Err(error) => {
                    let path = self.full_path(relative);
                    problems.push(RestoreProblem { error: Error::io("list", &path, error), path });
                    return false;
                }
            }
        }
        if chosen {
            removals.push(relative.to_owned());
        }
        chosen
    }

    /// Decides about a directory.
    fn dir_step(&self, existing: Option<&Existing>, chosen: bool, node: &Node) -> Step {
        match existing {
            None => Step::Create,
            Some(existing) if existing.kind == Some(NodeKind::Dir) => {
                let meta = super::table::meta_of(node);
                let right = !chosen || self.setter.is_right(existing, NodeKind::Dir, &meta);
                if right { Step::Unchanged } else { Step::SetMetadata }
            }
            Some(_) if self.options.overwrite == Overwrite::Never => Step::Keep,
            Some(_) => Step::Replace,
        }
    }

    /// Decides about anything else.
    fn entry_step(&self, seen: &Seen) -> Step {
        let Seen { node, existing, size, .. } = seen;
        if seen.broken {
            return Step::Omit;
        }
        if node.kind == NodeKind::Socket {
            return Step::Skip;
        }
        let Some(existing) = existing else { return Step::Create };
        let same_kind = existing.kind == Some(node.kind);
        let looks_same = same_kind
            && existing.mtime == node.mtime
            && match node.kind {
                NodeKind::File => existing.size == *size,
                NodeKind::Symlink => existing.same_rest,
                NodeKind::Dev | NodeKind::Chardev => existing.rdev == node.device,
                _ => true,
            };
        match self.options.overwrite {
            Overwrite::Never if looks_same => return Step::Unchanged,
            Overwrite::Never => return Step::Keep,
            Overwrite::IfNewer if existing.mtime >= node.mtime && !looks_same => return Step::Keep,
            _ => {}
        }
        if !same_kind {
            return Step::Replace;
        }
        match node.kind {
            NodeKind::File if !looks_same || self.options.overwrite == Overwrite::Always => Step::Compare,
            NodeKind::Symlink if !existing.same_rest => Step::Replace,
            NodeKind::Dev | NodeKind::Chardev if existing.rdev != node.device => Step::Replace,
            _ => self.metadata_step(existing, node.kind, &super::table::meta_of(node)),
        }
    }

    /// Decides about something whose content is right.
    pub fn metadata_step(&self, existing: &Existing, kind: NodeKind, meta: &super::table::Meta) -> Step {
        if self.setter.is_right(existing, kind, meta) {
            Step::Unchanged
        } else if existing.links > 1 && kind == NodeKind::File {
            // Its other names may be somebody else's.
            Step::Replace
        } else {
            Step::SetMetadata
        }
    }
}

/// Whether a name is one segment of a path.
fn is_segment(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// What the walk has found so far.
#[derive(Default)]
struct Found {
    tables: Tables,
    /// The first entry of every group of hard links, by device and inode.
    leaders: HashMap<(u64, u64), u32>,
    in_the_way: Vec<PathBuf>,
    deletes: Vec<PathBuf>,
    problems: Vec<RestoreProblem>,
}

impl Found {
    fn add(&mut self, walker: &Walker<'_>, parent: u32, seen: SeenDir) -> Result<()> {
        self.in_the_way.extend(seen.in_the_way);
        self.deletes.extend(seen.surplus);
        self.problems.extend(seen.problems);
        for mut seen in seen.nodes {
            if seen.node.kind == NodeKind::Dir {
                let step = match walker.dir_step(seen.existing.as_ref(), seen.chosen, &seen.node) {
                    _ if seen.broken => continue,
                    Step::Keep => {
                        let why = "something that is no directory is in the way and is to be kept";
                        let name = OsStr::from_bytes(&seen.node.name);
                        let path = walker.full_path(&self.tables.dir_path(parent).join(name));
                        self.problems.push(RestoreProblem { path, error: Error::Refused(why.into()) });
                        continue;
                    }
                    step => step,
                };
                self.tables.add_dir(parent, &mut seen.node, step, seen.chosen)?;
            } else {
                let step = walker.entry_step(&seen);
                self.add_entry(parent, seen, step)?;
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, parent: u32, mut seen: Seen, step: Step) -> Result<()> {
        let tables = &mut self.tables;
        let number = tables.add_entry(parent, &mut seen.node, step, seen.size)?;
        let link = (seen.node.device_id, seen.node.inode);
        let linked = seen.node.kind == NodeKind::File && seen.node.links > 1 && !seen.broken;
        let leader = if linked { self.leaders.get(&link).copied() } else { None };
        if let Some(existing) = seen.existing {
            tables.entries[number as usize].existing = tables.existing.len() as u32;
            tables.existing.push(existing);
        }
        if let Some(leader) = leader
            && step != Step::Keep
            && same_content(tables, leader, &seen.pieces)
        {
            tables.entries[number as usize].leader = leader;
            return Ok(());
        }
        if linked && step != Step::Keep {
            self.leaders.insert(link, number);
        }
        tables.add_pieces(number, &seen.pieces)
    }

    /// A hard link is right when it is one to its leader, and the leader stays where it is.
    fn finish_links(&mut self) {
        let tables = &mut self.tables;
        for number in 0..tables.entries.len() {
            let entry = &tables.entries[number];
            if entry.leader == NONE || matches!(entry.step, Step::Keep | Step::Omit) {
                continue;
            }
            let leader = &tables.entries[entry.leader as usize];
            let inode = |existing: u32| {
                tables.existing.get(existing as usize).map(|existing| (existing.device, existing.inode))
            };
            let stays = !matches!(leader.step, Step::Create | Step::Replace);
            let step = match inode(entry.existing) {
                None => Step::Create,
                linked if stays && linked == inode(leader.existing) => Step::Unchanged,
                Some(_) => Step::Replace,
            };
            tables.entries[number].step = step;
        }
    }

    /// A directory that only leads to what might have been chosen is made only if something was.
    fn omit_unneeded_dirs(&mut self) {
        let tables = &mut self.tables;
        let mut needed: Vec<bool> = tables.dirs.iter().map(|dir| dir.chosen).collect();
        for entry in tables.entries.iter().filter(|entry| entry.step != Step::Omit) {
            needed[entry.parent as usize] = true;
        }
        for number in (1..tables.dirs.len()).rev() {
            if needed[number] {
                needed[tables.dirs[number].parent as usize] = true;
            } else {
                tables.dirs[number].step = Step::Omit;
            }
        }
    }
}

fn same_content(tables: &Tables, leader: u32, pieces: &[Piece]) -> bool {
    let range = tables.entries[leader as usize].piece_range();
    tables.pieces[range].iter().map(|piece| piece.id).eq(pieces.iter().map(|piece| piece.id))
}

/// The pieces that must be fetched: pack by pack in the order in which files need them, in a pack by offset.
fn pieces_by_pack(tables: &Tables) -> Vec<u32> {
    let mut uses = Vec::new();
    for entry in tables.entries.iter().filter(|entry| tables.writes_content(entry)) {
        let pieces = entry.first_piece..entry.first_piece + entry.pieces;
        uses.extend(pieces.filter(|piece| tables.wants(entry, *piece)));
    }
    let place = |piece: u32| {
        let piece = &tables.pieces[piece as usize];
        (piece.pack, piece.pack_offset)
    };
    uses.sort_unstable_by_key(|piece| (place(*piece), *piece));
    let mut packs: Vec<&[u32]> = uses.chunk_by(|one, other| place(*one).0 == place(*other).0).collect();
    packs.sort_by_key(|pieces| pieces.iter().min());
    packs.concat()
}

fn totals(found: &Found, uses: &[u32]) -> RestoreTotals {
    let tables = &found.tables;
    let mut totals = RestoreTotals {
        delete: (found.deletes.len() + found.in_the_way.len()) as u64,
        ..RestoreTotals::default()
    };
    for dir in tables.dirs.iter().skip(1) {
        match dir.step {
            Step::Create | Step::Replace => totals.dirs_create += 1,
            Step::SetMetadata | Step::Unchanged => totals.dirs_existing += 1,
            _ => {}
        }
    }
    for entry in &tables.entries {
        let is_file = entry.kind == NodeKind::File;
        let total = match entry.step {
            Step::Create | Step::Replace if is_file => &mut totals.files_create,
            Step::Update | Step::SetMetadata if is_file => &mut totals.files_update,
            Step::Unchanged if is_file => &mut totals.files_unchanged,
            Step::Create | Step::Replace => &mut totals.others_create,
            Step::SetMetadata | Step::Unchanged => &mut totals.others_unchanged,
            Step::Keep => &mut totals.kept,
            _ => continue,
        };
        *total += 1;
        if is_file && entry.leader == NONE {
            totals.bytes += entry.size;
        }
        totals.bytes_write += tables.bytes_to_write(entry);
    }
    let mut previous: Option<(Id, u32)> = None;
    for piece in uses.iter().map(|piece| &tables.pieces[*piece as usize]) {
        if previous.replace((piece.id, piece.pack)) != Some((piece.id, piece.pack)) {
            totals.bytes_fetch += u64::from(piece.length);
        }
    }
    totals
}
