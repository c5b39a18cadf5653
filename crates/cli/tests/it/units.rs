//! A service that is a unit of systemd, on a machine of the test's own that a real systemd has booted: recovered on the
//! host, rehearsed in a twin of it while the host's unit goes on, and told where it cannot be rehearsed.

use std::process::Command;

use systemd_for_tests::Booted;

/// Serves one number: how many orders there are.
const SERVER: &str = "\
import http.server, os, sqlite3, sys
class Orders(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        count = sqlite3.connect('file:orders.db?mode=ro', uri=True).execute('select count(*) from orders').fetchone()[0]
        self.send_response(200)
        self.end_headers()
        self.wfile.write((os.environ['GREETING'] + ' %d' % count).encode())
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Orders).serve_forever()
";

/// As an administrator would write it.
const UNIT: &str = "\
[Unit]
Description=The shop
After=network.target

[Service]
User=nobody
EnvironmentFile=/etc/shop.env
WorkingDirectory=/srv/shop
RuntimeDirectory=shop
ExecStart=/usr/bin/python3 /srv/shop/server.py ${PORT}
Restart=on-failure
PrivateTmp=yes
NoNewPrivileges=yes
";

const PLAN: &str = "\
lifeboat: 1
name: shop
repository: { location: /var/lib/shop-repository, password: '${file:/etc/lifeboat-password}' }
components:
  orders:
    sqlite: /srv/shop/orders.db
    facts: { orders: select count(*) from orders }
  units:
    files: [/etc/systemd/system/shop.service, /etc/shop.env]
services:
  shop:
    systemd: shop.service
    needs: [orders, units]
    ready: { http: 'http://127.0.0.1:8080/', expect: { status: 200, body: { contains: there are 3 } }, within: 20s }
checks:
  orders-there:
    http: http://127.0.0.1:8080/
    expect: { status: 200, body: { contains: there are 3 } }
scenarios:
  lost:
    title: The shop is gone
    steps:
      - stop: shop
      - restore: [orders, units]
      - boot: all
      - check: orders-there
";

/// The shop, which runs and is backed up.
fn shop() -> Booted {
    let machine = Booted::new();
    machine.write("/srv/shop/server.py", SERVER);
    machine.write("/etc/shop.env", "PORT=8080\nGREETING='there are'\n");
    machine.write("/etc/lifeboat-password", "secret\n");
    machine.write("/etc/lifeboat/lifeboat.yaml", PLAN);
    machine.write_unit("shop.service", UNIT);
    machine.shell(
        "python3 -c 'import sqlite3; c = sqlite3.connect(\"/srv/shop/orders.db\"); \
         c.execute(\"create table orders (id)\"); c.execute(\"insert into orders values (1), (2), (3)\"); c.commit()'",
    );
    exits(
        &machine,
        &[
            "repository",
            "init",
            "-r",
            "/var/lib/shop-repository",
            "--password-file",
            "/etc/lifeboat-password",
        ],
        0,
    );
    machine.shell("systemctl start shop");
    exits(&machine, &["backup"], 0);
    machine
}

/// Runs the program on the machine; its exit code must be this one.
fn exits(machine: &Booted, arguments: &[&str], code: i32) -> String {
    judged(machine, machine.command(env!("CARGO_BIN_EXE_lifeboat")), arguments, code)
}

fn judged(machine: &Booted, mut command: Command, arguments: &[&str], code: i32) -> String {
    command.env("LIFEBOAT_STATE", "/var/lib/lifeboat-state").env("TZ", "UTC").env("USER", "tester");
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}\n{}", machine.log());
    said.into_owned()
}

/// Which run of the unit it is.
fn invocation(machine: &Booted) -> String {
    machine.shell("systemctl show --property InvocationID,MainPID,NRestarts,ActiveState shop")
}

#[test]
fn a_unit_comes_back_and_is_rehearsed_while_it_goes_on() {
    let machine = shop();
    let before = invocation(&machine);
    assert!(before.contains("ActiveState=active"), "{before}");
    let said = exits(&machine, &["drill", "lost"], 0);
    assert!(said.contains("without PrivateTmp, NoNewPrivileges"), "{said}");
    assert_eq!(invocation(&machine), before, "the unit of the host is not touched");

    // The disaster, for real: data, unit and all.
    machine.shell(
        "systemctl kill -s KILL shop; rm /srv/shop/orders.db /etc/shop.env /etc/systemd/system/shop.service",
    );
    exits(&machine, &["recover", "lost", "--yes"], 0);
    let after = invocation(&machine);
    assert!(after.contains("ActiveState=active") && after != before, "{after}");
    assert!(exits(&machine, &["diagnose"], 0).contains("orders-there"));
}

#[test]
fn a_unit_that_cannot_be_rehearsed_is_not_proven() {
    let machine = shop();
    let before = invocation(&machine);
    machine.write("/etc/systemd/system/shop.service.d/db.conf", "[Unit]\nRequires=shop-db.service\n");
    let said = exits(&machine, &["drill", "lost"], 2);
    for told in
        ["shop cannot be rehearsed in the twin", "requires shop-db.service", "make it a service of the plan"]
    {
        assert!(said.contains(told), "{told} is not in {said}");
    }
    assert_eq!(invocation(&machine), before, "the unit of the host is not touched");
}

#[test]
fn an_ordinary_user_is_told_that_he_cannot_become_the_users_of_units() {
    let machine = shop();
    let plan = PLAN
        .replace("/var/lib/shop-repository", "/srv/own/repository")
        .replace("/etc/lifeboat-", "/srv/own/")
        // What belongs to root he can neither remove nor bring back.
        .replace("[/etc/systemd/system/shop.service, /etc/shop.env]", "[/srv/own/notes]");
    machine.write("/srv/own/lifeboat.yaml", &plan);
    machine.write("/srv/own/password", "secret\n");
    machine.write("/srv/own/notes", "yes\n");
    machine.shell("chown -R www-data: /srv/own /srv/shop");
    let exits = |arguments: &[&str], code| {
        let mut command = machine.command("setpriv");
        command.args([
            "--reuid=www-data",
            "--regid=www-data",
            "--clear-groups",
            "--",
            env!("CARGO_BIN_EXE_lifeboat"),
        ]);
        let arguments =
            [arguments, &["--plan", "/srv/own/lifeboat.yaml", "--state", "/srv/own/state"]].concat();
        judged(&machine, command, &arguments, code)
    };
    let password = ["-r", "/srv/own/repository", "--password-file", "/srv/own/password"];
    machine.shell(&format!(
        "setpriv --reuid=www-data --regid=www-data --clear-groups -- {} repository init {}",
        env!("CARGO_BIN_EXE_lifeboat"),
        password.join(" ")
    ));
    exits(&["backup"], 0);
    let said = exits(&["drill", "lost"], 2);
    assert!(said.contains("nobody can become another one: run the drill as root"), "{said}");
}
