//! Where output goes: results to standard output, everything else to standard error; or all of it as JSON lines.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::args::OutputArgs;
use crate::json::{EndLine, Line, SCHEMA};
use crate::outcome::{
    Answer, COULD_NOT_RUN, Explained, FAILED, Failure, INTERRUPTED, NOT_PROVEN, VERIFIED, Verdict,
};
use crate::{environment, outcome};

/// How the program talks.
#[derive(Debug, Clone)]
pub struct Ui(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    json: bool,
    quiet: bool,
    verbose: bool,
    drawing: Drawing,
    out_colour: bool,
    err_colour: bool,
    bars: MultiProgress,
    started: Instant,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawing {
    /// Bars on a terminal.
    Bars,
    /// A line now and then.
    Lines,
    /// JSON.
    Json,
    /// Not at all.
    Nothing,
}

/// Colours, as the terminal's own palette has them.
#[derive(Debug, Clone, Copy)]
pub enum Style {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "1;31",
            Self::Green => "32",
            Self::Yellow => "33",
        }
    }

    fn paint(self, text: &str, colour: bool) -> String {
        if colour { format!("\x1b[{}m{text}\x1b[0m", self.code()) } else { text.to_owned() }
    }
}

impl Ui {
    /// Settles how to talk; `command` is what JSON calls the command.
    pub fn new(args: &OutputArgs, command: &str) -> Self {
        let (out_terminal, err_terminal) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let dumb = environment::text("TERM").is_none_or(|term| term == "dumb");
        let colour = environment::raw("NO_COLOR").is_none() && !dumb;
        let drawing = match () {
            () if args.json => Drawing::Json,
            () if args.quiet || args.no_progress => Drawing::Nothing,
            () if err_terminal && !dumb => Drawing::Bars,
            () => Drawing::Lines,
        };
        let bars = match drawing {
            Drawing::Bars => MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
            _ => MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
        };
        let ui = Self(Arc::new(Inner {
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
            drawing,
            out_colour: colour && out_terminal,
            err_colour: colour && err_terminal,
            bars,
            started: Instant::now(),
        }));
        let program = concat!("lifeboat ", env!("CARGO_PKG_VERSION"));
        ui.json(&Line::Start { schema: SCHEMA, program, command });
        ui
    }

    pub fn is_json(&self) -> bool {
        self.0.json
    }

    pub fn is_verbose(&self) -> bool {
        self.0.verbose
    }

    pub fn drawing(&self) -> Drawing {
        self.0.drawing
    }

    pub fn bars(&self) -> &MultiProgress {
        &self.0.bars
    }

    /// Paints text that goes to standard output.
    pub fn paint(&self, style: Style, text: &str) -> String {
        style.paint(text, self.0.out_colour)
    }

    /// Paints text that goes to standard error.
    pub fn paint_err(&self, style: Style, text: &str) -> String {
        style.paint(text, self.0.err_colour)
    }

    /// Writes a line about what is going on to standard error, unless it is to be quiet.
    pub fn tell(&self, text: &str) {
        if !self.0.quiet {
            self.write_err(text);
        }
    }

    /// Writes a line of the result for people.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.0.json { Ok(()) } else { self.write_out(text.as_ref()) }
    }

    /// Writes a line that `--quiet` leaves out.
    pub fn talk(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.0.quiet { Ok(()) } else { self.line(text) }
    }

    /// Writes raw bytes to standard output, for what is to be used by another program.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        std::io::stdout().lock().write_all(bytes).map_err(Failure::Output)
    }

    /// Writes a JSON line.
    pub fn event(&self, line: &Line<'_>) -> Result<(), Failure> {
        if !self.0.json {
            return Ok(());
        }
        let text = serde_json::to_string(line).expect("lines have only text keys");
        self.write_out(&text)
    }

    /// Writes a JSON line from where a closed pipe cannot be answered; the next [`Ui::event`] will see it.
    pub fn json(&self, line: &Line<'_>) {
        let _closed = self.event(line);
    }

    fn write_out(&self, text: &str) -> Result<(), Failure> {
        self.0.bars.suspend(|| writeln!(std::io::stdout().lock(), "{text}")).map_err(Failure::Output)
    }

    /// Writes a remark for people to standard error.
    pub fn note(&self, text: &str) {
        self.json(&Line::Note { message: text });
        if !self.0.quiet {
            self.write_err(text);
        }
    }

    /// Warns people of what does not change how the command ends; the text has its own lines.
    pub fn warning(&self, text: &str) {
        let label = Style::Yellow.paint("warning:", self.0.err_colour);
        self.write_err(&format!("{label} {}", printable_lines(text)));
    }

    /// Tells that something went wrong with one item.
    pub fn problem(&self, item: &str, error: &str) {
        self.json(&Line::Problem { item, error });
        let label = Style::Yellow.paint("warning:", self.0.err_colour);
        // Many errors name their item already.
        if error.contains(item) {
            self.write_err(&format!("{label} {}", printable(error)));
        } else {
            self.write_err(&format!("{label} {}: {}", printable(item), printable(error)));
        }
    }

    /// Tells that the store failed in passing and will be asked again.
    pub fn retry(&self, error: &store::Error, pause: Duration) {
        let pause_seconds = (pause.as_secs_f64() * 10.0).round() / 10.0;
        self.json(&Line::Retry { error: error.to_string(), pause_seconds });
        let label = Style::Yellow.paint("warning:", self.0.err_colour);
        let error = printable(&error.to_string());
        self.write_err(&format!("{label} {error}; trying again in {pause_seconds} s"));
    }

    /// Writes to standard error unless all output is JSON; nobody is left to tell when that fails.
    pub fn write_err(&self, text: &str) {
        if !self.0.json {
            let _closed = self.0.bars.suspend(|| writeln!(std::io::stderr().lock(), "{text}"));
        }
    }

    /// Tells how it ended, and gives the exit code.
    pub fn conclude(&self, answer: Answer) -> ExitCode {
        let (code, name, explained, summary) = match answer {
            Ok(done) => match done.verdict {
                Verdict::Verified => (VERIFIED, "verified", None, done.summary),
                Verdict::NotProven(why) => (NOT_PROVEN, "not proven", Some(why), done.summary),
                Verdict::Failed(why) => (FAILED, "failed", Some(why), done.summary),
                Verdict::CouldNotRun(why) => (COULD_NOT_RUN, "could not run", Some(why), done.summary),
                Verdict::Interrupted(why) => (INTERRUPTED, "interrupted", Some(why), done.summary),
            },
            Err(failure) => return self.conclude_failure(&failure),
        };
        if let Some(Explained { why, hints }) = &explained {
            let style = if matches!(code, FAILED | COULD_NOT_RUN) { Style::Red } else { Style::Yellow };
            self.write_err(&format!("{} {why}", style.paint(&format!("{name}:"), self.0.err_colour)));
            self.write_hints(hints);
        }
        let why = explained.as_ref().map(|explained| explained.why.as_str());
        let hints = explained.as_ref().map_or(&[][..], |explained| &explained.hints);
        self.end(code, why, hints, summary);
        ExitCode::from(code)
    }

    fn conclude_failure(&self, failure: &Failure) -> ExitCode {
        let code = failure.exit_code();
        let (message, hints) = (failure.to_string(), failure.hints());
        let closed =
            matches!(failure, Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe);
        if code == INTERRUPTED {
            self.write_err(&Style::Yellow.paint("interrupted", self.0.err_colour));
        } else if !closed {
            let label = Style::Red.paint("error:", self.0.err_colour);
            // What is wrong with a plan is shown with its lines; the plan has made each fit for a terminal.
            let shown = match &failure {
                Failure::UseCase(engine::Error::Plan(_)) => printable_lines(&message),
                _ => printable(&message),
            };
            self.write_err(&format!("{label} {shown}"));
            self.write_hints(&hints);
        }
        self.json(&Line::Error { message, hints: &hints });
        self.end(code, None, &[], serde_json::Value::Null);
        ExitCode::from(code)
    }

    fn write_hints(&self, hints: &[String]) {
        for hint in hints {
            self.write_err(&format!("{} {hint}", Style::Bold.paint("hint:", self.0.err_colour)));
        }
    }

    fn end(&self, exit_code: u8, why: Option<&str>, hints: &[String], summary: serde_json::Value) {
        let outcome = match exit_code {
            outcome::VERIFIED => "verified",
            outcome::NOT_PROVEN => "not_proven",
            outcome::COULD_NOT_RUN => "could_not_run",
            outcome::INTERRUPTED => "interrupted",
            _ => "failed",
        };
        let seconds = self.elapsed_seconds();
        self.json(&Line::End(EndLine { outcome, exit_code, seconds, why, hints, summary }));
    }

    /// Seconds since the program began.
    pub fn elapsed_seconds(&self) -> f64 {
        (self.0.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }
}

/// Text for a terminal: control characters, which a file name may hold to deceive it, become visible escapes.
pub fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// The same of a text of several lines, which stay lines.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// A path for a terminal.
pub fn printable_path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nü"), "a\\u{1b}[2Jb\\nü");
    }
}
