#!/bin/sh
# Starts, stops and asks the two servers of this example, whose data lies in ./data. On a machine of your own systemd does this:
# write `systemd: postgresql` and `systemd: redis-server` in the plan instead.
set -eu
cd "$(dirname "$0")"
here=$PWD
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
PATH="$PATH${bin:+:$bin}"
mkdir -p run

case "$1 $2" in
  "postgres start")
    pg_ctl status -D data/postgres >/dev/null 2>&1 || pg_ctl start -w -D data/postgres -l run/postgres.log >/dev/null ;;
  "postgres stop")
    pg_ctl stop -w -m fast -D data/postgres >/dev/null 2>&1 || ! pg_ctl status -D data/postgres >/dev/null 2>&1 ;;
  "postgres status")
    pg_ctl status -D data/postgres >/dev/null ;;
  "redis start")
    "$0" redis status 2>/dev/null || redis-server "$here/redis.conf" --dir "$here/data/redis" \
      --unixsocket "$here/run/redis.sock" --logfile "$here/run/redis.log" >/dev/null
    until "$0" redis status; do sleep 0.1; done ;;
  "redis stop")
    redis-cli -s run/redis.sock shutdown >/dev/null 2>&1 || ! "$0" redis status 2>/dev/null ;;
  "redis status")
    redis-cli -s run/redis.sock ping 2>/dev/null | grep -q PONG ;;
  "redis ask")
    shift 2
    redis-cli -s run/redis.sock "$@" ;;
  *)
    echo "usage: $0 postgres|redis start|stop|status" >&2
    exit 2 ;;
esac
