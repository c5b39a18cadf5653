//! Repositories in buckets, as a user names and opens them: by options, by the environment, by a plan.

use std::process::Command;

use s3_for_tests::{ACCESS_KEY_ID, BUCKET, Garage, Moto, REGION, SECRET_ACCESS_KEY};

use crate::harness::Place;
use crate::hub::Hub;

#[test]
fn a_repository_in_a_bucket_over_tls() {
    let moto = Moto::start();
    let place = Place::new()
        .with("LIFEBOAT_REPOSITORY", &format!("s3://{BUCKET}/some/where"))
        .with("AWS_ENDPOINT_URL", &moto.endpoint())
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .with("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    place.write("tree/a.txt", b"first");
    place.write("tree/large", &vec![7; 3 << 20]);
    let certificate = moto.certificate().to_string_lossy().into_owned();
    let trusting = |arguments: &[&str]| {
        place.succeeds(&[&["repository"], arguments, &["--s3-ca-file", &certificate]].concat())
    };
    let distrusted = place.output(&["repository", "init"]);
    let said = place.transcript(&distrusted);
    assert_eq!(distrusted.status.code(), Some(3), "{said}");
    assert!(said.contains("certificate"), "{said}");
    trusting(&["init"]);
    trusting(&["backup", "tree"]);
    trusting(&["check", "--read-data"]);
    trusting(&["restore", "latest", "--target", "back"]);
    let restored = place.files("back");
    assert!(restored.iter().any(|path| path.ends_with("a.txt")), "{restored:?}");
    let again = place.output(&["repository", "init", "--s3-ca-file", &certificate]);
    let said = place.transcript(&again);
    assert!(!again.status.success() && said.contains("already"), "{said}");
}

#[test]
fn an_estate_whose_repository_is_a_bucket_is_recovered_and_read_by_stock_restic() {
    let garage = Garage::start();
    let location = format!("s3:{}/{BUCKET}/hub", garage.endpoint());
    let keys = [
        ("LIFEBOAT_REPOSITORY", location.as_str()),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
    ];
    let hub = Hub::with(&keys, |plan| {
        plan.replace("location: ./lifeboat-repository", &format!("location: {location}"))
    });
    hub.start();
    hub.place.succeeds(&["backup"]);
    assert!(!hub.place.path("lifeboat-repository").exists());
    let rows = hub.rows();
    hub.sql("delete from agents");
    hub.exits(&["recover", "accidental-deletion", "--yes"], 0);
    assert_eq!(hub.rows(), rows);
    let said = hub.exits(&["drill", "database-corruption"], 0);
    assert!(said.contains("back after"), "{said}");

    let output = Command::new("restic")
        .args(["check", "--read-data", "--no-cache"])
        .env("RESTIC_REPOSITORY", &location)
        .env("RESTIC_PASSWORD", "secret")
        .env("AWS_DEFAULT_REGION", REGION)
        .envs(keys)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_copy_in_a_bucket_is_kept_up_tells_when_it_is_not_and_brings_everything_back() {
    let garage = Garage::start();
    let location = format!("s3:{}/{BUCKET}/second", garage.endpoint());
    let keys = [
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
    ];
    let copies = format!(
        "copies:\n  - {{ location: \"{location}\", password: \"${{file:.second-password}}\" }}\n\ncomponents:\n"
    );
    let hub = Hub::with(&keys, |plan| plan.replacen("components:\n", &copies, 1));
    hub.place.write(".second-password", b"another secret\n");
    hub.start();
    let status = |word: &str| {
        let said = hub.place.transcript(&hub.place.output(&["status"]));
        assert!(said.lines().any(|line| line.starts_with(&location) && line.contains(word)), "{said}");
    };
    hub.place.succeeds(&["copy", "--init"]);
    hub.exits(&["backup"], 0);
    status("current");

    // Somebody takes the right to write from the key: the copy is behind, and nothing is green until it is not.
    hub.sql("update agents set status = 'busy'");
    garage.administer(&["bucket", "deny", "--write", BUCKET, "--key", ACCESS_KEY_ID]);
    let said = hub.exits(&["backup", "database"], 2);
    assert!(said.contains(&format!("the copy {location} did not get database")), "{said}");
    status("behind");
    garage.administer(&["bucket", "allow", "--write", BUCKET, "--key", ACCESS_KEY_ID]);
    hub.exits(&["copy"], 0);
    status("current");

    // The machine's own repository is lost with the data.
    let rows = hub.rows();
    std::fs::remove_dir_all(hub.place.path("lifeboat-repository")).unwrap();
    hub.sql("delete from agents");
    let said = hub.exits(&["recover", "accidental-deletion", "--yes"], 3);
    assert!(said.contains(&format!("--from {location}")), "the way out is shown: {said}");
    hub.exits(&["recover", "accidental-deletion", "--yes", "--from", "1"], 0);
    assert_eq!(hub.rows(), rows);
    hub.exits(&["verify", "--data", "--from", "1"], 0);

    // Stock restic reads it, with its own password.
    let output = Command::new("restic")
        .args(["check", "--read-data", "--no-cache"])
        .env("RESTIC_REPOSITORY", &location)
        .env("RESTIC_PASSWORD", "another secret")
        .env("AWS_DEFAULT_REGION", REGION)
        .envs(keys)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
