//! `lifeboat repository ls`, and how a file of a snapshot is shown.

use std::path::Path;

use repository::format::{Node, NodeKind};
use repository::{BlobReader, Descend, Id, Index, Met, find_directory, walk_in_order};
use serde::Serialize;

use super::{FilterArgs, SnapshotPath};
use crate::access::Access;
use crate::json::{Line, NodeLine};
use crate::outcome::{Answer, Done, Explained, Failure, Relay, Verdict};
use crate::progress::Progress;
use crate::ui::{Ui, printable, printable_path};
use crate::units;

/// List the files of a snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository ls latest
  lifeboat repository ls latest:/etc --long --depth 1")]
pub struct Args {
    /// The snapshot: the beginning of its id, or `latest`; and which directory
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: SnapshotPath,
    /// Show mode, owner, size and time as well
    #[arg(short, long)]
    long: bool,
    /// Go no deeper than this many levels
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    snapshot_id: String,
    items: u64,
    unreadable: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let lock = access.lock_for_reading(&repository)?;
    let entry = repository.find_snapshot(&args.snapshot.name, &args.filter.resolve()?)?;
    let progress = Progress::new(ui);
    let index = Index::load(&repository, progress.context())?;
    let reader = BlobReader::new(&repository, &index);
    let tree = find_directory(&reader, entry.snapshot.tree, &args.snapshot.path)?;
    let mut summary = Summary { snapshot_id: entry.id.to_hex(), items: 0, unreadable: 0 };
    let mut relay = Relay::default();
    let walked = walk_in_order(&reader, &tree, progress.context(), &mut |path, met| {
        // What is met is below the directory that was asked for; people want to see it from the root.
        let path = args.snapshot.path.join(path.strip_prefix("/").unwrap_or(path));
        match met {
            Met::Node(node) => {
                summary.items += 1;
                relay.pass(show(entry.id, &path, node, args.long, ui))?;
            }
            Met::Unreadable(error) => {
                summary.unreadable += 1;
                ui.problem(&path.to_string_lossy(), &error.to_string());
            }
        }
        let depth = path.components().count() - args.snapshot.path.components().count();
        Ok(if args.depth.is_some_and(|limit| depth >= limit) { Descend::No } else { Descend::Yes })
    });
    relay.settle(walked)?;
    drop(progress);
    lock.map_or(Ok(()), repository::Lock::release)?;
    let verdict = match summary.unreadable {
        0 => Verdict::Verified,
        n => Verdict::Failed(Explained::new(
            format!("{} cannot be read", units::counted(n, "folder", "folders")),
            "see what can be done with `lifeboat repository check`",
        )),
    };
    Ok(Done::new(verdict, &summary))
}

/// Shows one file of a snapshot.
pub fn show(snapshot: Id, path: &Path, node: &Node, long: bool, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.event(&Line::Node(Box::new(json(snapshot, path, node))));
    }
    if !long {
        return ui.line(printable_path(path));
    }
    let owner = |name: &str, number: u32| if name.is_empty() { number.to_string() } else { printable(name) };
    let target = match node.kind {
        NodeKind::Symlink => format!(" -> {}", printable(&String::from_utf8_lossy(&node.link_target))),
        _ => String::new(),
    };
    ui.line(format!(
        "{}  {:<8} {:<8}  {:>10}  {}  {}{target}",
        permissions(node),
        owner(&node.user, node.uid),
        owner(&node.group, node.gid),
        node.size,
        units::local_time(node.mtime),
        printable_path(path),
    ))
}

fn json(snapshot: Id, path: &Path, node: &Node) -> NodeLine {
    NodeLine {
        snapshot_id: snapshot.to_hex(),
        path: path.to_string_lossy().into_owned(),
        kind: match node.kind {
            NodeKind::File => "file",
            NodeKind::Dir => "dir",
            NodeKind::Symlink => "symlink",
            NodeKind::Dev => "dev",
            NodeKind::Chardev => "chardev",
            NodeKind::Fifo => "fifo",
            NodeKind::Socket => "socket",
        },
        mode: node.mode,
        permissions: permissions(node),
        uid: node.uid,
        gid: node.gid,
        user: node.user.clone(),
        group: node.group.clone(),
        size: node.size,
        mtime: node.mtime.to_string(),
        ctime: node.ctime.to_string(),
        link_target: (node.kind == NodeKind::Symlink)
            .then(|| String::from_utf8_lossy(&node.link_target).into_owned()),
    }
}

/// The mode as `ls -l` writes it; the bits above the permissions lie where Go puts them.
fn permissions(node: &Node) -> String {
    const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    const STICKY: u32 = 1 << 20;
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Dev => 'b',
        NodeKind::Chardev => 'c',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, on, off) in [(6, SETUID, 's', 'S'), (3, SETGID, 's', 'S'), (0, STICKY, 't', 'T')] {
        let bits = node.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (node.mode & special != 0, bits & 1 != 0) {
            (true, true) => on,
            (true, false) => off,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
