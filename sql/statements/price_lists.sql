-- price_lists
-- The price lists of $1 models, those that have one: $2 their providers, $3 their ids.
SELECT asked.i, m.pricing::text
FROM generate_series(1, $1) AS asked (i)
JOIN @extschema@.aggregator_models AS m
    ON m.provider_id = $2[i] AND m.model_id = $3[i]
WHERE m.pricing <> '{}'::jsonb
