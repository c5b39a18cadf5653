//! The live view of a run: what is done, what is being done, what comes next, and the objective's clock.
//!
//! On a terminal every ended step leaves a line, and below them stand the running steps, what comes next and the
//! clock, drawn anew ten times a second. Without a terminal there is a line for each step's end; with `--json` a line
//! for each event of the journal.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use runbook::{
    Answer, Body, Decision, Entry, Event, Observer, Order, OrderQueue, Progress, Proven, Question, State,
    Step, StepId, Unit, Verb,
};

use crate::json::Line;
use crate::ui::{Drawing, Style, Ui, printable};
use crate::units;
use std::sync::Arc;

/// Shows one run until it is dropped, and takes the answers of the person before it.
pub struct Live {
    ui: Ui,
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    drawer: Option<JoinHandle<()>>,
    /// Orders typed by the person before the terminal.
    pub orders: Arc<OrderQueue>,
    asks: bool,
    who: String,
}

#[derive(Default)]
struct Shared {
    scene: Mutex<Scene>,
}

/// What is drawn below the ended steps.
#[derive(Default)]
struct Scene {
    running: BTreeMap<StepId, Running>,
    next: Vec<String>,
    objective: Option<Duration>,
    began: Option<Instant>,
    waiting: Option<String>,
}

struct Running {
    name: String,
    since: Instant,
    doing: String,
}

impl Live {
    /// Begins to show; `objective` is how soon everything must be back.
    pub fn new(ui: &Ui, who: &str, objective: Option<Duration>) -> Self {
        let shared = Arc::new(Shared::default());
        if let Ok(mut scene) = shared.scene.lock() {
            scene.objective = objective;
            scene.began = Some(Instant::now());
        }
        let (stop, stopped) = channel();
        let drawer = (ui.drawing() == Drawing::Bars).then(|| {
            let (ui, shared) = (ui.clone(), Arc::clone(&shared));
            std::thread::spawn(move || draw(&ui, &shared, &stopped))
        });
        let asks = !ui.is_json() && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let orders = Arc::new(OrderQueue::default());
        Self { ui: ui.clone(), shared, stop: Some(stop), drawer, orders, asks, who: who.to_owned() }
    }

    fn say(&self, text: &str) {
        // A closed pipe must not end a recovery.
        let _closed = self.ui.talk(text);
    }

    fn ended(&self, mark: &str, style: Style, step: &Step, state: &State, text: &str) {
        let took = state.step(&step.id).and_then(|step| {
            let (from, to) = step.active.last()?;
            Some(to.saturating_sub(*from))
        });
        let took = took.map(|took| format!("  {}", units::duration(took))).unwrap_or_default();
        let text = if text.is_empty() { String::new() } else { format!(": {}", printable(text)) };
        let mark = self.ui.paint(style, mark);
        let took = self.ui.paint(Style::Dim, &took);
        self.say(&format!("{mark} {}{text}{took}", step.name));
    }

    fn ask(&self, step: &StepId, question: &Question) {
        let text = match question {
            Question::Approve { message } => message.clone(),
            Question::LossyRemedy { loses, .. } => format!("apply a remedy that loses {loses}"),
            Question::Failed { failure } => format!("it failed: {failure}"),
            Question::Uncertain { command } => format!("was this done already: {command}"),
        };
        let (words, verbs) = match question.is_approval() {
            true => ("yes / no", "approve RUN, deny RUN"),
            false => ("retry / skip / abort", "retry RUN STEP, skip RUN STEP --reason …, abort RUN"),
        };
        let label = self.ui.paint(Style::Yellow, "waiting for a person:");
        self.say(&format!("{label} {}", printable(&text)));
        if !self.asks {
            self.say(&format!("  answer with `lifeboat order` ({verbs})"));
            return;
        }
        self.say(&format!("  type {words} and press Enter"));
        let (orders, who, step) = (Arc::clone(&self.orders), self.who.clone(), step.clone());
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let reason = "typed at the terminal".to_owned();
                let verb = match line.trim() {
                    "yes" | "y" => Verb::Approve { step: Some(step.clone()) },
                    "no" | "n" => Verb::Deny { step: Some(step.clone()), reason },
                    "retry" => Verb::Retry { step: step.clone() },
                    "skip" => Verb::Skip { step: step.clone(), reason },
                    "abort" => Verb::Abort { reason },
                    _ => continue,
                };
                orders.give(Order::new(who, verb));
                return;
            }
        });
    }

    fn show(&self, event: &Event, state: &State) {
        let step = |id: &StepId| state.runbook().find(id);
        match event {
            Event::StepSucceeded { step: id, performed, found } => {
                let Some(step) = step(id).filter(|step| is_leaf(step)) else { return };
                let text = if *found { "was there already" } else { performed.summary.as_str() };
                match &performed.proven {
                    Proven::Not(why) => {
                        self.ended("?", Style::Yellow, step, state, &format!("not proven, {why}"));
                    }
                    _ => self.ended("✓", Style::Green, step, state, text),
                }
            }
            Event::AttemptFailed { step: id, failure } => {
                let Some(step) = step(id).filter(|step| is_leaf(step)) else { return };
                self.ended("✗", Style::Red, step, state, &failure.message);
            }
            Event::StepSkipped { step: id, reason, by } => {
                let Some(step) = step(id) else { return };
                let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                self.ended("–", Style::Yellow, step, state, &format!("skipped{by}: {reason}"));
            }
            Event::RemedyBegun { step: id, .. } => {
                let Some(step) = step(id) else { return };
                self.say(&format!("  a known symptom: applying the remedy of {}", step.name));
            }
            Event::WaitBegun { step, question, .. } => self.ask(step, question),
            Event::WaitEnded { decision, .. } => self.say(&format!("  {}", decided(decision))),
            Event::UndoSucceeded { summary: Some(summary), .. } => {
                self.say(&format!("{} undone: {}", self.ui.paint(Style::Green, "✓"), printable(summary)));
            }
            Event::UndoFailed { failure, .. } => {
                self.say(&format!("{} {}", self.ui.paint(Style::Red, "✗"), printable(&failure.message)));
            }
            Event::ClockJumped { by_ms } => self.say(&format!("  the clock was moved by {by_ms} ms")),
            Event::Refused { why, .. } => self.say(&format!("  an order was refused: {why}")),
            _ => {}
        }
    }

    fn stage(&self, state: &State) {
        let Ok(mut scene) = self.shared.scene.lock() else { return };
        let current = state.current();
        scene.running.retain(|id, _| current.iter().any(|step| step.id == *id));
        for step in current {
            scene.running.entry(step.id.clone()).or_insert_with(|| Running {
                name: step.name.clone(),
                since: Instant::now(),
                doing: String::new(),
            });
        }
        scene.next = state.upcoming().iter().take(3).map(|step| step.name.clone()).collect();
        scene.waiting = state.waiting().first().map(|(_, waiting)| match &waiting.question {
            Question::Approve { message } => message.clone(),
            _ => "an answer".to_owned(),
        });
    }
}

impl Observer for Live {
    fn recorded(&self, entry: &Entry, line: &str, state: &State) {
        if self.ui.is_json() {
            if let Ok(entry) = serde_json::from_str(line) {
                self.ui.json(&Line::Run { run: state.run(), entry });
            }
            return;
        }
        self.show(&entry.event, state);
        self.stage(state);
    }

    fn progress(&self, step: &StepId, progress: &Progress) {
        let Ok(mut scene) = self.shared.scene.lock() else { return };
        let Some(running) = scene.running.get_mut(step) else { return };
        running.doing = match progress {
            Progress::Line(line) => printable(line),
            Progress::Amount { done, total, unit } => amount(*done, *total, *unit),
            Progress::Asked(Answer::Holds(_)) => return,
            Progress::Asked(answer) => printable(answer.detail()),
        };
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(drawer) = self.drawer.take() {
            // A panic in there was printed already, and the run does not depend on it.
            let _panicked = drawer.join();
        }
    }
}

fn is_leaf(step: &Step) -> bool {
    !matches!(step.body, Body::Sequence(_) | Body::Parallel(_))
}

fn amount(done: u64, total: Option<u64>, unit: Unit) -> String {
    let show = |number| match unit {
        Unit::Bytes => units::bytes(number),
        Unit::Items => units::count(number),
    };
    match total {
        Some(total) if total > 0 => format!("{} of {}", show(done), show(total)),
        _ => show(done),
    }
}

fn decided(decision: &Decision) -> String {
    match decision {
        Decision::Approved { by } => format!("approved by {by}"),
        Decision::Denied { by, reason } => format!("denied by {by}: {reason}"),
        Decision::Retry { by } => format!("{by} wants it tried again"),
        Decision::Skip { by, reason } => format!("{by} leaves it out: {reason}"),
        Decision::Abort { by, reason } => format!("aborted by {by}: {reason}"),
        Decision::Withdrawn { .. } => "the question is withdrawn".to_owned(),
        Decision::Nobody => "nobody answered in time".to_owned(),
    }
}

/// How often the scene is drawn.
const EVERY: Duration = Duration::from_millis(100);

fn draw(ui: &Ui, shared: &Shared, stopped: &Receiver<()>) {
    let style = ProgressStyle::with_template("{msg}").expect("the template is fixed");
    let bar = ui.bars().add(ProgressBar::new_spinner().with_style(style));
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        if let Ok(scene) = shared.scene.lock() {
            bar.set_message(scene.text(ui));
        }
    }
    bar.finish_and_clear();
    ui.bars().remove(&bar);
}

impl Scene {
    fn text(&self, ui: &Ui) -> String {
        let mut lines = Vec::new();
        for running in self.running.values() {
            let doing =
                if running.doing.is_empty() { String::new() } else { format!(": {}", clip(&running.doing)) };
            let since = units::duration(running.since.elapsed());
            lines.push(format!("{} {}{doing}  {since}", ui.paint_err(Style::Bold, "›"), running.name));
        }
        if !self.next.is_empty() {
            lines.push(ui.paint_err(Style::Dim, &format!("  next: {}", self.next.join(", then "))));
        }
        if let Some(began) = self.began {
            let elapsed = began.elapsed();
            let clock = match self.objective {
                None => format!("  {}", units::duration(elapsed)),
                Some(objective) => {
                    let text = format!("  {} of {}", units::duration(elapsed), units::duration(objective));
                    let style = if elapsed > objective { Style::Red } else { Style::Dim };
                    ui.paint_err(style, &text)
                }
            };
            lines.push(clock);
        }
        lines.join("\n")
    }
}

fn clip(text: &str) -> String {
    const CHARS: usize = 60;
    if text.chars().count() <= CHARS {
        text.to_owned()
    } else {
        text.chars().take(CHARS).chain(['…']).collect()
    }
}
