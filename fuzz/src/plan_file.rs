//! The plan file.

use plan::{Plan, Selection};

/// A text that is a plan can be written and read again, and everything that the engine asks of it has an answer; one that
/// is none has problems, each with its place.
pub fn plan(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Plan::parse(text, "lifeboat.yaml", None) {
        Ok(plan) => {
            let written = plan.to_json().to_string();
            let again = Plan::parse(&written, "lifeboat.yaml", None).expect("what was written can be read");
            assert_eq!(again.digest(), plan.digest());
            for name in plan.scenarios.names() {
                plan.scenario_digest(name).expect("the plan has it");
            }
            let booted: usize = plan.boot_order(&Selection::All).iter().map(Vec::len).sum();
            assert_eq!(booted, plan.services.len());
            for environment in Plan::environments(text) {
                Plan::parse(text, "lifeboat.yaml", Some(&environment))
                    .expect("all environments were checked");
            }
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            let shown = error.to_string();
            assert!(shown.len() < 4096 * (error.problems.len() + 1), "{} bytes", shown.len());
        }
    }
}
