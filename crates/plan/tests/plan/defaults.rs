//! Defaults: each is filled in, and can be told from what was given.

use crate::{HUB, read};

#[test]
fn every_step_has_a_timeout_and_says_whether_it_is_the_default() {
    let plan = read(HUB);
    let lost = plan.scenario("server-lost").expect("it is there");
    let told: Vec<String> =
        lost.steps.iter().map(|step| format!("{}: {}", step.action.kind(), step.timeout)).collect();
    assert_eq!(
        told,
        [
            "approve: 1d, the default",
            "run: 15m",
            "restore: 6h, the default",
            "approve: 1d, the default",
            "boot: 1h, the default",
            "check: 10m, the default",
            "dns: 1m, the default",
            "notify: 1m, the default",
        ]
    );
}

#[test]
fn what_is_left_out_is_filled_in() {
    let plan = read("{lifeboat: 1, name: small, components: {a: {files: a}}}");
    let component = plan.component("a").expect("it is there");
    assert_eq!(plan.repository.location.written(), "./lifeboat-repository");
    assert!(plan.repository.location.is_default);
    assert_eq!(component.priority.to_string(), "medium, the default");
    assert_eq!(component.tolerance.to_string(), "30%, the default");
    assert_eq!(component.timeout.to_string(), "6h, the default");
    assert_eq!((component.rpo, component.keep.is_some(), component.every.is_some()), (None, false, false));
}
