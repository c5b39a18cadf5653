//! Whatever somebody may feed it: the parser answers, and its answers agree with each other.

use plan::{Plan, TEXT_BYTES_MAX};
use proptest::prelude::*;

use crate::{EVERYTHING, HUB};

/// Reads a text, and looks at what comes of it.
fn answer(text: &str) {
    match Plan::parse(text, "lifeboat.yaml", None) {
        Ok(plan) => {
            let again = Plan::parse(&plan.to_json().to_string(), "lifeboat.yaml", None);
            let again =
                again.unwrap_or_else(|error| panic!("{error}\nis wrong with what was written of\n{text}"));
            assert_eq!(again.digest(), plan.digest());
            for name in plan.scenarios.names() {
                plan.scenario_digest(name).expect("it is there");
            }
            plan.boot_order(&plan::Selection::All);
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                let lines = text.lines().count().max(1);
                assert!((1..=lines + 1).contains(&(problem.line as usize)), "{problem:?}");
                assert!(problem.width >= 1 && !problem.message.is_empty());
            }
            assert!(error.to_string().lines().count() >= 3);
        }
    }
}

/// Cuts a plan into its tokens, more or less.
fn tokens(text: &str) -> Vec<&str> {
    text.split_inclusive(|c: char| " \n:,[]{}\"".contains(c)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        answer(&text);
    }

    #[test]
    fn any_text_of_the_characters_of_yaml_is_answered(text in "[-a-c0-9:,{}\\[\\]&*!|>'\"%@` #\n\t~?]{0,80}") {
        answer(&text);
        answer(&format!("lifeboat: 1\nname: a\n{text}"));
    }

    #[test]
    fn a_plan_with_something_changed_is_answered(
        which in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4_u8), 1..4),
    ) {
        let mut tokens = tokens(if which { HUB } else { EVERYTHING });
        for (at, other, change) in changes {
            let (at, other) = (at.index(tokens.len()), other.index(tokens.len()));
            match change {
                0 => drop(tokens.remove(at)),
                1 => tokens.insert(at, tokens[other]),
                2 => tokens.swap(at, other),
                _ => tokens[at] = tokens[other],
            }
        }
        answer(&tokens.concat());
    }
}

#[test]
fn what_recurses_is_bounded() {
    let deep =
        |open: &str, close: &str, count: usize| format!("{}a{}", open.repeat(count), close.repeat(count));
    let check = |json: &str| {
        format!("lifeboat: 1\nname: a\nchecks: {{ a: {{ http: 'http://a', expect: {{ json: '{json}' }} }} }}")
    };
    let run = |run: &str| format!("lifeboat: 1\nname: a\nscenarios: {{ a: {{ steps: [ run: '{run}' ] }} }}");
    for text in [
        check(&deep("(", ")", 240)),
        check(&"!".repeat(500)),
        check(&"[".repeat(500)),
        check(&"[?".repeat(250)),
        check(&"{a:".repeat(160)),
        check(&"[".repeat(100_000)),
        run(&format!("{{{{ {}a }}}}", "-".repeat(4_080))),
        run(&format!("{{{{ {}a }}}}", "not ".repeat(1_000))),
        run(&format!("{{{{ a{} }}}}", "+a".repeat(2_000))),
        run(&format!("{{{{ {} }}}}", deep("(", ")", 2_000))),
        run(&"{% if a %}".repeat(400)),
        run(&format!("{{{{ {}a }}}}", "-".repeat(100_000))),
        "a:\n".repeat(TEXT_BYTES_MAX / 3),
        "- ".repeat(TEXT_BYTES_MAX / 2),
        "? ".repeat(10_000),
        "{".repeat(100_000),
        "\u{feff}\u{feff}".to_owned(),
        "%YAML 1.2\n---\n...\n---\n".to_owned(),
    ] {
        answer(&text);
    }
}
