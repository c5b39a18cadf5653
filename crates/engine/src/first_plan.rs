//! The text of a first plan from what a survey found: commented, for a person to read and to finish.
//!
//! Only what is sure is a key; what has to be decided, and what has no driver yet, is a comment that says what to do.
//! The text is parsed before it is given away, so that it is always a plan.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use plan::Plan;

use crate::survey::{Cluster, Database, Found, LaterKind, Redis, query_of_rows};
use crate::{Error, Result, units};

#[cfg(test)]
mod tests;

/// Where the plan will be, and what it says about itself.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The plan file.
    pub file: PathBuf,
    /// The directory in which it lies, absolute; what is below it is named relative to it.
    pub base: PathBuf,
    /// What the estate is called; letters that a name may not have become dashes.
    pub name: String,
    /// The repository's location, relative to the plan file.
    pub repository: String,
    /// The password's file, relative to the plan file.
    pub password_file: String,
}

/// How many of the largest tables are counted at each backup.
const FACTS_MAX: usize = 3;
/// The port at which Redis listens unless it is told otherwise.
const REDIS_PORT: u16 = 6379;
/// How many lines one list of a comment has.
const LISTED_MAX: usize = 20;
/// A name in a plan has at most 64 characters, and some get an ending.
const NAME_CHARACTERS_MAX: usize = 40;

/// Makes random text for a new repository's password: 256 bits as hexadecimal digits.
///
/// # Errors
/// The kernel has no random bytes to give.
pub fn password() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Failed(format!("failed to get random bytes for a password: {error}")))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Writes the text of a plan.
///
/// # Errors
/// Nothing to protect was found.
pub fn write(found: &Found, layout: &Layout) -> Result<String> {
    let mut writer = Writer {
        layout,
        text: String::new(),
        names: BTreeSet::from(["all".to_owned()]),
        components: Vec::new(),
        checks: Vec::new(),
        services: 0,
        left_out: Vec::new(),
    };
    writer.head();
    writer.components(found);
    if writer.components.is_empty() {
        let dirs: Vec<String> = found.dirs.iter().map(|dir| dir.display().to_string()).collect();
        return Err(Error::refused(
            format!("found nothing to protect in {}", dirs.join(", ")),
            "name the directories that hold your data: lifeboat init DIR…",
        ));
    }
    writer.not_yet(found);
    writer.services(found);
    writer.checks(found);
    writer.scenario();
    let text = writer.text;
    let file = layout.file.to_string_lossy();
    Plan::parse(&text, &file, None).map_err(|error| {
        Error::Failed(format!(
            "the first plan came out wrong, which is a fault of Lifeboat; nothing was written: {error}"
        ))
    })?;
    Ok(text)
}

struct Writer<'w> {
    layout: &'w Layout,
    text: String,
    names: BTreeSet<String>,
    components: Vec<String>,
    checks: Vec<String>,
    services: usize,
    left_out: Vec<String>,
}

impl Writer<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// A line of a comment; what is not to be printed in it becomes an escape, above all the end of a line.
    fn comment(&mut self, indent: usize, text: &str) {
        let _infallible = writeln!(self.text, "{:indent$}# {}", "", printable(text));
    }

    fn head(&mut self) {
        self.comment(0, "A first plan, written by `lifeboat init` from what it found on this machine.");
        self.comment(0, "Read it, correct it, and then rehearse it: lifeboat drill server-lost");
        self.line("lifeboat: 1");
        let name = self.name(&self.layout.name.clone(), "estate");
        self.line(format!("name: {}", scalar(&name)));
        self.line("\nrepository:");
        self.comment(
            2,
            "Move it off this disk before you rely on it: s3://BUCKET/PREFIX, or a mounted directory.",
        );
        self.line(format!("  location: {}", scalar(&self.layout.repository)));
        self.comment(2, "Keep a copy of this file somewhere else: without it nothing in there can be read.");
        self.line(format!("  password: {}", quoted(&format!("${{file:{}}}", self.layout.password_file))));
        self.line("");
        self.comment(0, "Everything can be copied to a second repository as well:");
        self.comment(0, "copies:");
        self.comment(0, "  - location: s3://BUCKET/PREFIX");
    }

    fn components(&mut self, found: &Found) {
        self.line("\ncomponents:");
        self.comment(
            2,
            "rpo: how much may be lost; rto: how soon it must be back; every: how often it is backed up.",
        );
        self.comment(2, "These are guesses. Decide them; what is measured is shown beside them.");
        for database in &found.databases {
            self.database(database);
        }
        for cluster in &found.clusters {
            self.cluster(cluster);
        }
        for server in &found.redis {
            self.redis(server);
        }
        let env_files = self.paths(&found.env_files);
        let config = self.paths(&found.config);
        if !config.is_empty() || !env_files.is_empty() {
            let name = self.component("config");
            self.line(format!("  {name}:"));
            if !config.is_empty() {
                self.list(4, "files", &config);
            }
            if !env_files.is_empty() {
                self.comment(4, "Of these the names of the variables are kept, and their values are not:");
                self.comment(4, "keep the values where you keep passwords.");
                self.list(4, "env_files", &env_files);
            }
            self.objectives("high", "24h", "30m");
        }
        let others = self.paths(&found.others);
        if self.components.is_empty() && !others.is_empty() {
            let name = self.component("files");
            self.line(format!("  {name}:"));
            self.comment(4, "Nothing was recognised, so this is everything that lies here. Take out what can be made anew.");
            self.list(4, "files", &others);
            self.objectives("high", "24h", "1h");
        } else if !others.is_empty() {
            self.comment(2, "Not protected yet, and also here. What cannot be made anew belongs under `files:` of a component:");
            for path in others.iter().take(LISTED_MAX) {
                self.comment(2, &format!("  {path}"));
            }
            if others.len() > LISTED_MAX {
                self.comment(2, &format!("  and {} more", others.len() - LISTED_MAX));
            }
        }
    }

    fn database(&mut self, database: &Database) {
        let Some(path) = self.path(&database.path) else { return };
        let stem = database.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = self.component(&stem);
        self.line(format!("  {name}:"));
        let holders = match database.programs.as_slice() {
            [] => "no program that can be seen has it open".to_owned(),
            programs => format!("open in {}", programs.join(", ")),
        };
        self.comment(4, &format!("{}; {holders}", units::bytes(database.bytes)));
        self.line(format!("    sqlite: {path}"));
        self.objectives("critical", "24h", "15m");
        if let Some(untold) = &database.untold {
            self.comment(4, untold);
        }
        if database.tables.is_empty() {
            self.comment(
                4,
                "Add facts: queries of one value that a restored copy must answer as the original did.",
            );
            self.comment(4, "facts:");
            self.comment(4, "  NAME: select count(*) from TABLE");
        } else {
            self.comment(4, "Measured at each backup, and compared after each restore:");
            self.line("    facts:");
            let mut known = BTreeSet::new();
            for (table, _) in database.tables.iter().take(FACTS_MAX) {
                let fact = unique(table, "table", &mut known);
                self.line(format!("      {fact}: {}", quoted(&query_of_rows(table))));
            }
        }
        let check = self.name(&format!("{name}-intact"), "intact");
        self.checks.push(format!(
            "  {check}:\n    sql: {{ component: {name}, query: pragma integrity_check, equals: ok }}"
        ));
        self.names.insert(check);
    }

    fn cluster(&mut self, cluster: &Cluster) {
        let Some(path) = self.path(&cluster.data) else { return };
        let name = self.component("postgres");
        self.line(format!("  {name}:"));
        self.comment(
            4,
            if cluster.runs {
                "All databases of the server that works here; run lifeboat as root, or as the server's user."
            } else {
                "No server works here now: a backup needs it running."
            },
        );
        self.line(format!("    postgres: {path}"));
        self.objectives("critical", "24h", "1h");
        self.comment(
            4,
            "Add facts: queries of one value that a restored copy must answer as the original did.",
        );
        self.comment(4, "database: NAME");
        self.comment(4, "facts:");
        self.comment(4, "  NAME: select count(*) from TABLE");
        let there = self.name(&format!("{name}-there"), "there");
        self.comment(
            4,
            "To have the server started by a recovery, make it a service; then let the check below ask it:",
        );
        self.comment(4, &format!("  sql: {{ component: {name}, query: select 1, equals: 1 }}"));
        let version =
            self.path(&cluster.data.join("PG_VERSION")).expect("the directory has a path that is text");
        self.checks.push(format!("  {there}:\n    file: {version}\n    expect: {{ exists: true }}"));
    }

    fn redis(&mut self, server: &Redis) {
        let Some(path) = self.path(&server.data) else { return };
        let name = self.component("redis");
        self.line(format!("  {name}:"));
        let program = &server.program;
        match server.port {
            Some(port) => self.comment(4, &format!("{program} works there and listens at port {port}.")),
            None => {
                self.comment(
                    4,
                    &format!("{program} works there and listens at no port: add `socket: PATH`."),
                );
            }
        }
        self.comment(4, "If it asks for a password: password: \"${file:/etc/lifeboat/redis-password}\"");
        self.line(format!("    redis: {path}"));
        if let Some(port) = server.port.filter(|port| *port != REDIS_PORT) {
            self.line(format!("    port: {port}"));
        }
        self.objectives("high", "24h", "15m");
        self.comment(
            4,
            "Add facts: commands of one answer that a restored copy must give as the original did.",
        );
        self.comment(4, "facts: { NAME: SCARD KEY }");
        self.comment(
            4,
            "To lose a second instead of a day: every: continuous, and appendonly and aof-timestamp-enabled in redis.conf.",
        );
    }

    fn objectives(&mut self, priority: &str, rpo: &str, rto: &str) {
        self.line(format!("    priority: {priority}\n    rpo: {rpo}\n    rto: {rto}\n    every: daily\n    keep: {{ last: 7, daily: 30, monthly: 12 }}"));
    }

    /// What was found and cannot be a key of the plan.
    fn not_yet(&mut self, found: &Found) {
        if !found.elsewhere.is_empty() {
            self.line("");
            self.comment(
                0,
                "Databases that programs have open outside the directories that were looked through.",
            );
            self.comment(0, "If one is yours, add it to the components: sqlite: PATH");
            for (path, programs) in &found.elsewhere {
                self.comment(0, &format!("  {} ({})", path.display(), programs.join(", ")));
            }
        }
        for kind in [LaterKind::Redis, LaterKind::Compose] {
            let seen: Vec<&String> =
                found.later.iter().filter(|later| later.kind == kind).map(|later| &later.seen).collect();
            if seen.is_empty() {
                continue;
            }
            let (title, advice) = advice(kind);
            self.line("");
            let title = match kind {
                LaterKind::Redis => "Redis is here, and not in the components:".to_owned(),
                _ => format!("{title} is here, and there is no kind of its own for it yet:"),
            };
            self.comment(0, &title);
            for seen in seen.iter().take(LISTED_MAX) {
                self.comment(0, &format!("  {seen}"));
            }
            for line in advice {
                self.comment(0, line);
            }
        }
        let left_out = std::mem::take(&mut self.left_out);
        let remarks: Vec<&String> = left_out.iter().chain(&found.remarks).collect();
        if !remarks.is_empty() {
            self.line("");
            self.comment(0, "Not looked at, or left out:");
            for remark in remarks {
                self.comment(0, &format!("  {remark}"));
            }
        }
    }

    fn services(&mut self, found: &Found) {
        let units: Vec<&str> =
            found.units.iter().filter(|unit| unit.belongs).map(|unit| unit.name.as_str()).collect();
        self.services = units.len();
        self.line("");
        let needs = self.components.join(", ");
        if !units.is_empty() {
            self.line("services:");
        }
        for unit in units {
            let name = self.name(unit, "service");
            self.line(format!("  {name}:"));
            self.comment(
                4,
                "A twin has no systemd: in a drill it is run as a process, by what its unit file says.",
            );
            self.line(format!("    systemd: {}", quoted(unit)));
            self.line(format!("    needs: [{needs}]"));
            self.comment(4, "ready: { http: \"http://127.0.0.1:PORT/\", within: 60s }");
        }
        let programs: BTreeSet<String> =
            found.databases.iter().flat_map(|database| database.programs.clone()).collect();
        if programs.is_empty() && self.services == 0 {
            self.comment(0, "Nothing that runs was recognised as yours. What must be started again after a disaster goes here,");
            self.comment(0, "and then `boot: all` into the steps of the scenario below:");
        } else if !programs.is_empty() {
            self.comment(0, "These programs have a database of the plan open. To have them started by a recovery, complete their");
            self.comment(0, "command lines (not copied here: they may hold secrets), take the # away, and put `boot: all` into the");
            self.comment(0, "steps of the scenario below:");
        }
        if programs.is_empty() && self.services > 0 {
            return;
        }
        let programs = if programs.is_empty() { BTreeSet::from(["PROGRAM".to_owned()]) } else { programs };
        if self.services == 0 {
            self.comment(0, "services:");
        }
        for program in programs {
            let name = self.name(&program, "program");
            self.comment(0, &format!("  {name}:"));
            self.comment(0, "    process:");
            self.comment(0, &format!("      command: [{}, ARGUMENTS]", quoted(&program)));
            self.comment(0, &format!("    needs: [{needs}]"));
            self.comment(0, "    ready: { tcp: \"127.0.0.1:8080\", within: 60s }");
        }
    }

    fn checks(&mut self, found: &Found) {
        self.line("\nchecks:");
        for check in self.checks.clone() {
            self.line(check);
        }
        if self.checks.is_empty() {
            let all: Vec<PathBuf> =
                found.config.iter().chain(&found.env_files).chain(&found.others).cloned().collect();
            let first = all.iter().find_map(|path| self.path(path)).expect("a component of files has a path");
            let check = self.name("files-there", "check");
            self.line(format!("  {check}:\n    file: {first}\n    expect: {{ exists: true }}"));
            self.checks.push(format!("  {check}:\n"));
        }
        let ports: Vec<_> = found.listeners.iter().filter(|listener| listener.belongs).collect();
        let strangers: Vec<_> = found.listeners.iter().filter(|listener| !listener.belongs).collect();
        for (title, listeners) in [
            ("These ports belong to programs of yours", ports),
            ("Also listening on this machine", strangers),
        ] {
            if listeners.is_empty() {
                continue;
            }
            self.comment(
                2,
                &format!("{title}. Where one speaks HTTP, ask it what only healthy data can answer:"),
            );
            for listener in listeners.iter().take(LISTED_MAX) {
                let port = listener.port;
                let program = listener.program.as_deref().unwrap_or("a program that may not be seen");
                self.comment(2, &format!("{program}:"));
                self.comment(2, &format!("port-{port}:"));
                self.comment(2, &format!("  http: \"http://127.0.0.1:{port}/\""));
                self.comment(2, "  expect: { status: 200 }");
            }
        }
    }

    fn scenario(&mut self) {
        let components = self.components.join(", ");
        let name_of = |check: &String| check.trim_start().split(':').next().unwrap_or_default().to_owned();
        let checks = self.checks.iter().map(name_of).collect::<Vec<_>>().join(", ");
        self.line(
            "\nscenarios:\n  server-lost:\n    title: The server is gone\n    severity: P1\n    rto: 4h",
        );
        self.line(format!("    when: [{checks}]\n    steps:"));
        self.comment(6, "What a new machine needs first goes here:");
        self.comment(6, "- approve: A replacement machine is ready and this plan is on it");
        self.line(format!("      - restore: [{components}]"));
        if self.services == 0 {
            self.comment(6, "Once there are services:");
            self.comment(6, "- boot: all");
        } else {
            self.line("      - boot: all");
        }
        self.line(format!("      - check: [{checks}]"));
        self.line("\ndrills:");
        self.comment(2, "A scenario that was not rehearsed for so long counts as not proven.");
        self.line("  - scenario: server-lost\n    every: 30d");
    }

    /// A list of paths that are written already.
    fn list(&mut self, indent: usize, key: &str, paths: &[String]) {
        let _infallible = writeln!(self.text, "{:indent$}{key}:", "");
        for path in paths {
            let _infallible = writeln!(self.text, "{:indent$}  - {path}", "");
        }
    }

    /// A new component's name, made of `wanted`.
    fn component(&mut self, wanted: &str) -> String {
        let name = self.name(wanted, "component");
        self.components.push(name.clone());
        name
    }

    fn name(&mut self, wanted: &str, otherwise: &str) -> String {
        unique(wanted, otherwise, &mut self.names)
    }

    fn paths(&mut self, paths: &[PathBuf]) -> Vec<String> {
        paths.iter().filter_map(|path| self.path(path)).collect()
    }

    /// A path as the plan writes it; one that is no text cannot be in a plan and is told of instead.
    fn path(&mut self, path: &Path) -> Option<String> {
        let relative = path.strip_prefix(&self.layout.base).ok().filter(|rest| !rest.as_os_str().is_empty());
        let (text, why) = match relative.unwrap_or(path).to_str() {
            Some(text) if !text.contains("${") => (text, ""),
            Some(_) => ("", "a plan takes `${` in a path for something to be looked up"),
            None => ("", "its name is not UTF-8, and a plan is"),
        };
        if !why.is_empty() {
            let remark = format!("left out {}: {why}", path.display());
            if !self.left_out.contains(&remark) {
                self.left_out.push(remark);
            }
            return None;
        }
        // A plan refuses a leading `~`, which a shell would replace, and text of blanks only.
        Some(if text.starts_with('~') || text.trim().is_empty() {
            scalar(&format!("./{text}"))
        } else {
            scalar(text)
        })
    }
}

fn advice(kind: LaterKind) -> (&'static str, &'static [&'static str]) {
    match kind {
        LaterKind::Redis => {
            ("Redis", &["If it is yours, add a component with its data directory: redis: /var/lib/redis"])
        }
        LaterKind::Compose => (
            "Docker Compose",
            &[
                "Its files are protected above; volumes are not: add those that are directories under `files:`.",
                "Until then a service of kind `command` starts it: start, stop and status are `docker compose` commands.",
            ],
        ),
    }
}

/// Makes a name that a plan may have, and that is not taken.
fn unique(wanted: &str, otherwise: &str, taken: &mut BTreeSet<String>) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let text: String = wanted.chars().map(allowed).collect();
    let text: String = text.trim_matches(['-', '_', '.']).chars().take(NAME_CHARACTERS_MAX).collect();
    // YAML takes some words and all numbers for something else than text.
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !is_reserved(&text);
    let stem = match text.as_str() {
        "" => otherwise.to_owned(),
        _ if is_word => text,
        _ => format!("{otherwise}-{text}"),
    };
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    let name = std::iter::once(stem.clone()).chain(numbered).find(|name| !taken.contains(name));
    let name = name.expect("there are more numbers than names");
    taken.insert(name.clone());
    name
}

fn is_reserved(text: &str) -> bool {
    ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .contains(&text.to_ascii_lowercase().as_str())
}

/// Text as YAML has it, in quotes where that is needed.
fn scalar(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        || text.starts_with("./")
        || text.starts_with('.') && text[1..].starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let number = [".inf", ".nan"].contains(&text.to_ascii_lowercase().as_str());
    if begins && plain && !number && !is_reserved(text) { text.to_owned() } else { quoted(text) }
}

/// Text in the double quotes of YAML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            _ if is_hidden(c) => {
                let _infallible = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Text in which nothing ends the line or deceives a reader.
fn printable(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// Whether a character ends lines, turns text around, or is not to be seen.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}
