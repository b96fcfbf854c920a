#!/usr/bin/env bash
# Whether the private copy of PostgreSQL has Citus, which is in no package registry: whoever has built it against
# that copy's pg_config has its tests run. Sourced after setup.sh. Exports AGGREGATOR_WITH_CITUS: 1 or 0; CITUS=1 fails
# where it is missing.
# With AGGREGATOR_CITUS=1 every database of the other tests is one of a coordinator with two workers, and months that
# are over are distributed in it.

if [ -f "$("$PG_CONFIG" --sharedir)/extension/citus.control" ]; then
    AGGREGATOR_WITH_CITUS=1
else
    AGGREGATOR_WITH_CITUS=0
    [ "${CITUS:-0}${AGGREGATOR_CITUS:-0}" = 00 ] || fail "there is no Citus for $PG_CONFIG, which is asked for"
fi
export AGGREGATOR_WITH_CITUS
