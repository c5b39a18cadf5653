//! What a rehearsal needs of the twin's files: the unit, users and groups, environment files, directories that are made.
//!
//! Everything here touches files by their plain paths, and so is called within the twin.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::exec::Specifiers;
use super::rehearsal::{Directory, Rehearsal, is_root};
use super::text;
use super::unit::{Absent, DIRECTORIES, Name, Unit, unescaped};
use crate::component::glob;

/// What a rehearsal does, with everything looked up.
#[derive(Debug)]
pub(super) struct Gathered {
    pub rehearsal: Rehearsal,
    pub who: Who,
    pub environment: Vec<(String, String)>,
    /// Values that nobody may see: those of environment files, which is where units keep them.
    pub secrets: Vec<String>,
    pub working_directory: PathBuf,
}

/// As whom a service runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Who {
    pub uid: u32,
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    name: String,
    home: String,
    shell: String,
}

/// Why there is nothing to rehearse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// systemd would not start it either.
    Fails(String),
    /// Nobody can tell here what systemd would do.
    NotHere(Vec<String>),
}

/// What is known of the machine without its files.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub boot: String,
    pub host: String,
    pub kernel: String,
}

impl Gathered {
    /// Reads the unit and what it names.
    pub fn of(name: &Name, machine: &Machine) -> Result<Gathered, Refused> {
        let directories = DIRECTORIES.map(PathBuf::from);
        let unit = Unit::load(&directories, name).map_err(|absent| refused(name, absent))?;
        let rehearsal = Rehearsal::of(&unit, &specifiers(&unit, machine));
        if !rehearsal.reasons.is_empty() {
            return Err(Refused::NotHere(rehearsal.reasons));
        }
        if let Some(unmet) = rehearsal.conditions.iter().find(|condition| !condition.holds()) {
            let not = if unmet.negated { "!" } else { "" };
            let why =
                format!("systemd would not start it, for {}={not}{} does not hold", unmet.key, unmet.path);
            return Err(Refused::Fails(why));
        }
        let who = Who::of(&rehearsal)?;
        let read = environment_files(&rehearsal.environment_files)?;
        let mut environment = around(&who, &rehearsal);
        environment.extend(rehearsal.environment.iter().cloned());
        environment.extend(read.iter().cloned());
        environment.retain(|(name, value)| {
            let is = |unset: &String| unset == name || *unset == format!("{name}={value}");
            !rehearsal.unset.iter().any(is)
        });
        let secrets = read.into_iter().map(|(_, value)| value).collect();
        let working_directory = working_directory(&rehearsal, &who)?;
        Ok(Gathered { rehearsal, who, environment, secrets, working_directory })
    }
}

fn refused(name: &Name, absent: Absent) -> Refused {
    Refused::Fails(match absent {
        Absent::NotFound => format!("there is no file of {} in {}", name.full, DIRECTORIES.join(", ")),
        Absent::Masked(path) => format!("{} is masked by {}", name.full, path.display()),
        Absent::Unreadable(path, why) => format!("failed to read {}: {why}", path.display()),
    })
}

fn specifiers(unit: &Unit, machine: &Machine) -> Specifiers {
    let Name { full, prefix, instance } = &unit.name;
    let instance = instance.clone().unwrap_or_default();
    let last = prefix.rsplit_once('-').map_or(prefix.as_str(), |(_, last)| last);
    let subject = if instance.is_empty() { prefix } else { &instance };
    let short_host = machine.host.split('.').next().unwrap_or_default();
    let fragment = unit.fragment.to_string_lossy().into_owned();
    let folder = unit.fragment.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let mut values = vec![
        ('n', full.clone()),
        ('N', full.trim_end_matches(".service").to_owned()),
        ('p', prefix.clone()),
        ('P', unescaped(prefix)),
        ('i', instance.clone()),
        ('I', unescaped(&instance)),
        ('j', last.to_owned()),
        ('J', unescaped(last)),
        ('f', format!("/{}", unescaped(subject))),
        ('t', "/run".to_owned()),
        ('S', "/var/lib".to_owned()),
        ('C', "/var/cache".to_owned()),
        ('L', "/var/log".to_owned()),
        ('E', "/etc".to_owned()),
        ('T', "/tmp".to_owned()),
        ('V', "/var/tmp".to_owned()),
        ('h', "/root".to_owned()),
        ('u', "root".to_owned()),
        ('U', "0".to_owned()),
        ('g', "root".to_owned()),
        ('G', "0".to_owned()),
        ('s', "/bin/sh".to_owned()),
        ('H', machine.host.clone()),
        ('q', machine.host.clone()),
        ('l', short_host.to_owned()),
        ('v', machine.kernel.clone()),
        ('b', machine.boot.replace('-', "")),
        ('y', fragment),
        ('Y', folder),
    ];
    if let Ok(id) = fs::read_to_string("/etc/machine-id") {
        values.push(('m', id.trim().to_owned()));
    }
    let release =
        fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    let release = text::environment(&release.unwrap_or_default());
    let of_release =
        [('o', "ID"), ('w', "VERSION_ID"), ('B', "BUILD_ID"), ('W', "VARIANT_ID"), ('A', "IMAGE_VERSION")];
    values.extend(of_release.map(|(letter, key)| {
        let value = release.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        (letter, value.unwrap_or_default())
    }));
    Specifiers::new(values)
}

/// Shells that are none, of which the environment says nothing.
const NO_SHELLS: [&str; 3] = ["/nologin", "/false", "/true"];

/// What systemd itself puts into the environment.
fn around(who: &Who, rehearsal: &Rehearsal) -> Vec<(String, String)> {
    let locale = fs::read_to_string("/etc/locale.conf").unwrap_or_default();
    let mut environment = text::environment(&locale);
    environment.retain(|(name, _)| name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_"));
    if !environment.iter().any(|(name, _)| name == "LANG") {
        // What systemd is built with wherever it is packaged.
        environment.push(("LANG".to_owned(), "C.UTF-8".to_owned()));
    }
    if rehearsal.user.is_some() {
        let Who { name, home, shell, .. } = who;
        let mut own = vec![("USER", name), ("LOGNAME", name)];
        own.extend(Some(("HOME", home)).filter(|_| home.starts_with('/') && home != "/"));
        let is_shell = shell.starts_with('/') && !NO_SHELLS.iter().any(|other| shell.ends_with(other));
        own.extend(Some(("SHELL", shell)).filter(|_| is_shell));
        environment.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value.clone())));
    }
    let mut of_directories: Vec<(String, String)> = Vec::new();
    for Directory { path, variable, .. } in &rehearsal.directories {
        match of_directories.iter_mut().find(|(name, _)| name == variable) {
            Some((_, paths)) => *paths += &format!(":{path}"),
            None => of_directories.push(((*variable).to_owned(), path.clone())),
        }
    }
    environment.extend(of_directories);
    environment
}

fn environment_files(files: &[(String, bool)]) -> Result<Vec<(String, String)>, Refused> {
    let mut environment = Vec::new();
    for (pattern, may_miss) in files {
        let missing =
            |why: String| Refused::Fails(format!("failed to read EnvironmentFile={pattern}: {why}"));
        let found = if glob::is_glob(pattern) {
            let found = glob::expand(Path::new(pattern)).map_err(|error| missing(error.to_string()))?;
            if found.is_empty() && !may_miss {
                return Err(missing("nothing is there that matches".to_owned()));
            }
            found.into_iter().collect()
        } else {
            vec![PathBuf::from(pattern)]
        };
        for path in found {
            match fs::read(&path) {
                Ok(bytes) => environment.extend(text::environment(&String::from_utf8_lossy(&bytes))),
                Err(_) if *may_miss => {}
                Err(error) => return Err(missing(error.to_string())),
            }
        }
    }
    Ok(environment)
}

fn working_directory(rehearsal: &Rehearsal, who: &Who) -> Result<PathBuf, Refused> {
    let path = match rehearsal.working_directory.as_deref() {
        None => "/",
        Some("~") => who.home.as_str(),
        Some(path) => path,
    };
    // Its own directories are made before it starts.
    let is_made = rehearsal.directories.iter().any(|directory| directory.path == path);
    match path {
        path if is_made || Path::new(path).is_dir() => Ok(path.into()),
        _ if rehearsal.anywhere => Ok("/".into()),
        path => Err(Refused::Fails(format!("its WorkingDirectory {path} is missing"))),
    }
}

impl Who {
    fn of(rehearsal: &Rehearsal) -> Result<Who, Refused> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let unknown = |what: &str, name: &str, file: &str| {
            Refused::NotHere(vec![format!("its {what} {name} is not in the twin's {file}")])
        };
        let user = rehearsal.user.as_deref().unwrap_or("root");
        let users = read("/etc/passwd");
        let mut who = find_user(&users, user).ok_or_else(|| unknown("user", user, "/etc/passwd"))?;
        let groups = read("/etc/group");
        if let Some(group) = &rehearsal.group {
            let found = find_group(&groups, group);
            who.gid = found.ok_or_else(|| unknown("group", group, "/etc/group"))?;
        }
        if !is_root(user) {
            who.groups = [vec![who.gid], memberships(&groups, &who.name)].concat();
        }
        for group in &rehearsal.groups {
            let found = find_group(&groups, group);
            who.groups.push(found.ok_or_else(|| unknown("group", group, "/etc/group"))?);
        }
        Ok(who)
    }

    /// Tells whether it is the superuser with all that he has.
    pub fn is_root(&self) -> bool {
        self.uid == 0 && self.gid == 0 && self.groups.is_empty()
    }
}

/// Looks a user up by name or number in the text of `/etc/passwd`.
fn find_user(users: &str, user: &str) -> Option<Who> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        (name == user || uid == user).then_some(())?;
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        let own = |text: &str| text.to_owned();
        Some(Who { uid, gid, groups: Vec::new(), name: own(name), home: own(home), shell: own(shell) })
    })
}

/// Looks a group up by name or number in the text of `/etc/group`; systemd, too, takes no number that is not in it.
fn find_group(groups: &str, group: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, ..] = fields[..] else { return None };
        (name == group || gid == group).then(|| gid.parse().ok())?
    })
}

fn memberships(groups: &str, user: &str) -> Vec<u32> {
    let groups = groups.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?, fields.next()?);
        members.split(',').any(|member| member == user).then(|| gid.parse().ok())?
    });
    groups.collect()
}

/// Makes the service's directories, each with its mode and its owner, as systemd does: what is in it changes its owner
/// only when the directory itself has another.
pub(super) fn make_directories(directories: &[Directory], who: &Who) -> io::Result<()> {
    let may_give = rustix::process::geteuid().is_root();
    for directory in directories {
        let path = Path::new(&directory.path);
        let was_there = path.is_dir();
        fs::create_dir_all(path)?;
        if !was_there || directory.is_own {
            fs::set_permissions(path, fs::Permissions::from_mode(directory.mode))?;
        }
        let metadata = path.metadata()?;
        if may_give && directory.is_own && (metadata.uid(), metadata.gid()) != (who.uid, who.gid) {
            give(path, who)?;
        }
    }
    Ok(())
}

fn give(path: &Path, who: &Who) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), who)?;
        }
    }
    lchown(path, Some(who.uid), Some(who.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34::/var/www:/bin/false\nbroken:x\n";
    const GROUPS: &str = "root:x:0:\nweb:x:34:\nssl:x:101:web,mail\nlogs:x:102:webmaster\n";

    #[test]
    fn users_and_groups_are_looked_up_by_name_and_number() {
        let web = find_user(USERS, "web").unwrap();
        assert_eq!((web.uid, web.gid, web.home.as_str()), (33, 34, "/var/www"));
        assert_eq!(find_user(USERS, "33"), Some(web));
        assert!(find_user(USERS, "broken").is_none() && find_user(USERS, "we").is_none());
        assert_eq!((find_group(GROUPS, "ssl"), find_group(GROUPS, "102")), (Some(101), Some(102)));
        assert_eq!(find_group(GROUPS, "77"), None);
        assert_eq!(memberships(GROUPS, "web"), [101]);
    }

    #[test]
    fn specifiers_are_what_systemd_makes_of_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("my-web@.service"), "[Service]\n").unwrap();
        let name = Name::parse(r"my-web@srv-a\x2db.service").unwrap();
        let unit = Unit::load(&[directory.path().to_owned()], &name).unwrap();
        let machine = Machine { boot: "a-b".into(), host: "box.example.org".into(), kernel: "6.1".into() };
        let expanded = specifiers(&unit, &machine).expand("%n %N %p %P %i %I %j %f %l %b %t").unwrap();
        let expected = r"my-web@srv-a\x2db.service my-web@srv-a\x2db my-web my/web srv-a\x2db srv/a-b web /srv/a-b box ab /run";
        assert_eq!(expanded, expected);
    }
}
