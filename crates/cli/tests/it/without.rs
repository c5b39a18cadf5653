//! What needs no repository is done without one: asking the checks, and taking a run back.

use crate::hub::Hub;

#[test]
fn a_run_is_taken_back_when_the_repository_is_gone() {
    let hub = Hub::running();
    hub.sql("update agents set status = 'newer'");
    let rows = hub.rows();
    hub.exits(&["recover", "database-corruption", "--yes"], 0);
    assert_ne!(hub.rows(), rows);
    std::fs::rename(hub.place.path("lifeboat-repository"), hub.place.path("gone")).unwrap();

    // One check of the example is about another disaster and fails on a good day.
    let said = hub.exits(&["diagnose"], 1);
    assert!(said.contains("the repository cannot be opened") && said.contains("no repository at"), "{said}");
    assert!(said.contains("✓ health: ") && said.matches('✗').count() == 1, "{said}");
    let said = hub.exits(&["rollback", "latest", "--yes"], 0);
    assert!(said.contains("stays on this machine"), "{said}");
    assert_eq!(hub.rows(), rows, "the database is what it was before the recovery");
    assert!(hub.get("/health").is_some(), "the backend serves it");
    // What needs it is refused as ever, and nothing was made in its place.
    hub.exits(&["recover", "database-corruption", "--yes"], 3);
    assert!(!hub.place.path("lifeboat-repository").exists());

    std::fs::rename(hub.place.path("gone"), hub.place.path("lifeboat-repository")).unwrap();
    let said = hub.exits(&["rollback", "latest", "--yes"], 3);
    assert!(said.contains("rolled back") || said.contains("taken back"), "once is enough: {said}");
    hub.exits(&["recover", "database-corruption", "--yes"], 0);
}

#[test]
fn a_wrong_password_keeps_nobody_from_asking() {
    let hub = Hub::running();
    hub.place.write(".lifeboat-password", b"another");
    let said = hub.exits(&["diagnose", "health"], 0);
    assert!(said.contains("wrong password"), "{said}");
    hub.sql("delete from agents");
    let said = hub.exits(&["diagnose"], 1);
    assert!(said.contains("accidental-deletion fits"), "{said}");
}
