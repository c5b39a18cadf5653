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

/// One thing that is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters of the line are meant, at least 1.
    pub width: u32,
    /// The line itself.
    pub excerpt: String,
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
    /// Every problem; at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                formatter.write_str("\n\n")?;
            }
            problem.show(&self.file, formatter)?;
        }
        Ok(())
    }
}

impl Problem {
    fn show(&self, file: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { line, column, width, excerpt, message, .. } = self;
        write!(formatter, "{file}:{line}:{column}: {message}")?;
        if let Some(environment) = &self.environment {
            write!(formatter, " (in environment `{environment}`)")?;
        }
        let gutter = " ".repeat(line.to_string().len());
        let indent: String = excerpt
            .chars()
            .take(*column as usize - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(*width as usize);
        write!(formatter, "\n  {line} | {excerpt}\n  {gutter} | {indent}{carets}")?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\n  {gutter} = {hint}")?;
        }
        Ok(())
    }
}
