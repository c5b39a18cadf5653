//! The passwords of a repository: each opens one key file, and every key file holds the same master key.

use jiff::Timestamp;
use store::Store;

use crate::crypto::{MasterKey, ScryptCost};
use crate::format::{KeyFile, KeyFileMac, KeyFileSecret};
use crate::lock::hostname;
use crate::{Error, FileKind, Id, Repository, Result, Users};

/// Who adds a key, for people who look at the list later.
#[derive(Debug, Clone, Default)]
pub struct Author {
    /// User name.
    pub username: String,
    /// Host name.
    pub hostname: String,
}

impl Author {
    /// This process's user and this host.
    pub fn this_process() -> Self {
        let users = Users::load(std::path::Path::new("/"));
        let username = users.user(rustix::process::getuid().as_raw()).to_owned();
        Self { username, hostname: hostname() }
    }
}

/// One key of a repository.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// Name of the key file.
    pub id: Id,
    /// Whether this is the key that opened the repository.
    pub current: bool,
    /// What the file says; an error where it cannot be read.
    pub content: std::result::Result<KeyFile, String>,
}

/// restic writes exactly this much and refuses anything else.
const SALT_BYTES: usize = 64;
/// A key file is a few hundred bytes; more is something else.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

impl Repository {
    /// Lists the keys.
    pub fn keys(&self) -> Result<Vec<KeyEntry>> {
        let mut entries = Vec::new();
        for (id, size) in self.list(FileKind::Key)? {
            let content = load(&**self.store(), &id, size)?;
            entries.push(KeyEntry { id, current: id == self.key_id(), content });
        }
        entries.sort_by_key(|entry| entry.content.as_ref().map(|file| file.created).ok());
        Ok(entries)
    }

    /// Adds a key that opens with `password`.
    pub fn add_key(&self, password: &[u8], cost: ScryptCost, author: &Author) -> Result<Id> {
        write(&**self.store(), self.key(), password, cost, author, self.clock().now())
    }

    /// Removes a key; never the one that opened the repository.
    pub fn remove_key(&self, id: &Id) -> Result<()> {
        if *id == self.key_id() {
            let what = format!("key {} opened the repository and cannot be removed with itself", id.short());
            return Err(Error::Refused(what));
        }
        self.store().size(&FileKind::Key.object(id))?;
        self.remove(FileKind::Key, id)
    }

    /// Replaces the key that opened the repository by one that opens with `password`.
    ///
    /// The new key is durable, and was seen to open, before the old one is removed; a crash between leaves both.
    pub fn change_password(&self, password: &[u8], cost: ScryptCost, author: &Author) -> Result<Id> {
        let new = self.add_key(password, cost, author)?;
        let size = self.store().size(&FileKind::Key.object(&new))?;
        let readable = load(&**self.store(), &new, size)?
            .and_then(|file| open(&file, password).ok_or_else(|| "it does not open".to_owned()));
        match readable {
            Ok(key) if key == *self.key() => self.remove(FileKind::Key, &self.key_id()).map(|()| new),
            Ok(_) => Err(Error::damaged(format!("key {new}"), "it holds another master key")),
            Err(why) => Err(Error::damaged(format!("key {new}"), why)),
        }
    }
}

/// Seals the master key with `password` and saves it.
pub(crate) fn write(
    store: &dyn Store,
    key: &MasterKey,
    password: &[u8],
    cost: ScryptCost,
    author: &Author,
    now: Timestamp,
) -> Result<Id> {
    if password.is_empty() {
        return Err(Error::Refused("an empty password protects nothing".into()));
    }
    let mut salt = vec![0; SALT_BYTES];
    getrandom::fill(&mut salt).expect("the kernel's random source does not fail once it is seeded");
    let secret = KeyFileSecret {
        mac: KeyFileMac { k: key.mac_k.to_vec(), r: key.mac_r.to_vec() },
        encrypt: key.encrypt.to_vec(),
    };
    let secret = serde_json::to_vec(&secret).expect("plain fields");
    let sealing_key = cost.derive(password, &salt).map_err(Error::Refused)?;
    let file = KeyFile {
        created: now.into(),
        username: author.username.clone(),
        hostname: author.hostname.clone(),
        kdf: "scrypt".into(),
        n: cost.n,
        r: cost.r,
        p: cost.p,
        salt,
        data: sealing_key.seal(&secret),
    };
    let json = serde_json::to_vec(&file).expect("plain fields");
    let id = Id::of(&json);
    store.put(&FileKind::Key.object(&id), json.into())?;
    Ok(id)
}

/// Opens the first key that `password` opens.
///
/// Fails with [`Error::NoRepository`] when there is no key at all, with [`Error::Damaged`] when no key
/// opens and at least one cannot be read, and with [`Error::WrongPassword`] otherwise.
pub(crate) fn open_any(store: &dyn Store, password: &[u8]) -> Result<(Id, MasterKey)> {
    let mut files = Vec::new();
    store.list(FileKind::Key.directory(), &mut |object| {
        let name = object.key.rsplit('/').next().unwrap_or_default();
        files.extend(name.parse::<Id>().ok().map(|id| (id, object.size)));
        Ok(())
    })?;
    if files.is_empty() {
        return Err(Error::NoRepository { location: store.location() });
    }
    let mut damaged = None;
    for (id, size) in &files {
        match load(store, id, *size)? {
            Ok(file) => {
                if let Some(key) = open(&file, password) {
                    return Ok((*id, key));
                }
                if let Err(why) = check_cost(&file) {
                    damaged = Some((*id, why));
                }
            }
            Err(why) => damaged = Some((*id, why)),
        }
    }
    Err(match damaged {
        Some((id, why)) => Error::damaged(format!("key {id}"), why),
        None => Error::WrongPassword { location: store.location(), keys: files.len() },
    })
}

/// Loads a key file; the inner result tells a damaged file from an unreachable one.
fn load(store: &dyn Store, id: &Id, size: u64) -> Result<std::result::Result<KeyFile, String>> {
    if size > KEY_FILE_BYTES_MAX {
        return Ok(Err(format!("it has {size} bytes, far more than a key needs")));
    }
    let json = store.get(&FileKind::Key.object(id))?;
    if Id::of(&json) != *id {
        return Ok(Err("its content does not have the SHA-256 that its name says".into()));
    }
    Ok(serde_json::from_slice(&json).map_err(|error| error.to_string()))
}

fn check_cost(file: &KeyFile) -> std::result::Result<(), String> {
    if file.kdf != "scrypt" {
        return Err(format!("its key derivation function {:?} is unknown", file.kdf));
    }
    file.cost().derive(b"", b"").map(drop)
}

fn open(file: &KeyFile, password: &[u8]) -> Option<MasterKey> {
    if file.kdf != "scrypt" {
        return None;
    }
    let sealing_key = file.cost().derive(password, &file.salt).ok()?;
    let mut data = file.data.clone();
    let secret: KeyFileSecret = serde_json::from_slice(sealing_key.open(&mut data).ok()?).ok()?;
    let key = MasterKey {
        encrypt: secret.encrypt.try_into().ok()?,
        mac_k: secret.mac.k.try_into().ok()?,
        mac_r: secret.mac.r.try_into().ok()?,
    };
    (!key.is_degenerate()).then_some(key)
}
