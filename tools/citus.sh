#!/usr/bin/env bash
# Whether the private copy of PostgreSQL has Citus, which is in no package registry: whoever has built it against
# that copy's pg_config has its tests run. Sourced after setup.sh. Exports AGGREGATOR_WITH_CITUS: 1 or 0; CITUS=1 fails
# where it is missing.

if [ -f "$("$PG_CONFIG" --sharedir)/extension/citus.control" ]; then
    AGGREGATOR_WITH_CITUS=1
else
    AGGREGATOR_WITH_CITUS=0
    [ "${CITUS:-0}" != 1 ] || fail "CITUS=1, and there is no Citus for $PG_CONFIG"
fi
export AGGREGATOR_WITH_CITUS
