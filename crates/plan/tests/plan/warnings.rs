//! Plans that are right and unwise: what a person is told about them. Each snapshot is what stands on the terminal.

use crate::{HUB, read, read_in};

fn told(plan: &plan::Plan) -> String {
    let told: Vec<String> = plan.warnings().iter().map(|problem| problem.text(&plan.file)).collect();
    told.join("\n\n")
}

#[test]
fn a_plan_that_is_unwise_in_every_way() {
    let plan = read(
        "\
lifeboat: 1
name: small
repository: { location: ./repository }
components:
  database: { sqlite: app.db, rpo: 1h, every: daily }
  nightly: { sqlite: b.db, rpo: 12h, every: \"0 2 * * *\" }
  files: { files: /srv }
services:
  web: { process: ./web, needs: database }
checks:
  alive: { tcp: localhost:80 }
scenarios:
  lost:
    steps:
      - check: alive
      - restore: database
      - restore: nightly
      - start: web
  other:
    steps:
      - group: { parallel: [ { restore: database }, { check: alive } ] }
drills:
  - scenario: other
",
    );
    insta::assert_snapshot!(told(&plan));
}

#[test]
fn a_plan_that_says_nothing_of_its_repository() {
    let plan = read("{lifeboat: 1, name: small}");
    assert!(told(&plan).starts_with("lifeboat.yaml:1:1: the repository is a directory"), "{}", told(&plan));
}

/// Adds a scenario `s` of these steps to a plan that has nothing to be warned of.
fn with_steps(steps: &str) -> String {
    let plan = read(&format!(
        "\
lifeboat: 1
name: small
repository: {{ location: s3://bucket/prefix }}
components: {{ a: {{ files: /srv, rpo: 1h, every: 1h }} }}
services: {{ web: {{ process: ./web, needs: a, ready: {{ tcp: localhost:80 }} }} }}
checks: {{ alive: {{ tcp: localhost:80 }} }}
scenarios:
  inner: {{ steps: [ {{ restore: a }}, {{ check: alive }} ] }}
  s: {{ steps: [ {steps} ] }}
drills: [ {{ scenario: inner }}, {{ scenario: s }} ]
"
    ));
    told(&plan)
}

#[test]
fn whatever_asks_after_a_restore_is_a_check() {
    for steps in [
        "{ restore: a }, { check: alive }",
        "{ restore: a }, { boot: all }",
        "{ restore: a }, { restart: web }",
        "{ try: { until: alive, attempts: [ { restore: a } ] } }",
        "{ group: [ { restore: a }, { check: alive } ] }",
        "{ restore: a }, { group: { parallel: [ { run: x }, { check: alive } ] } }",
        "{ run: x }",
        "{ recover: inner }",
    ] {
        assert_eq!(with_steps(steps), "", "{steps}");
    }
    for steps in [
        "{ check: alive }, { restore: a }",
        "{ restore: a }, { run: x }, { stop: web }",
        "{ recover: inner }, { restore: a }",
        "{ group: { parallel: [ { restore: a }, { check: alive } ] } }",
        "{ restore: a }, { group: { parallel: [ { run: x }, { wait: 1s } ] } }",
    ] {
        assert!(with_steps(steps).contains("nothing is checked after this restore"), "{steps}");
    }
}

#[test]
fn a_log_that_is_kept_for_ever() {
    let component = |text: &str| {
        let plan = read(&format!(
            "\
lifeboat: 1
name: small
repository: {{ location: s3://bucket/prefix }}
components: {{ a: {{ {text} }} }}
scenarios: {{ s: {{ steps: [ {{ restore: a }}, {{ run: x }}, {{ check: alive }} ] }} }}
checks: {{ alive: {{ tcp: localhost:80 }} }}
drills: [ {{ scenario: s }} ]
"
        ));
        told(&plan)
    };
    insta::assert_snapshot!(component("sqlite: a.db, every: continuous"));
    for text in ["redis: /srv/redis, every: continuous", "postgres: /srv/pg, archive: true, every: 6h"] {
        let told = component(text);
        assert!(told.contains("has no `keep`") && told.contains("grows for ever"), "{text}: {told}");
        assert_eq!(component(&format!("{text}, keep: {{ daily: 7 }}")), "", "{text}");
    }
    for text in ["sqlite: a.db, every: 1h", "postgres: /srv/pg, every: 6h"] {
        assert_eq!(component(text), "", "{text}");
    }
}

#[test]
fn environments_are_looked_at_as_they_are_chosen() {
    let text = "\
lifeboat: 1
name: small
environments:
  cloud: { repository: { location: s3://bucket/prefix } }
";
    assert!(told(&read(text)).contains("this machine"));
    assert_eq!(told(&read_in(text, Some("cloud"))), "");
}

#[test]
fn the_plan_of_the_design() {
    insta::assert_snapshot!(told(&read(HUB)));
}
