//! What a person types to bring one component back with stock restic: fetch it beside, see that it is right, swap it in.

use std::path::{Path, PathBuf};

use estate::component::Part;
use plan::{CommandLine, ComponentKind};

use super::Book;
use crate::point::Point;

/// Stands for the run's id in names on disk.
pub(super) const RUN: &str = "by-hand";

/// Where restic puts what it restores; from here it is moved beside its target.
const BROUGHT_BACK: &str = "/var/tmp/brought-back";

/// The commands for one component.
#[derive(Debug, Default)]
pub(super) struct ByHand {
    /// What should be known before.
    pub remark: Option<String>,
    pub fetch: String,
    pub prove: String,
    pub swap: String,
}

impl ByHand {
    pub fn of(book: &Book<'_>, name: &str) -> Self {
        let point = book.catalogue.as_ref().ok().and_then(|catalogue| catalogue.newest(name));
        let to = PathBuf::from(BROUGHT_BACK).join(name);
        let Some(point) = point else {
            let remark = match &book.catalogue {
                Ok(_) => "There is no recovery point of it yet. Once there is:".to_owned(),
                Err(_) => "The newest snapshot was not known when this was printed.".to_owned(),
            };
            let fetch = format!(
                "restic restore latest --tag {} --target {}\nfind {} # then move it to its place",
                quoted(&format!("component:{name}")),
                shown(&to),
                shown(&to)
            );
            return Self { remark: Some(remark), fetch, ..Self::default() };
        };
        let kind = book.site.plan.components.get(name).map(|component| &component.kind);
        let driver = book.drivers.as_ref().and_then(|drivers| drivers.component(name).ok());
        let parts = match driver {
            Some(driver) => driver.parts(RUN, &point.recorded),
            None => point.recorded.roots.iter().map(|root| Part::home(root, RUN)).collect(),
        };
        Self {
            remark: None,
            fetch: fetch(point, &parts, &to),
            prove: driver
                .and_then(|driver| driver.prove_by_hand(&parts, &point.recorded))
                .unwrap_or_else(|| prove(point, &parts)),
            swap: driver
                .and_then(|driver| driver.swap_by_hand(&parts, &point.recorded))
                .unwrap_or_else(|| swap(&parts, kind)),
        }
    }
}

fn fetch(point: &Point, parts: &[Part], to: &Path) -> String {
    let mut lines = vec![format!("restic restore {} --target {}", point.short(), shown(to))];
    for part in parts {
        let came = to.join(part.in_snapshot.strip_prefix("/").unwrap_or(&part.in_snapshot));
        let above = part.beside.parent().unwrap_or(Path::new("/"));
        lines.push(format!("mkdir -p {} && mv {} {}", shown(above), shown(&came), shown(&part.beside)));
    }
    lines.join("\n")
}

/// The engine's own check, and the facts that were recorded, each with the question that measured it.
fn prove(point: &Point, parts: &[Part]) -> String {
    let recorded = &point.recorded;
    let mut lines = Vec::new();
    if recorded.kind == "sqlite"
        && let Some(database) = parts.first().map(|part| shown(&part.beside))
    {
        lines.push(format!("sqlite3 {database} 'pragma integrity_check'  # ok"));
        for (name, query) in &recorded.queries {
            let expected = recorded.facts.declared.get(name).map(ToString::to_string).unwrap_or_default();
            let expected = expected.replace('\n', " ");
            lines.push(format!("sqlite3 {database} {}  # {name}: {expected}", quoted(query)));
        }
        return lines.join("\n");
    }
    if recorded.kind == "redis"
        && let Some(data) = parts.last().map(|part| shown(&part.beside))
    {
        lines.extend(redis(&data, point));
        return lines.join("\n");
    }
    for part in parts {
        lines.push(format!("du -sb {}", shown(&part.beside)));
    }
    // A digest is nothing that a person compares.
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (name, value) in recorded.facts.all().filter(|(_, value)| !is_digest(&value.to_string())) {
        lines.push(format!("# {name} was {}", value.to_string().replace('\n', " ")));
    }
    lines.join("\n")
}

/// A private server in a directory of its own, in which the files have the names that a server looks for.
fn redis(data: &str, point: &Point) -> Vec<String> {
    let recorded = &point.recorded;
    let mut lines = vec!["probe=$(mktemp -d)".to_owned()];
    let mut appends = String::new();
    if let Some((directory, name)) = appended_files(point) {
        lines.push(format!(
            "cp -r {data}/{directory} $probe/ && redis-check-aof $probe/{directory}/{name}.manifest"
        ));
        appends = format!(" --appendonly yes --appenddirname {directory} --appendfilename {name}");
    } else {
        let dump = format!("$(find {data} -name '*.rdb' -o -name '*.aof' | head -n 1)");
        lines.push(format!("cp \"{dump}\" $probe/dump.rdb && redis-check-rdb $probe/dump.rdb"));
    }
    lines.push(format!(
        "redis-server --port 0 --unixsocket $probe/s --dir $probe --save ''{appends} --maxmemory 0 --replicaof 127.0.0.1 0 \
         --daemonize yes"
    ));
    for (name, value) in &recorded.facts.automatic {
        lines.push(format!("redis-cli -s $probe/s info keyspace  # {name}: {value}"));
    }
    for (name, query) in &recorded.queries {
        let expected = recorded.facts.declared.get(name).map(ToString::to_string).unwrap_or_default();
        lines.push(format!("redis-cli -s $probe/s {query}  # {name}: {}", expected.replace('\n', " ")));
    }
    lines.push("redis-cli -s $probe/s shutdown nosave; rm -r $probe".to_owned());
    if let Some((owner, group)) = recorded.details.get("owner").and_then(|owner| owner.split_once(':')) {
        let group = group.split(':').next().unwrap_or_default();
        lines.push(format!("chown -R {owner}:{group} {data}"));
    }
    lines
}

/// The directory of append-only files in the data directory, and what their names begin with; both are plain names.
fn appended_files(point: &Point) -> Option<(String, String)> {
    let layout: serde_json::Value = serde_json::from_str(point.recorded.details.get("layout")?).ok()?;
    serde_json::from_value(layout.get("parts")?.clone()).ok()
}

fn swap(parts: &[Part], kind: Option<&ComponentKind>) -> String {
    let mut lines = Vec::new();
    let mut aside = |path: PathBuf| {
        let kept = appended(&path, &format!(".before-{RUN}"));
        lines.push(format!("[ ! -e {} ] || mv {} {}", shown(&path), shown(&path), shown(&kept)));
    };
    for part in parts {
        aside(part.target.clone());
        part.companions.iter().for_each(|ending| aside(appended(&part.target, ending)));
    }
    for part in parts {
        lines.push(format!("mv {} {}", shown(&part.beside), shown(&part.target)));
    }
    if let (Some(ComponentKind::Command(command)), Some(part)) = (kind, parts.first()) {
        lines.push(format!("{} < {}", command_line(&command.restore), shown(&part.target)));
    }
    lines.join("\n")
}

fn appended(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn shown(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Text as one word for a shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A command of the plan as a person types it.
pub(super) fn command_line(line: &CommandLine) -> String {
    match line {
        CommandLine::Shell(text) => text.clone(),
        CommandLine::Arguments(words) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    }
}
