//! Reading an append-only file: where its commands end, and what time its annotations say.
//!
//! The file is the commands that changed something, in the protocol's own form, and lines such as `#TS:1795280491` that say
//! in which second what follows was done. It can be cut only between commands, and not inside of a transaction: a server
//! takes anything else for an end that was torn off.

/// The longest line before a command or an argument.
const LINE_BYTES_MAX: usize = 256;
/// The longest name of a command that means something here.
const NAME_BYTES_MAX: usize = 5;

/// Goes through the bytes of append-only files, in pieces of any length.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    state: State,
    line: Vec<u8>,
    /// The beginning of the present command's name.
    name: Vec<u8>,
    /// The last two bytes of an argument, which end its line.
    ending: [u8; 2],
    is_first: bool,
    in_transaction: bool,
    /// How many bytes were read.
    pub position: u64,
    /// Behind the last whole command that is not inside of a transaction.
    pub boundary: u64,
    /// The second in which the command before the boundary was done; nothing before the first announcement.
    pub second: Option<i64>,
    /// The last second that was announced, and where; nothing before the first.
    pub time: Option<Announced>,
}

/// An annotation of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    /// Seconds since 1970, by the server's clock: what follows was done in it.
    pub second: i64,
    /// Where the annotation begins.
    pub at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// A line that says how many arguments follow, or the time.
    #[default]
    Head,
    /// A line that says how long the next of so many arguments is.
    Length(u64),
    /// So many bytes of an argument, its line end included, before so many further arguments.
    Argument(u64, u64),
}

/// Why something is no append-only file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the append-only file is not where a command can begin or go on: {what}")]
pub(super) struct Torn {
    pub at: u64,
    pub what: String,
}

impl Scan {
    /// Begins behind so many bytes, which end with a whole command.
    pub(super) fn from(position: u64) -> Self {
        Self { position, boundary: position, ..Self::default() }
    }

    /// Reads more, until an annotation says `until` or a later second: then the rest is left, and the position is behind
    /// the annotation, whose place is in [`Self::time`].
    ///
    /// Gives `true` when it stopped for that.
    pub(super) fn feed(&mut self, mut bytes: &[u8], until: Option<i64>) -> Result<bool, Torn> {
        while !bytes.is_empty() {
            if let State::Argument(left, further) = self.state {
                let here = left.min(bytes.len() as u64);
                let (used, rest) = bytes.split_at(here as usize);
                if self.is_first {
                    let room = (NAME_BYTES_MAX + 2).saturating_sub(self.name.len());
                    self.name.extend_from_slice(&used[..used.len().min(room)]);
                }
                for &byte in &used[used.len().saturating_sub(2)..] {
                    self.ending = [self.ending[1], byte];
                }
                bytes = rest;
                self.position += here;
                if left > here {
                    self.state = State::Argument(left - here, further);
                } else if self.ending == *b"\r\n" {
                    self.argument_ended(further);
                } else {
                    return Err(self.torn("an argument is longer than it says"));
                }
                continue;
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let (used, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            self.line.extend_from_slice(used);
            self.position += used.len() as u64;
            bytes = rest;
            if self.line.len() > LINE_BYTES_MAX {
                return Err(self.torn("a line is too long"));
            }
            if end.is_some()
                && self.line_ended()?
                && self.time.is_some_and(|time| until.is_some_and(|until| time.second >= until))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells whether everything so far is whole commands and annotations.
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Head && self.line.is_empty() && !self.in_transaction
    }

    fn argument_ended(&mut self, further: u64) {
        self.is_first = false;
        if further > 0 {
            self.state = State::Length(further);
            return;
        }
        self.state = State::Head;
        match self.name.trim_ascii_end().to_ascii_uppercase().as_slice() {
            b"MULTI" => self.in_transaction = true,
            b"EXEC" => self.in_transaction = false,
            _ => {}
        }
        if !self.in_transaction {
            self.boundary = self.position;
            self.second = self.time.map(|time| time.second);
        }
    }

    /// Reads a line; `true` when it was an annotation of time.
    fn line_ended(&mut self) -> Result<bool, Torn> {
        let line = std::mem::take(&mut self.line);
        let Some(text) = line.strip_suffix(b"\r\n").and_then(|text| std::str::from_utf8(text).ok()) else {
            return Err(self.torn("a line does not end as it should"));
        };
        let at = self.position - line.len() as u64;
        let count = |kind: char| text.strip_prefix(kind)?.parse::<u64>().ok();
        match self.state {
            State::Head if text.starts_with('#') => {
                let second = text.strip_prefix("#TS:").and_then(|second| second.parse().ok());
                if let Some(second) = second {
                    self.time = Some(Announced { second, at });
                }
                // An annotation belongs to what follows it.
                return Ok(second.is_some());
            }
            State::Head => {
                let count = count('*').filter(|&count| count > 0);
                self.state = State::Length(count.ok_or_else(|| self.torn(&format!("{text:?}")))?);
                self.is_first = true;
                self.name.clear();
            }
            State::Length(arguments) => {
                let bytes = count('$').ok_or_else(|| self.torn(&format!("{text:?}")))?;
                self.state = State::Argument(bytes.saturating_add(2), arguments - 1);
            }
            State::Argument(..) => {}
        }
        Ok(false)
    }

    fn torn(&self, what: &str) -> Torn {
        Torn { at: self.position, what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"#TS:100\r\n*1\r\n$4\r\nPING\r\n*1\r\n$5\r\nMULTI\r\n#TS:101\r\n*2\r\n$3\r\nset\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nEXEC\r\n#TS:102\r\n*1\r\n$1\r\nx\r\n";

    #[test]
    fn boundaries_are_between_commands_and_outside_of_transactions() {
        let boundaries = [0, 23, 82, 102];
        assert_eq!(TEXT.len(), 102);
        for length in 0..=TEXT.len() {
            let expected = *boundaries.iter().rev().find(|&&boundary| boundary <= length).unwrap();
            for piece in [1, 2, 7, 200] {
                let mut scan = Scan::default();
                for piece in TEXT[..length].chunks(piece) {
                    scan.feed(piece, None).unwrap();
                }
                assert_eq!((scan.boundary, scan.position), (expected as u64, length as u64), "{length}");
            }
        }
    }

    #[test]
    fn it_stops_at_the_second_that_is_asked_for() {
        let mut scan = Scan::default();
        assert!(scan.feed(TEXT, Some(102)).unwrap());
        assert_eq!((scan.boundary, scan.time), (82, Some(Announced { second: 102, at: 82 })));
        // Inside of a transaction it is cut before that.
        let mut scan = Scan::default();
        assert!(scan.feed(TEXT, Some(101)).unwrap());
        assert_eq!(scan.boundary, 23);
        assert!(!Scan::default().feed(TEXT, Some(103)).unwrap());
    }

    #[test]
    fn what_is_no_command_is_torn() {
        for text in [
            &b"hello\r\n"[..],
            b"*1\n$4\nPING\n",
            b"*1\r\n+4\r\n",
            b"*0\r\n",
            b"REDIS0010",
            b"\0\0\0\0\0\0\n",
        ] {
            let mut scan = Scan::default();
            let fed = scan.feed(text, None).and_then(|_| scan.feed(&[b'x'; 300], None));
            assert!(fed.is_err(), "{text:?}");
        }
    }
}
