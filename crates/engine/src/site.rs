//! What every use case begins with: the plan, the directory it speaks of, the repository, and who asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use plan::{Lookup, Plan};
use repository::{LockOptions, Repository};

use crate::Result;
use crate::copies::CopySite;
use crate::point::Catalogue;

/// Values from outside the plan, looked up late; shared by the threads of a run.
pub type SharedLookup = Arc<dyn Lookup + Send + Sync>;

/// An estate that is being worked on: its plan, its repository, and who does it from where.
#[derive(Clone)]
pub struct Site {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The text of the plan file, pinned by every run.
    pub plan_text: String,
    /// The directory against which the plan's relative paths are resolved; absolute.
    pub base: PathBuf,
    /// The directory of everything that Lifeboat keeps on this machine: runs, services, caches; absolute.
    pub state: PathBuf,
    /// Where recovery points live.
    pub repository: Repository,
    /// Where they are copied to, in the order of the plan.
    pub copies: Vec<CopySite>,
    /// Set when `repository` is one of the plan's copies, because its own is gone: which, as the plan writes it.
    pub from: Option<String>,
    /// Where days begin, for what is kept by the day.
    pub zone: TimeZone,
    /// Finds late values.
    pub lookup: SharedLookup,
    /// Who asks: `user@host`.
    pub who: String,
    /// This machine's name.
    pub host: String,
    /// The program and its version.
    pub program: String,
    /// How the first process of a twin is started: the program and the arguments that make it [`place::twin_init`].
    pub twin_init: place::Init,
    /// How a proof of a SQLite database gets a process of its own: the program by its path, and the arguments that make
    /// it [`estate::component::sqlite::answer_aside`]. Without it a proof runs in this process, in twice the time.
    pub sqlite_proof: Option<place::Init>,
    /// How long others who have locked a repository are waited for.
    pub lock_wait: Duration,
}

impl Site {
    /// The present.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// How the repository and its copies are locked.
    pub(crate) fn lock_options(&self) -> LockOptions {
        LockOptions { wait: self.lock_wait, ..LockOptions::default() }
    }

    /// The recovery points of this estate.
    pub fn catalogue(&self) -> Result<Catalogue> {
        Catalogue::load(&self.repository, &self.estate(), &self.state.join("cache"))
    }

    /// The estate's name.
    pub fn estate(&self) -> String {
        self.plan.name.as_str().to_owned()
    }

    /// A path of the plan, made absolute.
    pub fn path(&self, path: &Path) -> PathBuf {
        absolute(&self.base, path)
    }
}

/// Resolves `path` against `base`, without looking at any file: `.` goes, `..` takes its parent with it.
pub(crate) fn absolute(base: &Path, path: &Path) -> PathBuf {
    let mut absolute = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                absolute.pop();
            }
            other => absolute.push(other),
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_by_their_text() {
        let check = |path: &str, expected: &str| {
            assert_eq!(absolute(Path::new("/srv/app"), Path::new(path)), Path::new(expected));
        };
        check("data/hub.db", "/srv/app/data/hub.db");
        check("./k8s/", "/srv/app/k8s");
        check("../other/./x", "/srv/other/x");
        check("/etc/app.conf", "/etc/app.conf");
    }
}
