//! Plans that are right: what becomes of them, and what the engine asks of them.

use std::time::Duration;

use plan::{Action, ComponentKind, Plan, Question, Selection, ServiceKind, Status};

use crate::{EVERYTHING, HUB, read, read_in};

#[test]
fn the_plan_of_the_design_lacks_only_what_is_not_yet_supported() {
    let design = include_str!("plans/design.yaml");
    let error = Plan::parse(design, "lifeboat.yaml", None).expect_err("it has a service of kind compose");
    let told: Vec<&str> = error.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(told, ["kind of service: `compose` is not yet supported"], "{error}");
    let compose = "compose: { file: docker-compose.yml, service: backend }";
    assert!(design.contains(compose));
    read(&design.replace(compose, "systemd: backend"));
}

#[test]
fn the_plan_of_a_hub_is_read() {
    let plan = read(HUB);
    let database = plan.component("database").expect("it is there");
    let ComponentKind::Sqlite(sqlite) = &database.kind else { panic!("{database:?}") };
    assert_eq!(sqlite.sqlite.to_str(), Some("data/devops_hub.db"));
    assert_eq!(sqlite.exports.names().collect::<Vec<_>>(), ["schema_and_data.sql", "api_keys_metadata.csv"]);
    assert_eq!(database.rpo, Some(Duration::from_secs(3600)));
    let ComponentKind::Files(files) = &plan.component("config").expect("it is there").kind else { panic!() };
    assert_eq!((files.files.len(), files.env_files.len()), (3, 1));
    let backend = plan.service("backend").expect("it is there");
    assert!(matches!(&backend.kind, ServiceKind::Process(service) if service.process.env.len() == 2));
    let lost = plan.scenario("server-lost").expect("it is there");
    let kinds: Vec<_> = lost.steps.iter().map(|step| step.action.kind()).collect();
    assert_eq!(kinds, ["approve", "run", "restore", "approve", "boot", "check", "dns", "notify"]);
    let corrupt = plan.scenario("database-corruption").expect("it is there");
    let Action::Try(attempts) = &corrupt.steps[0].action else { panic!("{corrupt:?}") };
    let lengths: Vec<_> = attempts.attempt.attempts.iter().map(|steps| steps.len()).collect();
    assert_eq!(lengths, [1, 3]);
}

#[test]
fn a_gate_may_leave_its_expectation_out_and_a_check_may_not() {
    let plan = read(HUB);
    let gate = plan.service("backend").expect("it is there").ready.as_ref().expect("it has a gate");
    let Some(Question::Http(http)) = &gate.ask.question else { panic!("{gate:?}") };
    assert_eq!(http.expect.as_ref().map(|expect| expect.status.to_vec()), Some(vec![Status::Class(2)]));
}

#[test]
fn a_comparison_with_a_number_needs_no_backticks() {
    let plan = read(HUB);
    let Question::Http(http) = &plan.check("agents-listed").expect("it is there").question else { panic!() };
    let json = http.expect.as_ref().and_then(|expect| expect.json.as_ref()).expect("it expects some");
    assert_eq!(json.as_str(), "length(@) > `0`");
}

#[test]
fn an_environment_is_laid_over_the_plan() {
    let (plain, staging) = (read(HUB), read_in(HUB, Some("staging")));
    assert_eq!(plain.repository.location.written(), "s3://devops-hub-backups/prod");
    assert_eq!(staging.repository.location.written(), "./backups");
    assert_eq!(staging.repository.password, plain.repository.password, "what it does not say stays");
    assert_eq!((plain.copies.len(), staging.copies.len()), (1, 0));
    let database = staging.component("database").expect("it is there");
    assert_eq!(database.rpo, Some(Duration::from_secs(24 * 3600)));
    assert_eq!(database.facts.len(), 2);
    let production = read_in(HUB, Some("production"));
    let keep = production.component("database").expect("it is there").keep.clone().expect("it keeps");
    assert_eq!((keep.last, keep.daily), (Some(48), Some(60)));
    assert_eq!(Plan::environments(HUB), ["staging", "production"]);
}

#[test]
fn services_boot_in_stages() {
    let plan = read(EVERYTHING);
    let all = plan.boot_order(&Selection::All);
    assert_eq!(all, [vec!["names"], vec!["proxy", "worker"], vec!["app"]]);
    let Action::Boot(boot) = &plan.scenario("all-of-it").expect("it is there").steps[4].action else {
        panic!()
    };
    let Selection::These(names) = &boot.boot else { panic!("{boot:?}") };
    let worker = Selection::These(names[1..].to_vec());
    assert_eq!(plan.boot_order(&worker), [vec!["names"], vec!["worker"]]);
}

#[test]
fn what_a_scenario_stands_on_is_known() {
    let plan = read(EVERYTHING);
    let reach = plan.reach("parts").expect("it is there");
    assert_eq!(reach.scenarios, ["parts", "all-of-it"]);
    assert_eq!(reach.services, ["names", "proxy", "app", "worker"]);
    assert_eq!(
        reach.components,
        ["tree", "settings", "forge", "cluster", "dumps", "managed", "cache", "queue", "dump"]
    );
    assert_eq!(reach.checks, ["answers", "proxy-open", "some"]);
    let reach = read(HUB).reach("keys-leaked").expect("it is there");
    assert_eq!(reach.components, ["database", "config"]);
    let reach = plan.reach_of_service("worker").expect("it is there");
    assert_eq!(
        (reach.services, reach.components),
        (vec!["names".into(), "worker".into()], vec!["tree".into()])
    );
}

#[test]
fn a_name_that_is_not_there_is_answered_with_one_that_is() {
    let plan = read(HUB);
    let error = |error: plan::Unknown| error.to_string();
    assert_eq!(
        plan.component("databse").map(drop).map_err(error),
        Err("there is no component `databse`; did you mean `database`?".to_owned())
    );
    assert_eq!(
        plan.scenario("fire").map(drop).map_err(error),
        Err("there is no scenario `fire`; there are: database-corruption, data-deleted, server-lost, cluster-lost, \
             keys-leaked"
            .to_owned())
    );
}

#[test]
fn a_plan_is_written_so_that_it_is_the_same_plan_again() {
    for text in [HUB, EVERYTHING] {
        let plan = read(text);
        let again = read(&plan.to_json().to_string());
        assert_eq!(again.to_json(), plan.to_json());
        assert_eq!(again.digest(), plan.digest());
    }
}

#[test]
fn a_digest_tells_what_changed() {
    let plan = read(HUB);
    let laid_out = read(&HUB.replace("rpo: 1h\n", "rpo: 60m   # an hour\n"));
    assert_eq!(plan.digest(), laid_out.digest(), "the same plan in other words");
    let default = read(&HUB.replace("rpo: 1h\n", "rpo: 1h\n    tolerance: 30%\n"));
    assert_eq!(plan.digest(), default.digest(), "a default that is written out");
    let changed = read(&HUB.replace("timeout: 15m", "timeout: 16m"));
    assert_ne!(plan.digest(), changed.digest());
    let of = |plan: &Plan, name: &str| plan.scenario_digest(name).expect("it is there");
    assert_ne!(of(&plan, "server-lost"), of(&changed, "server-lost"));
    assert_eq!(
        of(&plan, "data-deleted"),
        of(&changed, "data-deleted"),
        "it has nothing to do with that step"
    );
    let query = read(&HUB.replace("pragma integrity_check", "pragma quick_check"));
    assert_ne!(of(&plan, "data-deleted"), of(&query, "data-deleted"), "a check of it changed");
    assert_ne!(of(&plan, "server-lost"), of(&read_in(HUB, Some("staging")), "server-lost"));
}

#[test]
fn templates_see_the_values_of_the_plan_and_no_secret() {
    let plan = read(HUB);
    let values = plan.template_values();
    let mut commands = Vec::new();
    for name in ["cluster-lost", "keys-leaked"] {
        plan.scenario(name).expect("it is there").walk(&mut |step| {
            if let Action::Run(run) = &step.action {
                commands.push(run.run.render(&values).expect("it names what is there"));
            }
        });
    }
    assert!(commands[0].contains("kubectl apply -f k8s/ -n devops-hub"), "{commands:?}");
    assert_eq!(commands[3], "sqlite3 data/devops_hub.db \"update api_keys set is_active = 0\"");
    assert_eq!(values["repository"]["password"], "${file:/etc/lifeboat/password}");
}
