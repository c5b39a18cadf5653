//! What is wrong with a plan: every problem with its place in the file.

use std::fmt;

/// A place in the plan file. It does not take part in comparisons: things are equal wherever they stand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters of the line are meant, at least 1.
    pub width: u32,
}

impl PartialEq for Position {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Position {}

/// What is wrong, before its line is looked up.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub at: Position,
    pub message: String,
    pub hint: Option<String>,
    /// Whether the line must not be shown: it holds a secret.
    pub masked: bool,
    pub environment: Option<String>,
}

impl Finding {
    pub fn new(at: Position, message: String) -> Self {
        Self { at, message, hint: None, masked: false, environment: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Where it stands, to sort by and to compare.
    pub fn place(&self) -> (u32, u32) {
        (self.at.line, self.at.column)
    }
}

/// One thing that is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters of the line are meant, at least 1.
    pub width: u32,
    /// The line itself; the part around the column, if it is long.
    pub excerpt: String,
    /// How many characters of the excerpt stand before what is meant.
    pub indent: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The environment in which it is wrong, if the plan is right without it.
    pub environment: Option<String>,
}

/// All that is wrong with a plan, in the order of the file. Shown, it is what a person sees: every problem with its place,
/// the line, and a caret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PlanError {
    /// The plan file, as the caller named it.
    pub file: String,
    /// Every problem, up to [`PROBLEMS_MAX`]; at least one.
    pub problems: Vec<Problem>,
    /// How many more there were.
    pub left_off: usize,
}

/// Most problems that are told at once. Whoever has so many will read the first ones only.
pub const PROBLEMS_MAX: usize = 100;

/// Most characters of a line that are shown.
const EXCERPT_CHARS_MAX: usize = 120;

/// Characters that are shown before the column in a long line.
const CHARS_BEFORE: usize = 40;

/// Most characters of a message; it may quote a text of the plan.
const MESSAGE_CHARS_MAX: usize = 400;

/// Makes a text fit for a terminal: no control characters, and not endless.
fn readable(text: &str) -> String {
    let mut readable: String =
        text.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        readable.push('…');
    }
    readable
}

impl PlanError {
    /// Makes problems of findings: in the order of the file, each with its line.
    pub(crate) fn new(file: &str, text: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(Finding::place);
        let left_off = findings.len().saturating_sub(PROBLEMS_MAX);
        findings.truncate(PROBLEMS_MAX);
        let mut lines = Lines { rest: text.lines(), number: 0, line: "" };
        let problems = findings.into_iter().map(|finding| Problem::new(finding, &mut lines)).collect();
        Self { file: file.to_owned(), problems, left_off }
    }
}

/// The lines of a text, each given again and again until a later one is asked for.
struct Lines<'a> {
    rest: std::str::Lines<'a>,
    number: u32,
    line: &'a str,
}

impl<'a> Lines<'a> {
    /// Gives a line that is not before the last one.
    fn get(&mut self, number: u32) -> &'a str {
        while self.number < number {
            self.number += 1;
            self.line = self.rest.next().unwrap_or_default();
        }
        self.line
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                formatter.write_str("\n\n")?;
            }
            problem.show(&self.file, formatter)?;
        }
        match self.left_off {
            0 => Ok(()),
            more => write!(formatter, "\n\n{}: and {more} more", self.file),
        }
    }
}

impl Problem {
    fn new(finding: Finding, lines: &mut Lines<'_>) -> Self {
        let Finding { at, message, hint, masked, environment } = finding;
        let line = lines.get(at.line);
        let column = at.column as usize - 1;
        let skipped = if column < EXCERPT_CHARS_MAX - CHARS_BEFORE { 0 } else { column - CHARS_BEFORE };
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let mut excerpt: String = line.chars().skip(skipped).take(EXCERPT_CHARS_MAX).map(shown).collect();
        let indent = (column - skipped).min(excerpt.chars().count());
        if masked {
            excerpt = excerpt.chars().take(indent).chain("…".chars()).collect();
        }
        let width =
            (at.width as usize).clamp(1, (excerpt.trim_end().chars().count().saturating_sub(indent)).max(1));
        let message = readable(&message);
        let hint = hint.as_deref().map(readable);
        let width = u32::try_from(width).expect("an excerpt is short");
        Self { line: at.line, column: at.column, width, excerpt, indent, message, hint, environment }
    }

    /// Gives what a person sees: the place in `file`, what is wrong, the line with a caret, what to do. Several lines
    /// without a control character but their ends, apart from those of `file`.
    pub fn text(&self, file: &str) -> String {
        struct Shown<'a>(&'a Problem, &'a str);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.show(self.1, formatter)
            }
        }
        Shown(self, file).to_string()
    }

    fn show(&self, file: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { line, column, width, excerpt, indent, message, .. } = self;
        write!(formatter, "{file}:{line}:{column}: {message}")?;
        if let Some(environment) = &self.environment {
            write!(formatter, " (in environment `{environment}`)")?;
        }
        let gutter = " ".repeat(line.to_string().len());
        let (indent, carets) = (" ".repeat(*indent), "^".repeat(*width as usize));
        write!(formatter, "\n  {line} | {excerpt}\n  {gutter} | {indent}{carets}")?;
        match &self.hint {
            Some(hint) => write!(formatter, "\n  {gutter} = {hint}"),
            None => Ok(()),
        }
    }
}
