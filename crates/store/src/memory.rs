//! The store in memory, for tests and dry runs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{Error, ErrorKind, Object, Result, Store, key};

/// Holds its objects in a map and forgets them when it is dropped.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Memory {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a store that holds `objects`.
    pub fn from_contents(objects: BTreeMap<String, Bytes>) -> Self {
        Self { objects: Mutex::new(objects) }
    }

    /// Returns every object as it stands now; the bytes are shared, not copied.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        self.objects().clone()
    }

    /// Returns an independent store with what this one holds now, as after a crash.
    pub fn snapshot(&self) -> Self {
        Self::from_contents(self.contents())
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // Every change is one call on the map, so a panic elsewhere cannot leave it half-changed.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &str) -> Result<Bytes> {
        key::check("read", key, || self.location())?;
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| self.error(ErrorKind::NotFound, "read", key, "no such object"))
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &str, reason: &str) -> Error {
        Error::new(kind, operation, key, self.location(), reason)
    }
}

impl Store for Memory {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        key::check("write", key, || self.location())?;
        self.objects().insert(key.to_owned(), data);
        Ok(())
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        key::check("write", key, || self.location())?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(self.error(ErrorKind::AlreadyExists, "write", key, "the object exists already"));
        }
        objects.insert(key.to_owned(), data);
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.find(key).map(Vec::from)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        let data = self.find(key)?;
        if range.is_empty() {
            return Ok(());
        }
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let Some(part) = bounds.and_then(|(start, end)| data.get(start..end)) else {
            let reason =
                format!("bytes {} to {} wanted, the object has {}", range.start, range.end, data.len());
            return Err(self.error(ErrorKind::Truncated, "read", key, &reason));
        };
        buffer.extend_from_slice(part);
        Ok(())
    }

    fn size(&self, key: &str) -> Result<u64> {
        Ok(self.find(key)?.len() as u64)
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        key::check_prefix(prefix, || self.location())?;
        // Collected first: `found` may well call this store again.
        let matching: Vec<Object> = self
            .objects()
            .iter()
            .filter(|(key, _)| key::is_below(key, prefix))
            .map(|(key, data)| Object { key: key.clone(), size: data.len() as u64 })
            .collect();
        matching.into_iter().try_for_each(found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        key::check("delete", key, || self.location())?;
        self.objects().remove(key);
        Ok(())
    }

    fn parallelism(&self) -> usize {
        2
    }
}
