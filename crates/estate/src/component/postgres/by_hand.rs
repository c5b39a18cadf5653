//! The proof of a restored cluster as a person types it: a private server on what lies beside, the facts, the pages.

use std::path::{Path, PathBuf};

use super::super::{Part, PointFacts, PostgresOptions};
use super::listing::Tablespace;
use super::{detail, links, server};
use crate::by_hand::{path, quoted};

/// Keeps the server from archiving, from following others, and from going beyond the end of the backup.
const SETTINGS: &[&str] = &[
    "config_file=/dev/null",
    "ident_file=/dev/null",
    "listen_addresses=",
    "archive_mode=off",
    "restore_command=false",
    "recovery_target=immediate",
    "recovery_target_action=promote",
    "primary_conninfo=",
    "shared_preload_libraries=",
    "hot_standby=off",
];

/// The commands, for root; nothing when the point does not say enough.
pub(super) fn proof(options: &PostgresOptions, parts: &[Part], recorded: &PointFacts) -> Option<String> {
    let of = |name: &str| recorded.details.get(name).map_or("", String::as_str);
    let data = &parts.last()?.beside;
    let major = of(detail::VERSION).parse::<u32>().ok()? / 10_000;
    let owner: u32 = of(detail::OWNER).split(':').next()?.parse().ok()?;
    let user = server::name_of(owner).unwrap_or_else(|| "postgres".to_owned());
    let tablespaces: Vec<Tablespace> = serde_json::from_str(of(detail::TABLESPACES)).unwrap_or_default();
    let beside = links::locations(&tablespaces, parts, |part| &part.beside).ok()?;
    let home = links::locations(&tablespaces, parts, |part| &part.target).ok()?;
    let programs = options.binaries.clone();
    let programs = programs.unwrap_or_else(|| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let file = |name: &str| path(&data.join(name));
    let rules = data.join("by-hand.hba");
    let as_user = |program: &str, rest: &str| {
        let command = format!("cd / && {} {rest}", path(&programs.join(program)));
        format!("su {} -s /bin/sh -c {}", quoted(&user), quoted(&command))
    };

    let mut lines = vec![
        format!(
            "# as root, with the programs of PostgreSQL {major}; the server answers on a socket of its own"
        ),
        format!("echo 'local all all trust' > {}", path(&rules)),
        format!("touch {}", file("recovery.signal")),
    ];
    let mut given = vec![path(&rules), file("recovery.signal")];
    if !beside.is_empty() {
        let map: Vec<String> =
            beside.iter().map(|(oid, place)| format!("{oid} {}", place.display())).collect();
        let map: Vec<String> = map.iter().map(|line| quoted(line).into_owned()).collect();
        lines.push(format!("printf '%s\\n' {} > {}", map.join(" "), file("tablespace_map")));
        given.push(file("tablespace_map"));
    }
    lines.push(format!("chown --reference={} {}", file("PG_VERSION"), given.join(" ")));
    let own =
        [format!("hba_file={}", rules.display()), format!("unix_socket_directories={}", data.display())];
    // The log of a standby's backup ends where the backup does, which is behind where its files are consistent.
    let bounded = of(detail::FROM_STANDBY) != "true";
    let settings = SETTINGS.iter().filter(|setting| bounded || !setting.starts_with("recovery_target"));
    let settings = settings.map(|setting| (*setting).to_owned()).chain(own);
    let settings: Vec<String> = settings.map(|setting| format!("-c {}", quoted(&setting))).collect();
    lines.push(as_user(
        "pg_ctl",
        &format!(
            "start -w -t 86400 -D {} -l {} -o {}",
            path(data),
            file("by-hand.log"),
            quoted(&settings.join(" "))
        ),
    ));
    // Without hot standby `pg_ctl` takes a server that still replays its log for one that is up.
    let ready = path(&programs.join("pg_isready"));
    lines.push(format!("for wait in $(seq 86400); do {ready} -q -h {} && break; sleep 1; done", path(data)));
    let login = server::login(options, owner);
    let at = format!("psql -XAt -h {} -U {} -d {}", path(data), quoted(&login.user), quoted(&login.database));
    for (name, query) in &recorded.queries {
        let expected = recorded.facts.declared.get(name).map(ToString::to_string).unwrap_or_default();
        lines.push(format!("{at} -c {}  # {name}: {}", quoted(query), expected.replace('\n', " ")));
    }
    lines.push(as_user("pg_ctl", &format!("stop -w -t 86400 -D {}", path(data))));
    if of(detail::CHECKSUMS) == "true" {
        lines.push(as_user("pg_checksums", &format!("--check -D {}  # Bad checksums: 0", path(data))));
    }
    let link = |(oid, place): &(String, PathBuf)| {
        format!("ln -sfn {} {}", path(place), path(&data.join(Path::new("pg_tblspc")).join(oid)))
    };
    lines.extend(home.iter().map(link));
    lines.push(format!("rm {} {}", path(&rules), file("by-hand.log")));
    Some(lines.join("\n"))
}
