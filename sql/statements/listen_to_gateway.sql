-- Listens to gateway $1, whose message has the number $2: no row where it is not known, or has sent a later one.
UPDATE @extschema@.aggregator_gateways AS known
SET message_number = $2,
    seen_at = clock_timestamp()
WHERE known.name = $1
  AND known.message_number < $2
RETURNING known.name
