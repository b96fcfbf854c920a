-- price_lists
-- The price lists of models, those that have one: $1 their providers, $2 their ids.
SELECT asked.i::integer, m.pricing::text
FROM unnest($1) WITH ORDINALITY AS asked (provider_id, i)
JOIN @extschema@.aggregator_models AS m
    ON m.provider_id = asked.provider_id AND m.model_id = $2[i]
WHERE m.pricing <> '{}'::jsonb
