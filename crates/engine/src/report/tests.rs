//! Reports of runs that were really executed, by actions that only pretend.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use repository::Repository;
use runbook::journal::Journal;
use runbook::{
    Action, Actions, Answer, Body, Clock, Entry, Environment, Event, Failure, Observer, OnFailure, Options,
    Order, OrderQueue, Outcome, Performed, Probe, Proven, RunBegun, Runbook, State, Step, StepContext,
    Undone, Verb,
};
use serde_json::{Value, json};

use super::{Met, Report, StepStatus, html, markdown, read};
use crate::copy_run::CopyRun;
use crate::resolve::{Chosen, Context, LeftOut, Mode};
use crate::runs::Files;

const RUN: &str = "20261121-094500-recover-7f3a";
const HOSTILE: &str = "<script>alert('x')</script> & \"| `b` \u{202e}\u{1b}[2J";
const PLAN: &str = "\
lifeboat: 1
name: shop
components:
  database: { sqlite: shop.db, rpo: 1h }
services: {}
checks:
  there: { file: shop.db, expect: { exists: true } }
scenarios:
  lost: { title: The database is lost, severity: P1, rto: 15m, rpo: 2h, steps: [ { restore: database }, { check: there } ] }
";

/// A clock that moves only when somebody sleeps.
#[derive(Debug, Default)]
struct Steady(Mutex<Duration>);

impl Clock for Steady {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn wall(&self) -> Timestamp {
        began() + SignedDuration::try_from(self.now()).unwrap()
    }

    fn boot(&self) -> String {
        "boot".into()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

fn began() -> Timestamp {
    "2026-11-21T09:45:00Z".parse().unwrap()
}

/// Does what its input says, and takes as long.
struct Pretend<'a>(&'a Steady);

impl Actions for Pretend<'_> {
    fn perform(&self, action: &Action, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let input = |key: &str| action.input.get(key).and_then(Value::as_str);
        self.0.sleep(Duration::from_millis(action.input["ms"].as_u64().unwrap_or(100)));
        let fails = action.input["fails"].as_u64().unwrap_or(0);
        if u64::from(at.attempt()) <= fails {
            return Err(Failure::failed(input("why").unwrap_or("it says no")));
        }
        let mut performed =
            Performed::new(input("summary").unwrap_or("done")).with_output(action.input["output"].clone());
        performed.losses.extend(input("loses").map(str::to_owned));
        if let Some(shown) = input("shown") {
            performed.proven = Proven::Shown(shown.to_owned());
        }
        if let Some(why) = input("not_shown") {
            performed.proven = Proven::Not(why.to_owned());
        }
        Ok(performed)
    }

    fn ask(&self, check: &Action, _: &StepContext<'_>) -> Answer {
        match check.input["says"].as_str() {
            Some(no) => Answer::Fails(no.to_owned()),
            None => Answer::Holds("200 OK, 4 items".into()),
        }
    }

    fn probe(&self, _: &Action, _: &StepContext<'_>) -> Probe {
        Probe::Unknown
    }

    fn undo(&self, _: &Action, _: &Performed, _: &StepContext<'_>) -> Result<Undone, Failure> {
        Ok(Undone::Nothing)
    }
}

/// A person who says yes to everything, half a minute later.
struct Agreeable<'a>(&'a OrderQueue, &'a Steady);

impl Observer for Agreeable<'_> {
    fn recorded(&self, entry: &Entry, _: &str, _: &State) {
        if let Event::WaitBegun { step, .. } = &entry.event {
            self.1.sleep(Duration::from_secs(30));
            self.0.give(Order::new("mara@bridge", Verb::Approve { step: Some(step.clone()) }));
        }
    }
}

fn act(id: &str, name: &str, phase: &str, input: Value) -> Step {
    let body = Body::Action(Action::new("pretend", format!("pretend {name}"), input));
    Step { phase: Some(phase.into()), ..Step::new(id, name, body) }
}

fn gate(id: &str, name: &str, input: Value) -> Step {
    let check = Action::new("pretend", "curl -f http://127.0.0.1:8100/health", input);
    let body = Body::Gate { check, within: Duration::from_secs(3), every: Duration::from_secs(1) };
    Step { phase: Some("validate".into()), ..Step::new(id, name, body) }
}

/// A recovery of one database, from a person's yes to a check.
fn recovery() -> Vec<Step> {
    let within = Some(Duration::from_secs(600));
    let ask = Body::Approve { message: "A machine is ready".into(), within };
    let mut fetch = act(
        "2.1",
        "fetch database",
        "restore",
        json!({ "ms": 4200, "fails": 1, "why": "the store went away", "summary": "3 files from snapshot 0badcafe" }),
    );
    fetch.retries = 1;
    fetch.retry_delay = Duration::from_secs(5);
    let prove = json!({ "ms": 900, "summary": "agents 4", "shown": "integrity ok, agents 4" });
    let swap = json!({
        "output": { "kept": ["/srv/shop.db.before-run"], "left_to_people": ["the value of TOKEN in /srv/.env"] },
        "loses": "orders after 09:20",
        "summary": "/srv/shop.db in place; 1 old kept until commit",
    });
    let steps = vec![
        fetch,
        act("2.2", "prove database", "validate", prove),
        act("2.3", "swap it in", "cut over", swap),
    ];
    let mut restore = Step::new("2", "restore database", Body::Sequence(steps));
    restore.phase = Some("restore".into());
    vec![Step::new("1", "approve: A machine is ready", ask), restore, gate("3", "check there", json!({}))]
}

fn context() -> Context {
    Context {
        version: 1,
        estate: "shop".into(),
        plan_file: "lifeboat.yaml".into(),
        plan_text: PLAN.into(),
        environment: None,
        base: "/srv".into(),
        scenario: Some("lost".into()),
        mode: Mode::Disaster,
        declared: "2026-11-21T09:43:00Z".parse().unwrap(),
        happened: "2026-11-21T09:40:00Z".parse().unwrap(),
        at: None,
        chosen: vec![Chosen {
            component: "database".into(),
            snapshot: "0badcafe".repeat(8),
            instant: "2026-11-21T09:20:00Z".parse().unwrap(),
            further: None,
            bytes: Some(1_234_567),
            engine: "SQLite 3.50".into(),
        }],
        left_out: vec![LeftOut {
            step: "notify: back".into(),
            why: "it is for drills only, the plan says".into(),
        }],
        from: None,
    }
}

/// Executes the steps, and leaves the journal in `state`.
fn execute(state: &Path, steps: Vec<Step>) {
    let (clock, queue, interrupt) = (Steady::default(), OrderQueue::default(), AtomicBool::new(false));
    let context = serde_json::to_value(context()).unwrap();
    let begun = RunBegun {
        run: RUN.into(),
        kind: "recover".into(),
        by: "ada@shop-1".into(),
        plan_digest: "feedfacefeedfacefeed".into(),
        runbook: Runbook { title: "The database is lost".into(), steps, context },
    };
    let observer = Agreeable(&queue, &clock);
    let environment = Environment {
        actions: &Pretend(&clock),
        controls: &queue,
        observer: &observer,
        clock: &clock,
        interrupt: &interrupt,
        host: "shop-1",
        version: "lifeboat 0.3.0",
        options: Options { answer_within: None },
    };
    let journal = Journal::create(&Files::of(state, RUN).journal(), RUN).unwrap();
    runbook::begin(journal, begun, environment).unwrap();
}

fn report_of(steps: Vec<Step>) -> Report {
    let state = tempfile::tempdir().unwrap();
    execute(state.path(), steps);
    read(state.path(), None, RUN).unwrap()
}

/// The same, with a step that fails and is tolerated, one that shows nothing, and names that mean harm.
fn doubtful() -> Vec<Step> {
    let mut steps = recovery();
    let mut dns = act("4", HOSTILE, "cut over", json!({ "fails": 9, "why": HOSTILE }));
    dns.on_failure = OnFailure::Continue;
    steps.push(dns);
    steps.push(act("5", "set the record", "cut over", json!({ "not_shown": "DNS is set by hand" })));
    steps
}

#[test]
fn a_verified_recovery_in_markdown() {
    insta::assert_snapshot!(markdown(&report_of(recovery())));
}

#[test]
fn a_verified_recovery_in_html() {
    let page = html(&report_of(recovery()));
    let body = page.split_once("</head>").unwrap().1;
    insta::assert_snapshot!(body);
}

#[test]
fn a_doubtful_recovery_in_json() {
    insta::assert_snapshot!(format!("{:#}", serde_json::to_value(report_of(doubtful())).unwrap()));
}

#[test]
fn clocks_stand_beside_the_objectives_of_the_pinned_plan() {
    let report = report_of(recovery());
    assert_eq!(report.outcome, Some(Outcome::Verified));
    let [rto, rpo] = report.clocks.as_slice() else { panic!("two clocks: {:?}", report.clocks) };
    // Declared two minutes before the run began, and back when the last check held.
    let back = 120.0 + report.took_seconds;
    assert!((rto.measured_seconds.unwrap() - back).abs() < 0.5, "{rto:?}, {back}");
    assert_eq!((rto.objective_seconds, rto.met), (Some(900.0), Met::Met));
    assert_eq!(
        (rpo.measured_seconds, rpo.objective_seconds, rpo.met),
        (Some(1200.0), Some(7200.0), Met::Met)
    );
    assert!(report.people_seconds >= 30.0, "people are waited for apart: {}", report.people_seconds);
    assert_eq!(report.points[0].rpo_seconds, Some(3600.0));
}

#[test]
fn a_failed_recovery_has_no_rto_and_meets_nothing() {
    let mut steps = recovery();
    steps[2] = gate("3", "check there", json!({ "says": "connection refused" }));
    let report = report_of(steps);
    assert_eq!(report.outcome, Some(Outcome::Failed));
    assert!(report.clocks.iter().all(|clock| clock.measured_seconds.is_none() && clock.met == Met::NotShown));
    assert_eq!(report.not_shown.len(), 1, "{:?}", report.not_shown);
    assert!(report.reasons.iter().any(|why| why.why.contains("connection refused")), "{:?}", report.reasons);
    assert_eq!(report.steps.last().unwrap().status, StepStatus::Failed);
}

#[test]
fn what_was_not_shown_is_never_met() {
    let report = report_of(doubtful());
    assert_eq!(report.outcome, Some(Outcome::NotProven));
    assert!(report.clocks.iter().all(|clock| clock.met == Met::NotShown), "{:?}", report.clocks);
    assert_eq!(report.left_to_people, ["the value of TOKEN in /srv/.env"]);
    assert_eq!(report.losses[0].what, "orders after 09:20");
    assert!(report.people.iter().any(|said| said.who == "mara@bridge" && said.what == "approve 1"));
}

#[test]
fn names_that_mean_harm_stay_text() {
    let report = report_of(doubtful());
    let page = html(&report);
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    for harm in ["<script", "\u{202e}", "\u{1b}"] {
        assert!(!page.contains(harm), "{harm:?} in the page");
        assert!(!page.contains("\"| `b`"), "a quote that ends an attribute");
    }
    let text = markdown(&report);
    let (tables, _by_hand) = text.split_once("## The same by hand").unwrap();
    assert!(!tables.contains("<script") && !text.contains('\u{1b}') && !text.contains('\u{202e}'));
    // A bar of a name would begin another cell.
    let row = tables.lines().find(|line| line.starts_with("| 4 |")).unwrap();
    assert_eq!(row.replace("\\|", "").matches('|').count(), 7, "{row}");
    assert!(tables.contains("\\`b\\`"), "code of a name is not code");
}

#[test]
fn a_page_needs_nothing_else() {
    let page = html(&report_of(recovery()));
    for reaching in ["http-equiv=\"refresh\"", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(reaching), "{reaching}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn the_copy_in_the_repository_is_enough() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository: Repository = crate::handbook::no_repository().unwrap();
    execute(here.path(), recovery());
    let local = read(here.path(), None, RUN).unwrap();
    assert!(read(elsewhere.path(), Some(&repository), RUN).is_err(), "there is no copy yet");
    CopyRun::new(&repository, RUN, Files::of(here.path(), RUN).journal()).catch_up().unwrap();
    std::fs::remove_dir_all(here.path().join("runs")).unwrap();
    assert_eq!(read(elsewhere.path(), Some(&repository), RUN).unwrap(), local);
    for name in [RUN, "7f3a", "latest"] {
        assert_eq!(crate::runs::find_everywhere(elsewhere.path(), &repository, name).unwrap(), RUN);
    }
}

#[test]
fn a_run_that_was_killed_has_no_outcome() {
    let state = tempfile::tempdir().unwrap();
    execute(state.path(), recovery());
    let journal = Files::of(state.path(), RUN).journal();
    let text = std::fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&journal, lines[..lines.len() - 6].join("\n") + "\n").unwrap();
    let report = read(state.path(), None, RUN).unwrap();
    assert_eq!(report.outcome, None);
    assert!(report.clocks.iter().all(|clock| clock.measured_seconds.is_none()));
    assert!(markdown(&report).contains("not at its end"), "{}", markdown(&report));
}
