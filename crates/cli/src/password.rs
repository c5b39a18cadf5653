//! Passwords: where they come from. Never from an argument, which every user of the machine could read.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::environment;
use crate::outcome::Failure;

/// Where a password comes from.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    Command(String),
    Variable(String),
    /// What the plan's `password` referred to.
    Plan(plan::Secret),
    Prompt,
}

impl Source {
    /// Takes what the options say; else what the variables `PREFIX_PASSWORD…` say; else a person is asked.
    pub fn resolve(file: Option<&Path>, command: Option<&str>, prefix: &str) -> Self {
        let variable = |name: &str| format!("{prefix}_PASSWORD{name}");
        match (file, command) {
            (Some(file), _) => return Self::File(file.to_owned()),
            (None, Some(command)) => return Self::Command(command.to_owned()),
            (None, None) => {}
        }
        if environment::raw(&variable("")).is_some() {
            return Self::Variable(variable(""));
        }
        let file = environment::path(&variable("_FILE")).map(Self::File);
        file.or_else(|| environment::text(&variable("_COMMAND")).map(Self::Command)).unwrap_or(Self::Prompt)
    }

    /// Gets the password; `what` says for what, and with `twice` a person must type it twice.
    pub fn read(&self, what: &str, twice: bool) -> Result<Vec<u8>, Failure> {
        let password = match self {
            Self::File(path) => read_file(path)?,
            Self::Command(command) => run(command)?,
            Self::Variable(name) => environment::bytes(name).unwrap_or_default(),
            Self::Plan(secret) => secret.expose().as_bytes().to_vec(),
            Self::Prompt => prompt(what, twice)?.into_bytes(),
        };
        if password.is_empty() {
            let message = format!("the password for {what} is empty ({self})");
            return Err(Failure::usage(message, "an empty password protects nothing; choose another"));
        }
        Ok(password)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "the password came from the file {}", path.display()),
            Self::Command(command) => write!(f, "the password came from the command `{command}`"),
            Self::Variable(name) => write!(f, "the password came from {name}"),
            Self::Plan(_) => f.write_str("the password came from where the plan says"),
            Self::Prompt => f.write_str("the password was typed"),
        }
    }
}

/// White space around a password in a file does not count, as with restic.
fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("failed to read the password file {}: {error}", path.display());
        Failure::usage(message, "give the path of a readable file that holds only the password")
    })?;
    Ok(bytes.trim_ascii().to_vec())
}

fn run(command: &str) -> Result<Vec<u8>, Failure> {
    let fail = |why: String| {
        let message = format!("the password command `{command}` {why}");
        Failure::usage(message, "it must print the password to standard output and exit with 0")
    };
    // Its errors, and what it may ask, go to the terminal.
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| fail(format!("cannot be run: {error}")))?;
    if !output.status.success() {
        return Err(fail(format!("failed with {}", output.status)));
    }
    Ok(output.stdout.trim_ascii().to_vec())
}

fn prompt(what: &str, twice: bool) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            format!("no password for {what}, and no terminal to ask at"),
            "set LIFEBOAT_PASSWORD_FILE or LIFEBOAT_PASSWORD_COMMAND, or give --password-file FILE",
        ));
    }
    let ask = |text: String| {
        rpassword::prompt_password(text)
            .map_err(|error| Failure::other(format!("failed to read the password: {error}")))
    };
    let password = ask(format!("password for {what}: "))?;
    if twice && ask("the same again: ".to_owned())? != password {
        return Err(Failure::usage("the two passwords differ", "run the command again"));
    }
    Ok(password)
}
