# Sourced by .ci/run and by hand: one environment for builds, tests and measurements.
#
# The target folder lies outside of the clone so that several clones share what they compiled.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/millstream

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export CARGO_INCREMENTAL=0
export CARGO_TERM_COLOR=never
export MILLSTREAM_PYTHONPATH=${MILLSTREAM_PYTHONPATH:-$cache/python-duckdb-2.0.0}
# What a test needs and does not find is a failure, not a test that was left out.
export MILLSTREAM_REQUIRE_KAFKA=${MILLSTREAM_REQUIRE_KAFKA:-1}
export MILLSTREAM_REQUIRE_DUCKDB=${MILLSTREAM_REQUIRE_DUCKDB:-1}
export MILLSTREAM_REQUIRE_PSQL=${MILLSTREAM_REQUIRE_PSQL:-1}
export MILLSTREAM_REQUIRE_POSTGRES=${MILLSTREAM_REQUIRE_POSTGRES:-1}
