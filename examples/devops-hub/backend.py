#!/usr/bin/env python3
"""The stand-in for the devops-hub backend: a small HTTP API in front of a SQLite database.

It is what the plan beside it protects: agents, workflows, API keys (hashes only) and events, answered as the real
service answers them. Only the standard library is used.

    backend.py seed  --database data/devops_hub.db --agents 2000     make a database with content
    backend.py serve --database data/devops_hub.db --port 8100       serve it
"""

import argparse
import hashlib
import json
import os
import secrets
import signal
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SCHEMA = """
create table agents (id integer primary key, name text not null unique, status text not null, config text not null,
                     created_at text not null);
create table workflows (id integer primary key, agent_id integer not null references agents(id), name text not null,
                        steps text not null, created_at text not null);
create table api_keys (id integer primary key, name text not null, key_hash text not null unique, scopes text not null,
                       is_active integer not null default 1, created_at text not null);
create table events (id integer primary key, type text not null, detail text not null, timestamp text not null);
create index workflows_by_agent on workflows(agent_id);
create index events_by_time on events(timestamp);
"""


def connect(path, must_exist=True):
    mode = "rw" if must_exist else "rwc"
    connection = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=10, isolation_level=None)
    connection.execute("pragma foreign_keys = on")
    connection.execute("pragma journal_mode = wal")
    return connection


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def seed(arguments):
    os.makedirs(os.path.dirname(os.path.abspath(arguments.database)), exist_ok=True)
    connection = connect(arguments.database, must_exist=False)
    connection.execute("begin")
    for statement in SCHEMA.split(";"):
        if statement.strip():
            connection.execute(statement)
    for number in range(1, arguments.agents + 1):
        at = f"2026-01-{1 + number % 28:02}T{number % 24:02}:00:00Z"
        config = json.dumps({"image": f"agent:{number % 7}", "replicas": number % 3 + 1})
        connection.execute("insert into agents values (?, ?, ?, ?, ?)", (number, f"agent-{number}", "active", config, at))
        connection.execute("insert into workflows values (?, ?, ?, ?, ?)",
                           (number, number, f"deploy-{number}", json.dumps(["build", "test", "ship"]), at))
        connection.execute("insert into events values (?, ?, ?, ?)", (number, "agent.created", f"agent-{number}", at))
    for name, scopes in [("ci", "read,write"), ("dashboard", "read")]:
        connection.execute("insert into api_keys (name, key_hash, scopes, created_at) values (?, ?, ?, ?)",
                           (name, digest(secrets.token_hex(16)), scopes, "2026-01-01T00:00:00Z"))
    connection.execute("commit")
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()


class Backend:
    def __init__(self, path):
        self.path = path
        self.local = threading.local()
        self.bootstrap()

    @property
    def connection(self):
        if not hasattr(self.local, "connection"):
            self.local.connection = connect(self.path)
        return self.local.connection

    def bootstrap(self):
        """Without an active admin key one is made at the start, and shown once, in the log."""
        active = self.one("select count(*) from api_keys where scopes like '%admin%' and is_active = 1")
        if active == 0:
            key = secrets.token_hex(16)
            self.add_key("bootstrap", "admin", key)
            print(f"bootstrap admin key made: {key}", flush=True)

    def one(self, query, parameters=()):
        return self.connection.execute(query, parameters).fetchone()[0]

    def add_key(self, name, scopes, key):
        self.connection.execute(
            "insert into api_keys (name, key_hash, scopes, created_at) values (?, ?, ?, datetime('now'))",
            (name, digest(key), scopes))

    def is_admin(self, key):
        return self.one("select count(*) from api_keys where key_hash = ? and scopes like '%admin%' and is_active = 1",
                        (digest(key),)) == 1

    def health(self):
        return {"status": "ok", "agents": self.one("select count(*) from agents"), "pid": os.getpid()}

    def agents(self):
        rows = self.connection.execute("select id, name, status from agents order by id")
        return [{"id": row[0], "name": row[1], "status": row[2]} for row in rows]


class Handler(BaseHTTPRequestHandler):
    backend = None

    def do_GET(self):
        routes = {"/health": self.backend.health, "/api/agents": self.backend.agents}
        if self.path not in routes:
            return self.answer(404, {"error": "no such page"})
        try:
            return self.answer(200, routes[self.path]())
        except sqlite3.Error as error:
            return self.answer(500, {"status": "error", "error": str(error)})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        try:
            if self.path == "/api/keys":
                key = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if not self.backend.is_admin(key):
                    return self.answer(403, {"error": "needs an admin key"})
                made = secrets.token_hex(16)
                self.backend.add_key(body["name"], ",".join(body["scopes"]), made)
                return self.answer(201, {"key": made})
            if self.path == "/api/agents":
                self.backend.connection.execute(
                    "insert into agents (name, status, config, created_at) values (?, 'active', '{}', datetime('now'))",
                    (body["name"],))
                return self.answer(201, {"name": body["name"]})
        except sqlite3.Error as error:
            return self.answer(500, {"error": str(error)})
        return self.answer(404, {"error": "no such page"})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def serve(arguments):
    if not os.path.exists(arguments.database):
        sys.exit(f"there is no database at {arguments.database}")
    Handler.backend = Backend(arguments.database)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving {arguments.database} on port {arguments.port}", flush=True)
    server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in [("seed", seed), ("serve", serve)]:
        command = commands.add_parser(name)
        command.add_argument("--database", default="data/devops_hub.db")
        command.set_defaults(function=function)
        if name == "seed":
            command.add_argument("--agents", type=int, default=2000)
        else:
            command.add_argument("--port", type=int, default=8100)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
