//! Tests of the plan language through its public face: plans that are right, plans that are wrong, and whatever else
//! somebody may feed it.

mod broken;
mod defaults;
mod json;
mod made_up;
mod schema;
mod warnings;
mod whole;

/// The plan of the design with a service of a kind that is there, and all scenarios of the runbook behind it.
const HUB: &str = include_str!("plans/hub.yaml");

/// A plan in which every key of the language stands once at least.
const EVERYTHING: &str = include_str!("plans/everything.yaml");

/// Reads a plan that must be right.
fn read(text: &str) -> plan::Plan {
    read_in(text, None)
}

/// Reads a plan that must be right in an environment.
fn read_in(text: &str, environment: Option<&str>) -> plan::Plan {
    match plan::Plan::parse(text, "lifeboat.yaml", environment) {
        Ok(plan) => plan,
        Err(error) => panic!("{error}"),
    }
}
