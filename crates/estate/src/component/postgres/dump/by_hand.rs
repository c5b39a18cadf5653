//! The restore of dumps as a person types it: loaded beside what is there, compared, and then the names change.

use super::super::super::{Cancel, Part, PointFacts};
use super::script::id;
use super::swap::{beside, kept_name};
use super::{Contents, Dumps, ROLES, reach, run_of};
use crate::by_hand::{path, quoted};

/// How many counts of tables are compared by hand; the plan's own facts all are.
const COUNTS_MAX: usize = 20;

/// The commands that load the dumps beside and ask for the facts.
pub(super) fn proof(
    dumps: &Dumps,
    part: &Part,
    contents: &Contents,
    recorded: &PointFacts,
) -> Option<String> {
    let run = run_of(part).ok()?;
    let typed = Typed::of(dumps)?;
    let mut lines =
        vec![format!("# with the programs of PostgreSQL {} or later{}", contents.programs, typed.remark)];
    if let Some(user) = &typed.user {
        // As whom psql and pg_restore run, who must be able to read what root has fetched.
        let upper =
            part.beside.ancestors().skip(1).take_while(|upper| upper.starts_with(&dumps.options.state));
        let upper: Vec<String> = upper.map(path).collect();
        if !upper.is_empty() {
            lines.push(format!("chmod o+x {}", upper.join(" ")));
        }
        lines.push(format!("chown -R {} {}", quoted(user), path(&part.beside)));
    }
    lines.extend([
        "# roles that are there already are told as errors, and stay as they are".to_owned(),
        typed.run(&format!(
            "psql -Xq {} -d {} -f {}",
            typed.server,
            typed.admin(contents),
            path(&part.beside.join(ROLES))
        )),
    ]);
    for database in &contents.databases {
        let new = beside(&database.name, run);
        let make = format!("CREATE DATABASE {} {}", id(&new), database.made_with);
        let own = format!("ALTER DATABASE {} OWNER TO {}", id(&new), id(&database.owner));
        lines.push(typed.sql(&typed.admin(contents), &make));
        lines.push(typed.sql(&typed.admin(contents), &own));
        let dump = path(&part.beside.join(&database.directory));
        let name = quoted(&reach::conninfo(&new)).into_owned();
        lines.push(typed.run(&format!("pg_restore --exit-on-error -j 4 {} -d {name} {dump}", typed.server)));
    }
    let fact = |database: &str, query: &str, name: &str, expected: String| {
        let asked = typed.sql(&quoted(&reach::conninfo(&beside(database, run))), query);
        format!("{asked}  # {name}: {}", expected.replace('\n', " "))
    };
    for (name, query) in &recorded.queries {
        let expected = recorded.facts.declared.get(name).map(ToString::to_string).unwrap_or_default();
        lines.push(fact(&contents.fact_database, query, name, expected));
    }
    let counts = contents.asked.iter().filter(|(name, _)| name.starts_with("rows in "));
    for (name, asked) in counts.take(COUNTS_MAX) {
        let expected = recorded.facts.automatic.get(name).map(ToString::to_string).unwrap_or_default();
        lines.push(fact(&asked.database, &asked.query, name, expected));
    }
    Some(lines.join("\n"))
}

/// The commands that change the names.
pub(super) fn swap(dumps: &Dumps, part: &Part, contents: &Contents) -> Option<String> {
    let run = run_of(part).ok()?;
    let typed = Typed::of(dumps)?;
    let admin = typed.admin(contents);
    let mut lines = vec![
        "# nobody may be connected; the first of each pair fails where there is nothing to be kept"
            .to_owned(),
    ];
    for database in &contents.databases {
        let rename = |from: &str, to: &str| format!("ALTER DATABASE {} RENAME TO {}", id(from), id(to));
        let name = &database.name;
        lines.push(format!("{} || true", typed.sql(&admin, &rename(name, &kept_name(name, run)))));
        lines.push(typed.sql(&admin, &rename(&beside(name, run), name)));
        lines.extend(database.properties.iter().map(|statement| typed.sql(&admin, statement)));
    }
    Some(lines.join("\n"))
}

/// How commands are typed for a server.
struct Typed {
    server: String,
    user: Option<String>,
    remark: String,
}

impl Typed {
    fn of(dumps: &Dumps) -> Option<Self> {
        let cancel = Cancel::default();
        let reach = dumps.reach(&cancel).ok()?;
        let user = reach.as_user.and_then(reach::name_of);
        let remark = match (&user, &dumps.options.password) {
            (Some(_), _) => ", as root",
            (None, Some(_)) => "; the password is asked for, or taken from PGPASSWORD",
            (None, None) => "",
        };
        Some(Self { server: reach.by_hand(), user, remark: remark.to_owned() })
    }

    /// A database to be connected to that is not replaced.
    fn admin(&self, contents: &Contents) -> String {
        let replaced = contents.names().contains(&"postgres");
        if replaced { "template1".to_owned() } else { "postgres".to_owned() }
    }

    fn sql(&self, database: &str, statement: &str) -> String {
        let command =
            format!("psql -XAtq -v ON_ERROR_STOP=1 {} -d {database} -c {}", self.server, quoted(statement));
        self.run(&command)
    }

    fn run(&self, command: &str) -> String {
        match &self.user {
            Some(user) => format!("su {} -s /bin/sh -c {}", quoted(user), quoted(command)),
            None => command.to_owned(),
        }
    }
}
