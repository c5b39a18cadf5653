//! The made-up estate of the demo: a shop's orders in a SQLite database behind an HTTP service, and its configuration.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rusqlite::{Connection, params};

use super::proof::{At, Error};

/// How many orders the database has.
pub const ORDERS: i64 = 25_000;
/// How many files the configuration has.
pub const FILES: u64 = 240;

/// The plan of the estate, whose service answers at `port`.
pub fn plan(program: &str, port: u16) -> String {
    let free = "disk: .\n    expect: { free: 1% }";
    format!(
        r#"# The plan of the demo: what there is, how much of it may be lost, how soon it must be back.
lifeboat: 1
name: demo-shop

repository:
  location: ./repository
  password: ${{file:password}}

components:
  orders:
    sqlite: shop/orders.db
    priority: critical
    rpo: 1h
    rto: 1m
    facts:
      orders: select count(*) from orders
      turnover: select sum(cents) from orders
    exports:
      orders.sql: dump
  config:
    files: shop/config
    priority: high
    rpo: 24h
    rto: 5m

services:
  shop:
    process:
      command: [{program}, demo-service, --database, shop/orders.db, --config, shop/config, --port, "{port}"]
    needs: [orders, config]
    ready:
      http: http://127.0.0.1:{port}/health
      expect: {{ json: "status == 'ok'" }}
      within: 30s

checks:
  orders-intact:
    sql: {{ component: orders, query: pragma integrity_check, equals: ok }}
  orders-served:
    http: http://127.0.0.1:{port}/orders
    expect: {{ status: 200, json: "orders > `0`" }}
  disk-has-room:
    {free}

scenarios:
  first-start:
    title: Everything is started
    steps:
      - boot: all
      - check: orders-served
  server-lost:
    title: The shop's disk is gone
    severity: P1
    rto: 1m
    when: [orders-intact, orders-served]
    steps:
      - stop: shop
      - restore: [config, orders]
      - boot: all
      - check: [orders-intact, orders-served]
"#
    )
}

/// Makes the database and the configuration below `root`.
pub fn make(root: &Path) -> Result<(), Error> {
    let config = root.join("config");
    fs::create_dir_all(&config).at("make", &config)?;
    for number in 0..FILES {
        let directory = config.join(format!("site-{:02}", number % 12));
        fs::create_dir_all(&directory).at("make", &directory)?;
        let path = directory.join(format!("{number:03}.conf"));
        let mut text = String::new();
        for line in 0..=number % 50 {
            let _infallible = writeln!(text, "option_{line} = {}", (number + 1) * (line + 7) % 1009);
        }
        fs::write(&path, text).at("write", &path)?;
    }
    let link = config.join("enabled");
    std::os::unix::fs::symlink("site-00", &link).at("link", &link)?;
    let path = root.join("orders.db");
    fill(&path).map_err(std::io::Error::other).at("fill", &path)
}

fn fill(path: &Path) -> rusqlite::Result<()> {
    let mut database = Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "wal")?;
    let transaction = database.transaction()?;
    transaction.execute_batch(
        "create table orders (id integer primary key, customer text not null, cents integer not null, note text);
         create index orders_by_customer on orders (customer);",
    )?;
    {
        let mut insert = transaction.prepare("insert into orders values (?1, ?2, ?3, ?4)")?;
        for id in 1..=ORDERS {
            let mixed = id.wrapping_mul(0x9e37_79b9) & 0x00ff_ffff;
            let note = format!("order {id} of batch {}", mixed % 977);
            insert.execute(params![id, format!("customer-{}", mixed % 4_001), mixed % 90_000, note])?;
        }
    }
    transaction.commit()
}

/// Every row of the database, as one digest and their number; read by nothing that the recovery uses.
pub fn rows(path: &Path) -> Result<(String, u64), Error> {
    let read = || -> rusqlite::Result<(Vec<u8>, u64)> {
        let database = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut query = database.prepare("select id, customer, cents, note from orders order by id")?;
        let mut rows = query.query([])?;
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let (id, customer, cents, note): (i64, String, i64, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            bytes.extend(format!("{id}|{customer}|{cents}|{note}\n").into_bytes());
            count += 1;
        }
        Ok((bytes, count))
    };
    let (bytes, count) = read().map_err(std::io::Error::other).at("read every row of", path)?;
    Ok((repository::Id::of(&bytes).to_hex(), count))
}

/// Destroys the database and half of the configuration.
pub fn destroy(root: &Path) -> Result<u64, Error> {
    let mut destroyed = 0;
    for name in ["orders.db", "orders.db-wal", "orders.db-shm"] {
        let path = root.join(name);
        if path.exists() {
            fs::write(&path, b"this is what the disk had instead of the shop's orders")
                .at("overwrite", &path)?;
            destroyed += 1;
        }
    }
    for number in (0..12).step_by(2) {
        let directory = root.join(format!("config/site-{number:02}"));
        fs::remove_dir_all(&directory).at("remove", &directory)?;
        destroyed += FILES / 12;
    }
    Ok(destroyed)
}
