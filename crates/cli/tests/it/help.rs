//! Help texts, and what is said about a command line that makes no sense.

use crate::harness::{Place, check};

#[test]
fn top() {
    let place = Place::new();
    check!(place.run(&["--help"]), @r"
    --- stdout
    Disaster recovery that is rehearsed

    One plan file says what there is, how much of it may be lost and how soon it must be back. Lifeboat
    backs it up, brings it back in the right order, checks that what came back is what was there, and
    rehearses that on a twin of this machine.

    Usage: lifeboat [OPTIONS] <COMMAND>

    Commands:
      demo  See it all: an estate is backed up, destroyed, recovered and rehearsed
      init  Look at this machine, write a first plan, and make the repository
      validate  Read the plan and say what is wrong with it
      backup  Back up what the plan protects
      points  Show the recovery points that there are
      forget  Forget recovery points that the plan's `keep` does not keep
      copy  Bring the plan's copies up to date
      restore  Bring one component back
      verify  Verify what is stored: its structure, all of its data, or a real restore
      diagnose  Ask the plan's checks, and name the scenario that fits
      recover  Answer a disaster: run a scenario of the plan
      drill  Rehearse a scenario in a twin of this machine
      order  Tell a run what to do, from another terminal
      rollback  Take back what a run did
      commit  Throw away what a run kept for a rollback
      serve  Ship logs until told to stop
      status  Show how ready you are: every objective beside what is measured
      report  Tell what one run did, showed and measured
      runbook  Print the plan as a document for people, with the commands to type by hand
      wal  Archive the log of a PostgreSQL server, and give it back to one that recovers
      repository  Keep file trees in a repository, and get them back [alias: repo]

    Options:
      -h, --help
      Print help (see a summary with '-h')

      -V, --version
      Print version

    Output:
      --json
      Print JSON, one object a line (docs/json.md describes them)

      -q, --quiet
      Print only results and errors

      -v, --verbose
      Print every item that is worked on

      --no-progress
      Draw no progress bars

    Exit codes:
      0  verified: everything that was asked for is done and was seen to be right
      1  failed
      2  not proven: nothing failed, but something asked for was left out or could not be shown
      3  could not run: wrong usage, wrong password, no repository, locked
      130  interrupted

    Examples:
      lifeboat demo  see it all on this machine, on an estate of its own
      lifeboat init  write a first plan for what is in this directory
      lifeboat backup  back up what ./lifeboat.yaml protects
      lifeboat recover server-lost --dry-run  what would be done if the server were lost
      lifeboat drill server-lost  rehearse it in a twin
      lifeboat repository backup ~  file trees, without a plan
    --- exit code 0
    ");
    check!(place.run(&["repository", "--help"]), @r"
    --- stdout
    Keep file trees in a repository, and get them back

    The repository has restic's format: `restic -r LOCATION` opens it with the same password.

    Usage: lifeboat repository [OPTIONS] <COMMAND>

    Commands:
      init  Make a new repository
      backup  Put files and directories into a new snapshot
      restore  Bring a snapshot, or a part of it, back
      snapshots  List the snapshots
      ls  List the files of a snapshot
      find  Find files in all snapshots
      diff  Show what differs between two snapshots
      dump  Write one file of a snapshot to standard output
      check  See whether everything that snapshots need is there and right
      repair  Put a damaged repository in order
      forget  Remove snapshots: those that a policy does not keep, or those named
      prune  Delete data that no snapshot needs
      copy  Copy snapshots from another repository into this one
      key  Manage the passwords
      unlock  Remove the locks of processes that are gone
      stats  Count what snapshots hold

    Options:
      -h, --help
      Print help (see a summary with '-h')

    Repository:
      -r, --repository <LOCATION>
      Where the repository is: a directory, s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX
      [env: LIFEBOAT_REPOSITORY]

      --password-file <FILE>
      Read the password from a file [env: LIFEBOAT_PASSWORD_FILE, or LIFEBOAT_PASSWORD itself]

      --password-command <COMMAND>
      Take the password from what a shell command prints [env: LIFEBOAT_PASSWORD_COMMAND]

      --retry-lock <DURATION>
      Wait this long for others who have locked the repository, such as 10m

      --limit-upload <KIB>
      Send no more than this many KiB per second

      --limit-download <KIB>
      Fetch no more than this many KiB per second

      --no-lock
      Take no lock for reading, as from a store that cannot be written to

    S3 (keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws):
      --s3-endpoint <URL>
      The server of an s3://BUCKET location [env: AWS_ENDPOINT_URL]

      --s3-region <REGION>
      The region to sign for [env: AWS_REGION]

      --s3-path-style
      Name the bucket in the path of URLs, also with Amazon

      --s3-ca-file <FILE>
      Trust the certificates in this PEM file as well

    Output:
      --json
      Print JSON, one object a line (docs/json.md describes them)

      -q, --quiet
      Print only results and errors

      -v, --verbose
      Print every item that is worked on

      --no-progress
      Draw no progress bars

    The password is taken from --password-file or --password-command; else from LIFEBOAT_PASSWORD,
    LIFEBOAT_PASSWORD_FILE or LIFEBOAT_PASSWORD_COMMAND; else it is asked for.

    Examples:
      export LIFEBOAT_REPOSITORY=/srv/backup LIFEBOAT_PASSWORD_FILE=~/.backup-password
      lifeboat repository init
      lifeboat repository backup /home /etc --exclude '*.tmp'
      lifeboat repository snapshots
      lifeboat repository restore latest --target /tmp/back --include /etc/fstab
      lifeboat repository check --read-data
    --- exit code 0
    ");
}

#[test]
fn backup() {
    check!(Place::new().run(&["repository", "backup", "--help"]), @r"
    --- stdout
    Put files and directories into a new snapshot

    Only what has changed since the last snapshot of the same paths is read, and only what the
    repository has not is stored. A backup that was interrupted goes on where it stopped. Exits with 2
    when something asked for could not be read or changed while it was read: the snapshot is there, and
    lacks just that.

    Usage: lifeboat repository backup [OPTIONS] [PATH]...

    Arguments:
      [PATH]...
      What to back up

    Options:
      --files-from <FILE>
      Back up the paths in this file as well, one a line, taken literally; `-` is standard input

      --files-from-raw <FILE>
      Back up the paths in this file as well, each ended by a zero byte; `-` is standard input

      --stdin
      Back up standard input as one file

      --stdin-from-command
      Run the arguments as a command and back up what it prints; no snapshot is made when it
      fails

      --stdin-filename <NAME>
      The path that standard input has in the snapshot
      
      [default: stdin]

      -n, --dry-run
      Write nothing; tell what would be done (with --verbose, for every file)

      -f, --force
      Read every file, as if there were no earlier snapshot

      --parent <SNAPSHOT>
      Compare with this snapshot instead of the newest of the same paths

      --with-atime
      Keep the times of last access

      --ignore-inode
      Take a file with another inode number for the same, on file systems that make them up

      --ignore-ctime
      Take a file whose inode has changed for the same when size and time of its content have
      not

      --block-size <SIZE>
      Cut files into blocks of this size instead of by content: for files made of pages, such as
      a database's

      -h, --help
      Print help (see a summary with '-h')

    What to leave out:
      -e, --exclude <PATTERN>
      Leave out what fits the pattern; may be repeated

      --iexclude <PATTERN>
      The same, and upper or lower case is the same

      --exclude-file <FILE>
      Take patterns from a file, one a line; `$NAME` stands for a variable of the environment

      --iexclude-file <FILE>
      The same, and upper or lower case is the same

      --exclude-if-present <NAME[:HEADER]>
      Leave out what is beside a file of this name (that begins with the header)

      --exclude-caches
      Leave out what is beside a CACHEDIR.TAG

      --exclude-larger-than <SIZE>
      Leave out files larger than this, such as 500M

      -x, --one-file-system
      Do not go into other file systems

    What the snapshot says:
      --tag <TAG[,TAG…]>
      Label the snapshot; may be repeated

      -H, --host <HOST>
      Say that this is the host, instead of its own name

      --time <TIME>
      Say that this is the time, such as '[time]'

    Repository:
      -r, --repository <LOCATION>
      Where the repository is: a directory, s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX
      [env: LIFEBOAT_REPOSITORY]

      --password-file <FILE>
      Read the password from a file [env: LIFEBOAT_PASSWORD_FILE, or LIFEBOAT_PASSWORD itself]

      --password-command <COMMAND>
      Take the password from what a shell command prints [env: LIFEBOAT_PASSWORD_COMMAND]

      --retry-lock <DURATION>
      Wait this long for others who have locked the repository, such as 10m

      --limit-upload <KIB>
      Send no more than this many KiB per second

      --limit-download <KIB>
      Fetch no more than this many KiB per second

      --no-lock
      Take no lock for reading, as from a store that cannot be written to

    S3 (keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws):
      --s3-endpoint <URL>
      The server of an s3://BUCKET location [env: AWS_ENDPOINT_URL]

      --s3-region <REGION>
      The region to sign for [env: AWS_REGION]

      --s3-path-style
      Name the bucket in the path of URLs, also with Amazon

      --s3-ca-file <FILE>
      Trust the certificates in this PEM file as well

    Output:
      --json
      Print JSON, one object a line (docs/json.md describes them)

      -q, --quiet
      Print only results and errors

      -v, --verbose
      Print every item that is worked on

      --no-progress
      Draw no progress bars

    Patterns are restic's: `*` within a name, `**` across names, `[a-z]`, a leading `/` for the root.
    What is below a directory that is left out is left out too, and a leading `!` takes back what
    earlier patterns chose.

    Examples:
      lifeboat repository backup /home /etc --exclude '*.tmp' --exclude-caches --tag nightly
      lifeboat repository backup / --one-file-system --exclude-file /etc/backup-excludes
      lifeboat repository backup /home --dry-run --verbose
      pg_dump shop | lifeboat repository backup --stdin --stdin-filename shop.sql
      lifeboat repository backup --stdin-filename shop.sql --stdin-from-command -- pg_dump shop
    --- exit code 0
    ");
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    let top = place.succeeds(&["repository", "--help"]);
    let commands = top.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<_> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 16, "{names:?}");
    for name in names {
        let help = place.succeeds(&["repository", name, "--help"]);
        assert!(
            help.contains("Example") && help.contains(&format!("lifeboat repository {name}")),
            "{name}: {help}"
        );
    }
}

#[test]
fn wrong_usage_cannot_run() {
    let place = Place::new();
    check!(place.run(&["repository", "snapshots", "--nonsense"]), @r"
    --- stderr
    error: unexpected argument '--nonsense' found

      tip: to pass '--nonsense' as a value, use '-- --nonsense'

    Usage: lifeboat repository snapshots [OPTIONS] [SNAPSHOT]...

    For more information, try '--help'.
    --- exit code 3
    ");
    check!(place.run(&["repository", "backup"]), @r"
    --- stderr
    error: the following required arguments were not provided:
      <PATH>...

    Usage: lifeboat repository backup <PATH>...

    For more information, try '--help'.
    --- exit code 3
    ");
    check!(place.run(&["repository", "backup", "x", "--exclude-larger-than", "big"]), @r#"
    --- stderr
    error: invalid value 'big' for '--exclude-larger-than <SIZE>': "big" is no size such as 500M or 2G

    For more information, try '--help'.
    --- exit code 3
    "#);
    check!(place.run(&[]), @r"
    --- stderr
    Disaster recovery that is rehearsed

    Usage: lifeboat [OPTIONS] <COMMAND>

    Commands:
      demo  See it all: an estate is backed up, destroyed, recovered and rehearsed
      init  Look at this machine, write a first plan, and make the repository
      validate  Read the plan and say what is wrong with it
      backup  Back up what the plan protects
      points  Show the recovery points that there are
      forget  Forget recovery points that the plan's `keep` does not keep
      copy  Bring the plan's copies up to date
      restore  Bring one component back
      verify  Verify what is stored: its structure, all of its data, or a real restore
      diagnose  Ask the plan's checks, and name the scenario that fits
      recover  Answer a disaster: run a scenario of the plan
      drill  Rehearse a scenario in a twin of this machine
      order  Tell a run what to do, from another terminal
      rollback  Take back what a run did
      commit  Throw away what a run kept for a rollback
      serve  Ship logs until told to stop
      status  Show how ready you are: every objective beside what is measured
      report  Tell what one run did, showed and measured
      runbook  Print the plan as a document for people, with the commands to type by hand
      wal  Archive the log of a PostgreSQL server, and give it back to one that recovers
      repository  Keep file trees in a repository, and get them back [alias: repo]

    Options:
      -h, --help  Print help (see more with '--help')
      -V, --version  Print version

    Output:
      --json  Print JSON, one object a line (docs/json.md describes them)
      -q, --quiet  Print only results and errors
      -v, --verbose  Print every item that is worked on
      --no-progress  Draw no progress bars

    Exit codes:
      0  verified: everything that was asked for is done and was seen to be right
      1  failed
      2  not proven: nothing failed, but something asked for was left out or could not be shown
      3  could not run: wrong usage, wrong password, no repository, locked
      130  interrupted

    Examples:
      lifeboat demo  see it all on this machine, on an estate of its own
      lifeboat init  write a first plan for what is in this directory
      lifeboat backup  back up what ./lifeboat.yaml protects
      lifeboat recover server-lost --dry-run  what would be done if the server were lost
      lifeboat drill server-lost  rehearse it in a twin
      lifeboat repository backup ~  file trees, without a plan
    --- exit code 3
    ");
}
