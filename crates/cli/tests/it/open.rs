//! Finding and opening a repository, and what is said when that fails.

use crate::harness::{Place, check, flip_bit};

#[test]
fn init() {
    let place = Place::new();
    check!(place.run(&["repository", "init"]), @r"
    --- stdout
    made repository [id] at repository
    keep the password somewhere else too: without it nothing in there can ever be read
    --- exit code 0
    ");
    check!(place.run(&["repository", "init"]), @r"
    --- stderr
    error: a repository already exists at repository
    hint: use it as it is, or choose another location; `lifeboat repository key add` adds a password
    --- exit code 3
    ");
}

#[test]
fn no_location() {
    check!(Place::new().with("LIFEBOAT_REPOSITORY", "").run(&["repository", "snapshots"]), @r"
    --- stderr
    error: no repository given
    hint: name it with -r LOCATION, or set LIFEBOAT_REPOSITORY
    --- exit code 3
    ");
}

#[test]
fn strange_location() {
    check!(Place::new().run(&["repository", "snapshots", "-r", "sftp:host:/backup"]), @r"
    --- stderr
    error: no such location: sftp: is not yet supported; use a directory or s3:
    --- exit code 3
    ");
}

#[test]
fn no_repository() {
    check!(Place::new().run(&["repository", "snapshots"]), @r"
    --- stderr
    error: no repository at repository
    hint: check the location, or make a repository there with `lifeboat repository init`
    --- exit code 3
    ");
}

#[test]
fn wrong_password() {
    let place = Place::with_snapshot().with("LIFEBOAT_PASSWORD", "guess");
    check!(place.run(&["repository", "snapshots"]), @r"
    --- stderr
    error: wrong password: it opens no key of repository
    hint: the password came from LIFEBOAT_PASSWORD
    --- exit code 3
    ");
}

#[test]
fn no_password_and_no_terminal() {
    let place = Place::with_snapshot().with("LIFEBOAT_PASSWORD", "");
    check!(place.run(&["repository", "snapshots"]), @r"
    --- stderr
    error: no password for repository, and no terminal to ask at
    hint: set LIFEBOAT_PASSWORD_FILE or LIFEBOAT_PASSWORD_COMMAND, or give --password-file FILE
    --- exit code 3
    ");
}

#[test]
fn password_from_file_and_command() {
    let place = Place::with_snapshot().with("LIFEBOAT_PASSWORD", "");
    place.write("password", b"secret\n");
    place.succeeds(&["repository", "snapshots", "--password-file", "password"]);
    place.succeeds(&["repository", "snapshots", "--password-command", "echo secret"]);
    check!(place.run(&["repository", "snapshots", "--password-file", "nowhere"]), @r"
    --- stderr
    error: failed to read the password file nowhere: No such file or directory (os error 2)
    hint: give the path of a readable file that holds only the password
    --- exit code 3
    ");
    check!(place.run(&["repository", "snapshots", "--password-command", "exit 7"]), @r"
    --- stderr
    error: the password command `exit 7` failed with exit status: 7
    hint: it must print the password to standard output and exit with 0
    --- exit code 3
    ");
    let place = place.with("LIFEBOAT_PASSWORD_FILE", "password");
    place.succeeds(&["repository", "snapshots"]);
    // What is said on the command line goes before what the environment says.
    check!(place.run(&["repository", "snapshots", "--password-command", "echo guess"]), @r"
    --- stderr
    error: wrong password: it opens no key of repository
    hint: the password came from the command `echo guess`
    --- exit code 3
    ");
}

#[test]
fn damaged_config_and_key() {
    let place = Place::with_snapshot();
    flip_bit(&place.path("repository/config"));
    check!(place.run(&["repository", "snapshots"]), @r"
    --- stderr
    error: config is damaged: its authentication tag does not fit its content
    hint: bring `config` back from a copy; or write a new one with `lifeboat repository repair config`
    --- exit code 3
    ");
    let place = Place::with_snapshot();
    flip_bit(&place.files("repository/keys")[0]);
    check!(place.run(&["repository", "snapshots"]), @r"
    --- stderr
    error: key [id] is damaged: its content does not have the SHA-256 that its name says
    hint: open it with another password, or bring the file below keys/ back from a copy
    --- exit code 3
    ");
}

#[test]
fn keys() {
    let place = Place::with_snapshot().with("LIFEBOAT_NEW_PASSWORD", "second");
    check!(place.run(&["repository", "key", "add"]), @r"
    --- stdout
    added key [id]
    --- exit code 0
    ");
    let place = place.with("LIFEBOAT_PASSWORD", "second").with("LIFEBOAT_NEW_PASSWORD", "third");
    check!(place.run(&["repository", "key", "passwd"]), @r"
    --- stdout
    changed the password: key [id] replaces [id]
    --- exit code 0
    ");
    assert_eq!(
        place.output(&["repository", "key", "list"]).status.code(),
        Some(3),
        "the old password is gone"
    );
    let place = place.with("LIFEBOAT_PASSWORD", "third");
    let list = place.succeeds(&["repository", "key", "list"]);
    let current = list.lines().find(|line| line.starts_with('*')).unwrap();
    let current = current.split_whitespace().nth(1).unwrap();
    check!(place.run(&["repository", "key", "remove", current]), @r"
    --- stderr
    error: key [id] opened the repository and cannot be removed with itself
    --- exit code 3
    ");
}
