#!/usr/bin/env bash
# From CREATE EXTENSION to an answer, its usage row and its cost, on a throw-away server.
# With OPENROUTER_API_KEY set it asks OpenRouter, else a real small model on this machine.
source "$(dirname "$0")/setup.sh"
source "$TREE/tools/model.sh"
cd "$TREE"

DIR=$BED/demo
MODEL_PID=
cleanup() {
    [ -f "$DIR/data/postmaster.pid" ] && as_server "$PG_BIN/pg_ctl" -D "$DIR/data" -m immediate stop >/dev/null 2>&1
    [ -n "$MODEL_PID" ] && kill "$MODEL_PID" 2>/dev/null
    rm -rf "$DIR"
}
trap cleanup EXIT
cleanup

say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"

say "starting a throw-away server"
mkdir -p "$DIR"
chown "$SERVER_USER" "$DIR"
as_server "$PG_BIN/initdb" -D "$DIR/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8 --no-sync >/dev/null
cat >> "$DIR/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$DIR'
aggregator.allow_private_networks = on
CONF
as_server "$PG_BIN/pg_ctl" -D "$DIR/data" -w -l "$DIR/log" start >/dev/null

if [ -n "${OPENROUTER_API_KEY:-}" ]; then
    export DEMO_PROVIDER=openrouter DEMO_KEY=$OPENROUTER_API_KEY DEMO_MODEL=${DEMO_MODEL:-openai/gpt-4o-mini} DEMO_URL=
else
    start_model
    export DEMO_PROVIDER=local DEMO_KEY=$MODEL_KEY DEMO_MODEL=smollm2-135m DEMO_URL=$MODEL_URL
fi

unset RUST_BACKTRACE
psql=("$PG_BIN/psql" -h "$DIR" -U postgres -d postgres)
"${psql[@]}" -X -q -v ON_ERROR_STOP=1 -f tools/demo.sql

if [ -t 0 ] && [ -t 1 ]; then
    say "your turn: psql, until \\q (try: SELECT chat('Hello!', '$DEMO_MODEL');)"
    "${psql[@]}" || true
fi
