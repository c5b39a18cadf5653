//! The check of a file: there or not, how large, what is in it, how old.
//!
//! Digest and content are not for a live SQLite database: the engine may be capturing it at the same time, and closing
//! any descriptor of it drops the locks of this process. [`super::Question::Sql`] is for databases.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::answer::{Answer, Deadline, Over};
use super::network::late;
use super::question::{File, FileExpect, Properties};
use super::text::Matcher;
use super::{Asking, Invalid};

/// How large a file may be whose content is searched, in bytes; it is held in memory.
pub const CONTENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How much is read between two looks at the clock.
const PIECE_BYTES: usize = 256 * 1024;

/// A question about a file that has been understood.
#[derive(Debug)]
pub(super) struct FileCheck {
    file: File,
    content: Option<Matcher>,
}

impl FileCheck {
    pub(super) fn new(file: File) -> Result<FileCheck, Invalid> {
        let FileExpect::Present(properties) = &file.expect else {
            return Ok(FileCheck { file, content: None });
        };
        if let Some(digest) = &properties.sha256
            && !(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(Invalid::Value {
                what: format!("the SHA-256 {digest:?}"),
                why: "it is 64 hexadecimal digits",
            });
        }
        let content = properties.content.as_ref().map(Matcher::new).transpose()?;
        Ok(FileCheck { file, content })
    }

    pub(super) fn describe(&self) -> String {
        let path = self.file.path.display();
        let FileExpect::Present(properties) = &self.file.expect else {
            return format!("{path} is not there");
        };
        let Properties { bytes_min, sha256, content: _, younger_than } = properties;
        let mut parts = vec![format!("{path} is there")];
        parts.extend(bytes_min.map(|bytes| format!("has {bytes} bytes or more")));
        parts.extend(sha256.iter().map(|digest| format!("has the SHA-256 {digest}")));
        parts.extend(self.content.iter().map(Matcher::describe));
        parts.extend(younger_than.map(|age| format!("was modified in the last {age:?}")));
        parts.join(", ")
    }

    pub(super) fn question(&self) -> &File {
        &self.file
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        let verdict = asking.place.within(|| match &self.file.expect {
            FileExpect::Absent => self.absent(),
            FileExpect::Present(properties) => self.present(properties, &asking.deadline),
        });
        match verdict {
            Ok(Ok(detail)) => Answer::Holds { detail },
            Ok(Err(Unmet::Answer(answer))) => answer,
            Ok(Err(Unmet::Over(Over::Cancelled))) => Answer::unknown("interrupted"),
            Ok(Err(Unmet::Over(Over::Late))) => {
                Answer::unknown(format!("reading {} gave {}", self.file.path.display(), late(asking)))
            }
            Ok(Err(Unmet::Io(error))) => {
                Answer::unknown(format!("cannot read {}: {error}", self.file.path.display()))
            }
            Err(error) => Answer::unknown(error.to_string()),
        }
    }

    fn absent(&self) -> Result<String, Unmet> {
        let path = &self.file.path;
        match fs::symlink_metadata(path) {
            Err(error) if is_absence(&error) => Ok(self.describe()),
            Err(error) => Err(error.into()),
            Ok(metadata) => Err(fails(path, "is there", "nothing", format!("{} bytes", metadata.len()))),
        }
    }

    fn present(&self, properties: &Properties, deadline: &Deadline<'_>) -> Result<String, Unmet> {
        let path = &self.file.path;
        let metadata = match fs::metadata(path) {
            Err(error) if is_absence(&error) => {
                return Err(fails(path, "is not there", &self.describe(), error.to_string()));
            }
            metadata => metadata?,
        };
        let about_content =
            properties.bytes_min.is_some() || properties.sha256.is_some() || self.content.is_some();
        if about_content && !metadata.is_file() {
            return Err(fails(
                path,
                "is no regular file",
                &self.describe(),
                "a directory or special file".into(),
            ));
        }
        large_enough(path, properties.bytes_min, &metadata)?;
        young_enough(path, properties.younger_than, &metadata)?;
        right_digest(path, properties.sha256.as_deref(), deadline)?;
        self.right_content(&metadata, deadline)?;
        Ok(self.describe())
    }

    fn right_content(&self, metadata: &Metadata, deadline: &Deadline<'_>) -> Result<(), Unmet> {
        let Some(expected) = &self.content else { return Ok(()) };
        let path = &self.file.path;
        let too_large = || {
            Unmet::Answer(Answer::unknown(format!(
                "{} has more than the {CONTENT_BYTES_MAX} bytes that are searched; check its sha256 instead",
                path.display()
            )))
        };
        if metadata.len() > CONTENT_BYTES_MAX {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        read_pieces(path, deadline, |piece| {
            bytes.extend_from_slice(piece);
            bytes.len() as u64 <= CONTENT_BYTES_MAX
        })?;
        // The size above was that of a moment ago, and files grow.
        if bytes.len() as u64 > CONTENT_BYTES_MAX {
            return Err(too_large());
        }
        let text = String::from_utf8_lossy(&bytes);
        if expected.matches(&text) {
            return Ok(());
        }
        Err(fails(path, "has other content", &expected.describe(), text.into_owned()))
    }
}

/// Why a file was not found to be as expected.
enum Unmet {
    Answer(Answer),
    Over(Over),
    Io(io::Error),
}

impl From<io::Error> for Unmet {
    fn from(error: io::Error) -> Unmet {
        Unmet::Io(error)
    }
}

fn fails(path: &Path, what: &str, expected: &str, found: String) -> Unmet {
    Unmet::Answer(Answer::fails(format!("{} {what}", path.display()), expected, found))
}

/// A missing directory on the way is absence, too.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn large_enough(path: &Path, bytes_min: Option<u64>, metadata: &Metadata) -> Result<(), Unmet> {
    match bytes_min {
        Some(least) if metadata.len() < least => {
            let expected = format!("{least} bytes or more");
            Err(fails(path, "is too small", &expected, format!("{} bytes", metadata.len())))
        }
        _ => Ok(()),
    }
}

fn young_enough(path: &Path, younger_than: Option<Duration>, metadata: &Metadata) -> Result<(), Unmet> {
    let Some(limit) = younger_than else { return Ok(()) };
    match SystemTime::now().duration_since(metadata.modified()?) {
        Ok(age) if age <= limit => Ok(()),
        Ok(age) => {
            let found = format!("modified {} s ago", age.as_secs());
            Err(fails(path, "is too old", &format!("modified in the last {limit:?}"), found))
        }
        Err(_) => Err(Unmet::Answer(Answer::unknown(format!(
            "{} was modified in the future: its clock or ours is wrong, so its age is not known",
            path.display()
        )))),
    }
}

fn right_digest(path: &Path, expected: Option<&str>, deadline: &Deadline<'_>) -> Result<(), Unmet> {
    let Some(expected) = expected else { return Ok(()) };
    let mut hash = Sha256::new();
    read_pieces(path, deadline, |piece| {
        hash.update(piece);
        true
    })?;
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(fails(path, "has other content", &format!("SHA-256 {expected}"), format!("SHA-256 {found}")))
}

/// Reads to the end, or until time is over or `more` wants no more.
fn read_pieces(
    path: &Path,
    deadline: &Deadline<'_>,
    mut more: impl FnMut(&[u8]) -> bool,
) -> Result<(), Unmet> {
    let mut file = fs::File::open(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        deadline.left().map_err(Unmet::Over)?;
        let count = file.read(&mut piece)?;
        if count == 0 || !more(&piece[..count]) {
            return Ok(());
        }
    }
}
