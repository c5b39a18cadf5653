//! Orders of another process: small files in a directory beside the journal, each put there whole by a rename.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Controls, Order};

/// The directory `JOURNAL.control`, where another process leaves its orders.
#[derive(Clone, Debug)]
pub struct ControlDirectory {
    path: PathBuf,
}

impl ControlDirectory {
    /// The control directory of the run with that journal. Nothing is made on disk before an order is given.
    pub fn of(journal: &Path) -> Self {
        let mut path = journal.as_os_str().to_owned();
        path.push(".control");
        Self { path: path.into() }
    }

    /// Gives an order to whatever process runs, or will resume, the run. The run's `Ordered` or `Refused` event tells what
    /// became of it.
    pub fn give(&self, order: &Order) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let bytes = serde_json::to_vec(order).map_err(io::Error::other)?;
        let unfinished = self.path.join(format!(".{}", order.id));
        fs::write(&unfinished, bytes)?;
        fs::rename(unfinished, self.file(&order.id))
    }

    fn file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }
}

impl Controls for ControlDirectory {
    /// A file that is no order is put aside as `NAME.unreadable`, so that it is seen and does not stand in the way.
    fn take(&self) -> io::Result<Vec<Order>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json"))
                && !id.starts_with('.')
            {
                files.push(id.to_owned());
            }
        }
        files.sort_unstable();
        let mut orders = Vec::new();
        for id in files {
            let file = self.file(&id);
            match serde_json::from_slice::<Order>(&fs::read(&file)?) {
                Ok(order) if order.id == id => orders.push(order),
                _ => fs::rename(&file, self.path.join(format!("{id}.unreadable")))?,
            }
        }
        Ok(orders)
    }

    fn settled(&self, order: &Order) -> io::Result<()> {
        match fs::remove_file(self.file(&order.id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
