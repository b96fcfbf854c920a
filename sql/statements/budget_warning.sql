-- Notes once for a budget, user and period that so much is spent, and tells who listens.
WITH noted AS (
    INSERT INTO @extschema@.aggregator_budget_warnings
        (budget_id, user_id, period_start, percent, spent_usd, spent_tokens, spent_requests)
    VALUES ($1, $2, $3, $4, $5::numeric, $6, $7)
    ON CONFLICT (budget_id, user_id, period_start, percent) DO NOTHING
    RETURNING budget_id, percent
)
SELECT pg_catalog.pg_notify('aggregator_budgets',
    jsonb_build_object('budget_id', noted.budget_id, 'percent', noted.percent)::text)
FROM noted
