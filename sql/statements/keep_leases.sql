-- What gateway $1 may have spent from now on, and has: of the budgets $2, by the counts of the users $3, in the periods
-- since $4.
INSERT INTO @extschema@.aggregator_leases AS lease
    (gateway, budget_id, user_id, period_start, granted_usd, granted_tokens, granted_requests, used_usd, used_tokens,
     used_requests)
SELECT $1, given.budget_id, given.user_id, given.period_start, given.granted_usd::numeric, given.granted_tokens,
    given.granted_requests, given.used_usd::numeric, given.used_tokens, given.used_requests
FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10) AS given
    (budget_id, user_id, period_start, granted_usd, granted_tokens, granted_requests, used_usd, used_tokens, used_requests)
ON CONFLICT (budget_id, user_id, period_start, gateway) DO UPDATE
SET granted_usd = excluded.granted_usd,
    granted_tokens = excluded.granted_tokens,
    granted_requests = excluded.granted_requests,
    used_usd = excluded.used_usd,
    used_tokens = excluded.used_tokens,
    used_requests = excluded.used_requests,
    updated_at = clock_timestamp()
