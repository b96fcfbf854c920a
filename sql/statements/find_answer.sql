-- The kept answer by the first of the prints $1 that has one, if it is at most $2 seconds old.
SELECT kept.print, kept.answer, extract(epoch FROM clock_timestamp() - kept.created_at)::bigint
FROM unnest($1) WITH ORDINALITY AS asked (print, place)
JOIN @extschema@.aggregator_cache AS kept ON kept.print = asked.print
WHERE kept.expires_at > clock_timestamp()
  AND kept.created_at > clock_timestamp() - make_interval(secs => $2)
ORDER BY asked.place
LIMIT 1
