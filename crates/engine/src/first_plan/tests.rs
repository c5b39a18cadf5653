//! First plans from made-up findings: all of them are plans, whatever names they hold.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::survey::{Later, Listener, Redis, Unit};

fn layout() -> Layout {
    Layout {
        file: PathBuf::from("lifeboat.yaml"),
        base: PathBuf::from("/srv/app"),
        name: "my app".to_owned(),
        repository: "./lifeboat-repository".to_owned(),
        password_file: "lifeboat-password".to_owned(),
    }
}

fn database(path: &str) -> Database {
    Database { path: path.into(), bytes: 123 << 20, tables: Vec::new(), untold: None, programs: Vec::new() }
}

fn parse(text: &str) -> Plan {
    Plan::parse(text, "lifeboat.yaml", None).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn rich() -> Found {
    Found {
        dirs: vec!["/srv/app".into()],
        databases: vec![Database {
            tables: vec![
                ("order_lines".to_owned(), 900),
                ("order".to_owned(), 30),
                ("x".to_owned(), 2),
                ("y".to_owned(), 1),
            ],
            programs: vec!["shopd".to_owned()],
            ..database("/srv/app/data/shop.db")
        }],
        clusters: vec![Cluster { data: "/var/lib/postgresql/15/main".into(), runs: true }],
        elsewhere: vec![("/home/a/notes.db".into(), vec!["notes".to_owned()])],
        redis: vec![
            Redis { data: "/var/lib/redis".into(), port: Some(6379), program: "redis-server".to_owned() },
            Redis { data: "/srv/app/cache".into(), port: None, program: "valkey-server".to_owned() },
        ],
        config: vec!["/srv/app/docker-compose.yml".into(), "/srv/app/k8s".into()],
        env_files: vec!["/srv/app/.env".into()],
        others: vec!["/srv/app/data".into(), "/srv/app/uploads".into()],
        later: vec![
            Later { kind: LaterKind::Redis, seen: "redis-server listens at port 6379".to_owned() },
            Later {
                kind: LaterKind::Compose,
                seen: "containers are described in /srv/app/docker-compose.yml".to_owned(),
            },
        ],
        units: vec![
            Unit { name: "shop@1".to_owned(), belongs: true },
            Unit { name: "stranger".to_owned(), belongs: false },
        ],
        listeners: vec![
            Listener { port: 22, program: None, belongs: false },
            Listener { port: 8100, program: Some("shopd".to_owned()), belongs: true },
        ],
        remarks: vec!["could not look into /srv/app/closed: Permission denied".to_owned()],
    }
}

#[test]
fn a_whole_machine() {
    let text = write(&rich(), &layout()).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn every_kind_of_finding_alone_makes_a_plan() {
    let whole = rich();
    let of = |found: Found| Found { dirs: whole.dirs.clone(), ..found };
    let base = Found { databases: vec![database("/srv/app/a.db")], ..Found::default() };
    let all = [
        of(base.clone()),
        of(Found { databases: whole.databases.clone(), ..Found::default() }),
        of(Found { clusters: whole.clusters.clone(), ..Found::default() }),
        of(Found { config: whole.config.clone(), ..Found::default() }),
        of(Found { env_files: whole.env_files.clone(), ..Found::default() }),
        of(Found { others: whole.others.clone(), ..Found::default() }),
        of(Found { elsewhere: whole.elsewhere.clone(), ..base.clone() }),
        of(Found { later: whole.later.clone(), ..base.clone() }),
        of(Found { units: whole.units.clone(), ..base.clone() }),
        of(Found { listeners: whole.listeners.clone(), ..base.clone() }),
        of(Found { remarks: whole.remarks.clone(), ..base }),
    ];
    for found in all {
        let plan = parse(&write(&found, &layout()).unwrap());
        assert!(!plan.components.is_empty());
        let scenario = plan.scenario("server-lost").unwrap();
        assert!(scenario.steps.len() >= 2, "{found:?}");
        assert_eq!(plan.drills.len(), 1);
    }
}

#[test]
fn nothing_found_is_no_plan() {
    let error = write(&Found { dirs: vec!["/srv/app".into()], ..Found::default() }, &layout()).unwrap_err();
    assert!(error.to_string().contains("nothing to protect in /srv/app"), "{error}");
}

#[test]
fn what_is_suggested_can_be_taken_as_it_is() {
    let text = write(&rich(), &layout()).unwrap();
    let found = Found { units: Vec::new(), ..rich() };
    let stub = write(&found, &layout()).unwrap();
    // The service of the program that has the database open.
    let begin = stub.find("# services:").unwrap();
    let end = begin + stub[begin..].find("\n\n").unwrap();
    let bare: String =
        stub[begin..end].lines().map(|line| line.strip_prefix("# ").unwrap().to_owned() + "\n").collect();
    let stub = format!("{}{bare}{}", &stub[..begin], &stub[end..])
        .replace("      # - boot: all", "      - boot: all");
    assert_eq!(parse(&stub).services.names().collect::<Vec<_>>(), ["shopd"]);
    // The check of a port.
    let begin = text.find("  # port-8100:").unwrap();
    let lines: Vec<&str> = text[begin..].lines().take(3).collect();
    let bare = lines.iter().map(|line| line.replacen("# ", "", 1)).collect::<Vec<_>>().join("\n");
    let text = text.replace(&lines.join("\n"), &bare);
    assert!(parse(&text).check("port-8100").is_ok());
}

#[test]
fn hostile_names_change_nothing_but_themselves() {
    let nasty = [
        "a b",
        "a\"b",
        "a'b",
        "a\nscenarios: {}",
        "a\r\n- x",
        "#a",
        "- a",
        "a: b",
        "a #b",
        "{a}",
        "[a",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a`",
        "true",
        "null",
        "~",
        "1.5",
        ".inf",
        "0x10",
        "ü",
        "日本",
        "a\u{2028}b",
        "a\u{202e}b",
        "a\tb",
        "a\u{1b}[2Jb",
        "a\\b",
        "all",
        "\u{85}",
        "x\u{feff}y",
        "a,b",
        "?",
        "---",
        "...",
        "=",
        "<<",
        "😀",
    ];
    for name in nasty {
        let path = format!("/srv/app/{name}");
        let found = Found {
            dirs: vec!["/srv/app".into()],
            databases: vec![Database {
                tables: vec![(name.to_owned(), 3), (format!("{name}_2"), 1)],
                programs: vec![name.to_owned()],
                untold: Some(name.to_owned()),
                ..database(&path)
            }],
            clusters: vec![Cluster { data: format!("{path}.pg").into(), runs: false }],
            elsewhere: vec![(path.clone().into(), vec![name.to_owned()])],
            redis: vec![Redis { data: path.clone().into(), port: Some(1), program: name.to_owned() }],
            config: vec![format!("{path}.conf").into()],
            env_files: vec![format!("{path}.env").into()],
            others: vec![format!("{path}.other").into()],
            later: vec![Later { kind: LaterKind::Redis, seen: name.to_owned() }],
            units: vec![Unit { name: format!("u{name}"), belongs: true }],
            listeners: vec![Listener { port: 1, program: Some(name.to_owned()), belongs: true }],
            remarks: vec![name.to_owned()],
        };
        let text = write(&found, &Layout { name: name.to_owned(), ..layout() })
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let plan = parse(&text);
        assert_eq!(
            (plan.components.len(), plan.services.len(), plan.scenarios.len()),
            (3, 1, 1),
            "{name:?}\n{text}"
        );
        let component = plan.components.iter().next().unwrap().1;
        let plan::ComponentKind::Sqlite(sqlite) = &component.kind else { panic!("{text}") };
        assert_eq!(sqlite.sqlite.strip_prefix("./").unwrap_or(&sqlite.sqlite), Path::new(name), "{text}");
        let fact = component.facts.iter().next().unwrap().1;
        assert_eq!(*fact, query_of_rows(name), "{text}");
    }
}

#[test]
fn a_name_that_no_plan_can_have_is_left_out_and_told() {
    let path = PathBuf::from(OsString::from_vec(b"/srv/app/\xff\n.db".to_vec()));
    let late = database("/srv/app/${env:HOME}.db");
    let found = Found {
        databases: vec![Database { path, ..database("") }, late, database("/srv/app/good.db")],
        ..Found::default()
    };
    let text = write(&found, &layout()).unwrap();
    assert_eq!(parse(&text).components.names().collect::<Vec<_>>(), ["good"]);
    assert_eq!(text.matches("#   left out /srv/app/").count(), 2, "{text}");
}

#[test]
fn names_stay_apart() {
    let found = Found {
        databases: vec![database("/srv/app/a/x.db"), database("/srv/app/b/x.db"), database("/var/x.sqlite")],
        ..Found::default()
    };
    let plan = parse(&write(&found, &layout()).unwrap());
    assert_eq!(plan.components.names().collect::<Vec<_>>(), ["x", "x-2", "x-3"]);
}

#[test]
fn passwords_are_long_and_never_the_same() {
    let (one, other) = (password().unwrap(), password().unwrap());
    assert_eq!(one.len(), 64);
    assert_ne!(one, other);
}
