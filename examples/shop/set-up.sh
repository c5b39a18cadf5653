#!/bin/sh
# Makes the three databases of this example in ./data and the repository, and starts the servers. Run it as an ordinary user:
# PostgreSQL does not run as root.
set -eu
cd "$(dirname "$0")"
here=$PWD
lifeboat=${LIFEBOAT:-lifeboat}
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
PATH="$PATH${bin:+:$bin}"

test -e .lifeboat-password || (umask 077; head -c 24 /dev/urandom | base64 > .lifeboat-password)
"$lifeboat" repository init --repository "$here/lifeboat-repository" --password-file .lifeboat-password

mkdir -p data/redis run
initdb -D data/postgres -U shop -A trust -k -E UTF8 --locale=C >/dev/null
cat >> data/postgres/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '$here/run'
CONF
./servers.sh postgres start
./servers.sh redis start
# A database without a single key is taken for an accident, not for a base.
./servers.sh redis ask SET shop open >/dev/null

psql -q -h "$here/run" -U shop -d postgres -c "create table orders (n integer primary key, placed timestamptz default now())"
python3 - <<'PYTHON'
import sqlite3
with sqlite3.connect("data/catalogue.db", isolation_level=None) as catalogue:
    catalogue.execute("pragma journal_mode = wal")
    catalogue.execute("create table products (n integer primary key, name text not null)")
PYTHON
echo "the databases are in $here/data, the repository is in $here/lifeboat-repository"
