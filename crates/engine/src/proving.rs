//! Restore tests: points restored into scratch, proven, and thrown away; and copies damaged on purpose, which must be noticed.
//!
//! Of each component the latest is tested, and one that is older, chosen at random: between the first point that counts and the
//! latest instant where its log is archived, among the points otherwise. So what is kept is looked at again and again, and not
//! only what was made last. What was chosen is shown and recorded, and can be asked for again by its instant.
//!
//! A **negative drill** damages a restored copy and runs the same proof. If that holds, it would hold for anything: the test has
//! failed.
//!
//! # What is left behind
//! Nothing: a directory of scratch lives as long as its run, however that ends. What a killed run has left is removed by the next.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use estate::component::{Damage, Holds, Proof, Proven as Shown};
use jiff::{SignedDuration, Timestamp};
use place::Place;
use repository::restore::{Action, Overwrite, RestoreOptions, RestorePlan};
use repository::{BlobReader, Context as Watched, Id, find_entry};
use runbook::{Body, Failure, FailureKind, Performed, Proven, Step, StepContext, StepId};
use serde_json::json;

use crate::drivers::Drivers;
use crate::execute::{Conduct, Finished};
use crate::log::{self, Choice};
use crate::perform::{Performer, failure};
use crate::point::{Catalogue, Point};
use crate::protect::{ALL_WITHIN, carry_out, chosen_components};
use crate::recover::{Preview, plain_context, refuse_future, runbook};
use crate::resolve::{Chosen, Context, Numbers, fetch_and_prove, phase};
use crate::runs::{self, Files, Kind, new_id};
use crate::site::Site;
use crate::work::{Restored, Work, read};
use crate::{Error, Result};

/// How often another instant is tried when one cannot be had, because it lies in a gap.
const TRIES: usize = 8;
/// What a run without a journal has left in scratch is of nobody after this.
const UNBEGUN_MAX: SignedDuration = SignedDuration::from_hours(24);
/// How many differing files are named.
const NAMED_MAX: usize = 5;

/// What is to be tested.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which components; all of the plan if none is named.
    pub components: Vec<String>,
    /// Which of their points.
    pub which: Which,
    /// Whether copies are damaged as well, to see that it is noticed.
    pub negative: bool,
}

/// Which points of a component are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// The latest, and an older one at random.
    #[default]
    LatestAndOlder,
    /// The latest alone.
    Latest,
    /// What there is of this instant.
    At(Timestamp),
}

/// Chooses and says what is to be tested; changes nothing.
///
/// Fails when the plan has no such component, and when a component has no point that counts.
pub fn preview(site: &Site, wanted: &Wanted) -> Result<Preview> {
    let names = chosen_components(site, &wanted.components)?;
    let now = site.now();
    let id = new_id(Kind::Verify, now);
    let catalogue = site.catalogue()?;
    if let Which::At(at) = wanted.which {
        refuse_future(Some(at), now, &catalogue)?;
    }
    let drivers = Drivers::of(site, &Place::host())?;
    let scratch = scratch(site).join(&id);
    let (mut chosen, mut steps, mut numbers) = (Vec::new(), Vec::new(), Numbers::top());
    let together = numbers.next();
    let mut inside = Numbers::inside(&together);
    for name in &names {
        let choices = choose(site, &catalogue, name, wanted.which)?;
        let driver = drivers.component(name)?;
        let test = |choice: &Choice<'_>, which: String| Test {
            restored: {
                let directory = scratch.join(format!("{name}-{which}"));
                let parts = driver.parts(&id, &choice.point.recorded);
                log::restored(name, choice, parts.iter().map(|part| part.moved_to(&directory)).collect())
            },
            directory: scratch.join(format!("{name}-{which}")),
        };
        let step = inside.next();
        let mut numbers = Numbers::inside(&step);
        let both = numbers.next();
        let mut tests = Numbers::inside(&both);
        let positive = choices.iter().enumerate().map(|(number, choice)| {
            let title = format!("test {name} as of {}", choice.instant());
            test(choice, number.to_string()).prove(title, &tests.next())
        });
        let positive = Body::Parallel(positive.collect());
        let mut of_this = vec![Step::new(both.as_str(), format!("restore tests of {name}"), positive)];
        // The point itself is damaged, without its log: with the facts that were measured at that very moment.
        let plain = choices.first().filter(|_| wanted.negative);
        let plain = plain.map(|choice| Choice { further: None, ..choice.clone() });
        of_this.extend(plain.iter().flat_map(|choice| Damage::ALL.map(|how| (choice, how))).map(
            |(choice, how)| {
                let which = serde_json::to_value(how).ok().and_then(|word| Some(word.as_str()?.to_owned()));
                test(choice, which.unwrap_or_default()).damaged(name, how, &numbers.next())
            },
        ));
        steps.push(Step::new(step.as_str(), format!("test {name}"), Body::Sequence(of_this)));
        chosen.extend(choices.iter().map(Chosen::of));
    }
    let mut all = Step::new(together.as_str(), "restore tests".to_owned(), Body::Parallel(steps));
    all.timeout = Some(ALL_WITHIN);
    let context = Context { chosen, ..plain_context(site, now) };
    let runbook = runbook(format!("restore test of {}", names.join(", ")), vec![all], &context);
    Ok(Preview { id, kind: Kind::Verify, runbook, context, findings: Vec::new() })
}

/// Carries out the tests of a preview. Nothing of them is left in scratch, however they end.
pub fn execute_preview(site: &Site, preview: Preview, conduct: Conduct<'_>) -> Result<Finished> {
    reap(site);
    let drivers = Drivers::of(site, &Place::host())?;
    for restored in fetched(&preview.runbook) {
        let directory = restored.parts.first().and_then(|part| part.beside.parent());
        if let Some(directory) = directory
            && drivers.component(&restored.component)?.is_proven_as_another_user()
        {
            let_through(&site.state, directory)?;
        }
    }
    carry_out(site, preview.kind, &preview.id, preview.runbook, conduct)
}

/// One copy in scratch.
struct Test {
    restored: Restored,
    directory: PathBuf,
}

impl Test {
    /// Restores it, shows what it is, and throws it away.
    fn prove(self, title: String, id: &StepId) -> Step {
        let mut test = fetch_and_prove(&self.restored, &id.child("test"));
        test.name = format!("restore {} into scratch and prove it", self.restored.component);
        if let Body::Sequence(steps) = &mut test.body {
            let compare = Work::Compare(self.restored.clone());
            let name = &self.restored.component;
            let command = compare.action(format!("# compare every byte of {name} with the snapshot"));
            let id = test.id.child("bytes");
            let compare = Step::new(id.as_str(), format!("compare {name}"), Body::Action(command));
            // Before an engine opens it and writes to it.
            steps.insert(1, phase(compare, "validate"));
        }
        let discard = self.discard(id);
        Step::new(id.as_str(), title, Body::Sequence(vec![test, discard]))
    }

    /// Restores it, damages it, shows that this is noticed, and throws it away.
    fn damaged(self, name: &str, how: Damage, id: &StepId) -> Step {
        let fetch = Work::Fetch(self.restored.clone()).action("# restore it once more");
        let fetch = Step::new(id.child("fetch").as_str(), format!("fetch {name}"), Body::Action(fetch));
        let notice = Work::Notice { restored: self.restored.clone(), how };
        let notice = notice.action(format!("# damage it ({how}) and prove it: that must fail"));
        let title = format!("{how} in {name} must be noticed");
        let notice = Step::new(id.child("notice").as_str(), title.clone(), Body::Action(notice));
        let discard = self.discard(id);
        let steps = vec![phase(fetch, "restore"), phase(notice, "validate"), discard];
        Step::new(id.as_str(), format!("negative drill: {how} in {name}"), Body::Sequence(steps))
    }

    fn discard(&self, id: &StepId) -> Step {
        let component = self.restored.component.clone();
        let title = format!("throw {component} away");
        let discard = Work::Discard { component, directory: self.directory.clone() };
        let discard = discard.action(format!("rm -rf {}", self.directory.display()));
        phase(Step::new(id.child("discard").as_str(), title, Body::Action(discard)), "clean up")
    }
}

/// What of a component is tested: the latest first.
fn choose<'a>(site: &Site, catalogue: &'a Catalogue, name: &str, which: Which) -> Result<Vec<Choice<'a>>> {
    let at = match which {
        Which::At(at) => Some(at),
        Which::LatestAndOlder | Which::Latest => None,
    };
    let first = log::choose(&site.repository, catalogue, name, at)?;
    let older = match which {
        Which::LatestAndOlder => older(site, catalogue, name, &first),
        Which::Latest | Which::At(_) => None,
    };
    Ok(std::iter::once(first).chain(older).collect())
}

/// Something older than the latest, at random; `None` when there is nothing.
fn older<'a>(site: &Site, catalogue: &'a Catalogue, name: &str, latest: &Choice<'_>) -> Option<Choice<'a>> {
    if let Some(oldest) = log::logged(catalogue, name).map(Point::instant).min() {
        let span = latest.instant().as_millisecond().saturating_sub(oldest.as_millisecond());
        for _ in 0..TRIES {
            let into = random(u64::try_from(span).unwrap_or_default());
            let at = oldest.as_millisecond().saturating_add(into.cast_signed());
            let at = Timestamp::from_millisecond(at).ok()?.max(oldest);
            match log::choose(&site.repository, catalogue, name, Some(at)) {
                Ok(choice) if choice != *latest => return Some(choice),
                _ => {}
            }
        }
    }
    let others: Vec<&Point> = catalogue
        .of(name)
        .filter(|point| point.counts() && point.snapshot != latest.point.snapshot)
        .collect();
    let chosen = usize::try_from(random(others.len() as u64)).unwrap_or_default();
    others.get(chosen).map(|point| Choice { point, further: None })
}

/// A number below `end` at random; 0 when there is none.
fn random(end: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes it is always the oldest.
    let _unlucky = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(end).unwrap_or_default()
}

fn scratch(site: &Site) -> PathBuf {
    site.state.join("scratch")
}

/// The restores that a runbook begins with.
fn fetched(runbook: &runbook::Runbook) -> Vec<Restored> {
    let mut fetched = Vec::new();
    runbook.visit(&mut |step, _| {
        if let Body::Action(action) = &step.body
            && let Ok(Work::Fetch(restored)) = read::<Work>(action)
        {
            fetched.push(restored);
        }
    });
    fetched
}

/// Removes what runs of this machine that were killed have left in scratch.
fn reap(site: &Site) {
    for id in killed(site, |_| true) {
        // What cannot be removed is tried again the next time.
        let _left = std::fs::remove_dir_all(scratch(site).join(id));
    }
}

/// The restore tests of this machine that were killed, and where what they have left lies.
pub(crate) fn killed_tests(site: &Site) -> Vec<(String, PathBuf)> {
    let is_test = |id: &str| id.contains(&format!("-{}-", Kind::Verify.as_str()));
    killed(site, is_test).into_iter().map(|id| (id.clone(), scratch(site).join(id))).collect()
}

/// The runs that have something in scratch and at which no process is.
fn killed(site: &Site, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(scratch(site)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_dead = |id: &String| {
        let Some(began) = runs::began(id).filter(|_| wanted(id)) else { return false };
        let journal = Files::of(&site.state, id).journal();
        match journal.exists() {
            true => !runbook::journal::is_held(&journal),
            false => site.now().duration_since(began) > UNBEGUN_MAX,
        }
    };
    names.filter(is_dead).collect()
}

/// Makes `directory`, and lets other users of this machine go through it from `state` on, without showing them what is in
/// there: a server that is started for a proof must reach the files that it is given.
pub(crate) fn let_through(state: &Path, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    for made in directory.ancestors().take_while(|upper| upper.starts_with(state)) {
        let found = std::fs::metadata(made).map_err(Error::io("look at", made))?;
        let mut permissions = found.permissions();
        permissions.set_mode(permissions.mode() | 0o011);
        std::fs::set_permissions(made, permissions).map_err(Error::io("let others through", made))?;
    }
    Ok(())
}

impl Performer<'_> {
    /// Compares every byte beside with the snapshot's.
    pub(crate) fn compare(
        &self,
        restored: &Restored,
        at: &StepContext<'_>,
    ) -> std::result::Result<Performed, Failure> {
        let (files, differing) = self.differing(restored, at)?;
        if differing.is_empty() {
            let summary = format!("{} and every byte of them", crate::units::counted(files, "file", "files"));
            return Ok(Performed { proven: Proven::Shown(summary.clone()), ..Performed::new(summary) });
        }
        Err(Failure::failed(format!(
            "{} as restored is not what the snapshot has: {}",
            restored.component,
            named(&differing)
        )))
    }

    /// Damages what lies beside and proves it: that must not succeed.
    pub(crate) fn notice(
        &self,
        restored: &Restored,
        how: Damage,
        at: &StepContext<'_>,
    ) -> std::result::Result<Performed, Failure> {
        let component = &restored.component;
        let driver = self.drivers.component(component).map_err(failure)?;
        let cancel = at.cancel_flag();
        let damaged = self
            .beside(driver, || driver.damage(&restored.parts, &restored.recorded, how, &cancel))
            .map_err(failure)?
            .map_err(|error| failure(Error::component(component)(error)))?;
        let Some(damaged) = damaged else {
            let why = format!("nothing of {component} can be damaged that way ({how})");
            return Ok(Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) });
        };
        let (mut noticed, outcome): (Vec<String>, _) = match self.proof(restored, at) {
            Ok(proof) => (wrong(&proof), proof.outcome()),
            // It was looked at a moment ago, undamaged: a restore of this would not have succeeded.
            Err(failure) if failure.kind != FailureKind::Interrupted => {
                (vec![failure.message], Shown::Failed)
            }
            Err(interrupted) => return Err(interrupted),
        };
        if driver.is_proven_by_bytes() {
            let (_, differing) = self.differing(restored, at)?;
            noticed.extend((!differing.is_empty()).then(|| named(&differing)));
        }
        let output = json!({ "damaged": damaged, "noticed": noticed });
        match (noticed.as_slice(), outcome) {
            ([], Shown::NotProven) => {
                let why = format!("{damaged}; whether the proof of {component} notices is not known");
                Ok(Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) }.with_output(output))
            }
            ([], _) => Err(Failure::failed(format!(
                "the proof of {component} proves nothing: {damaged}, and it holds all the same; give the component facts \
                 that change with its content"
            ))),
            (noticed, _) => {
                let summary = format!("{damaged}; noticed: {}", named(noticed));
                Ok(Performed { proven: Proven::Shown(summary.clone()), ..Performed::new(summary) }
                    .with_output(output))
            }
        }
    }

    /// How many files there are, and what differs from the snapshot in its content or is not there.
    fn differing(
        &self,
        restored: &Restored,
        at: &StepContext<'_>,
    ) -> std::result::Result<(u64, Vec<String>), Failure> {
        let tree: Id = restored.tree.parse().map_err(|error| {
            Failure::could_not_run(format!("the run names no tree of {}: {error}", restored.component))
        })?;
        let cancel = at.cancel_flag();
        let context = Watched { cancel: &cancel, ..Watched::silent() };
        let index = self.index(context).map_err(|error| failure(error.into()))?;
        let look = || {
            let (mut files, mut differing) = (0, Vec::new());
            for part in &restored.parts {
                let entry = find_entry(&BlobReader::new(&self.repository, &index), tree, &part.in_snapshot)?;
                let options = RestoreOptions {
                    overwrite: Overwrite::Always,
                    delete: true,
                    ..RestoreOptions::default()
                };
                let plan = RestorePlan::to_exact_path(
                    &self.repository,
                    &index,
                    entry,
                    &part.beside,
                    options,
                    context,
                )?;
                let totals = plan.totals();
                files += totals.files_unchanged + totals.files_update + totals.files_create;
                let others = plan.actions().filter_map(|planned| {
                    let path = planned.path.display();
                    match planned.action {
                        Action::Create => Some(format!("{path} is missing")),
                        Action::Delete => Some(format!("{path} is not in the snapshot")),
                        Action::Replace => Some(format!("{path} is of another kind")),
                        Action::Update if planned.bytes > 0 => Some(format!("{path} has other bytes")),
                        _ => None,
                    }
                });
                differing.extend(others);
                let problems = plan.problems().iter();
                differing
                    .extend(problems.map(|problem| format!("{}: {}", problem.path.display(), problem.error)));
            }
            Ok::<_, Error>((files, differing))
        };
        self.place.within(look).map_err(|error| failure(error.into()))?.map_err(failure)
    }
}

/// What does not hold, in words.
fn wrong(proof: &Proof) -> Vec<String> {
    let wrong = proof.shown.iter().filter(|shown| shown.holds == Holds::No);
    wrong.map(|shown| format!("{} is {}, expected {}", shown.what, shown.found, shown.expected)).collect()
}

/// The first of several things, in words.
fn named(things: &[String]) -> String {
    let more = things.len().saturating_sub(NAMED_MAX);
    let mut named = things.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 {
        named += &format!("; and {more} more");
    }
    named
}
