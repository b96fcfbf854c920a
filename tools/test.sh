#!/usr/bin/env bash
# Every test: pure ones, those inside a backend, and those from outside against real clusters.
# Arguments are passed on as a filter of the last kind, which alone then runs.
# PG is the version of PostgreSQL; with AGGREGATOR_EVERY_TEST=1 the oldest is brought too, to move from.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

# pg_test for all of it, so that the extension is compiled once for the tests inside a backend and for the suite.
features=(--no-default-features --features "pg$PG pg_test")
log=$BUILD/test.log
: > "$log"
counted() { "$@" 2>&1 | tee -a "$log"; }
skipped() { say "SKIPPED: $*"; echo "skipped: $*" >> "$log"; }

# Pure tests, and those inside a backend of a server that pgrx starts: through sudo, which need not be here. What is
# set is what `cargo pgrx test` sets, which itself would compile the suite as well.
in_process() (
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
    export CARGO_PGRX CARGO_PGRX_TEST_PGDATA=$pgdata PGRX_BUILD_PROFILE=dev RUST_BACKTRACE=0
    export PGRX_FEATURES="pg$PG pg_test" PGRX_NO_DEFAULT_FEATURES=true
    PATH=$shim:$PATH cargo test --quiet --lib "${features[@]}"
)

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

if [ $# = 0 ]; then
    say "pure tests, and tests inside a backend"
    counted in_process
fi

say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"
upgrade_script > "$BUILD/upgrade.sql"
cmp -s "$BUILD/upgrade.sql" "$(upgrade_path)" || fail "$(upgrade_path) is not up to date: make upgrade-sql"
# Some tests look at the console and at the page of usage_dashboard in a browser.
if ! command -v chromium >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive bash -c 'apt-get update -qq; apt-get install -y -qq --no-install-recommends chromium' \
        > "$BUILD/chromium.log" 2>&1 || say "NO CHROMIUM HERE, AND NOT ROOT: the console and the page of usage_dashboard are NOT looked at in a browser"
fi
source "$TREE/tools/clients.sh"
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
source "$TREE/tools/clusters.sh"
if [ "$AGGREGATOR_WITH_CRON" != 1 ]; then
    say "NO pg_cron FOR POSTGRESQL $PG: the README's statements for it are NOT run"
    skipped "cron::a_schedule_really_runs_and_syncs: it takes pg_cron"
    without+=(--skip cron::a_schedule_really_runs_and_syncs)
fi
source "$TREE/tools/vector.sh"
if [ "$AGGREGATOR_WITH_VECTOR" != 1 ]; then
    say "NO PGVECTOR WITH HNSW FOR POSTGRESQL $PG: the README's statements for it are NOT run"
    skipped "embeddings::vectors: it takes pgvector"
    without+=(--skip embeddings::vectors::)
fi
say "tests from outside"
# Most of them wait most of the time.
counted cargo test --quiet --test suite "${features[@]}" -- --test-threads=$(($(nproc) * 3)) "${without[@]}" "$@"

awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     /^skipped:/ { skipped++ }
     # By a test that found that it could try nothing, and passed.
     /^SKIPPED:/ { skipped++; passed-- }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
[ -n "$AGGREGATOR_NODE" ] || say "SKIPPED WITHOUT REAL CLIENTS: rest, advisors, front::clients, front::console_walks"
