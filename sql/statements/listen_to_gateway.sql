-- Listens to gateway $1, whose message has the number $2: no row where it is not known, or has sent a later one.
INSERT INTO @extschema@.aggregator_gateway_messages AS heard (gateway, number, seen_at)
SELECT known.name, $2, clock_timestamp()
FROM @extschema@.aggregator_gateways AS known
WHERE known.name = $1
ON CONFLICT (gateway) DO UPDATE
SET number = excluded.number,
    seen_at = excluded.seen_at
WHERE heard.number < excluded.number
RETURNING heard.gateway
