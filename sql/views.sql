-- For Metabase, Grafana and whoever draws their own charts: names instead of ids, one row per fact,
-- under the caller's own rights. Between versions columns are added to them, never changed.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Each request.
CREATE VIEW @extschema@.aggregator_usage WITH (security_invoker = true) AS
SELECT log.created_at,
    log.call_id,
    log.attempt,
    log.user_id,
    coalesce(p.name, log.provider_id::text) AS provider_name,
    log.model_id,
    log.served_model,
    log.status,
    log.error_code,
    log.http_status,
    log.prompt_tokens,
    log.completion_tokens,
    log.total_tokens,
    log.cost_estimate AS cost,
    log.cost_source,
    log.latency_ms,
    log.time_to_first_token_ms,
    log.gateway_key_id,
    log.tags
FROM @extschema@.aggregator_usage_logs AS log
LEFT JOIN @extschema@.api_providers AS p ON p.id = log.provider_id;

-- Each hour of each user.
CREATE VIEW @extschema@.aggregator_usage_by_hour WITH (security_invoker = true) AS
SELECT used.hour,
    used.user_id,
    coalesce(p.name, used.provider_id::text) AS provider_name,
    used.model_id,
    used.status,
    used.requests,
    used.prompt_tokens,
    used.completion_tokens,
    used.total_tokens,
    @extschema@.aggregator_known_cost(used.cost, used.priced::numeric, used.unpriced::numeric) AS cost,
    used.unpriced AS unpriced_requests,
    round(used.latency_ms_sum::numeric / nullif(used.timed, 0), 1) AS avg_latency_ms,
    @extschema@.aggregator_percentile(used.latency::bigint[], 0.95::double precision) AS p95_latency_ms,
    used.gateway
FROM @extschema@.aggregator_usage_hourly AS used
LEFT JOIN @extschema@.api_providers AS p ON p.id = used.provider_id;

-- Each day of all users together.
CREATE VIEW @extschema@.aggregator_usage_by_day WITH (security_invoker = true) AS
SELECT used.start AS day,
    coalesce(p.name, used.provider_id::text) AS provider_name,
    used.model_id,
    used.status,
    used.requests,
    used.prompt_tokens,
    used.completion_tokens,
    used.total_tokens,
    @extschema@.aggregator_known_cost(used.cost, used.priced::numeric, used.unpriced::numeric) AS cost,
    used.unpriced AS unpriced_requests,
    round(used.latency_ms_sum::numeric / nullif(used.timed, 0), 1) AS avg_latency_ms,
    @extschema@.aggregator_percentile(used.latency::bigint[], 0.95::double precision) AS p95_latency_ms,
    (used.start AT TIME ZONE 'UTC')::date AS utc_date,
    used.gateway
FROM @extschema@.aggregator_usage_totals AS used
LEFT JOIN @extschema@.api_providers AS p ON p.id = used.provider_id
WHERE used.grain = 'day';

COMMENT ON VIEW @extschema@.aggregator_usage IS 'Each request that left, for charts: the usage log with the name of the provider. Users see their own rows, readers all.';
COMMENT ON VIEW @extschema@.aggregator_usage_by_hour IS 'Usage per hour (UTC), user, provider, model, status and gateway, for charts. Users see their own rows, readers all.';
COMMENT ON VIEW @extschema@.aggregator_usage_by_day IS 'Usage of all users together per day (UTC), provider, model, status and gateway, for charts. For readers.';

COMMENT ON COLUMN @extschema@.aggregator_usage.created_at IS 'When it began.';
COMMENT ON COLUMN @extschema@.aggregator_usage.call_id IS 'The call, or job, that it belongs to.';
COMMENT ON COLUMN @extschema@.aggregator_usage.attempt IS 'Which attempt of the call, from 1.';
COMMENT ON COLUMN @extschema@.aggregator_usage.user_id IS 'Whose.';
COMMENT ON COLUMN @extschema@.aggregator_usage.provider_name IS 'Name of the provider; its id once it is deleted.';
COMMENT ON COLUMN @extschema@.aggregator_usage.model_id IS 'The model that was asked for.';
COMMENT ON COLUMN @extschema@.aggregator_usage.served_model IS 'The model that answered, as the provider says.';
COMMENT ON COLUMN @extschema@.aggregator_usage.status IS 'pending, success, error, cancelled or unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage.error_code IS 'What went wrong.';
COMMENT ON COLUMN @extschema@.aggregator_usage.http_status IS 'What the provider answered.';
COMMENT ON COLUMN @extschema@.aggregator_usage.prompt_tokens IS 'Tokens that went in.';
COMMENT ON COLUMN @extschema@.aggregator_usage.completion_tokens IS 'Tokens that came out.';
COMMENT ON COLUMN @extschema@.aggregator_usage.total_tokens IS 'Both together.';
COMMENT ON COLUMN @extschema@.aggregator_usage.cost IS 'USD; NULL: unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage.cost_source IS 'upstream, computed, incomplete, unpriced or cached.';
COMMENT ON COLUMN @extschema@.aggregator_usage.latency_ms IS 'Milliseconds until the whole answer was there.';
COMMENT ON COLUMN @extschema@.aggregator_usage.time_to_first_token_ms IS 'Milliseconds until the first token of a stream was there.';
COMMENT ON COLUMN @extschema@.aggregator_usage.gateway_key_id IS 'The gateway key that it came with, if any.';
COMMENT ON COLUMN @extschema@.aggregator_usage.tags IS 'Its tags, if it has any.';

COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.hour IS 'Beginning of the hour, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.user_id IS 'Whose.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.provider_name IS 'Name of the provider; its id once it is deleted.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.model_id IS 'The model that was asked for.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.status IS 'success, error, cancelled or unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.requests IS 'Attempts that left this machine.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.prompt_tokens IS 'Tokens that went in.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.completion_tokens IS 'Tokens that came out.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.total_tokens IS 'Both together.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.cost IS 'USD of the priced requests; NULL: none is priced.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.unpriced_requests IS 'Requests whose cost is unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.avg_latency_ms IS 'Average latency in milliseconds.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.p95_latency_ms IS '95th percentile of the latency in milliseconds, from a histogram whose steps are 1.6 apart.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_hour.gateway IS 'Which of several gateways served them; empty: the only one.';

COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.day IS 'Beginning of the day, in UTC; as a date, whatever the time zone of the session, it is utc_date.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.provider_name IS 'Name of the provider; its id once it is deleted.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.model_id IS 'The model that was asked for.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.status IS 'success, error, cancelled or unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.requests IS 'Attempts that left this machine.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.prompt_tokens IS 'Tokens that went in.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.completion_tokens IS 'Tokens that came out.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.total_tokens IS 'Both together.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.cost IS 'USD of the priced requests; NULL: none is priced.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.unpriced_requests IS 'Requests whose cost is unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.avg_latency_ms IS 'Average latency in milliseconds.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.p95_latency_ms IS '95th percentile of the latency in milliseconds, from a histogram whose steps are 1.6 apart.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.utc_date IS 'The day (UTC) as a date, in every time zone.';
COMMENT ON COLUMN @extschema@.aggregator_usage_by_day.gateway IS 'Which of several gateways served them; empty: the only one.';

SET LOCAL search_path = @extschema@, pg_temp;
