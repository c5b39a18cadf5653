//! What a PostgreSQL server archives and asks back: one file of its log into the component's log archive, or out of it.
//!
//! # What a server may believe
//! A push that succeeds means that the file is durable in the repository, with exactly this content. A fetch says one of three
//! things: the file is there; it is proven that there is none, for which the server ends its recovery; or nothing is known, or
//! the archive has lost it, for which the server must stop with an error. A gap is never told as an end.
//!
//! # Where things lie
//! A lineage is a timeline of a cluster, a position a byte of its log, a piece a segment or, of segments larger than
//! `PIECE`, a part of one. Histories, marks of backups and partial segments are the lineage's small files.
//!
//! | module | what lives there |
//! |---|---|
//! | `ask` | asking the resident helper, and the protocol |
//! | `helper` | the resident helper: who may ask, and what is answered |
//! | `ahead` | its pushing ahead of the server |
//! | `prefetch` | its fetching ahead of a recovery |
//! | `mark` | telling other machines where an idle server's log stands |
//! | `waiting` | what the server has still to archive, and when that is an alarm |
//! | `sheet` | files that the helper fills for whoever asks |
//! | `target` | putting a file where it was asked for |

mod ahead;
pub mod ask;
pub(crate) mod helper;
pub(crate) mod mark;
mod prefetch;
mod sheet;
mod target;
pub mod waiting;

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use estate::component::postgres::wal::{self, Cluster, Kind, Lsn, Name};
use repository::Repository;
use repository::log::{Appended, Appender, Archive, Content, Error as LogError, Lineage, Piece, Prepared};

use crate::{Error, Result};

/// The largest piece of a segment; all sizes of segments are multiples of it, or smaller.
const PIECE: u64 = 16 << 20;
/// How many segments between the archive's end and the file are taken along, when they are still there.
const MISSED_MAX: u64 = 4096;

/// Which log, and in which archive.
#[derive(Debug, Clone, Copy)]
pub struct Wal<'a> {
    /// Where the archive is.
    pub repository: &'a Repository,
    /// The component of the plan.
    pub component: &'a str,
    /// The data directory of the server that asks.
    pub data: &'a Path,
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Whether it was archived before, with the same content.
    pub was_there: bool,
    /// Segments that had been missed before it and were archived with it.
    pub along: u64,
    /// What a person should know: a gap, damage that was accepted.
    pub warning: Option<String>,
}

/// What came of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It is where it was asked for.
    Written,
    /// It is proven that there is none; says how.
    Absent(String),
}

/// A file of the log, read.
struct File {
    name: String,
    parsed: Name,
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A file of a log that is asked back.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    name: &'a str,
    parsed: Name,
    cluster: Cluster,
    /// Whether the server that asks has it itself, so that it is not lost when the archive lacks it.
    server_has_it: bool,
}

/// What the archive says about it.
enum Found {
    /// Its bytes, in pieces; for a segment, what is archived of its lineage, too.
    There(Vec<bytes::Bytes>, Option<Arc<Lineage>>),
    /// It is proven that there is none.
    Absent(String),
}

/// The appenders of those who archive more than one file.
#[derive(Debug, Default)]
struct Writers(Mutex<HashMap<String, Arc<Appender>>>);

/// How a file is archived.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    /// A segment of which records are damaged is taken.
    accepts_damage: bool,
    /// Another thread archives what is before it: for so long it is waited for.
    wait: Duration,
    /// A segment that follows nothing is left, instead of being taken behind a gap.
    only_if_it_follows: bool,
}

impl File {
    /// Reads it, into a buffer that is reused.
    fn read(path: &Path, mut bytes: Vec<u8>) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let parsed = Name::parse(&name).ok_or_else(|| {
            Error::refused(
                format!("{} has no name that a server gives a file of its log", path.display()),
                "write `lifeboat wal push %p` as archive_command",
            )
        })?;
        bytes.clear();
        let read = fs::File::open(path).and_then(|mut file| {
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
            bytes.reserve(length);
            file.read_to_end(&mut bytes)
        });
        read.map_err(Error::io("read", path))?;
        Ok(Self { name, parsed, path: path.to_owned(), bytes })
    }
}

impl Wal<'_> {
    /// Archives a file of the log; it is durable when this returns. `accepts_damage` takes a segment of which records are
    /// damaged, up to which alone the log can be replayed then.
    ///
    /// Fails for a file of another cluster or version or of another place, for one that is archived with other content, and
    /// when it cannot be read or stored. Then the server keeps it and tries again.
    pub fn push(&self, file: &Path, accepts_damage: bool) -> Result<Pushed> {
        let how = How { accepts_damage, ..How::default() };
        self.push_by(&Writers::default(), &File::read(file, Vec::new())?, how).map(|(pushed, _)| pushed)
    }

    /// Archives a file that was read; of a segment also tells what is in it.
    fn push_by(&self, writers: &Writers, file: &File, how: How) -> Result<(Pushed, Option<wal::Segment>)> {
        let cluster = Cluster::of(self.data).map_err(Error::component(self.component))?;
        let lineage = cluster.lineage(file.parsed.timeline);
        let archive = self.archive()?;
        if file.parsed.kind != Kind::Segment {
            return Ok((self.push_small(&archive, &cluster, &lineage, file)?, None));
        }
        let segment = self.look(&cluster, file)?;
        if let (Some(damage), false) = (&segment.damage, how.accepts_damage) {
            return Err(Error::Failed(format!(
                "{} was not archived: {damage}; what the server wrote there is damaged, and no backup from before it can be \
                 brought beyond it; make a new backup, and push it with --accept-damage",
                file.path.display()
            )));
        }
        let appender = writers.get(&lineage, || self.appender(&archive, &cluster, &lineage, file))?;
        let (mut along, mut warning) = (0, None);
        let was_there = match append(&appender, &segment, file, how.wait) {
            Err(LogError::Gap { end, first, .. }) if !how.only_if_it_follows => {
                along = self.catch_up(&appender, &cluster, file, end)?;
                let again = append(&appender, &segment, file, Duration::ZERO);
                if let Err(LogError::Gap { end, .. }) = again {
                    warning = Some(format!(
                        "the log has a gap from {} to {}, and the server has not kept what is missing: nothing can be \
                         restored across it; make a new backup now",
                        Lsn(end),
                        Lsn(first)
                    ));
                    append_after_gap(&appender, &segment, file)
                } else {
                    again
                }
            }
            Err(gap @ LogError::Gap { .. }) => return Err(Error::Log(gap)),
            other => other,
        };
        let was_there = was_there.map_err(|error| self.failed(file, error))?;
        let damage = segment.damage.as_ref().map(|damage| format!("it is archived as it is: {damage}"));
        Ok((Pushed { was_there, along, warning: warning.or(damage) }, Some(segment)))
    }

    /// Gets the file `name` out of the archive and puts it to `target`, which appears whole or not at all.
    ///
    /// Fails whenever it is not certain what the archive has, and when it has lost what was in it.
    pub fn fetch(&self, name: &str, target: &Path) -> Result<Fetched> {
        let cluster = Cluster::of(self.data).map_err(Error::component(self.component))?;
        let wanted =
            Wanted { name, parsed: parse(name)?, cluster, server_has_it: server_has(self.data, name) };
        match self.find(wanted)? {
            Found::There(pieces, _) => {
                let mut pieces = pieces.iter();
                target::write(target, |file| {
                    pieces.try_for_each(|piece| std::io::Write::write_all(file, piece))
                })?;
                Ok(Fetched::Written)
            }
            Found::Absent(why) => Ok(Fetched::Absent(why)),
        }
    }

    /// Asks the archive for a file, by a listing of now.
    fn find(&self, wanted: Wanted<'_>) -> Result<Found> {
        let Wanted { name, parsed, cluster, .. } = wanted;
        let lineage = cluster.lineage(parsed.timeline);
        let archive = self.archive()?;
        if parsed.kind != Kind::Segment {
            return Ok(match archive.file(&lineage, name).map_err(|error| self.lost(name, &error))? {
                Some(bytes) => Found::There(vec![bytes.into()], None),
                None => Found::Absent(format!("{name} was never archived")),
            });
        }
        let Some(begin) = parsed.begin(cluster.segment_bytes) else {
            return Ok(Found::Absent(format!("with this cluster's segments there is no {name}")));
        };
        let known = archive.lineage(&lineage).map_err(|error| self.lost(name, &error))?;
        let end = Lsn(begin.0 + cluster.segment_bytes);
        match self.read(&archive, &lineage, &known, name, begin, end)? {
            Some(contents) => {
                let pieces = contents.into_iter().map(|content| content.bytes).collect();
                Ok(Found::There(pieces, Some(Arc::new(known))))
            }
            None => self.absent(&known, wanted, begin),
        }
    }

    fn archive(&self) -> Result<Archive> {
        Archive::new(self.repository, self.component).map_err(|error| Error::Failed(error.to_string()))
    }

    fn look(&self, cluster: &Cluster, file: &File) -> Result<wal::Segment> {
        cluster.look(&file.parsed, &file.bytes).map_err(|why| {
            Error::Failed(format!("{} was not archived for {}: {why}", file.path.display(), self.component))
        })
    }

    fn push_small(&self, archive: &Archive, cluster: &Cluster, lineage: &str, file: &File) -> Result<Pushed> {
        match file.parsed.kind {
            Kind::Partial => _ = self.look(cluster, file)?,
            Kind::History => {
                wal::parent(&file.bytes, file.parsed.timeline).map_err(Error::Failed)?;
            }
            _ => {}
        }
        let put = archive.put_file(lineage, &file.name, &file.bytes);
        let put = put.map_err(|error| self.failed(file, error))?;
        Ok(Pushed { was_there: put == Appended::AlreadyThere, along: 0, warning: None })
    }

    /// Begins to write a timeline; the first time it is made to continue the one from which it forked off.
    fn appender(&self, archive: &Archive, cluster: &Cluster, lineage: &str, file: &File) -> Result<Appender> {
        let timeline = file.parsed.timeline;
        let failed = |error: LogError| self.failed(file, error);
        if timeline > 1 {
            let known = archive.lineage(lineage).map_err(failed)?;
            if known.segments.is_empty() && known.forks.is_empty() {
                self.continue_parent(archive, cluster, lineage, file)?;
            }
        }
        archive.appender(lineage).map_err(failed)
    }

    /// Lets a new timeline continue its parent, if the archive has the parent up to there; otherwise it stands alone, and is of
    /// use to backups that were made on it.
    fn continue_parent(
        &self,
        archive: &Archive,
        cluster: &Cluster,
        lineage: &str,
        file: &File,
    ) -> Result<()> {
        let name = wal::history_name(file.parsed.timeline);
        let archived = archive.file(lineage, &name).map_err(|error| self.lost(&name, &error))?;
        let beside = || fs::read(file.path.with_file_name(&name)).ok();
        let Some(history) = archived.or_else(beside) else { return Ok(()) };
        let (parent, position) = wal::parent(&history, file.parsed.timeline).map_err(Error::Failed)?;
        archive.put_file(lineage, &name, &history).map_err(|error| self.failed(file, error))?;
        let length = file.bytes.len() as u64;
        let begin = position.0 - position.0 % length;
        if file.parsed.begin(length) != Some(Lsn(begin)) {
            return Ok(());
        }
        match archive.fork(lineage, &cluster.lineage(parent), begin) {
            Ok(_) | Err(LogError::Refused(_)) => Ok(()),
            Err(error) => Err(self.failed(file, error)),
        }
    }

    /// Archives what lies between the archive's end and the file, as far as the server still has all of it; tells how much that
    /// was.
    fn catch_up(&self, appender: &Appender, cluster: &Cluster, file: &File, end: u64) -> Result<u64> {
        let length = file.bytes.len() as u64;
        let first = file.parsed.begin(length).map_or(0, |begin| begin.0);
        let missed = first.saturating_sub(end) / length;
        if missed == 0 || missed > MISSED_MAX || !end.is_multiple_of(length) {
            return Ok(0);
        }
        let mut along = 0;
        for begin in (0..missed).map(|number| end + number * length) {
            let name = Name::of(file.parsed.timeline, Lsn(begin), length);
            let path = file.path.with_file_name(&name);
            let Ok(bytes) = fs::read(&path) else { return Ok(along) };
            let parsed = Name::parse(&name).expect("it was just written");
            let missed = File { name, parsed, path, bytes };
            // What is being reused for something else by now is not what was missed.
            let looked = cluster.look(&missed.parsed, &missed.bytes);
            let Some(segment) = looked.ok().filter(|segment| segment.damage.is_none()) else {
                return Ok(along);
            };
            let appended = append(appender, &segment, &missed, Duration::ZERO);
            appended.map_err(|error| self.failed(&missed, error))?;
            along += 1;
        }
        Ok(along)
    }

    /// Reads a segment's pieces, verified; `None` when the archive has none of it.
    fn read(
        &self,
        archive: &Archive,
        lineage: &str,
        known: &Lineage,
        name: &str,
        begin: Lsn,
        end: Lsn,
    ) -> Result<Option<Vec<Content>>> {
        let from = known.segments.partition_point(|segment| segment.last <= begin.0);
        let (mut contents, mut at) = (Vec::new(), begin.0);
        for segment in known.segments[from..].iter().take_while(|segment| segment.first < end.0) {
            let read = archive.read(lineage, segment).map_err(|error| self.lost(name, &error))?;
            for content in
                read.into_iter().filter(|content| content.part.last > begin.0 && content.part.first < end.0)
            {
                if content.part.first != at || content.part.name.as_deref() != Some(name) {
                    return Err(Error::Failed(format!(
                        "the archive of {} has something else where {name} belongs",
                        self.component
                    )));
                }
                at = content.part.last;
                contents.push(content);
            }
        }
        match at {
            at if at == begin.0 => Ok(None),
            at if at == end.0 => Ok(Some(contents)),
            at => Err(Error::Failed(format!(
                "the archive of {} has {name} only up to {}",
                self.component,
                Lsn(at)
            ))),
        }
    }

    /// Tells what it means that there is no segment at `begin`: the end of the log, or a gap.
    fn absent(&self, known: &Lineage, wanted: Wanted<'_>, begin: Lsn) -> Result<Found> {
        let beyond = known.segments.iter().find(|segment| segment.first > begin.0);
        let Some(beyond) = beyond else {
            let end = known
                .segments
                .last()
                .map_or("is empty".to_owned(), |last| format!("ends at {}", Lsn(last.last)));
            return Ok(Found::Absent(format!("the archive {end}")));
        };
        let forked = known.forks.iter().find(|fork| fork.position > begin.0);
        if let Some(fork) = forked {
            return Ok(Found::Absent(format!("its timeline begins at {}", Lsn(fork.position))));
        }
        // A backup has brought it along, or somebody has put it there.
        if wanted.server_has_it {
            return Ok(Found::Absent(format!(
                "the archive goes on at {} and the server has it",
                Lsn(beyond.first)
            )));
        }
        Err(Error::Failed(format!(
            "{} is missing: the archive of {} goes on behind it, at {}",
            wanted.name,
            self.component,
            Lsn(beyond.first)
        )))
    }

    fn failed(&self, file: &File, error: LogError) -> Error {
        match error {
            LogError::Repository(error) => Error::Repository(error),
            other => Error::Failed(format!("failed to archive {} of {}: {other}", file.name, self.component)),
        }
    }

    fn lost(&self, name: &str, error: &LogError) -> Error {
        Error::Failed(format!("failed to fetch {name} from the archive of {}: {error}", self.component))
    }
}

impl Writers {
    /// The appender of a lineage, which is begun the first time.
    fn get(&self, lineage: &str, begin: impl FnOnce() -> Result<Appender>) -> Result<Arc<Appender>> {
        // Held while it is begun: two that begin at once would take over from each other.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(appender) = known.get(lineage) {
            return Ok(Arc::clone(appender));
        }
        let appender = Arc::new(begin()?);
        known.insert(lineage.to_owned(), Arc::clone(&appender));
        Ok(appender)
    }

    /// Where a lineage ends, if it is written already.
    fn end(&self, lineage: &str) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(lineage)?.end()
    }
}

fn parse(name: &str) -> Result<Name> {
    Name::parse(name).ok_or_else(|| {
        Error::refused(
            format!("{name:?} is no name of a file of a log"),
            "write `lifeboat wal fetch %f %p` as restore_command",
        )
    })
}

/// Whether a server has a file of its log itself: a backup has brought it along, or somebody has put it there.
fn server_has(data: &Path, name: &str) -> bool {
    data.join("pg_wal").join(name).is_file()
}

/// A segment, cut into pieces where it is larger than one.
fn pieces<'a>(segment: &wal::Segment, file: &'a File) -> impl Iterator<Item = Piece<'a>> {
    let ms = |micros: i64| u64::try_from(micros.div_euclid(1000)).ok();
    let times = segment.seen.times.map_or((None, None), |(from, until)| (ms(from), ms(until)));
    let (begin, length) = (segment.begin.0, file.bytes.len() as u64);
    let all = file.bytes.chunks(usize::try_from(PIECE).expect("it is small"));
    all.zip(0..).map(move |(bytes, number)| {
        let first = begin + number * PIECE;
        let last = first + bytes.len() as u64;
        // What is known of the whole is said of its last piece, so that nobody stops before it.
        let (from_ms, until_ms) = if last == begin + length { times } else { (None, None) };
        Piece { first, last, from_ms, until_ms, name: Some(&file.name), bytes }
    })
}

/// Archives a segment behind what is there; tells whether it was there.
fn append(
    appender: &Appender,
    segment: &wal::Segment,
    file: &File,
    wait: Duration,
) -> std::result::Result<bool, LogError> {
    let mut was_there = true;
    for piece in pieces(segment, file) {
        let is_new = appender.end().is_none_or(|end| end <= piece.first);
        // What is there already need not be compressed to be compared.
        let appended = if is_new && !wait.is_zero() {
            appender.append_prepared(&mut Prepared::new(&piece)?, wait)?
        } else {
            appender.append(&piece)?
        };
        was_there &= appended == Appended::AlreadyThere;
    }
    Ok(was_there)
}

/// Archives a segment that follows nothing.
fn append_after_gap(
    appender: &Appender,
    segment: &wal::Segment,
    file: &File,
) -> std::result::Result<bool, LogError> {
    let mut was_there = true;
    for (number, piece) in pieces(segment, file).enumerate() {
        let appended =
            if number == 0 { appender.append_after_gap(&piece)? } else { appender.append(&piece)? };
        was_there &= appended == Appended::AlreadyThere;
    }
    Ok(was_there)
}
