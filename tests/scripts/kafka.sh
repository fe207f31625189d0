#!/usr/bin/env bash
# One Apache Kafka broker in KRaft mode for the tests, from its published jars.
#
#   kafka.sh start DIR PORT [PARENT_PID]   start on 127.0.0.1:PORT with state in DIR; returns when it answers.
#                                          With PARENT_PID the broker is killed and DIR removed when that process
#                                          is gone.
#   kafka.sh stop DIR                      stop at once, as a crash would; the state stays. `start` goes on with it.
#   kafka.sh jars                          fetch the jars and print their folder.
#
# Exit code 77: Java or Maven is missing. Needs no network once the jars are in ~/.cache/millstream.
set -euo pipefail

version=4.2.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
jars=${MILLSTREAM_KAFKA_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/millstream/kafka-$version}

fail() {
  echo "kafka.sh: $1" >&2
  exit "${2:-1}"
}

fetch() {
  [ -d "$jars" ] && return
  command -v mvn >/dev/null || fail "no mvn" 77
  mkdir -p "$(dirname "$jars")"
  # Two test binaries may come here at once: whole folders only, the first one wins.
  local fresh
  fresh=$(mktemp -d "$jars.XXXXXX")
  mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$fresh" >&2 ||
    { rm -rf "$fresh"; fail "mvn could not fetch the jars"; }
  mv -T "$fresh" "$jars" 2>/dev/null || rm -rf "$fresh"
  [ -d "$jars" ] || fail "no jars in $jars"
}

answers() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 12000))
    answers "$port" || { echo "$port"; return; }
  done
  fail "no free port"
}

start() {
  local dir=$1 port=$2 parent=${3:-}
  command -v java >/dev/null || fail "no java" 77
  fetch
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  if [ ! -f "$dir/server.properties" ]; then
    local controller
    controller=$(free_port)
    cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.retention.check.interval.ms=1000
controller.quorum.election.timeout.ms=300
controller.quorum.election.backoff.max.ms=100
controller.quorum.fetch.timeout.ms=1000
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=2500
PROPERTIES
    cat >"$dir/log4j2.properties" <<LOG
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c %m%n
LOG
    java -Xshare:auto -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$jars/*" \
      kafka.tools.StorageTool format -t "$(cluster_id)" -c "$dir/server.properties" >"$dir/format.log" 2>&1 ||
      { cat "$dir/format.log" >&2; rm -f "$dir/server.properties"; fail "could not format $dir"; }
  fi
  setsid java -Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$jars/*" \
    kafka.Kafka "$dir/server.properties" >>"$dir/broker.log" 2>&1 </dev/null &
  local broker=$!
  echo "$broker" >"$dir/pid"
  if [ -n "$parent" ]; then
    # The broker must not outlive the tests, however they end.
    setsid bash -c '
      while kill -0 "$1" 2>/dev/null && kill -0 "$2" 2>/dev/null; do sleep 1; done
      kill -0 "$1" 2>/dev/null && exit
      kill -9 "$2" 2>/dev/null
      sleep 0.2
      rm -rf "$3"
    ' watchdog "$parent" "$broker" "$dir" >/dev/null 2>&1 </dev/null &
  fi
  for _ in $(seq 600); do
    kill -0 "$broker" 2>/dev/null || { tail -20 "$dir/broker.log" >&2; fail "the broker stopped by itself"; }
    # Clients retry by themselves until it serves.
    if answers "$port"; then
      disown -a
      return
    fi
    sleep 0.1
  done
  fail "the broker did not listen on port $port within 60 s; see $dir/broker.log"
}

# 16 bytes in the URL alphabet of base64, as Kafka wants it.
cluster_id() {
  head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | cut -c1-22
}

stop() {
  local dir=$1 broker
  broker=$(cat "$dir/pid" 2>/dev/null) || return 0
  kill -9 "$broker" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$broker" 2>/dev/null || break
    sleep 0.05
  done
  rm -f "$dir/pid"
}

case "${1:-}" in
start) [ $# -ge 3 ] || fail "usage: kafka.sh start DIR PORT [PARENT_PID]" 2; start "$2" "$3" "${4:-}" ;;
stop) [ $# -eq 2 ] || fail "usage: kafka.sh stop DIR" 2; stop "$2" ;;
jars) fetch; echo "$jars" ;;
*) fail "usage: kafka.sh start DIR PORT [PARENT_PID] | stop DIR | jars" 2 ;;
esac
