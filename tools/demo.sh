#!/usr/bin/env bash
# From CREATE EXTENSION to an answer, its usage row and its cost, on a throw-away server.
# With OPENROUTER_API_KEY set it asks OpenRouter, else a real small model on this machine.
source "$(dirname "$0")/setup.sh"
source "$TREE/tools/model.sh"
cd "$TREE"

DIR=$BED/demo
MODEL_PID='' EMBEDDER_PID=''
cleanup() {
    [ -f "$DIR/data/postmaster.pid" ] && as_server "$PG_BIN/pg_ctl" -D "$DIR/data" -m immediate stop >/dev/null 2>&1
    for pid in $MODEL_PID $EMBEDDER_PID; do kill "$pid" 2>/dev/null; done
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
PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >> "$DIR/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$DIR'
aggregator.allow_private_networks = on
aggregator.http_listen = 'postgres=127.0.0.1:$PORT'
CONF
as_server "$PG_BIN/pg_ctl" -D "$DIR/data" -w -l "$DIR/log" start >/dev/null

if [ -n "${OPENROUTER_API_KEY:-}" ]; then
    export DEMO_PROVIDER=openrouter DEMO_KEY=$OPENROUTER_API_KEY DEMO_MODEL=${DEMO_MODEL:-openai/gpt-4o-mini} DEMO_URL=
else
    start_model
    export DEMO_PROVIDER=local DEMO_KEY=$MODEL_KEY DEMO_MODEL=smollm2-135m DEMO_URL=$MODEL_URL
fi
start_embedder || true
export DEMO_EMBEDDER_URL=$EMBEDDER_URL DEMO_EMBEDDER_KEY=$EMBEDDER_KEY

unset RUST_BACKTRACE
psql=("$PG_BIN/psql" -h "$DIR" -U postgres -d postgres -P pager=off)
"${psql[@]}" -X -q -v ON_ERROR_STOP=1 -f tools/demo.sql

say "the same over HTTP, as it is streamed to any client of OpenAI's API"
ask() { "${psql[@]}" -X -q -A -t -v ON_ERROR_STOP=1 -c "$1"; }
ask "SELECT aggregator_start()" >/dev/null
GATEWAY_KEY=$(ask "SELECT key FROM create_gateway_key('demo')")
for _ in $(seq 50); do
    curl -s -o /dev/null "http://127.0.0.1:$PORT/health" && break
    sleep 0.2
done
ask "SELECT coalesce(http_error, 'It listens at ' || http_address) FROM aggregator_status()"
echo "curl -N http://127.0.0.1:$PORT/v1/chat/completions -H 'Authorization: Bearer agk_...' -d '{... \"stream\": true}'"
curl -sS -N --fail-with-body "http://127.0.0.1:$PORT/v1/chat/completions" -H "Authorization: Bearer $GATEWAY_KEY" \
    -H 'Content-Type: application/json' \
    -d "{\"model\": \"$DEMO_MODEL\", \"stream\": true, \"temperature\": 0, \"max_tokens\": 12,
         \"messages\": [{\"role\": \"user\", \"content\": \"Count from one to three.\"}]}"

say "the console, in a browser: the link signs in once, for a minute"
ask "SELECT console_url()"

if [ -t 0 ] && [ -t 1 ]; then
    say "your turn: psql, until \\q (try: SELECT chat('Hello!', '$DEMO_MODEL'); SELECT console_url();)"
    "${psql[@]}" || true
fi
