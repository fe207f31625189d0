#!/usr/bin/env bash
# The long runs behind the numbers in the docs, on an optimised build. Each prints what it did; `all` runs everything.
#
#   record.sh kafka         2 000 000 Nexmark events, ten kills, five views against SELECT and DuckDB
#   record.sh consistency   100 000 observations of the total, ten kills
#   record.sh bench [..]    throughput and latency tables; further arguments go to nexmark_bench
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/scripts/env.sh
. tests/scripts/env.sh

build() {
  cargo build --release --workspace --bins --locked
  export MILLSTREAM_BINARY=$CARGO_TARGET_DIR/release/millstream
}

kafka() {
  MILLSTREAM_EVENTS=${MILLSTREAM_EVENTS:-2000000} MILLSTREAM_KILLS=${MILLSTREAM_KILLS:-10} \
    cargo test --workspace --locked --test kafka_kill -- --nocapture
}

consistency() {
  MILLSTREAM_OBSERVATIONS=${MILLSTREAM_OBSERVATIONS:-100000} MILLSTREAM_KILLS=${MILLSTREAM_KILLS:-10} \
    cargo test --workspace --locked --test consistency -- --nocapture
}

bench() {
  "$CARGO_TARGET_DIR/release/nexmark_bench" "$@"
}

case "${1:-}" in
kafka | consistency) build; "$1" ;;
bench) shift; build; bench "$@" ;;
all) build; kafka; consistency; bench ;;
*) sed -n '2,6p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
