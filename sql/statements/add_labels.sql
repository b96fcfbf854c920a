-- add_labels
-- Adds to rollups of gateway keys and tags, like add_hourly.sql, whose counts ($8) and amounts ($9) it gets: of those it
-- keeps some. $1 key or tag, $2 which; $10 the gateway.
INSERT INTO @extschema@.aggregator_usage_labels AS kept
    (kind, label, hour, user_id, provider_id, model_id, status,
    {measures}, gateway)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i], $6[i], $7[i],
    {added},
    $10
FROM unnest($1) WITH ORDINALITY AS given (first, i)
ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (kind, label, hour, user_id, provider_id, model_id, status, gateway) DO UPDATE SET
    {grown}
