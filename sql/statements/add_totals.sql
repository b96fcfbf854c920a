-- add_totals
-- Adds to rollups of all users, like add_hourly.sql: $1 hour or day, $2 its start.
INSERT INTO @extschema@.aggregator_usage_totals AS kept
    (grain, start, provider_id, model_id, status,
    {measures}, latency, gateway)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i],
    {added},
    $8[24 * i - 23 : 24 * i],
    $9
FROM unnest($1) WITH ORDINALITY AS given (first, i)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (grain, start, provider_id, model_id, status, gateway) DO UPDATE SET
    {grown},
    latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency)
