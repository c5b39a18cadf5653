//! Values that may be seen nowhere, and the one function that takes them out of a text.

use std::fmt;

/// Stands where a secret was.
const MASK: &str = "***";

/// Shorter values are not looked for: masking every `1` of a message helps nobody, and guards nothing.
const LENGTH_MIN: usize = 3;

/// The values of a plan that must not be seen in messages, journals and reports.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// Remembers values; of a value of several lines every line counts as a secret of its own, too.
    pub fn new(values: impl IntoIterator<Item = String>) -> Secrets {
        let mut all: Vec<String> = Vec::new();
        for value in values {
            all.extend(value.lines().map(|line| line.trim().to_owned()));
            all.push(value);
        }
        all.retain(|value| value.len() >= LENGTH_MIN);
        // The longest first, so that a secret that is part of another does not leave the rest of it behind.
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Secrets(all)
    }

    /// Gives the text with every secret replaced by three asterisks.
    pub fn mask(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
    }

    /// Gives these secrets and others.
    #[must_use]
    pub fn and(&self, values: impl IntoIterator<Item = String>) -> Secrets {
        Secrets::new(self.0.iter().cloned().chain(values))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Secrets;

    #[test]
    fn secrets_are_masked_the_longer_first_and_line_by_line() {
        let secrets =
            Secrets::new(["hunter2".into(), "hunter2-long".into(), "one\ntwo!\n".into(), "x".into()]);
        assert_eq!(secrets.mask("hunter2 hunter2-long one, two! x"), "*** *** ***, *** x");
        assert_eq!(format!("{secrets:?}"), "5 secrets");
    }
}
