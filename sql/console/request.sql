-- GET request: id
-- Every column of each attempt of a call. Prompts and answers are in no column of the usage log.
SELECT jsonb_build_object('id', $1 ->> 'id', 'attempts', coalesce(jsonb_agg(
    to_jsonb(log) || jsonb_build_object(
        'cost_estimate', log.cost_estimate::text,
        'cost_computed', log.cost_computed::text,
        'reserved_cost', log.reserved_cost::text,
        'provider', p.name,
        'gateway_key', k.name
    ) ORDER BY log.attempt), '[]'::jsonb))
FROM @extschema@.aggregator_usage_logs AS log
LEFT JOIN @extschema@.api_providers AS p ON p.id = log.provider_id
LEFT JOIN @extschema@.aggregator_gateway_keys AS k ON k.id = log.gateway_key_id
WHERE log.call_id = ($1 ->> 'id')::uuid
