-- What the other gateways have leased of budget $1: of the count of user $2, or of all, in the period since $3. Each of
-- the two is a look into the index.
SELECT lease.gateway,
    lease.granted_usd::text, lease.granted_tokens, lease.granted_requests,
    lease.used_usd::text, lease.used_tokens, lease.used_requests
FROM @extschema@.aggregator_leases AS lease
WHERE lease.budget_id = $1
  AND lease.user_id = $2
  AND lease.period_start = $3
UNION ALL
SELECT lease.gateway,
    lease.granted_usd::text, lease.granted_tokens, lease.granted_requests,
    lease.used_usd::text, lease.used_tokens, lease.used_requests
FROM @extschema@.aggregator_leases AS lease
WHERE $2 IS NULL
  AND lease.budget_id = $1
  AND lease.user_id IS NULL
  AND lease.period_start = $3
