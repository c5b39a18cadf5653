//! The check by a command: run to its end in the place, judged by exit code and output.

use std::io::ErrorKind;

use place::{Captured, Daemons, End, Finished};

use super::answer::Answer;
use super::question::Command;
use super::text::Matcher;
use super::{Asking, Invalid};

/// How much of each output is kept; more cannot be judged.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// A question by a command that has been understood.
#[derive(Debug)]
pub(super) struct CommandCheck {
    command: place::Command,
    exit: Vec<i32>,
    stdout: Option<Matcher>,
    stderr: Option<Matcher>,
}

impl CommandCheck {
    pub(super) fn new(command: Command) -> Result<CommandCheck, Invalid> {
        let Command { command, mut exit, stdout, stderr } = command;
        if exit.is_empty() && stdout.is_none() && stderr.is_none() {
            return Err(Invalid::NoExpectation {
                what: format!("the command {}", command.label),
                example: "an exit code or a text of its output",
            });
        }
        if exit.is_empty() {
            exit.push(0);
        }
        Ok(CommandCheck {
            command,
            exit,
            stdout: stdout.as_ref().map(Matcher::new).transpose()?,
            stderr: stderr.as_ref().map(Matcher::new).transpose()?,
        })
    }

    pub(super) fn command(&self) -> &place::Command {
        &self.command
    }

    pub(super) fn describe(&self) -> String {
        format!("{} {}", self.command.label, self.expected())
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        let mut limits = asking.limits();
        limits.output_bytes_max = OUTPUT_BYTES_MAX;
        // A question leaves nothing behind.
        limits.daemons = Daemons::Die;
        match asking.place.run(&self.command, &limits) {
            Ok(finished) => self.judge(&finished).unwrap_or_else(|answer| answer),
            Err(place::Error::Spawn { reason, .. }) if is_final(reason.kind()) => {
                Answer::fatal(format!("cannot run {}: {reason}", self.command.label))
            }
            Err(error) => Answer::unknown(error.to_string()),
        }
    }

    fn judge(&self, finished: &Finished) -> Result<Answer, Answer> {
        let label = &self.command.label;
        let fails =
            |found: String| Answer::fails(format!("{label} did not do as expected"), self.expected(), found);
        let code = match finished.end {
            End::Exited(code) => code,
            End::Killed { .. } => return Err(fails(finished.end.to_string())),
            End::TimedOut | End::Cancelled => {
                return Err(Answer::unknown(format!("{label} {}", finished.end)));
            }
        };
        if !self.exit.contains(&code) {
            let said = [&finished.err, &finished.out].map(|output| output.text().trim().to_owned());
            let said = said.into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| "no output".into());
            return Err(fails(format!("exit code {code}: {said}")));
        }
        for (name, output, expected) in
            [("output", &finished.out, &self.stdout), ("error output", &finished.err, &self.stderr)]
        {
            let Some(expected) = expected else { continue };
            if !expected.matches(&whole(label, name, output)?) {
                return Err(fails(format!("{name}: {}", output.text())));
            }
        }
        Ok(Answer::Holds { detail: self.describe() })
    }

    fn expected(&self) -> String {
        let codes: Vec<String> = self.exit.iter().map(ToString::to_string).collect();
        let mut parts = vec![format!("exits with {}", codes.join(" or "))];
        parts.extend(self.stdout.iter().map(|out| format!("its output {}", out.describe())));
        parts.extend(self.stderr.iter().map(|err| format!("its error output {}", err.describe())));
        parts.join(", ")
    }
}

fn whole(label: &str, name: &str, output: &Captured) -> Result<String, Answer> {
    let bytes = output.whole().ok_or_else(|| {
        Answer::unknown(format!(
            "the {name} of {label} is longer than the {OUTPUT_BYTES_MAX} bytes that are kept"
        ))
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory)
}
