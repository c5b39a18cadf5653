//! The estate `million`: how soon a twin is up on a machine with a million files, which it must not look at.

use std::fs;

use serde_json::Value;

use super::document::{Row, Section, Target};
use super::{Bench, made};
use crate::process::Result;

const FILES: f64 = 1e6;

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("million");
    let count = (FILES * bench.scale) as usize;
    let home = bench.home("million", PLAN)?;
    println!("  making {count} files");
    made::small_files(&home.path.join("data"), count)?;
    let site = home.path.join("site");
    fs::create_dir(&site)?;
    fs::write(site.join("site.conf"), "listen = 127.0.0.1\n")?;
    bench.untimed(&home.lifeboat(&["backup"]))?;
    let mut up = Vec::new();
    let mut drills = Vec::new();
    for _ in 0..bench.runs {
        let drill = home.lifeboat(&["drill", "site-lost", "--json"]);
        drills.push(bench.time("drill", &drill, &home.path.join("repository"))?.wall_s);
        up.push(twin_seconds(&bench.written()?)?);
    }
    Ok(Section {
        title: "A twin of a machine with a million files",
        about: format!(
            "{count} small files on the disk that the twin shows. The drill restores one small component, runs its check, \
             and takes the twin away again."
        ),
        targets: vec![Target {
            what: "the twin is up on a machine with 1 000 000 files",
            target: "< 2 s".to_owned(),
            figure: super::report::median(up.clone()),
            limit: 2.0,
            unit: " s",
        }],
        rows: vec![Row::of("twin up", up), Row::of("the whole drill", drills)],
    })
}

/// Finds how long the twin took in what a drill wrote with `--json`.
fn twin_seconds(lines: &str) -> Result<f64> {
    let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let twin = lines.find(|line| line["event"] == "answer" && line["kind"] == "twin");
    let seconds = twin.and_then(|twin| twin["answer"]["took_seconds"].as_f64());
    seconds.ok_or_else(|| "the drill does not tell how long its twin took".into())
}

const PLAN: &str = "\
lifeboat: 1
name: million

repository:
  location: ./repository
  password: ${file:password}

components:
  site:
    files: site

checks:
  site-there:
    file: site/site.conf
    expect: { content: { contains: listen } }

scenarios:
  site-lost:
    title: The site is gone
    steps:
      - restore: site
      - check: site-there
";

#[cfg(test)]
mod tests {
    use super::twin_seconds;

    #[test]
    fn the_time_of_the_twin_is_found() {
        let lines = "{\"event\":\"start\"}\nno json\n{\"event\":\"answer\",\"kind\":\"twin\",\"answer\":{\"took_seconds\":0.25}}\n";
        assert!((twin_seconds(lines).expect("it is there") - 0.25).abs() < 1e-9);
        assert!(twin_seconds("{\"event\":\"end\"}").is_err());
    }
}
