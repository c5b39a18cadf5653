//! A repository: its making, its opening, and the loading and saving of its sealed files.
//!
//! # Consistency
//! Every file but `config` is named by the SHA-256 of its stored bytes and never changes; a reader checks
//! the name before it believes the content.
//!
//! # Crash
//! `init` writes the key first and `config` last, and `config` makes it a repository: a crash between
//! the two leaves one key file, which a repeated `init` with the same password takes up.

use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{ErrorKind, Store};

use crate::chunker::{Chunker, Gear, Polynomial, PolynomialError, Rabin};
use crate::crypto::{MasterKey, ScryptCost};
use crate::format::{Chunking, Config, LifeboatConfig, Time};
use crate::{Error, Id, Result, keys};

/// The kinds of files in a repository, which are the directories of its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// Master keys, each sealed with a password.
    Key,
    /// Who is working on the repository.
    Lock,
    /// How far interrupted backups came; ours alone.
    Checkpoint,
    /// The recovery points.
    Snapshot,
    /// Which blob lies in which pack.
    Index,
    /// The blobs.
    Pack,
}

impl FileKind {
    /// The directory that holds the files of this kind.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Checkpoint => "lifeboat/checkpoints",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }

    /// The object that holds the file `id`.
    pub fn object(self, id: &Id) -> String {
        match self {
            Self::Pack => {
                let name = id.to_hex();
                format!("data/{}/{name}", &name[..2])
            }
            _ => format!("{}/{id}", self.directory()),
        }
    }
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Lock => "lock",
            Self::Checkpoint => "checkpoint",
            Self::Snapshot => "snapshot",
            Self::Index => "index",
            Self::Pack => "pack",
        })
    }
}

/// Tells the time; replaced in tests.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// How a new repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// How files will be cut into chunks.
    pub chunking: Chunking,
    /// The polynomial of another repository, so that chunks copied between the two are shared.
    pub polynomial: Option<String>,
    /// Cost of the first key.
    pub cost: ScryptCost,
    /// Who makes it, for the key file: user and host.
    pub author: keys::Author,
}

/// An open repository.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    key: MasterKey,
    key_id: Id,
    config: Config,
    clock: Clock,
}

/// A sealed file decompresses to no more than this, however much it claims.
const FILE_BYTES_MAX: u64 = 2 << 30;
/// The first byte of a sealed file whose rest is zstd.
const COMPRESSED: u8 = 2;
/// Compression level of small files, which are mostly hexadecimal digits.
const FILE_LEVEL: i32 = 3;

impl Repository {
    /// Makes a repository in an empty place.
    ///
    /// Fails with [`Error::AlreadyExists`] where one is, and with [`Error::Incomplete`] where snapshots or
    /// packs lie without a config.
    pub fn init(store: Arc<dyn Store>, password: &[u8], options: &InitOptions, clock: Clock) -> Result<Self> {
        if config_exists(&*store)? {
            return Err(Error::AlreadyExists { location: store.location() });
        }
        for directory in ["snapshots", "index", "data"] {
            if !is_empty(&*store, directory)? {
                let what = format!("config is missing, yet {directory}/ holds files");
                return Err(Error::Incomplete { location: store.location(), what });
            }
        }
        let (key_id, key) = match keys::open_any(&*store, password) {
            Ok(found) => found,
            Err(Error::NoRepository { .. }) => {
                let key = MasterKey::random();
                (keys::write(&*store, &key, password, options.cost, &options.author, clock.now())?, key)
            }
            Err(error) => return Err(error),
        };
        let repository = Self { store, key, key_id, config: new_config(options)?, clock };
        repository.write_config()?;
        Ok(repository)
    }

    /// Opens a repository with one of its passwords.
    pub fn open(store: Arc<dyn Store>, password: &[u8], clock: Clock) -> Result<Self> {
        let sealed = match store.get("config") {
            Ok(sealed) => sealed,
            Err(error) if error.kind == ErrorKind::NotFound => return Err(explain_missing_config(&*store)?),
            Err(error) => return Err(error.into()),
        };
        let (key_id, key) = match keys::open_any(&*store, password) {
            Err(Error::NoRepository { location }) => {
                let what = "config is there, but keys/ is empty; without a key nothing can be read".into();
                return Err(Error::Incomplete { location, what });
            }
            other => other?,
        };
        let config = parse_config(&store.location(), &key, sealed)?;
        Ok(Self { store, key, key_id, config, clock })
    }

    /// Writes a new config where the old one is lost or damaged; everything else stays as it is.
    ///
    /// The chunker's polynomial is lost with a config, so a later backup by restic stores changed files anew.
    pub fn rebuild_config(
        store: Arc<dyn Store>,
        password: &[u8],
        options: &InitOptions,
        clock: Clock,
    ) -> Result<Self> {
        let (key_id, key) = keys::open_any(&*store, password)?;
        match store.get("config") {
            Ok(sealed) if parse_config(&store.location(), &key, sealed.clone()).is_ok() => {
                return Err(Error::Refused("config is sound; there is nothing to repair".into()));
            }
            Ok(_) => store.delete("config")?,
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let repository = Self { store, key, key_id, config: new_config(options)?, clock };
        repository.write_config()?;
        Ok(repository)
    }

    fn write_config(&self) -> Result<()> {
        let json = to_json(&self.config);
        // The config is the one sealed file that is never compressed: readers do not expect it.
        match self.store.create("config", self.key.seal(&json).into()) {
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { location: self.store.location() })
            }
            other => Ok(other?),
        }
    }

    /// Where the repository lies, for messages.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The keys that seal everything.
    pub fn key(&self) -> &MasterKey {
        &self.key
    }

    /// The key file that opened the repository.
    pub fn key_id(&self) -> Id {
        self.key_id
    }

    /// What holds for the whole repository.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The clock that all operations ask.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The present instant.
    pub fn now(&self) -> Time {
        self.clock.now().into()
    }

    /// The same repository seen through another store, such as a wrapper of its own.
    pub fn with_store(&self, store: Arc<dyn Store>) -> Self {
        Self { store, ..self.clone() }
    }

    /// The chunker that cuts files of this repository.
    pub fn chunker(&self) -> Result<Chunker> {
        Ok(match self.config.chunking() {
            Chunking::Gear => {
                let purpose = format!("lifeboat gear chunker of repository {}", self.config.id);
                Chunker::Gear(Box::new(Gear::new(&self.key.derive(&purpose))))
            }
            Chunking::Rabin => {
                let polynomial = parse_polynomial(&self.config)?;
                Chunker::Rabin(Box::new(Rabin::new(polynomial)))
            }
        })
    }

    /// Lists the files of a kind with their sizes in bytes; names that are no ids are passed over, as restic does.
    pub fn list(&self, kind: FileKind) -> Result<Vec<(Id, u64)>> {
        let mut files = Vec::new();
        self.store.list(kind.directory(), &mut |object| {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            if let Ok(id) = name.parse::<Id>()
                && kind.object(&id) == object.key
            {
                files.push((id, object.size));
            }
            Ok(())
        })?;
        Ok(files)
    }

    /// Loads a sealed file's plaintext, having checked its name.
    pub fn load(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        let sealed = self.store.get(&kind.object(id))?;
        self.unseal(kind, id, sealed)
    }

    /// Loads a sealed JSON file.
    pub fn load_json<T: DeserializeOwned>(&self, kind: FileKind, id: &Id) -> Result<T> {
        let json = self.load(kind, id)?;
        serde_json::from_slice(&json).map_err(|error| Error::damaged(format!("{kind} {id}"), error))
    }

    /// Opens the stored bytes of the file `id`, having checked its name.
    pub(crate) fn unseal(&self, kind: FileKind, id: &Id, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
        let damaged = |why: &dyn ToString| Error::damaged(format!("{kind} {id}"), why.to_string());
        if Id::of(&sealed) != *id {
            return Err(damaged(&"its content does not have the SHA-256 that its name says"));
        }
        let plaintext = self.key.open(&mut sealed).map_err(|error| damaged(&error))?;
        match plaintext.first() {
            Some(b'{' | b'[') => Ok(plaintext.to_vec()),
            Some(&COMPRESSED) => decompress_file(&plaintext[1..]).map_err(|error| damaged(&error)),
            Some(byte) => Err(damaged(&format!("its content begins with the unknown byte {byte:#04x}"))),
            None => Err(damaged(&"it is empty")),
        }
    }

    /// Saves a JSON file, sealed and compressed, and returns its name.
    pub fn save_json<T: Serialize>(&self, kind: FileKind, content: &T) -> Result<Id> {
        let mut plaintext = vec![COMPRESSED];
        let compressed = zstd::bulk::compress(&to_json(content), FILE_LEVEL)
            .expect("compressing into a buffer of the library's own bound does not fail");
        plaintext.extend_from_slice(&compressed);
        let sealed = self.key.seal(&plaintext);
        let id = Id::of(&sealed);
        self.store.put(&kind.object(&id), sealed.into())?;
        Ok(id)
    }

    /// Removes a file.
    pub fn remove(&self, kind: FileKind, id: &Id) -> Result<()> {
        Ok(self.store.delete(&kind.object(id))?)
    }
}

fn to_json<T: Serialize>(content: &T) -> Vec<u8> {
    serde_json::to_vec(content).expect("the repository's own types have only text keys")
}

fn decompress_file(compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plaintext = Vec::new();
    zstd::stream::Decoder::with_buffer(compressed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut plaintext)?;
    if plaintext.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it decompresses to more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(plaintext)
}

fn new_config(options: &InitOptions) -> Result<Config> {
    let polynomial = match &options.polynomial {
        Some(text) => text.parse().map_err(|error: PolynomialError| Error::Refused(error.to_string()))?,
        None => Polynomial::random(|bytes| {
            getrandom::fill(bytes).expect("the kernel's random source does not fail once it is seeded");
        }),
    };
    Ok(Config {
        version: 2,
        id: Id::random(),
        chunker_polynomial: polynomial.to_string(),
        lifeboat: Some(LifeboatConfig { chunking: options.chunking }),
    })
}

fn parse_config(location: &str, key: &MasterKey, mut sealed: Vec<u8>) -> Result<Config> {
    let damaged = |why: String| Error::damaged("config", why);
    let json = key.open(&mut sealed).map_err(|error| damaged(error.to_string()))?;
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    // The version first: what a later version writes beside it need not make sense to us.
    let Version { version } = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
    if version != 2 {
        return Err(Error::UnsupportedVersion { location: location.to_owned(), version });
    }
    let config: Config = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
    parse_polynomial(&config)?;
    Ok(config)
}

fn parse_polynomial(config: &Config) -> Result<Polynomial> {
    config.chunker_polynomial.parse().map_err(|error: PolynomialError| Error::damaged("config", error))
}

fn config_exists(store: &dyn Store) -> Result<bool> {
    match store.size("config") {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_empty(store: &dyn Store, directory: &str) -> Result<bool> {
    let mut empty = true;
    store.list(directory, &mut |_| {
        empty = false;
        Ok(())
    })?;
    Ok(empty)
}

fn explain_missing_config(store: &dyn Store) -> Result<Error> {
    let location = store.location();
    for directory in ["snapshots", "index", "data"] {
        if !is_empty(store, directory)? {
            let what = format!("config is missing, yet {directory}/ holds files");
            return Ok(Error::Incomplete { location, what });
        }
    }
    if !is_empty(store, "keys")? {
        let what = "there is a key but no config: its making was interrupted".into();
        return Ok(Error::Incomplete { location, what });
    }
    Ok(Error::NoRepository { location })
}
