//! The handbook: the whole plan as a document for people, to be printed and kept where it can be read when nothing works.
//!
//! It says how to get everything back with stock restic and a shell, and without Lifeboat. Late values stand in it as
//! the plan writes them; none is looked up, so that no secret can be in it. The steps of scenarios are resolved as for
//! a recovery now; where that is not possible, such as before the first backup, the plan's own words stand there.

use std::sync::Arc;

use place::Place;
use plan::{ComponentKind, ServiceKind};
use repository::crypto::ScryptCost;
use repository::format::Chunking;
use repository::keys::Author;
use repository::{Clock, InitOptions, Repository};
use store::Location;

use crate::Result;

use crate::drivers::Drivers;
use crate::point::Catalogue;
use crate::report::markdown::{Out, text};
use crate::report::words;
use crate::site::{Site, absolute};

mod by_hand;
mod scenarios;
#[cfg(test)]
mod tests;

use by_hand::{ByHand, quoted};

/// Writes the handbook of a plan; `catalogue` has the recovery points, or why they cannot be read.
pub fn handbook(site: &Site, catalogue: std::result::Result<Catalogue, String>) -> String {
    let mut out = Out(String::new());
    let drivers = Drivers::written(site, &Place::host());
    let problem = drivers.as_ref().err().map(ToString::to_string);
    let book = Book { site, drivers: drivers.ok(), catalogue };
    book.front(&mut out, problem.as_deref());
    book.contacts(&mut out);
    book.estate(&mut out);
    book.backups(&mut out);
    book.by_hand(&mut out);
    book.checks(&mut out);
    scenarios::write(&book, &mut out);
    readable(&out.0)
}

/// Writes late values as the plan does where a URL has escaped their braces.
fn readable(text: &str) -> String {
    ["env", "file", "host"].iter().fold(text.to_owned(), |text, source| {
        let escaped = format!("$%7B{source}:");
        let mut pieces = text.split(&escaped);
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |before, piece| format!("{before}${{{source}:{}", piece.replacen("%7D", "}", 1)))
    })
}

/// A repository with nothing in it, for a site whose own cannot be opened: a handbook is needed most when nothing else
/// works. It is given up with the process.
///
/// Fails when the kernel has no random numbers.
pub fn no_repository() -> Result<Repository> {
    let options = InitOptions {
        chunking: Chunking::Gear,
        polynomial: None,
        cost: ScryptCost { n: 2, r: 1, p: 1 },
        author: Author { username: String::new(), hostname: String::new() },
    };
    Ok(Repository::init(Arc::new(store::Memory::new()), b"nothing is in it", &options, Clock::system())?)
}

/// What the handbook is made of.
struct Book<'a> {
    site: &'a Site,
    /// `None` when they cannot be made: the commands of services and checks are missing then.
    drivers: Option<Drivers>,
    catalogue: std::result::Result<Catalogue, String>,
}

fn spoken(time: Option<std::time::Duration>) -> String {
    time.map_or_else(|| "–".to_owned(), crate::units::duration)
}

impl Book<'_> {
    fn front(&self, out: &mut Out, problem: Option<&str>) {
        let plan = &self.site.plan;
        out.heading(1, &format!("Runbook of {}", text(plan.name.as_str())));
        if let Some(description) = &plan.description {
            out.line(format!("{}\n", text(description)));
        }
        let environment =
            plan.environment.as_ref().map(|name| format!(", environment {name}")).unwrap_or_default();
        out.line(format!(
            "Printed {} by {} from `{}`{}, digest {}. Print it anew when the plan changes, and keep a copy that can be \
             read when the machine cannot.",
            words::instant(self.site.now()),
            self.site.program,
            plan.file,
            text(&environment),
            plan.digest().get(..12).unwrap_or_default(),
        ));
        if let Some(problem) = problem {
            out.line(format!("\n> The commands of services and checks are missing: {}", text(problem)));
        }
        if let Err(why) = &self.catalogue {
            out.line(format!("\n> The repository could not be read when this was printed: {}", text(why)));
        }
        out.heading(2, "Which disaster is it?");
        let rows = plan.scenarios.iter().map(|(name, scenario)| {
            let signs: Vec<&str> = scenario.when.iter().map(plan::Name::as_str).collect();
            [
                scenario.severity.as_str().to_owned(),
                text(scenario.title.as_deref().unwrap_or(name)),
                spoken(scenario.rto),
                text(&signs.join(", ")),
                format!("`lifeboat recover {name}`"),
            ]
        });
        out.table(["", "what has happened", "back within", "checks that fail", "with Lifeboat"], rows);
    }

    fn contacts(&self, out: &mut Out) {
        if self.site.plan.contacts.is_empty() {
            return;
        }
        out.heading(2, "Who is called");
        let rows = self.site.plan.contacts.iter().map(|contact| {
            let after = match contact.after.as_secs() {
                0 => "at once".to_owned(),
                _ => format!("after {}", words::duration(contact.after.as_secs_f64())),
            };
            [text(&contact.name), text(&contact.reach), after]
        });
        out.table(["who", "reached by", "when"], rows);
    }

    fn estate(&self, out: &mut Out) {
        let plan = &self.site.plan;
        out.heading(2, "What there is");
        let rows = plan.components.iter().map(|(name, component)| {
            let every = component.every.as_ref().map_or_else(|| "on demand".to_owned(), ToString::to_string);
            [
                text(name),
                text(&self.what(&component.kind)),
                component.priority.as_str().to_owned(),
                spoken(component.rpo),
                spoken(component.rto),
                text(&every),
                text(component.description.as_deref().unwrap_or_default()),
            ]
        });
        out.table(["component", "what", "priority", "RPO", "RTO", "backed up", ""], rows);
        let stages = plan.boot_order(&plan::Selection::All);
        let rows = stages.iter().enumerate().flat_map(|(stage, names)| {
            names.iter().filter_map(move |name| Some((stage + 1, *name, plan.services.get(name)?)))
        });
        let rows = rows.map(|(stage, name, service)| {
            let needs: Vec<&str> = service.needs.iter().map(plan::Name::as_str).collect();
            let kind = match service.kind {
                ServiceKind::Process(_) => "process",
                ServiceKind::Systemd(_) => "systemd",
                ServiceKind::Command(_) => "commands",
            };
            let description = text(service.description.as_deref().unwrap_or_default());
            [stage.to_string(), text(name), kind.to_owned(), text(&needs.join(", ")), description]
        });
        out.table(["start", "service", "kind", "needs", ""], rows);
        let Some(drivers) = &self.drivers else { return };
        for name in plan.services.names() {
            let typed = drivers.typed(name);
            let lines = [("start", &typed.start), ("stop", &typed.stop), ("does it run?", &typed.status)];
            let lines: Vec<String> = lines
                .iter()
                .filter(|(_, command)| !command.is_empty())
                .map(|(what, command)| format!("# {what}\n{command}"))
                .collect();
            out.line(format!("**{}** by hand:\n", text(name)));
            out.commands(&lines.join("\n"));
        }
    }

    /// What a component is, and where.
    fn what(&self, kind: &ComponentKind) -> String {
        let path = |path: &std::path::Path| absolute(&self.site.base, path).display().to_string();
        match kind {
            ComponentKind::Sqlite(sqlite) => format!("SQLite database {}", path(&sqlite.sqlite)),
            ComponentKind::Postgres(postgres) => format!("PostgreSQL cluster {}", path(&postgres.postgres)),
            ComponentKind::PostgresDump(dump) => {
                let which = match &dump.postgres_dump {
                    plan::Databases::All => "all databases".to_owned(),
                    plan::Databases::These(names) => format!("the databases {}", names.join(", ")),
                };
                let port = dump.port.map_or(String::new(), |port| format!(", port {port}"));
                let server = match (&dump.host, &dump.socket) {
                    (Some(host), _) => format!("at {host}"),
                    (None, Some(socket)) => format!("with its socket in {}", path(socket)),
                    (None, None) => "of this machine".to_owned(),
                };
                format!("{which} of the PostgreSQL server {server}{port}, dumped")
            }
            ComponentKind::Redis(redis) => format!("Redis server of {}", path(&redis.redis)),
            ComponentKind::Files(files) => {
                let paths: Vec<String> = files.files.iter().map(|file| path(file)).collect();
                let names: Vec<String> = files.env_files.iter().map(|file| path(file)).collect();
                let names = if names.is_empty() {
                    String::new()
                } else {
                    format!("; of {} the names and not the values", names.join(", "))
                };
                format!("files {}{names}", paths.join(", "))
            }
            ComponentKind::Command(command) => {
                format!("what {} writes", by_hand::command_line(&command.command))
            }
        }
    }

    /// The repository as restic names it.
    fn location(&self, late: &plan::Late) -> String {
        let Some(literal) = late.as_literal() else { return late.written().to_owned() };
        match Location::parse(literal) {
            Ok(Location::Local(path)) => absolute(&self.site.base, &path).display().to_string(),
            Ok(Location::S3(bucket)) => {
                let server = bucket.endpoint.as_deref().unwrap_or("s3.amazonaws.com");
                let prefix =
                    if bucket.prefix.is_empty() { String::new() } else { format!("/{}", bucket.prefix) };
                format!("s3:{server}/{}{prefix}", bucket.bucket)
            }
            Err(_) => literal.to_owned(),
        }
    }

    fn backups(&self, out: &mut Out) {
        let plan = &self.site.plan;
        out.heading(2, "Where the backups are");
        out.line(format!("- {}", text(&self.location(&plan.repository.location))));
        for copy in &plan.copies {
            out.line(format!("- a copy: {}", text(&self.location(&copy.location))));
        }
        let password = plan.repository.password.as_ref().map_or_else(
            || "LIFEBOAT_PASSWORD or what else Lifeboat was given".to_owned(),
            |late| late.written().to_owned(),
        );
        out.line(format!("- opened by: {}", text(&password)));
        out.line("");
        let Ok(catalogue) = &self.catalogue else { return };
        let rows = plan.components.names().map(|name| match catalogue.newest(name) {
            Some(point) => [
                text(name),
                words::instant(point.instant()),
                point.short(),
                point.recorded.bytes.map_or_else(|| "–".to_owned(), words::bytes),
                text(&point.recorded.engine),
            ],
            None => {
                [text(name), "**never backed up**".to_owned(), String::new(), String::new(), String::new()]
            }
        });
        out.table(["component", "newest point", "snapshot", "size", "engine"], rows);
    }

    /// The lines that let restic open the repository.
    fn environment(&self) -> String {
        let location = self.location(&self.site.plan.repository.location);
        let mut lines = vec![format!("export RESTIC_REPOSITORY={}", quoted(&location))];
        let password = self.site.plan.repository.password.as_ref();
        let reference = password.and_then(|late| late.references().next());
        lines.push(match reference {
            Some(reference) if reference.source == plan::Source::File => {
                let path = absolute(&self.site.base, reference.name.as_ref());
                format!("export RESTIC_PASSWORD_FILE={}", quoted(&path.display().to_string()))
            }
            Some(reference) => format!("export RESTIC_PASSWORD=\"${}\"", reference.name),
            None => "export RESTIC_PASSWORD_FILE=…  # or type the password when restic asks".to_owned(),
        });
        if location.starts_with("s3:") {
            lines.push("export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…".to_owned());
        }
        lines.push("restic snapshots".to_owned());
        lines.join("\n")
    }

    fn by_hand(&self, out: &mut Out) {
        out.heading(2, "Get everything back without Lifeboat");
        out.line(
            "The repository is restic's: the stock `restic` reads it. Nothing below writes over what is there; it is moved \
             aside.\n",
        );
        out.commands(&self.environment());
        for (name, component) in self.site.plan.components.iter() {
            out.heading(3, &text(name));
            let by_hand = ByHand::of(self, name);
            if let Some(remark) = &by_hand.remark {
                out.line(format!("{}\n", text(remark)));
            }
            out.line("Fetch it beside:\n");
            out.commands(&by_hand.fetch);
            if !by_hand.prove.is_empty() {
                out.line("See that it is right:\n");
                out.commands(&by_hand.prove);
            }
            if !by_hand.swap.is_empty() {
                out.line("Put it in its place, with everything stopped that uses it:\n");
                out.commands(&by_hand.swap);
            }
            if let ComponentKind::Files(files) = &component.kind {
                for file in files.env_files.iter() {
                    let path = absolute(&self.site.base, file);
                    out.line(format!(
                        "The values of {} are in no backup: fill them in from where secrets are kept.\n",
                        text(&path.display().to_string())
                    ));
                }
            }
        }
    }

    fn checks(&self, out: &mut Out) {
        let (Some(drivers), false) = (&self.drivers, self.site.plan.checks.is_empty()) else { return };
        out.heading(2, "Checks by hand");
        for (name, check) in self.site.plan.checks.iter() {
            let description =
                check.description.as_ref().map(|words| format!(" {}", text(words))).unwrap_or_default();
            out.line(format!("**{}**:{description} {}\n", text(name), text(&drivers.describe(name))));
            out.commands(&drivers.check_by_hand(name));
        }
    }
}
