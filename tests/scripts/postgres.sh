#!/usr/bin/env bash
# One throwaway PostgreSQL for the tests, from Debian's package.
#
#   postgres.sh start DIR PORT [PARENT_PID]   start on 127.0.0.1:PORT with everything in DIR; returns when it answers.
#                                             With PARENT_PID the server is stopped and DIR removed when that process
#                                             is gone. Any user may connect without a password.
#   postgres.sh stop DIR                      stop and remove DIR.
#
# Text compares by its bytes, as in Millstream; times are UTC. Nothing is written durably.
# Exit code 77: PostgreSQL is missing. As root the server runs as the user `postgres`, which the package creates.
set -euo pipefail

fail() {
  echo "postgres.sh: $1" >&2
  exit "${2:-1}"
}

bin=
for folder in "$(dirname "$(readlink -f "$(command -v postgres || echo /none/postgres)")")" /usr/lib/postgresql/*/bin; do
  if [ -x "$folder/initdb" ] && [ -x "$folder/pg_ctl" ]; then
    bin=$folder
  fi
done

as=()
if [ "$(id -u)" = 0 ]; then
  as=(runuser -u postgres --)
fi

start() {
  local dir=$1 port=$2 parent=${3:-}
  [ -n "$bin" ] || fail "no PostgreSQL" 77
  if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || fail "no user postgres" 77
  fi
  mkdir -p "$dir/cluster"
  dir=$(cd "$dir" && pwd)
  cd "$dir"
  if [ "$(id -u)" = 0 ]; then
    chmod 755 "$dir"
    chown postgres "$dir/cluster"
  fi
  "${as[@]}" "$bin/initdb" -D "$dir/cluster" -U postgres -A trust -E UTF8 --lc-collate=C --lc-ctype=C.UTF-8 \
    --no-sync >"$dir/initdb.log" 2>&1 || fail "initdb: $(tail -3 "$dir/initdb.log")"
  # One statement at a time needs no more; plans are not what is tested.
  "${as[@]}" tee -a "$dir/cluster/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 40
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'ISO, YMD'
lc_messages = 'C'
jit = off
autovacuum = off
CONF
  "${as[@]}" "$bin/pg_ctl" -D "$dir/cluster" -l "$dir/cluster/server.log" -w -t 60 start >/dev/null ||
    fail "it does not start: $(tail -5 "$dir/cluster/server.log")"
  if [ -n "$parent" ]; then
    # Its output must not keep the caller's pipes open.
    setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; "$0" stop "$2"' \
      "$here/postgres.sh" "$parent" "$dir" </dev/null >/dev/null 2>&1 &
  fi
}

stop() {
  local dir=$1
  if [ -f "$dir/cluster/postmaster.pid" ]; then
    cd "$dir"
    "${as[@]}" "$bin/pg_ctl" -D "$dir/cluster" -m immediate -w -t 30 stop >/dev/null || true
    cd /
  fi
  rm -rf "$dir"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case "${1:-}" in
  start) start "$2" "$3" "${4:-}" ;;
  stop) stop "$2" ;;
  *) fail "usage: postgres.sh start DIR PORT [PARENT_PID] | stop DIR" 2 ;;
esac
