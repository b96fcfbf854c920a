#!/usr/bin/env bash
# Every test: pure ones, those inside a backend, and those from outside against real clusters. Arguments are passed on
# as a filter of the last kind, which alone then runs.
# PG is the version of PostgreSQL; with AGGREGATOR_EVERY_TEST=1 the oldest is brought too, to move from; with CITUS=1 it
# fails where the tests with Citus cannot run, and with AGGREGATOR_CITUS=1 all run on databases that Citus distributes.
# AGGREGATOR_TEST_STEP=build compiles and installs what the tests need, and run runs them as they were built.
# AGGREGATOR_PURE=skip goes without what is the same with each PostgreSQL, for a run after another with all: the pure tests
# and those inside a backend, which are one program (outside a backend nothing of PostgreSQL can be called, and the others
# ask for nothing that differs), and of those from outside the ones of libraries and browsers that see HTTP alone, whose
# statements others run, and of texts.
source "$(dirname "$0")/setup.sh"
source "$TREE/tools/clients.sh"
source "$TREE/tools/proxies.sh"
cd "$TREE"
step=${AGGREGATOR_TEST_STEP:-all}

# Both packages are named each time, or what they share would be compiled once for each choice.
built=(cargo test --quiet --package aggregator --package aggregator-tests --no-default-features --test suite)
features="pg$PG"
if [ $# = 0 ] && [ "${AGGREGATOR_PURE:-}" != skip ]; then
    features+=" pg_test"
    built+=(--lib)
fi
built+=(--features "$features")
log=$BUILD/test$PG.log
: > "$log"
counted() { "$@" 2>&1 | tee -a "$log"; }
skipped() { say "SKIPPED: $*"; echo "skipped: $*" >> "$log"; }

# The programs of the tests: those from outside, and the pure ones, unless they were not built.
programs() {
    "${built[@]}" --no-run --message-format=json 2>/dev/null | python3 -c '
import json, sys
made = {}
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        made[message["target"]["name"]] = message["executable"]
for name in ("suite", "aggregator"):
    if name in made:
        print(made[name])'
}

# The tests inside a backend are SQL functions of the extension, which the suite's must not have: they get a PostgreSQL of
# their own, of links to what no extension changes.
inside=$BED/inside$PG
inside_config=${PG_CONFIG/#$private/$inside}
copy_inside() {
    rm -rf "$inside"
    cp -al "$private" "$inside"
    find "$inside" -name 'aggregator*' -delete
}
# Not optimised, for which every other crate is compiled already: with the suite, or they would have other features.
install_inside() {
    PGRX_BUILD_FLAGS="--package aggregator-tests --test suite" "$CARGO_PGRX" pgrx install --test --package aggregator \
        --no-default-features --features "$features" --pg-config "$inside_config" > "$BUILD/inside.log" 2>&1 \
        || { cat "$BUILD/inside.log" >&2; return 1; }
}

# The pure tests and those inside a backend, of a server that pgrx-tests starts: through sudo, which need not be here. It
# would install the extension as well, which is done.
in_process() {
    local shim=$BUILD/shim pgdata=$BED/pgtest
    mkdir -p "$shim"
    rm -rf "$pgdata"
    cat > "$shim/sudo" <<'SUDO'
#!/bin/sh
user=root
[ "$1" = -u ] && { user=$2; shift 2; }
exec runuser -u "$user" -- env "$@"
SUDO
    chmod +x "$shim/sudo"
    if [ "$(id -u)" = 0 ]; then
        export CARGO_PGRX_TEST_RUNAS=$SERVER_USER
        install -d -o "$SERVER_USER" "$pgdata"
    else
        export USER=$SERVER_USER
    fi
    export CARGO_PGRX=true CARGO_PGRX_TEST_PGDATA=$pgdata PGRX_PG_CONFIG_PATH=$inside_config
    export CARGO_MANIFEST_DIR=$TREE RUST_BACKTRACE=0
    PATH=$shim:$PATH exec nice -n 10 "$pure" --quiet "$@"
}

# What cannot be had is told where it is used.
fetch() {
    # Some tests look at the console and at the page of usage_dashboard in a browser.
    command -v chromium >/dev/null || as_root env DEBIAN_FRONTEND=noninteractive \
        bash -c 'apt-get update -qq; apt-get install -y -qq --no-install-recommends chromium' > "$BUILD/chromium.log" 2>&1 || true
    wants_clients && bring_clients || true
}

build() {
    say "building the tests, and building and installing the extension for PostgreSQL $PG"
    [ "$features" = "pg$PG" ] || copy_inside
    # Side by side: each has a part that takes one core alone.
    install_extension "$PG_CONFIG" &
    local installed=$!
    fetch &
    local fetched=$!
    "${built[@]}" --no-run || { wait; fail "the tests do not build"; }
    [ "$features" = "pg$PG" ] || install_inside || { wait; fail "the tests inside a backend do not build"; }
    wait $installed || { wait; fail "the extension does not build"; }
    wait $fetched
    upgrade_script > "$BUILD/upgrade.sql"
    cmp -s "$BUILD/upgrade.sql" "$(upgrade_path)" || fail "$(upgrade_path) is not up to date: make upgrade-sql"
    programs > "$BUILD/test$PG.programs"
}

# The oldest version, which is the default too, for a database to move from: where its programs are, with the
# extension as it is now installed.
older_bin() (
    export PG=$DEBIAN_PG
    source "$TREE/tools/postgres.sh"
    local library=$PG_BIN/../lib/aggregator.so
    if [ ! -f "$library" ] || [ -n "$(find src sql Cargo.toml Cargo.lock aggregator.control -newer "$library" -print -quit)" ]; then
        say "building and installing the extension for PostgreSQL $PG, to move a database from"
        source "$TREE/tools/setup.sh"
        install_extension "$PG_CONFIG"
    fi
    echo "$PG_BIN"
)

[ "$step" = run ] || build
[ "$step" != build ] || exit 0
{ read -r suite; read -r pure || true; } < "$BUILD/test$PG.programs"

command -v chromium >/dev/null || say "NO CHROMIUM HERE: the console and the page of usage_dashboard are NOT looked at in a browser"
without=()
moves=dump::a_database_moves_from_an_older_postgresql
if [ "$PG" = "$DEBIAN_PG" ]; then
    without+=(--skip "$moves")
elif [ -d "$BED/pg$DEBIAN_PG" ] || [ "${AGGREGATOR_EVERY_TEST:-0}" = 1 ]; then
    AGGREGATOR_OLDER_PG_BIN=$(older_bin)
    export AGGREGATOR_OLDER_PG_BIN
else
    skipped "$moves: make test PG=$DEBIAN_PG first, or set AGGREGATOR_EVERY_TEST=1"
    without+=(--skip "$moves")
fi
# As the test looks for it: nothing is sent.
elsewhere=front::proxied::another_machine_has_sixty_four_connections_and_a_proxy_as_many_as_it_wants
if ! python3 - 2>/dev/null <<'PY'
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
    other.connect(("192.0.2.1", 9))
    raise SystemExit(other.getsockname()[0].startswith("127."))
PY
then
    skipped "$elsewhere: this machine has no address but loopback"
    without+=(--skip "$elsewhere")
fi
use_clients
use_proxies
if [ -z "$AGGREGATOR_PROXIES" ]; then
    skipped "front::real_proxies: nginx and Caddy cannot be had here; see .build/proxies.log"
    without+=(--skip front::real_proxies::)
fi
CLUSTERS_IN_MEMORY=1
source "$TREE/tools/clusters.sh"
if [ "$AGGREGATOR_WITH_CRON" != 1 ]; then
    say "NO pg_cron FOR POSTGRESQL $PG: the pages' statements for it are NOT run"
    skipped "cron::a_schedule_really_runs_and_syncs: it takes pg_cron"
    without+=(--skip cron::a_schedule_really_runs_and_syncs)
fi
source "$TREE/tools/vector.sh"
if [ "$AGGREGATOR_WITH_VECTOR" != 1 ]; then
    say "NO PGVECTOR WITH HNSW FOR POSTGRESQL $PG: the pages' statements for it are NOT run"
    skipped "embeddings::vectors: it takes pgvector"
    without+=(--skip embeddings::vectors::)
fi
if [ "${AGGREGATOR_PURE:-}" = skip ]; then
    for same in front::clients front::console_pages front::console_walks packaging; do
        skipped "$same: the same with each PostgreSQL, and AGGREGATOR_PURE=skip says that another has run it"
        without+=(--skip "$same::")
    done
fi
source "$TREE/tools/citus.sh"
if [ "$AGGREGATOR_WITH_CITUS" != 1 ]; then
    skipped "citus: it takes Citus, which is in no package registry"
    without+=(--skip citus::)
elif [ "$AGGREGATOR_WITH_CRON" != 1 ]; then
    skipped "citus::ends::by_a_schedule_months_go_there_one_at_a_time_and_end: it takes pg_cron"
    without+=(--skip citus::ends::by_a_schedule_months_go_there_one_at_a_time_and_end)
fi
if [ "${AGGREGATOR_CITUS:-0}" = 1 ]; then
    skipped "citus: with AGGREGATOR_CITUS=1 every other test has a database of Citus"
    without+=(--skip citus::)
fi
say "pure tests, tests inside a backend, and tests from outside"
# Most of those from outside wait most of the time: the others compute beside them.
status=0
if [ -n "${pure:=}" ]; then
    in_process > "$BUILD/pure.log" 2>&1 &
    pure_id=$!
fi
counted "$suite" --quiet --test-threads=$(($(nproc) * 3)) "${without[@]}" "$@" || status=$?
if [ -n "$pure" ]; then
    wait "$pure_id" || status=$?
    counted cat "$BUILD/pure.log"
fi

# Each of these tests waits for processes of others. Where a few of all have failed, they run again with nothing beside
# them, and what passes only then is counted apart: it has a race, but is no reason to refuse a change.
failed() {
    awk '/^failures:$/ { count = 0 }
         /^    [a-z0-9_]+(::[a-z0-9_]+)+$/ { names[count++] = $1 }
         /^test result: FAILED/ { for (i = 0; i < count; i++) print names[i]; count = 0 }' "$log"
}
again() {
    local program=$1
    shift
    [ $# != 0 ] || return 0
    say "again, one at a time: $*"
    echo "again: $*" >> "$log"
    counted "$program" --test-threads=1 --exact "$@"
}
inside_again() { (in_process "$@"); }
few=6
mapfile -t failed < <(failed)
# A program that did not come to its end has failed in more than it says.
ended=$(grep -c '^test result:' "$log" || true)
started=$([ -z "$pure" ] && echo 1 || echo 2)
if [ $# = 0 ] && [ "$ended" = "$started" ] && [ ${#failed[@]} != 0 ] && [ ${#failed[@]} -le $few ]; then
    new_clusters
    status=0
    own=()
    others=()
    for name in "${failed[@]}"; do
        if "$suite" --list --exact "$name" | grep -q ': test$'; then others+=("$name"); else own+=("$name"); fi
    done
    again "$suite" "${others[@]}" || status=$?
    again inside_again "${own[@]}" || status=$?
fi

awk '/^test result:/ { passed += $4; failed += $6; skipped += $8; if (again) { alone += $4; again = 0 } }
     /^again:/ { again = NF - 1; failed -= again }
     /^skipped:/ { skipped++ }
     # By a test that found that it could try nothing, and passed.
     /^SKIPPED:/ { skipped++; passed-- }
     END {
         printf "%d passed, %d failed, %d skipped", passed, failed, skipped
         if (alone) printf ", %d of the first passed only when run again", alone
         print ""
     }' "$log"
[ -n "$AGGREGATOR_NODE" ] || say "SKIPPED WITHOUT REAL CLIENTS: rest, advisors, front::clients, front::console_walks"
exit $status
