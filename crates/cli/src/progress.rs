//! The consumer of the engine's events: counts them, and draws what it counted now and then.
//!
//! Events come often and from many threads, so that they only add to counters; a thread of its own draws,
//! as bars, lines or JSON.

use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use repository::event::Change;
use repository::{Context, Event, Observer, Task};

use crate::interrupt;
use crate::json::{Line, ProgressLine};
use crate::ui::{Drawing, Ui, printable};
use crate::units;

/// Draws the progress of one operation until it is dropped.
pub struct Progress {
    ui: Ui,
    tells_problems: bool,
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    drawer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    tasks: [Counters; TASKS.len()],
    current: Mutex<String>,
    problems: AtomicU64,
}

#[derive(Default)]
struct Counters {
    state: AtomicU8,
    began: OnceLock<Instant>,
    items_done: AtomicU64,
    items_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const ENDED: u8 = 2;

/// All tasks: their name in JSON, what people read, and what they count.
const TASKS: [(Task, &str, &str, &str); 9] = [
    (Task::Index, "index", "load index", "files"),
    (Task::Backup, "backup", "backup", "files"),
    (Task::Compare, "compare", "compare", "files"),
    (Task::Restore, "restore", "restore", "files"),
    (Task::Trees, "trees", "read trees", "trees"),
    (Task::Packs, "packs", "read packs", "packs"),
    (Task::Repack, "repack", "repack", "packs"),
    (Task::Copy, "copy", "copy", "blobs"),
    (Task::Delete, "delete", "delete", "files"),
];

impl Progress {
    /// Begins to draw.
    pub fn new(ui: &Ui) -> Self {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = channel();
        let drawer = (ui.drawing() != Drawing::Nothing).then(|| {
            let (ui, shared) = (ui.clone(), Arc::clone(&shared));
            std::thread::spawn(move || draw(&ui, &shared, &stopped))
        });
        Self { ui: ui.clone(), tells_problems: true, shared, stop: Some(stop), drawer }
    }

    /// Keeps problems to itself, for operations whose result names them all.
    pub fn without_problems(mut self) -> Self {
        self.tells_problems = false;
        self
    }

    /// What the engine is given: these eyes, and the flag that signals set.
    pub fn context(&self) -> Context<'_> {
        Context { observer: self, cancel: interrupt::arm() }
    }

    /// How many problems were told.
    pub fn problems(&self) -> u64 {
        self.shared.problems.load(Ordering::Relaxed)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(drawer) = self.drawer.take() {
            // A panic in there was printed already, and the work itself does not depend on it.
            let _panicked = drawer.join();
        }
    }
}

impl Observer for Progress {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Begin(task) => {
                let counters = self.counters(task);
                counters.began.get_or_init(Instant::now);
                counters.state.store(RUNNING, Ordering::Relaxed);
            }
            Event::End(task) => self.counters(task).state.store(ENDED, Ordering::Relaxed),
            Event::Expect { task, items, bytes } => {
                let counters = self.counters(task);
                counters.items_total.fetch_add(items, Ordering::Relaxed);
                counters.bytes_total.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Advance { task, items, bytes } => {
                let counters = self.counters(task);
                counters.items_done.fetch_add(items, Ordering::Relaxed);
                counters.bytes_done.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Current(path) => self.set_current(path),
            Event::Item { path, change, bytes } => self.item(path, change, bytes),
            Event::Problem { item, error } => {
                self.shared.problems.fetch_add(1, Ordering::Relaxed);
                if self.tells_problems {
                    self.ui.problem(item, error);
                }
            }
        }
    }
}

impl Progress {
    fn counters(&self, task: Task) -> &Counters {
        let position = TASKS.iter().position(|(listed, ..)| *listed == task).expect("all tasks are listed");
        &self.shared.tasks[position]
    }

    fn set_current(&self, path: &Path) {
        // The drawer looks ten times a second at most: whoever finds the place taken need not wait for it.
        if self.drawer.is_some()
            && let Ok(mut current) = self.shared.current.try_lock()
        {
            current.clear();
            current.push_str(&path.to_string_lossy());
        }
    }

    fn item(&self, path: &Path, change: Change, bytes: u64) {
        if !self.ui.is_verbose() {
            return;
        }
        let change = match change {
            Change::New => "new",
            Change::Changed => "changed",
            Change::Unchanged => "unchanged",
        };
        let path = path.to_string_lossy().into_owned();
        // A closed pipe does not stop a backup.
        let _closed = self.ui.line(format!("{change:<9}  {:>10}  {}", units::bytes(bytes), printable(&path)));
        self.ui.json(&Line::Item { path, change, bytes });
    }
}

fn draw(ui: &Ui, shared: &Shared, stopped: &Receiver<()>) {
    let drawing = ui.drawing();
    let pause = match drawing {
        Drawing::Bars => Duration::from_millis(100),
        Drawing::Json => Duration::from_secs(1),
        Drawing::Lines | Drawing::Nothing => Duration::from_secs(30),
    };
    let mut bars: Vec<Option<Bar>> = TASKS.iter().map(|_| None).collect();
    let mut told_interrupt = false;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        if interrupt::requested() && !told_interrupt {
            told_interrupt = true;
            ui.note("stopping at the next safe point; once more to stop at once");
        }
        for (slot, counters) in shared.tasks.iter().enumerate() {
            match counters.state.load(Ordering::Relaxed) {
                RUNNING => {
                    let began = counters.began.get_or_init(Instant::now);
                    let seen = Seen::of(slot, counters, shared, began.elapsed());
                    match drawing {
                        Drawing::Bars => bars[slot].get_or_insert_with(|| Bar::new(ui)).show(&seen),
                        Drawing::Json => ui.json(&seen.json()),
                        Drawing::Lines => ui.write_err(&seen.line()),
                        Drawing::Nothing => {}
                    }
                }
                ENDED => bars[slot] = None,
                _ => debug_assert_eq!(counters.state.load(Ordering::Relaxed), IDLE),
            }
        }
    }
}

/// The counters of a task at one moment.
struct Seen {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    items: (u64, u64),
    bytes: (u64, u64),
    elapsed: Duration,
    current: String,
}

impl Seen {
    fn of(slot: usize, counters: &Counters, shared: &Shared, elapsed: Duration) -> Self {
        let (_, name, title, unit) = TASKS[slot];
        let pair = |done: &AtomicU64, total: &AtomicU64| {
            (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed))
        };
        let items = pair(&counters.items_done, &counters.items_total);
        let bytes = pair(&counters.bytes_done, &counters.bytes_total);
        let current = shared.current.lock().map(|current| current.clone()).unwrap_or_default();
        Self { name, title, unit, items, bytes, elapsed, current }
    }

    /// Between 0 and 1, by bytes where they are counted.
    fn fraction(&self) -> Option<f64> {
        let (done, total) = if self.bytes.1 > 0 { self.bytes } else { self.items };
        (total > 0).then(|| (done as f64 / total as f64).min(1.0))
    }

    fn line(&self) -> String {
        let percent = self.fraction().map(|done| format!(" {:.0} %", (done * 100.0).floor()));
        let mut parts = vec![format!("{}{}", self.title, percent.unwrap_or_default())];
        parts.push(
            of_total(units::count(self.items.0), &units::count(self.items.1), self.items.1) + " " + self.unit,
        );
        if self.bytes != (0, 0) {
            parts.push(of_total(units::bytes(self.bytes.0), &units::bytes(self.bytes.1), self.bytes.1));
            let rate = self.bytes.0 as f64 / self.elapsed.as_secs_f64().max(0.001);
            parts.push(format!("{}/s", units::bytes(rate as u64)));
        }
        parts.push(match self.fraction() {
            // An estimate from the first moments would only jump about.
            Some(done) if self.elapsed >= Duration::from_secs(2) && done > 0.01 => {
                format!("{} left", units::duration(self.elapsed.mul_f64((1.0 - done) / done)))
            }
            _ => units::duration(self.elapsed),
        });
        parts.join("  ")
    }

    fn json(&self) -> Line<'_> {
        Line::Progress(ProgressLine {
            task: self.name,
            seconds: (self.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            items_done: self.items.0,
            items_total: self.items.1,
            bytes_done: self.bytes.0,
            bytes_total: self.bytes.1,
            current: (!self.current.is_empty()).then_some(self.current.as_str()),
        })
    }
}

fn of_total(done: String, total_text: &str, total: u64) -> String {
    if total == 0 { done } else { format!("{done} of {total_text}") }
}

/// A bar on the terminal, and a line below it for the current item; gone when dropped.
struct Bar(ProgressBar);

impl Bar {
    fn new(ui: &Ui) -> Self {
        let bar = ProgressBar::new(1000);
        let bar = ui.bars().add(bar);
        Self(bar)
    }

    fn show(&self, seen: &Seen) {
        const WITH_TOTAL: &str = "{bar:12.cyan/blue} {wide_msg}\n{prefix:.dim}";
        const WITHOUT: &str = "{wide_msg}\n{prefix:.dim}";
        let template = if seen.fraction().is_some() { WITH_TOTAL } else { WITHOUT };
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        self.0.set_style(style.progress_chars("━╸─"));
        self.0.set_message(seen.line());
        self.0.set_prefix(ending_of(&printable(&seen.current)));
        self.0.set_position(seen.fraction().map_or(0, |done| (done * 1000.0) as u64));
        self.0.tick();
    }
}

/// The end of a path, which tells more than its beginning.
fn ending_of(path: &str) -> String {
    const CHARACTERS_MAX: usize = 72;
    let length = path.chars().count();
    if length <= CHARACTERS_MAX {
        return path.to_owned();
    }
    let ending: String = path.chars().skip(length - CHARACTERS_MAX + 1).collect();
    format!("…{ending}")
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
