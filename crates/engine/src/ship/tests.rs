//! Shipping a real database while the power is cut: before and after every write of the repository that shipping does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plan::Plan;
use repository::Context;
use repository::log::{Archive, Scope};
use runbook::{NoControls, NoObserver, Outcome};
use rusqlite::Connection;
use store::fault::Call;
use store::{Fault, Memory, Store};

use super::*;
use crate::execute::Conduct;
use crate::goal::Goal;
use crate::recover::{execute_preview, preview_restore};

const PLAN: &str = "\
lifeboat: 1
name: shop
components:
  database: { sqlite: shop.db, every: continuous }
";
const PATIENCE: Duration = Duration::from_secs(60);
/// How many rows are written while the power is on.
const ROWS: i64 = 30;

fn site(store: Arc<dyn Store>, base: &Path) -> Site {
    let plan = Plan::parse(PLAN, "lifeboat.yaml", None).unwrap();
    Site { plan: Arc::new(plan), plan_text: PLAN.into(), ..crate::retain::tests::site(store, base) }
}

/// A database that is shipped, and what was acknowledged of it.
struct Shop {
    directory: tempfile::TempDir,
    /// The last position of each lineage that was said to be in the repository.
    acknowledged: Mutex<BTreeMap<String, u64>>,
    lineage: Mutex<String>,
    is_based: AtomicBool,
}

impl Shop {
    fn new() -> Self {
        let shop = Self {
            directory: tempfile::tempdir().unwrap(),
            acknowledged: Mutex::default(),
            lineage: Mutex::default(),
            is_based: AtomicBool::new(false),
        };
        let script = "pragma journal_mode = wal; create table orders(id integer primary key)";
        shop.connect("shop.db").execute_batch(script).unwrap();
        shop
    }

    fn connect(&self, name: &str) -> Connection {
        let connection = Connection::open(self.directory.path().join(name)).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    fn note(&self, event: &Event) {
        match event {
            Event::Began { lineage, .. } | Event::Continues { lineage, .. } => {
                lineage.clone_into(&mut self.lineage.lock().unwrap());
            }
            Event::Shipped { position, .. } => {
                let lineage = self.lineage.lock().unwrap().clone();
                self.acknowledged.lock().unwrap().insert(lineage, *position);
            }
            Event::Based { .. } => self.is_based.store(true, Ordering::SeqCst),
            _ => {}
        }
    }

    /// Ships while rows are written, until all is in the repository or `is_over`; gives the last row.
    fn ship(&self, store: Arc<dyn Store>, first: i64, is_over: &dyn Fn() -> bool) -> (i64, Option<Shipped>) {
        let site = site(store, self.directory.path());
        let stop = AtomicBool::new(false);
        self.is_based.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let shipping = scope.spawn(|| ship(&site, &[], &|event| self.note(event), &stop, None));
            let connection = self.connect("shop.db");
            let mut row = first;
            for _ in 0..ROWS {
                connection.execute("insert into orders values(?1)", [row]).unwrap();
                row += 1;
                std::thread::sleep(Duration::from_millis(30));
                if is_over() {
                    break;
                }
            }
            let begin = Instant::now();
            while !self.is_based.load(Ordering::SeqCst) && !is_over() && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::SeqCst);
            let shipped = shipping.join().unwrap();
            (row - 1, shipped.ok().and_then(|mut all| all.pop()))
        })
    }

    /// What a dead process left holds what it had acknowledged, without a gap and without damage.
    fn assert_there(&self, left: &Memory, what: &str) {
        let site = site(Arc::new(left.snapshot()), self.directory.path());
        let archive = Archive::new(&site.repository, "database").unwrap();
        let catalogue = archive.catalogue().unwrap();
        for (lineage, position) in self.acknowledged.lock().unwrap().iter() {
            let end = catalogue.get(lineage).and_then(|known| known.segments.last().map(|last| last.last));
            assert!(
                end >= Some(*position),
                "{what}: {lineage} ends at {end:?}, and {position} was acknowledged"
            );
        }
        assert_eq!(catalogue.gaps(), [], "{what}");
        assert_eq!(archive.verify(Scope::All, Context::silent()).unwrap().findings, [], "{what}");
    }

    /// The rows of the latest that can be had.
    fn restored(&self, left: &Memory, what: &str) -> i64 {
        let site = site(Arc::new(left.snapshot()), self.directory.path());
        let to = self.directory.path().join("restored");
        std::fs::create_dir(&to).unwrap();
        let preview = preview_restore(&site, "database", &Goal::Latest, Some(&to)).unwrap();
        let interrupt = AtomicBool::new(false);
        let conduct = Conduct {
            observer: &NoObserver,
            controls: &NoControls,
            interrupt: &interrupt,
            answer_within: Some(Duration::ZERO),
        };
        let finished = execute_preview(&site, preview, conduct).unwrap();
        assert_eq!(finished.outcome(), Outcome::Verified, "{what}: {:?}", finished.record.reasons);
        let restored = self.connect("restored/shop.db");
        let (count, last): (i64, i64) = restored
            .query_row("select count(*), max(id) from orders", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(count, last, "{what}: a row in the middle is missing");
        last
    }
}

/// One cut: what is left of it holds, and shipping goes on from there to the end.
fn cut(start: &Memory, freeze: fn(&Fault<Memory>, u64), point: u64) -> Option<Call> {
    let shop = Shop::new();
    let store = Arc::new(Fault::new(start.snapshot()));
    freeze(&store, point);
    let over = Arc::clone(&store);
    let (last, _) = shop.ship(store.clone(), 1, &move || over.is_frozen());
    let call = store.durable_log().get(usize::try_from(point).unwrap() - 1).cloned();
    let what =
        format!("cut at write {point}, {}", call.as_ref().map_or_else(String::new, ToString::to_string));
    shop.assert_there(store.inner(), &what);

    let again = Arc::new(Fault::new(store.inner().snapshot()));
    let (last, shipped) = shop.ship(again.clone(), last + 1, &|| false);
    let shipped = shipped.unwrap();
    assert_eq!(shipped.missing, None, "{what}");
    shop.assert_there(again.inner(), &what);
    assert_eq!(shop.restored(again.inner(), &what), last, "{what}");
    store.is_frozen().then_some(call).flatten()
}

#[test]
fn the_power_is_cut_before_and_after_every_write_of_shipping() {
    let start = Arc::new(Memory::new());
    let directory = tempfile::tempdir().unwrap();
    drop(site(start.clone(), directory.path()));
    let whole = Arc::new(Fault::new(start.snapshot()));
    let shop = Shop::new();
    let (last, _) = shop.ship(whole.clone(), 1, &|| false);
    assert_eq!(shop.restored(whole.inner(), "whole"), last);
    let writes = whole.durable_log().len() as u64;
    // A repository that is away is waited for, so all at once; a few more than there were, as what is shipped when is by chance.
    let calls: Vec<Call> = std::thread::scope(|scope| {
        let start = &start;
        let points = (1..=writes).flat_map(|point| {
            [Fault::freeze_before as fn(&Fault<Memory>, u64), Fault::freeze_after]
                .map(|freeze| (freeze, point))
        });
        let cuts: Vec<_> =
            points.map(|(freeze, point)| scope.spawn(move || cut(start, freeze, point))).collect();
        cuts.into_iter().filter_map(|cut| cut.join().unwrap()).collect()
    });
    assert!(calls.len() as u64 >= writes, "{} of {writes} writes were cut at", calls.len());
    for part in ["/log/", "/w/", "snapshots", "lifeboat/points", "data/", "index/"] {
        assert!(calls.iter().any(|call| call.key.contains(part)), "{part} was never cut at: {calls:?}");
    }
}
