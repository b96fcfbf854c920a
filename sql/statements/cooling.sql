-- What is cool still, as the last worker left it.
SELECT cold.provider_id, cold.user_provider_id, cold.model_id,
    CASE WHEN isfinite(cold.cooling_until)
        THEN (extract(epoch FROM least(cold.cooling_until, '3000-01-01 UTC'::timestamptz)) * 1000000)::bigint END,
    cold.key_print, cold.failures, cold.reason
FROM @extschema@.aggregator_cooling AS cold
WHERE cold.cooling_until > now()
