//! A unit as systemd would merge it: which files it is made of, and what they say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::text::{self, Assignment};

/// Where unit files are, the stronger first. What systemd's generators make at boot is not among them.
pub(super) const DIRECTORIES: [&str; 7] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The name of a service's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// As systemd knows it, `web@one.service`.
    pub full: String,
    /// Before the at sign, or before `.service` when there is none.
    pub prefix: String,
    /// Between the at sign and `.service`.
    pub instance: Option<String>,
}

/// A unit with everything that its files say.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub name: Name,
    /// Its own file; drop-ins come on top of it.
    pub fragment: PathBuf,
    /// Units in its directories `.requires`.
    pub requires: Vec<String>,
    assignments: Vec<Assignment>,
}

/// Why there is no unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Absent {
    /// No file has its name.
    NotFound,
    /// Somebody linked it to `/dev/null`, or emptied it.
    Masked(PathBuf),
    /// A file of it cannot be read, or not be understood.
    Unreadable(PathBuf, String),
}

impl Name {
    /// Reads a name; `.service` may be left out. `None` for units that are no services.
    pub fn parse(unit: &str) -> Option<Name> {
        const OTHERS: [&str; 10] =
            ["socket", "target", "timer", "mount", "automount", "swap", "path", "slice", "scope", "device"];
        let stem = match unit.rsplit_once('.') {
            Some((stem, "service")) => stem,
            Some((_, suffix)) if OTHERS.contains(&suffix) => return None,
            _ => unit,
        };
        let (prefix, instance) = match stem.split_once('@') {
            Some((prefix, instance)) => (prefix, Some(instance.to_owned())),
            None => (stem, None),
        };
        Some(Name { full: format!("{stem}.service"), prefix: prefix.to_owned(), instance })
    }

    /// The template of an instance.
    fn template(&self) -> Option<String> {
        self.instance.as_ref().map(|_| format!("{}@.service", self.prefix))
    }

    /// The names under which drop-ins are looked for, the more special first.
    fn of_drop_ins(&self) -> Vec<String> {
        let mut names = vec![self.full.clone()];
        names.extend(self.template());
        let at = if self.instance.is_some() { "@" } else { "" };
        let mut prefix = self.prefix.trim_end_matches('-');
        while let Some((shorter, _)) = prefix.rsplit_once('-') {
            names.push(format!("{shorter}-{at}.service"));
            prefix = shorter.trim_end_matches('-');
        }
        names
    }
}

impl Unit {
    /// Reads the unit and its drop-ins from directories, of which the first is the strongest.
    pub fn load(directories: &[PathBuf], name: &Name) -> Result<Unit, Absent> {
        let is_template = name.instance.as_deref() == Some("");
        let fragment = find(directories, name).filter(|_| !is_template).ok_or(Absent::NotFound)?;
        let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
            Absent::Unreadable(path.to_owned(), error.to_string())
        };
        let real = fragment.canonicalize().map_err(|error| unreadable(&fragment, &error))?;
        if is_void(&real).map_err(|error| unreadable(&fragment, &error))? {
            return Err(Absent::Masked(fragment));
        }
        let names = aliases(directories, name, &real);
        let (drop_ins, requires) =
            beside(directories, &names).map_err(|error| unreadable(&fragment, &error))?;
        let mut assignments = Vec::new();
        for path in std::iter::once(&real).chain(&drop_ins) {
            let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
            let read = text::assignments(&String::from_utf8_lossy(&bytes));
            assignments.extend(read.map_err(|why| unreadable(path, &why))?);
        }
        let name = names.into_iter().next_back().expect("a unit has a name");
        Ok(Unit { name, fragment, requires, assignments })
    }

    /// A unit without files.
    #[cfg(test)]
    pub fn of_text(text: &str) -> Result<Unit, String> {
        let name = Name::parse("web.service").expect("it is a service");
        let assignments = text::assignments(text)?;
        Ok(Unit { name, fragment: "/web.service".into(), requires: Vec::new(), assignments })
    }

    /// The last value of a key that takes one; an empty one is none.
    pub fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.all(section, key).pop().filter(|value| !value.is_empty())
    }

    /// The values of a key that takes many; an empty one forgets those before it.
    pub fn list(&self, section: &str, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for value in self.all(section, key) {
            if value.is_empty() {
                values.clear();
            } else {
                values.push(value);
            }
        }
        values
    }

    /// Whether a key is switched on.
    pub fn is_on(&self, section: &str, key: &str) -> bool {
        let value = self.last(section, key).unwrap_or_default().to_ascii_lowercase();
        ["1", "yes", "y", "true", "t", "on"].contains(&value.as_str())
    }

    /// The keys of a section that are set to something, in their order.
    pub fn keys(&self, section: &str) -> Vec<&str> {
        let mut keys = Vec::new();
        for assignment in self.assignments.iter().filter(|assignment| assignment.section == section) {
            if !keys.contains(&assignment.key.as_str()) && !self.list(section, &assignment.key).is_empty() {
                keys.push(&assignment.key);
            }
        }
        keys
    }

    fn all(&self, section: &str, key: &str) -> Vec<&str> {
        let belongs = |assignment: &&Assignment| assignment.section == section && assignment.key == key;
        self.assignments.iter().filter(belongs).map(|assignment| assignment.value.as_str()).collect()
    }
}

/// The file of a unit: its own, or its template's, in the strongest directory that has one.
fn find(directories: &[PathBuf], name: &Name) -> Option<PathBuf> {
    let names = std::iter::once(name.full.clone()).chain(name.template());
    let paths = names.flat_map(|name| directories.iter().map(move |directory| directory.join(&name)));
    paths.into_iter().find(|path| path.symlink_metadata().is_ok())
}

fn is_void(path: &Path) -> io::Result<bool> {
    Ok(path == Path::new("/dev/null") || path.metadata()?.len() == 0)
}

/// The unit's names: the one that was asked for, and the one that it is an alias of.
fn aliases(directories: &[PathBuf], name: &Name, real: &Path) -> Vec<Name> {
    let mut names = vec![name.clone()];
    let is_unit = |path: &Path| {
        directories
            .iter()
            .any(|known| known.canonicalize().is_ok_and(|known| path.parent() == Some(known.as_path())))
    };
    let other = real.file_name().and_then(|file| Name::parse(file.to_str()?)).filter(|_| is_unit(real));
    if let Some(mut other) = other {
        if other.instance.as_deref() == Some("") {
            other.instance.clone_from(&name.instance);
            other.full =
                format!("{}@{}.service", other.prefix, other.instance.as_deref().unwrap_or_default());
        }
        if other != *name {
            names.push(other);
        }
    }
    names
}

/// The drop-ins of a unit in the order in which they count, and what is in its directories `.requires`.
fn beside(directories: &[PathBuf], names: &[Name]) -> io::Result<(Vec<PathBuf>, Vec<String>)> {
    let mut special: Vec<String> = names.iter().flat_map(Name::of_drop_ins).collect();
    special.push("service".into());
    let mut drop_ins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut requires = Vec::new();
    for (name, directory) in
        special.iter().flat_map(|name| directories.iter().map(move |directory| (name, directory)))
    {
        for path in listed(&directory.join(format!("{name}.d")))? {
            let is_drop_in = path.extension().is_some_and(|extension| extension == "conf");
            if let Some(file) = path.file_name().filter(|_| is_drop_in) {
                drop_ins.entry(file.to_owned()).or_insert(path);
            }
        }
        let wanted = listed(&directory.join(format!("{name}.requires")))?;
        requires.extend(wanted.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
    }
    let void = |path: &PathBuf| path.canonicalize().is_ok_and(|real| real == Path::new("/dev/null"));
    Ok((drop_ins.into_values().filter(|path| !void(path)).collect(), requires))
}

fn listed(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Reads a span of time as systemd writes it: `90`, `1min 30s`, `1.5h`; `None` for `infinity` and for what is no span.
pub(super) fn span(text: &str) -> Option<Duration> {
    let text: String = text.split_whitespace().collect();
    let mut rest = text.as_str();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number * seconds_of(&rest[..end])?;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "usec" | "µs" => 1e-6,
        "ms" | "msec" => 1e-3,
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86400.0,
        "w" | "week" | "weeks" => 604_800.0,
        _ => return None,
    })
}

/// Takes the escapes of systemd-escape(1) out of a name: a hyphen is a slash, `\x2d` a hyphen.
pub(super) fn unescaped(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits = behind.strip_prefix(b"x").and_then(|digits| std::str::from_utf8(digits.get(..2)?).ok());
        let escaped =
            digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(if *first == b'-' { b'/' } else { *first }));
        rest = if escaped.is_some() { &behind[3..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn name(unit: &str) -> Name {
        Name::parse(unit).unwrap()
    }

    /// Directories `etc` and `lib` with these files in them.
    fn tree(files: &[(&str, &str)]) -> (TempDir, Vec<PathBuf>) {
        let tree = tempfile::tempdir().unwrap();
        let directories = ["etc", "lib"].map(|name| tree.path().join(name));
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        for (path, text) in files {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (tree, directories.to_vec())
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(name("web").full, "web.service");
        assert_eq!(name("a.b").full, "a.b.service");
        let instance = name("pg@16-main.service");
        assert_eq!((instance.prefix.as_str(), instance.instance.as_deref()), ("pg", Some("16-main")));
        assert_eq!(name("a-b-c").of_drop_ins(), ["a-b-c.service", "a-b-.service", "a-.service"]);
        assert!(Name::parse("web.socket").is_none());
        assert_eq!(unescaped(r"srv-my\x2dapp"), "srv/my-app");
        assert_eq!(unescaped(r"a\x2"), r"a\x2");
    }

    #[test]
    fn drop_ins_come_on_top_and_the_stronger_directory_wins() {
        let (tree, directories) = tree(&[
            ("lib/web.service", "[Service]\nExecStart=/bin/lib\nEnvironment=A=1\n"),
            ("lib/web.service.d/20.conf", "[Service]\nEnvironment=B=lib\n"),
            ("etc/web.service.d/20.conf", "[Service]\nEnvironment=B=etc\n"),
            ("etc/service.d/10.conf", "[Service]\nUser=all\nEnvironment=C=1\n"),
            ("lib/web.service.d/30.conf", "[Service]\nEnvironment=\nEnvironment=D=1\nUser=web\n"),
            ("lib/web.service.d/40.conf", "[Service]\nUser=\n"),
            ("lib/web.service.d/50.txt", "[Service]\nUser=no\n"),
            ("lib/web.service.requires/db.service", ""),
        ]);
        symlink("/dev/null", directories[0].join("web.service.d/40.conf")).unwrap();
        let unit = Unit::load(&directories, &name("web")).unwrap();
        assert_eq!(unit.list("Service", "ExecStart"), ["/bin/lib"]);
        assert_eq!(unit.list("Service", "Environment"), ["D=1"]);
        assert_eq!(unit.last("Service", "User"), Some("web"));
        assert_eq!(unit.requires, ["db.service"]);
        assert_eq!(unit.keys("Service"), ["ExecStart", "Environment", "User"]);
        fs::remove_file(directories[1].join("web.service.d/30.conf")).unwrap();
        let unit = Unit::load(&directories, &name("web")).unwrap();
        assert_eq!(unit.list("Service", "Environment"), ["A=1", "C=1", "B=etc"]);
        fs::write(directories[0].join("web.service"), "[Service]\nExecStart=/bin/etc\n").unwrap();
        let unit = Unit::load(&directories, &name("web")).unwrap();
        assert_eq!(unit.list("Service", "ExecStart"), ["/bin/etc"]);
        drop(tree);
    }

    #[test]
    fn templates_aliases_and_masks_are_followed() {
        let (tree, directories) = tree(&[
            ("lib/pg@.service", "[Service]\nExecStart=/bin/pg %i\n"),
            ("lib/pg@.service.d/a.conf", "[Service]\nUser=pg\n"),
            ("etc/pg@one.service.d/b.conf", "[Service]\nGroup=pg\n"),
            ("lib/void.service", ""),
            ("lib/bad.service", "[Service\n"),
        ]);
        let unit = Unit::load(&directories, &name("pg@one")).unwrap();
        assert_eq!(unit.name, name("pg@one"));
        assert_eq!((unit.last("Service", "User"), unit.last("Service", "Group")), (Some("pg"), Some("pg")));
        symlink(directories[1].join("pg@.service"), directories[0].join("db@.service")).unwrap();
        symlink("/dev/null", directories[0].join("gone.service")).unwrap();
        symlink("/nowhere", directories[0].join("lost.service")).unwrap();
        let unit = Unit::load(&directories, &name("db@two")).unwrap();
        assert_eq!(unit.name.full, "pg@two.service");
        assert_eq!(unit.last("Service", "User"), Some("pg"), "drop-ins of both names count");
        let absent = |unit: &str| Unit::load(&directories, &name(unit)).unwrap_err();
        assert!(matches!(absent("gone"), Absent::Masked(_)) && matches!(absent("void"), Absent::Masked(_)));
        assert!(matches!(absent("lost"), Absent::Unreadable(..)));
        assert!(matches!(absent("bad"), Absent::Unreadable(..)));
        assert_eq!(absent("pg@"), Absent::NotFound, "a template is no unit");
        drop(tree);
    }

    #[test]
    fn spans_of_time_are_read() {
        for (text, millis) in [("90", 90_000), ("1min 30s", 90_000), ("1.5h", 5_400_000), ("20ms", 20)] {
            assert_eq!(span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for no_span in ["", "infinity", "5 parsecs", "-1", "1.2.3s"] {
            assert_eq!(span(no_span), None, "{no_span}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(text in "[-@.a\\\\x2d0 5minsh]*", any in ".*") {
            for text in [&text, &any] {
                let _ = span(text);
                let _ = unescaped(text);
                let _ = Name::parse(text).map(|name| name.of_drop_ins());
            }
        }
    }
}
