//! The archived logs of a repository as a whole.

use std::collections::BTreeSet;

use repository::log::{self, Archive, Scope, VerifyReport};
use repository::{Context, Repository};

use crate::{Error, Result};

/// Reads and verifies the archived logs of all components, named or found; those that have none are left out.
///
/// Fails when the repository does; what is wrong with a log is in its report.
pub fn verify<'a>(
    repository: &Repository,
    named: impl Iterator<Item = &'a str>,
    scope: Scope,
    context: Context<'_>,
) -> Result<Vec<(String, VerifyReport)>> {
    let mut reports = Vec::new();
    for component in components(repository, named)? {
        let archive = Archive::new(repository, &component).map_err(error(&component))?;
        let report = archive.verify(scope, context).map_err(error(&component))?;
        if report.verified + report.known > 0 || !report.findings.is_empty() {
            reports.push((component, report));
        }
    }
    Ok(reports)
}

/// The components that may have logs: those that are `named`, and those that the repository shows.
pub(crate) fn components<'a>(
    repository: &Repository,
    named: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<String>> {
    let mut components = log::components(repository)?;
    // The directory of a long name does not show it.
    if !repository.sidecar_list("log")?.is_empty() {
        components.extend(named.map(str::to_owned));
    }
    Ok(components)
}

/// Says of which component's log an error is.
pub(crate) fn error(component: &str) -> impl FnOnce(log::Error) -> Error + '_ {
    move |error| match error {
        log::Error::Repository(error) => error.into(),
        other => Error::Failed(format!("the log of {component}: {other}")),
    }
}

#[cfg(test)]
mod tests;
