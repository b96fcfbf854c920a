-- add_hourly
-- Adds to the rollups of a user's hours: $1-$5 their keys, then what is added to each, all counts of the first
-- ($6), all amounts of the first ($7) and 24 places of a histogram ($8), then those of the next; $9 the gateway. The
-- measures are those of core/rollup.rs.
INSERT INTO @extschema@.aggregator_usage_hourly AS kept
    (user_id, hour, provider_id, model_id, status,
    {measures}, latency, gateway)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i],
    {added},
    $8[24 * i - 23 : 24 * i],
    $9
FROM unnest($1) WITH ORDINALITY AS given (first, i)
-- In the order of the keys, as everybody who adds: then two wait for each other, and do not lock each other out.
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (user_id, hour, provider_id, model_id, status, gateway) DO UPDATE SET
    {grown},
    latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency)
