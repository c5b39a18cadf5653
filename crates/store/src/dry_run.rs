//! A store seen through glass: everything can be read, nothing is written.

use std::ops::Range;

use bytes::Bytes;

use crate::{Object, Result, Store};

/// Reads from the store beneath; accepts every write and removal, and does nothing.
///
/// What was "written" is not there when it is looked for, so this serves operations that only add to what they
/// have read, such as the dry run of a backup.
#[derive(Debug)]
pub struct DryRun<S>(S);

impl<S: Store> DryRun<S> {
    /// Puts `store` behind glass.
    pub fn new(store: S) -> Self {
        Self(store)
    }
}

impl<S: Store> Store for DryRun<S> {
    fn location(&self) -> String {
        self.0.location()
    }

    fn put(&self, _key: &str, _data: Bytes) -> Result<()> {
        Ok(())
    }

    fn create(&self, _key: &str, _data: Bytes) -> Result<()> {
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.0.get(key)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        self.0.get_range(key, range, buffer)
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.0.size(key)
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        self.0.list(prefix, found)
    }

    fn delete(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    fn parallelism(&self) -> usize {
        self.0.parallelism()
    }
}
