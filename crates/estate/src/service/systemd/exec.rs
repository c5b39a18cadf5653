//! Command lines of units: their prefixes, their specifiers, and the variables in them. Pure.

use super::text::{loose_words, next_word};

/// A command line of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exec {
    /// The program, as a path or as a name.
    pub program: String,
    /// What the program is told to be called, if it is not its path.
    pub called: Option<String>,
    pub arguments: Vec<String>,
    /// `-`: its failure is none.
    pub may_fail: bool,
    /// `:`: variables in it stay as they are.
    pub verbatim: bool,
    /// `+` or `!`: not as the user of the unit.
    pub privileged: bool,
}

/// What stands for each letter behind a `%`.
#[derive(Debug, Clone, Default)]
pub(super) struct Specifiers(Vec<(char, String)>);

/// Letters that mean something to systemd.
const KNOWN: &str = "aAbBCdDEfgGhHiIjJlLmMnNoPpqsStTuUvVwWyY";

impl Specifiers {
    pub fn new(values: impl IntoIterator<Item = (char, String)>) -> Specifiers {
        Specifiers(values.into_iter().collect())
    }

    /// Replaces them; fails for one that systemd knows and that cannot be told here.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                expanded.push(letter);
                continue;
            }
            match letters.next() {
                None => expanded.push('%'),
                Some('%') => expanded.push('%'),
                Some(name) => match self.0.iter().find(|(known, _)| *known == name) {
                    Some((_, value)) => expanded.push_str(value),
                    None if KNOWN.contains(name) => {
                        return Err(format!("what %{name} stands for is not known here"));
                    }
                    None => expanded.extend(['%', name]),
                },
            }
        }
        Ok(expanded)
    }
}

/// Reads the value of one `ExecStart=` or its like: commands, with a lone `;` between them.
pub(super) fn parse(value: &str, specifiers: &Specifiers) -> Result<Vec<Exec>, String> {
    let mut commands = Vec::new();
    let mut rest = value;
    while let Some(exec) = next_command(&mut rest, specifiers)? {
        commands.push(exec);
    }
    Ok(commands)
}

fn next_command(rest: &mut &str, specifiers: &Specifiers) -> Result<Option<Exec>, String> {
    let Some(first) = next_word(rest)? else { return Ok(None) };
    let program = first.trim_start_matches(['@', '-', ':', '+', '!']);
    let prefixes = &first[..first.len() - program.len()];
    let has = |prefix: char| prefixes.contains(prefix);
    if program.is_empty() {
        return Err(format!("{first:?} names no program"));
    }
    let mut exec = Exec {
        program: specifiers.expand(program)?,
        called: None,
        arguments: Vec::new(),
        may_fail: has('-'),
        verbatim: has(':'),
        // Two exclamation marks mean it only for kernels of before 2016.
        privileged: has('+') || (has('!') && !prefixes.contains("!!")),
    };
    loop {
        *rest = rest.trim_start();
        if let Some(behind) = lone(rest, ";") {
            *rest = behind;
            break;
        }
        if let Some(behind) = lone(rest, r"\;") {
            *rest = behind;
            exec.arguments.push(";".into());
            continue;
        }
        match next_word(rest)? {
            None => break,
            Some(word) => exec.arguments.push(specifiers.expand(&word)?),
        }
    }
    if has('@') {
        if exec.arguments.is_empty() {
            return Err(format!("{first:?} says that the program has another name, and no name follows"));
        }
        exec.called = Some(exec.arguments.remove(0));
    }
    Ok(Some(exec))
}

/// What is behind a word that stands there unquoted and alone.
fn lone<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let behind = text.strip_prefix(word)?;
    (behind.is_empty() || behind.starts_with(char::is_whitespace)).then_some(behind)
}

impl Exec {
    /// Its arguments with variables replaced, as systemd does it: `${NAME}` wherever it stands, `$NAME` only as a word of
    /// its own, which becomes as many words as are in its value.
    pub fn expanded(&self, environment: &[(String, String)]) -> Vec<String> {
        if self.verbatim {
            return self.arguments.clone();
        }
        let value = |name: &str| {
            let found = environment.iter().rev().find(|(known, _)| known == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let mut expanded = Vec::new();
        for argument in &self.arguments {
            match argument.strip_prefix('$') {
                Some(name) if !name.starts_with(['{', '$']) => expanded.extend(loose_words(value(name))),
                _ => expanded.push(replace(argument, &value)),
            }
        }
        expanded
    }
}

fn replace<'a>(word: &str, value: &impl Fn(&str) -> &'a str) -> String {
    let mut replaced = String::new();
    let mut rest = word;
    while let Some((before, behind)) = rest.split_once('$') {
        replaced.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            replaced.push('$');
            rest = behind;
        } else if let Some((name, behind)) = behind.strip_prefix('{').and_then(|open| open.split_once('}')) {
            replaced.push_str(value(name));
            rest = behind;
        } else {
            replaced.push('$');
            rest = behind;
        }
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specifiers() -> Specifiers {
        Specifiers::new([('i', "a b".into()), ('n', "web@a.service".into())])
    }

    fn one(value: &str) -> Exec {
        let mut commands = parse(value, &specifiers()).unwrap();
        assert_eq!(commands.len(), 1, "{value}");
        commands.remove(0)
    }

    #[test]
    fn prefixes_are_understood_in_any_order() {
        let exec = one("-:@/bin/a name b");
        assert!(exec.may_fail && exec.verbatim && !exec.privileged);
        assert_eq!((exec.program.as_str(), exec.called.as_deref()), ("/bin/a", Some("name")));
        assert_eq!(exec.arguments, ["b"]);
        assert!(one("+/bin/a").privileged && one("!/bin/a").privileged && !one("!!/bin/a").privileged);
        for bad in ["-", "@/bin/a", "/bin/a 'b"] {
            assert!(parse(bad, &specifiers()).is_err(), "{bad}");
        }
        assert!(parse("", &specifiers()).unwrap().is_empty());
    }

    #[test]
    fn a_lone_semicolon_parts_commands() {
        let commands = parse(r#"/bin/a b ; -/bin/c \; ";" d;"#, &specifiers()).unwrap();
        assert_eq!(commands.len(), 2);
        assert_eq!(commands[0].arguments, ["b"]);
        assert_eq!(commands[1].arguments, [";", ";", "d;"]);
        assert!(!commands[0].may_fail && commands[1].may_fail);
    }

    #[test]
    fn specifiers_make_no_new_words() {
        assert_eq!(one("/bin/%n x%iy 100%% %, %").arguments, ["xa by", "100%", "%,", "%"]);
        assert_eq!(one("/bin/%n").program, "/bin/web@a.service");
        assert!(parse("/bin/a %m", &specifiers()).unwrap_err().contains("%m"));
    }

    #[test]
    fn variables_are_replaced_as_systemd_does() {
        let environment =
            [("A", "one 'two three'"), ("B", "x y"), ("B", "z")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let check = |value: &str, expected: &[&str]| {
            assert_eq!(one(value).expanded(&environment), expected, "{value}");
        };
        check("/bin/a $A", &["one", "two three"]);
        check("/bin/a ${A} a${B}b", &["one 'two three'", "azb"]);
        check("/bin/a a$B $NONE ${NONE} $$B ${B", &["a$B", "", "$B", "${B"]);
        check(":/bin/a $A ${B}", &["$A", "${B}"]);
        check("/bin/sh -c 'echo $$HOME'", &["-c", "echo $HOME"]);
    }

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(value in "[-@+!:/a$A{} %i;\\\\'\"]*", any in ".*") {
            for value in [&value, &any] {
                for exec in parse(value, &specifiers()).unwrap_or_default() {
                    let _ = exec.expanded(&[("A".into(), any.clone())]);
                }
            }
        }
    }
}
