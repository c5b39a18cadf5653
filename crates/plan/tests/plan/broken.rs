//! Plans that are wrong: what a person is told about them. Each snapshot is what stands on the terminal.

use std::fmt::Write;

use plan::Plan;

/// What every plan of this file begins with.
const HEAD: &str = "lifeboat: 1\nname: small\n";

/// Components, services and checks for scenarios to name.
const ESTATE: &str = "\
components:
  database: { sqlite: app.db }
  files: { files: /srv }
services:
  web: { process: ./web, needs: database }
checks:
  alive: { tcp: localhost:80 }
";

/// Shows what is wrong with each of several plans.
fn told(plans: &[(&str, String)]) -> String {
    let mut told = String::new();
    for (about, text) in plans {
        let error = match Plan::parse(text, "lifeboat.yaml", None) {
            Ok(_) => panic!("{about}: nothing is wrong with it"),
            Err(error) => error,
        };
        writeln!(told, "# {about}\n{error}\n").expect("a string takes everything");
    }
    told
}

fn head(rest: &str) -> String {
    format!("{HEAD}{rest}")
}

fn step(step: &str) -> String {
    format!("{HEAD}{ESTATE}scenarios:\n  lost:\n    steps:\n      - {step}\n")
}

fn check(check: &str) -> String {
    format!(
        "{HEAD}components: {{ database: {{ sqlite: app.db }}, tree: {{ files: /srv }} }}\nchecks:\n  asked: {check}\n"
    )
}

#[test]
fn what_is_not_yaml() {
    let told = told(&[
        ("nothing", String::new()),
        ("a comment only", "# to do\n".into()),
        ("no mapping", "- a\n- b\n".into()),
        ("just text", "lifeboat".into()),
        ("an open bracket", head("components: {a: [b}\n")),
        ("a tab", head("components:\n\ta: b\n")),
        ("a wrong indent", head("components:\n    a: {files: a}\n  b: {files: b}\n")),
        ("a duplicate key", head("components:\n  a: {files: a}\n  b: {files: b}\n  a: {files: c}\n")),
        ("a tag", head("description: !include other.yaml\n")),
        ("two documents", head("---\nname: b\n")),
        ("a key that is no text", head("[a, b]: c\n")),
        ("an unknown alias", head("description: *text\n")),
        ("a merge key", head("components:\n  a: &a {files: a}\n  b:\n    <<: *a\n    rpo: 1h\n")),
        ("a recursive alias", head("components: &a {b: *a}\n")),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn what_would_eat_the_machine() {
    let deep = format!("{HEAD}components: {}{}", "[".repeat(200), "]".repeat(200));
    let deep_block: String = (0..150).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{below}]").expect("a string takes everything");
    }
    let long = format!("{HEAD}description: {}\n", "x".repeat(2 << 20));
    let told = told(&[
        ("flow nested too deep", deep),
        ("blocks nested too deep", deep_block),
        ("a bomb of aliases", bomb),
        ("a long text", long),
    ]);
    insta::assert_snapshot!(told);
    let wrong: String = (0..5000).map(|n| format!("key{n}: 1\n")).collect();
    let error = Plan::parse(&wrong, "lifeboat.yaml", None).expect_err("no key is known");
    assert_eq!(error.problems.len(), plan::PROBLEMS_MAX);
    assert!(error.to_string().ends_with("more"), "{error}");
    let line = format!("{HEAD}x: [{}]\n", "1, ".repeat(10_000));
    let error = Plan::parse(&line, "lifeboat.yaml", None).expect_err("the key is unknown");
    assert!(error.to_string().len() < 1000, "{error}");
}

#[test]
fn everything_is_told_at_once() {
    let told = told(&[(
        "nine mistakes in one plan",
        "\
nmae: small
component:
  a: {files: a}
components:
  database:
    sqllite: app.db
    rpo: 1 hour
    priority: urgent
  tree: { files: yes.txt, may_be_empty: yes, keep: { last: many } }
services:
  web: { process: ./web, needs: [databse] }
checks:
  alive: { http: http://localhost }
scenarios:
  lost:
    when: alvie
    steps:
      - restore: tre
      - run: echo
        restore: tree
"
        .to_owned(),
    )]);
    insta::assert_snapshot!(told);
}

#[test]
fn keys() {
    let told = told(&[
        ("a misspelt section", head("componets: {}\n")),
        ("a key that nobody meant", head("colour: red\n")),
        ("a misspelt kind", head("components: { a: { file: a } }\n")),
        ("no kind", head("components: { a: { rpo: 1h } }\n")),
        ("two kinds", head("components: { a: { files: a, sqlite: b } }\n")),
        ("a key of another kind", head("components: { a: { files: a, exports: { dump.sql: dump } } }\n")),
        ("a key that is needed", head("components: { a: { command: pg_dump } }\n")),
        ("a key in camel case", head("components: { a: { files: a, mayBeEmpty: true } }\n")),
        (
            "kinds that are not yet supported",
            head(
                "components:\n  a: { mariadb: app, rpo: 1h }\n  b: { etcd: { url: x } }\n\
             services:\n  c: { compose: { file: docker-compose.yml, service: c } }\n\
             checks:\n  d: { dns: example.org }\n",
            ),
        ),
        ("no version and no name", "components: { a: { files: a } }\n".into()),
        ("another version", "lifeboat: 2\nname: a\n".into()),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn values() {
    let component = |rest: &str| head(&format!("components:\n  a:\n    files: a\n    {rest}\n"));
    let told = told(&[
        ("a duration without a unit", component("rpo: 30")),
        ("a duration with a strange unit", component("rpo: 2y")),
        ("a duration in words", component("rto: fifteen minutes")),
        ("a duration that is too long", component("rto: 900000d")),
        ("no value", component("rpo:")),
        ("a list for a text", component("description: [a]")),
        ("a number for a text", component("description: 1.10")),
        ("a truth value for a text", component("description: true")),
        ("an empty text", component("description: \"\"")),
        ("yes", component("may_be_empty: yes")),
        ("off", component("may_be_empty: Off")),
        ("a quoted truth value", component("may_be_empty: \"true\"")),
        ("a share without a percent sign", component("tolerance: 30")),
        ("a misspelt word", component("priority: critcal")),
        ("a cron expression with four fields", component("every: 0 2 * *")),
        ("a cron expression with a wrong hour", component("every: 0 25 * * *")),
        ("a day that never comes", component("every: 0 0 30 feb *")),
        ("all the time", component("every: 0s")),
        ("a negative count", component("keep: { last: -1 }")),
        ("a half count", component("keep: { last: 1.5 }")),
        ("keeping nothing", component("keep: { last: 0 }")),
        ("a path in the home directory", head("components: { a: { files: ~/app } }\n")),
        ("a late path", head("components: { a: { files: \"${env:HOME}/app\" } }\n")),
        ("a name with a slash", head("components: { a/b: { files: a } }\n")),
        ("a name with a letter of elsewhere", head("components: { größe: { files: a } }\n")),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn late_values_and_templates() {
    let told = told(&[
        ("a password that is written out", head("repository: { password: hunter2-and-more } # not here\n")),
        ("half a password", head("repository: { password: \"hunter2${env:REST}\" }\n")),
        ("an unknown source", head("repository: { location: \"${vault:place}\" }\n")),
        ("a shell's variable", head("repository: { location: \"${HOME}/backups\" }\n")),
        ("no end", head("repository: { location: \"${env:HOME\" }\n")),
        ("no name", head("repository: { location: \"${env:}\" }\n")),
        ("an unknown thing about the host", step("dns: { record: a.example.org, value: \"${host:ip}\" }")),
        ("a secret in a command", step("run: curl -u admin:${env:TOKEN} http://localhost")),
        (
            "a secret in an argument",
            head("components: { a: { command: [dump, \"${file:pw}\"], restore: cat } }\n"),
        ),
        ("an unknown value", step("run: echo {{ componnets.database.sqlite }}")),
        ("a template that does not end", step("run: docker ps --format '{{ .Names'")),
        ("a shell's braces", step("run: \"docker ps --format '{{.Names}}'\"")),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn names_that_nothing_has() {
    let rest = "  c: { steps: [ wait: 1s ] }\n";
    let told = told(&[
        ("restore", step("restore: [database, fils]")),
        ("backup", step("backup: databases")),
        ("start", step("start: wbe")),
        ("boot", step("boot: [web, mail]")),
        ("a component is no service", step("restart: database")),
        ("check", step("check: [alive, awake]")),
        ("recover", step("recover: lst")),
        ("notify", step("notify: { message: hello, to: ops }")),
        ("a place", step("{ wait: 1s, where: standby }")),
        ("when", head("scenarios:\n  a: { when: alive, steps: [ wait: 1s ] }\n")),
        ("needs", head("services:\n  a: { process: a, needs: [b] }\n")),
        ("a gate", head("services:\n  a: { process: a, ready: alive }\n")),
        ("a drill", head(&format!("scenarios:\n{rest}drills: [ scenario: d ]\n"))),
        ("sql", check("{ sql: { component: databas, query: select 1, equals: 1 } }")),
        ("sql of files", check("{ sql: { component: tree, query: select 1, equals: 1 } }")),
        ("try", step("try: { until: alife, attempts: [ [ wait: 1s ] ] }")),
        (
            "a component that could not be read is there all the same",
            format!(
                "{HEAD}components:\n  a: {{ sqlite: a.db, rpo: soon }}\nscenarios:\n  b: {{ steps: [ restore: a, restore: c ] }}\n"
            ),
        ),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn circles_and_clashes() {
    let service = |name: &str, needs: &str| format!("  {name}: {{ process: ./{name}, needs: [{needs}] }}\n");
    let services = |all: &[(&str, &str)]| {
        head(&format!(
            "services:\n{}",
            all.iter().map(|(name, needs)| service(name, needs)).collect::<String>()
        ))
    };
    let told = told(&[
        (
            "three in a circle",
            services(&[("dns", "web"), ("proxy", "dns"), ("web", "proxy"), ("mail", "web")]),
        ),
        ("two circles", services(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")])),
        ("itself", services(&[("a", "a")])),
        (
            "scenarios",
            head("scenarios:\n  a: { steps: [ recover: b ] }\n  b: { steps: [ group: [ recover: a ] ] }\n"),
        ),
        (
            "a service and a component",
            head("components: { db: { files: a } }\nservices: { db: { process: a } }\n"),
        ),
        ("all", head("components: { all: { files: a } }\n")),
        ("a socket and a port", head("components: { a: { redis: a, socket: b, port: 1 } }\n")),
        (
            "a certificate without its key, and TLS on a socket",
            head("components: { a: { redis: a, socket: b, tls: { certificate: c } } }\n"),
        ),
        (
            "authorities and anybody",
            head("components: { a: { redis: a, tls: { ca_file: c, verify_tls: false } } }\n"),
        ),
        (
            "a log of what has none",
            head("components: { a: { redis: a, every: continuous }, b: { files: b, every: continuous } }\n"),
        ),
        ("a user without a password", head("components: { a: { redis: a, username: b } }\n")),
        ("a database twice", head("components: { a: { postgres_dump: [b, b] } }\n")),
        ("no databases", head("components: { a: { postgres_dump: [] } }\n")),
        ("facts of another database", head("components: { a: { postgres_dump: b, database: c } }\n")),
        ("two ways to a server", head("components: { a: { postgres_dump: all, socket: b, host: c } }\n")),
        ("a misspelt kind", head("components: { a: { postgres_dumps: all } }\n")),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn checks() {
    let told = told(&[
        ("http without an expectation", check("{ http: \"http://localhost/health\" }")),
        ("http with an empty expectation", check("{ http: \"http://localhost/health\", expect: {} }")),
        ("command without an expectation", check("{ command: pg_isready }")),
        ("sql without an expectation", check("{ sql: { component: database, query: select 1 } }")),
        ("file without an expectation", check("{ file: /etc/passwd }")),
        ("disk without an expectation", check("{ disk: / }")),
        ("no question", check("{ timeout: 1s }")),
        ("two questions", check("{ tcp: \"localhost:1\", port: 1 }")),
        ("an expectation of another kind", check("{ http: \"http://localhost\", expect: { exit: 0 } }")),
        ("no URL", check("{ http: localhost/health, expect: { status: 200 } }")),
        ("no status", check("{ http: \"http://localhost\", expect: { status: [20, 6xx] } }")),
        ("no JMESPath", check("{ http: \"http://localhost\", expect: { json: \"length(@\" } }")),
        ("no regular expression", check("{ command: id, expect: { stdout: { matches: \"(root\" } } }")),
        (
            "a regular expression of anything",
            check("{ command: id, expect: { stdout: { matches: \".*\" } } }"),
        ),
        (
            "two expectations of a text",
            check("{ command: id, expect: { stdout: { contains: a, equals: b } } }"),
        ),
        ("a misspelt expectation of a text", check("{ command: id, expect: { stdout: { contain: a } } }")),
        ("a certificate without TLS", check("{ http: \"http://localhost\", expect: { tls_days: 14 } }")),
        (
            "a method in small letters",
            check("{ http: \"http://localhost\", method: post, expect: { status: 200 } }"),
        ),
        (
            "several answers",
            check("{ sql: { component: database, query: select 1, equals: 1, empty: true } }"),
        ),
        (
            "an impossible answer",
            check("{ sql: { component: database, query: select 1, at_least: 2, at_most: 1 } }"),
        ),
        ("no digest", check("{ file: /etc/passwd, expect: { sha256: abc } }")),
        ("a file that is and is not", check("{ file: /etc/passwd, expect: { exists: false, size_min: 1 } }")),
        ("no port", check("{ tcp: localhost }")),
        ("port 0", check("{ port: 0 }")),
        ("a port that is none", check("{ port: 65536 }")),
        ("a banner of nobody", check("{ tcp: \"localhost:1\", expect: { open: false, banner: ssh } }")),
        ("no room", check("{ disk: /, expect: { free: lots } }")),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn steps() {
    let told = told(&[
        ("two actions", step("{ restore: database, start: web }")),
        ("no action", step("{ name: think }")),
        ("a misspelt action", step("restor: database")),
        ("a misspelt common key", step("{ restore: database, timout: 5m }")),
        ("a key of another action", step("{ restore: database, stand_in: echo }")),
        ("text for a step", step("restart the server")),
        ("no steps", head("scenarios: { a: { title: Nothing } }\n")),
        ("no list of steps", head("scenarios: { a: { steps: { wait: 1s } } }\n")),
        ("naming nothing", step("restore: []")),
        ("an empty group", step("group: { parallel: [] }")),
        ("both kinds of group", step("group: { parallel: [ wait: 1s ], sequence: [ wait: 1s ] }")),
        ("nothing to try", step("try: { until: alive }")),
        ("an empty attempt", step("try: { until: alive, attempts: [ [] ] }")),
        ("a misspelt answer to a failure", step("{ run: \"true\", on_failure: stopp }")),
        ("a misspelt kind of run", step("{ run: \"true\", only: drills }")),
        ("a remedy without steps", step("{ run: \"true\", on_error: [ pattern: oops ] }")),
        ("done_when of an approval", step("{ approve: well?, done_when: alive }")),
        ("an undo that does nothing", step("{ run: \"true\", undo: { wait: 1s } }")),
        ("a name and a question", step("{ run: \"true\", done_when: { check: alive, port: 80 } }")),
        ("a question without an expectation", step("{ run: \"true\", done_when: { command: test -e /x } }")),
        ("no time", step("{ run: \"true\", timeout: 0s }")),
        ("nested", step("group: [ { group: [ { restore: nobody } ] } ]")),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn environments() {
    let told = told(&[
        ("no mapping", head("environments: [staging]\n")),
        ("an environment that is no mapping", head("environments: { staging: yes }\n")),
        (
            "wrong in an environment only",
            head(
                "components: { a: { files: a, rpo: 1h } }\n\
             environments:\n  staging:\n    components:\n      a:\n        rpo: soon\n        sqlite: b.db\n",
            ),
        ),
        (
            "taken away and needed",
            head(
                "components: { a: { files: a } }\nscenarios: { b: { steps: [ restore: a ] } }\n\
             environments: { staging: { components: { a: ~ } } }\n",
            ),
        ),
        (
            "wrong everywhere is told once",
            head(
                "components: { a: { files: a, rpo: soon } }\n\
             environments: { staging: { name: b }, production: { name: c } }\n",
            ),
        ),
    ]);
    insta::assert_snapshot!(told);
    let error = Plan::parse(&head("environments: { staging: {} }\n"), "lifeboat.yaml", Some("stagin"));
    let told = error.expect_err("there is none of that name");
    insta::assert_snapshot!(told);
}
