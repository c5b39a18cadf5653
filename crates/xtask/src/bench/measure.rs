//! Measuring one command: time on the clock, time on the processors, memory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::packages::Package;
use crate::process::{Result, not_started};

/// What measuring needs: GNU time, which reads what the kernel counted.
pub const PACKAGE: Package = Package { name: "time", present: || Path::new(TIME).is_file() };

/// The file in the scratch directory that holds what the last command wrote.
pub const LOG: &str = "log";

const TIME: &str = "/usr/bin/time";

/// A command to be measured, with everything that it runs in.
#[derive(Default)]
pub struct Invocation {
    /// Program and arguments.
    pub words: Vec<OsString>,
    /// Variables of the environment, beside what this process has.
    pub variables: Vec<(&'static str, OsString)>,
    /// Where it is run.
    pub directory: PathBuf,
}

/// What one run of a command took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Seconds on the clock, from start to end.
    pub wall_s: f64,
    /// Seconds of all processors, user and system, helpers included.
    pub cpu_s: f64,
    /// The most memory that was resident at once, in the largest process if there are several.
    pub memory_bytes: u64,
}

/// Runs the command without showing its output and measures it; an error unless it succeeds.
///
/// The command is a child of GNU time and not of this process: the kernel counts what was resident before
/// a program was loaded as the program's own, and this process holds whole manifests.
pub fn measure(invocation: &Invocation, scratch: &Path) -> Result<Sample> {
    let (figures, log) = (scratch.join("figures"), scratch.join(LOG));
    let output =
        fs::File::create(&log).map_err(|error| format!("failed to make {}: {error}", log.display()))?;
    let mut command = Command::new(TIME);
    command.args(["--quiet", "--format=%U %S %M", "--output"]).arg(&figures).args(&invocation.words);
    command
        .envs(invocation.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(&invocation.directory);
    command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
    let started = Instant::now();
    let status = command.status().map_err(|error| not_started(&command, &error))?;
    let wall_s = started.elapsed().as_secs_f64();
    if !status.success() {
        let words: Vec<_> = invocation.words.iter().map(|word| OsStr::to_string_lossy(word)).collect();
        return Err(
            format!("`{}` ended with {status}:\n{}", words.join(" "), fs::read_to_string(&log)?).into()
        );
    }
    let figures = fs::read_to_string(&figures)?;
    parse(&figures, wall_s).ok_or_else(|| format!("GNU time wrote figures of another form: {figures}").into())
}

fn parse(figures: &str, wall_s: f64) -> Option<Sample> {
    let numbers: Vec<f64> =
        figures.split_whitespace().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [user, system, kilobytes] = numbers[..] else { return None };
    Some(Sample { wall_s, cpu_s: user + system, memory_bytes: kilobytes as u64 * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_measured_and_a_failing_one_is_an_error() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let of = |words: &[&str]| Invocation {
            words: words.iter().map(OsString::from).collect(),
            directory: scratch.path().to_owned(),
            ..Invocation::default()
        };
        let sample = measure(&of(&["sh", "-c", "sleep 0.2"]), scratch.path()).expect("it ends well");
        assert!(sample.wall_s >= 0.2 && sample.cpu_s < 0.2 && sample.memory_bytes > 0, "{sample:?}");
        let error =
            measure(&of(&["sh", "-c", "echo no disk; exit 3"]), scratch.path()).expect_err("it fails");
        assert!(error.to_string().contains("no disk"), "{error}");
    }
}
