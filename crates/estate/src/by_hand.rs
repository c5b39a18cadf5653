//! Commands as a person would type them: quoting for the shell, and a [`Command`] as one line.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

use place::{Command, Input};

/// Quotes a word for the shell where it needs it.
pub(crate) fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// Quotes a path.
pub(crate) fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy()).into_owned()
}

/// Writes a command as one line of shell. Values of its environment are not written: they may be secret.
pub(crate) fn line(command: &Command) -> String {
    let words = match (command.program.to_str(), command.arguments.as_slice()) {
        // What was written as shell is shown as it was written.
        (Some("/bin/sh"), [flag, text]) if flag == OsStr::new("-c") => text.to_string_lossy().into_owned(),
        _ => {
            let words = std::iter::once(&command.program).chain(&command.arguments);
            words.map(|word| quoted(&word.to_string_lossy()).into_owned()).collect::<Vec<_>>().join(" ")
        }
    };
    let variables: Vec<String> =
        command.environment.iter().map(|(name, _)| format!("{}=…", name.to_string_lossy())).collect();
    let mut line = String::new();
    if command.directory != Path::new("/") {
        line.push_str(&format!("cd {} && ", path(&command.directory)));
    }
    if !variables.is_empty() {
        line.push_str(&format!("export {} && ", variables.join(" ")));
    }
    line.push_str(&words);
    match &command.input {
        Input::Nothing => {}
        Input::Bytes(_) => line.push_str(" <<< …"),
        Input::File(file) => line.push_str(&format!(" < {}", path(file))),
    }
    line
}

#[cfg(test)]
mod tests {
    use place::{Command, Input};

    use super::{line, quoted};

    #[test]
    fn words_are_quoted_where_they_need_it() {
        assert_eq!(quoted("a-b/c.d"), "a-b/c.d");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }

    #[test]
    fn a_command_is_a_line_without_values_of_its_environment() {
        let command = Command::new("serve", ["--at", "a b"])
            .directory("/srv/my app")
            .env("TOKEN", "hunter2")
            .input(Input::File("/dev/zero".into()));
        assert_eq!(line(&command), "cd '/srv/my app' && export TOKEN=… && serve --at 'a b' < /dev/zero");
        assert_eq!(line(&Command::shell("a | b")), "a | b");
    }
}
