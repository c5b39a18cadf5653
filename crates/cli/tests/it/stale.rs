//! What makes a proof old: here another version of the engine than the one that was proven to come back.

use std::sync::Arc;

use repository::{Clock, Repository};
use serde_json::Value;

use crate::hub::Hub;

/// What status says, as scripts read it.
fn readiness(hub: &Hub) -> Value {
    let output = hub.place.output(&["status", "--json"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.contains("\"readiness\"")).unwrap_or_else(|| panic!("{said}"));
    serde_json::from_str::<Value>(line).unwrap()["answer"].clone()
}

/// The proof of one of the components or scenarios, and why it is not whole.
fn proof(readiness: &Value, name: &str) -> (String, String) {
    let find = |list: &str, key: &str| {
        let all = readiness[list].as_array().unwrap().iter();
        all.into_iter().find(|one| one[key] == name).cloned()
    };
    let proof = find("components", "component").map(|one| one["restored"].clone());
    let proof = proof.or_else(|| find("scenarios", "scenario")).unwrap();
    (proof["proof"].as_str().unwrap().to_owned(), proof["why"].to_string())
}

/// Lets the newest point of the database say that another version of its engine has made it; gives the one that did.
fn upgrade(hub: &Hub, engine: &str) -> String {
    let store = store::Local::open(hub.place.path("lifeboat-repository")).unwrap();
    let repository = Repository::open(Arc::new(store), b"secret", Clock::system()).unwrap();
    let points = repository.sidecar_list("points").unwrap().into_iter().map(|(name, _)| {
        let bytes = repository.sidecar_read(&name).unwrap().unwrap();
        (name, serde_json::from_slice::<Value>(&bytes).unwrap())
    });
    let of_database = points.filter(|(_, point)| point["component"] == "database");
    let instant = |point: &Value| point["recorded"]["instant"].as_str().unwrap().to_owned();
    let (name, mut point) = of_database.max_by_key(|(_, point)| instant(point)).unwrap();
    let before = point["recorded"]["engine"].as_str().unwrap().to_owned();
    point["recorded"]["engine"] = engine.into();
    std::fs::remove_file(hub.place.path("lifeboat-repository/lifeboat").join(&name)).unwrap();
    repository.sidecar_create(&name, &serde_json::to_vec(&point).unwrap()).unwrap();
    std::fs::remove_dir_all(hub.place.path("state/cache")).unwrap();
    before
}

#[test]
fn a_proof_is_stale_when_the_newest_point_is_of_another_version_of_the_engine() {
    let hub = Hub::running();
    hub.exits(&["verify", "--restore"], 0);
    hub.exits(&["drill", "database-corruption"], 0);
    let proven = ("proven".to_owned(), "[]".to_owned());
    let before = readiness(&hub);
    for name in ["database", "config", "database-corruption"] {
        assert_eq!(proof(&before, name), proven, "{name}");
    }

    hub.place.succeeds(&["backup", "database"]);
    let old = upgrade(&hub, "SQLite 99.1.0");
    let after = readiness(&hub);
    for name in ["database", "database-corruption"] {
        let (proof, why) = proof(&after, name);
        assert_eq!(proof, "stale", "{name}: {why}");
        assert!(why.contains(&format!("database was {old}, and is SQLite 99.1.0 now")), "{name}: {why}");
    }
    assert_eq!(proof(&after, "config"), proven, "what has nothing to do with it");
    let said = hub.place.run(&["status"]);
    assert!(said.contains("and is SQLite 99.1.0 now") && !said.ends_with("exit code 0"), "{said}");

    // Back to the version that was proven.
    hub.place.succeeds(&["backup", "database"]);
    assert_eq!(proof(&readiness(&hub), "database"), proven);
}
