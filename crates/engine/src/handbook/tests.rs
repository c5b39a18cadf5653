//! The handbook of a plan with a real backup in a real repository, followed by hand with the stock tools.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use plan::{Lookup, Plan, Reference};
use repository::crypto::ScryptCost;
use repository::format::Chunking;
use repository::keys::Author;
use repository::{Clock, InitOptions, Repository};
use runbook::{NoControls, NoObserver};

use super::{handbook, no_repository};
use crate::execute::Conduct;
use crate::protect;
use crate::site::Site;

const PLAN: &str = "\
lifeboat: 1
name: shop
description: Sells things.
repository: { location: ./repo, password: \"${file:password}\" }
components:
  database:
    sqlite: data/shop.db
    rpo: 1h
    facts: { orders: select count(*) from orders }
  config: { files: [etc], env_files: [.env] }
services:
  web:
    process: { command: [python3, serve.py], env: { TOKEN: \"${env:SHOP_TOKEN}\" } }
    needs: [database]
    ready: { http: \"http://127.0.0.1:9/${env:SHOP_TOKEN}\" }
checks:
  orders-there: { sql: { component: database, query: select count(*) from orders, at_least: 1 } }
scenarios:
  lost:
    title: The database is lost
    severity: P1
    rto: 15m
    when: orders-there
    steps:
      - approve: The disk is sound
      - restore: database
      - start: web
      - check: orders-there
contacts:
  - { name: on-call, reach: the pager }
";

/// Has every value, and none of them may be printed.
struct Values;

impl Lookup for Values {
    fn look_up(&self, _: &Reference) -> Result<String, String> {
        Ok("hunter2-secret".into())
    }
}

fn site(base: &Path, repository: Repository) -> Site {
    Site {
        plan: Arc::new(Plan::parse(PLAN, "lifeboat.yaml", None).unwrap()),
        plan_text: PLAN.into(),
        base: base.to_owned(),
        state: base.join("state"),
        repository,
        copies: Vec::new(),
        from: None,
        zone: jiff::tz::TimeZone::UTC,
        lookup: Arc::new(Values),
        who: "ada@shop-1".into(),
        host: "shop-1".into(),
        program: "lifeboat 0.3.0".into(),
        twin_init: place::Init::this_program(["twin-init"]),
        sqlite_proof: None,
        lock_wait: std::time::Duration::ZERO,
    }
}

fn shell(base: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(base).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    said
}

/// A shop with a backup of everything.
fn shop(base: &Path) -> Site {
    shell(
        base,
        "mkdir data etc; echo hunter2-secret > password; echo TOKEN=hunter2-secret > .env; echo x > etc/a.conf",
    );
    shell(base, "sqlite3 data/shop.db 'create table orders (id); insert into orders values (1), (2)'");
    let options = InitOptions {
        chunking: Chunking::Gear,
        polynomial: None,
        cost: ScryptCost { n: 2, r: 1, p: 1 },
        author: Author { username: String::new(), hostname: String::new() },
    };
    let store = Arc::new(store::Local::open(base.join("repo")).unwrap());
    let repository = Repository::init(store, b"hunter2-secret", &options, Clock::system()).unwrap();
    let site = site(base, repository);
    let interrupt = AtomicBool::new(false);
    let conduct =
        Conduct { observer: &NoObserver, controls: &NoControls, interrupt: &interrupt, answer_within: None };
    let finished = protect::backup(&site, &[], false, conduct).unwrap();
    assert!(finished.record.reasons.is_empty(), "{:?}", finished.record.reasons);
    site
}

/// The commands of the blocks under a heading, in order.
fn commands_under<'a>(book: &'a str, heading: &str) -> Vec<&'a str> {
    let section = book.split_once(&format!("{heading}\n")).unwrap().1;
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect()
}

#[test]
fn its_commands_bring_a_database_back_with_stock_restic() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let site = shop(&base);
    let book = handbook(&site, Ok(site.catalogue().unwrap()));
    std::fs::remove_file(base.join("data/shop.db")).unwrap();
    let before =
        commands_under(&book, "## Get everything back without Lifeboat")[0].replace("restic snapshots", "");
    let scratch = base.join("brought-back").display().to_string();
    let all = commands_under(&book, "### database").join("\n").replace("/var/tmp/brought-back", &scratch);
    let said = shell(&base, &format!("{before}\nexport RESTIC_CACHE_DIR=cache\n{all}"));
    assert!(said.contains("ok\n2\n"), "what is right by hand: {said}");
    assert_eq!(shell(&base, "sqlite3 data/shop.db 'select count(*) from orders'"), "2\n");
}

#[test]
fn it_tells_everything_and_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let site = shop(&base);
    let book = handbook(&site, Ok(site.catalogue().unwrap()));
    assert!(!book.contains("hunter2"), "{book}");
    assert!(book.contains("${env:SHOP_TOKEN}"), "{book}");
    let base_text = base.display().to_string();
    insta::with_settings!({ filters => vec![
        (base_text.as_str(), "/srv/shop"),
        (r"\b[0-9a-f]{8}\b", "[snapshot]"),
        (r"digest [0-9a-f]{12}", "digest [digest]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "[time]"),
        (r"SQLite [\d.]+", "SQLite [version]"),
        (r"lifeboat \d\.\d\.\d", "lifeboat [version]"),
        (r"\b[\d.]+ [KMG]?i?B\b", "[size]"),
    ]}, { insta::assert_snapshot!(book) });
}

#[test]
fn it_is_written_without_a_repository_too() {
    let directory = tempfile::tempdir().unwrap();
    let site = site(directory.path(), no_repository().unwrap());
    let book = handbook(&site, Err("the disk is gone".into()));
    for told in
        ["the disk is gone", "on-call", "restic restore latest --tag component:database", "The disk is sound"]
    {
        assert!(book.contains(told), "{told} is missing in {book}");
    }
}
