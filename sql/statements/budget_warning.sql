-- Notes once for a budget, user and period that so much is spent, and tells who listens.
WITH noted AS (
    INSERT INTO @extschema@.aggregator_budget_warnings
        (budget_id, user_id, period_start, percent, spent_usd, spent_tokens, spent_requests)
    VALUES ($1, $2, $3, $4, $5::numeric, $6, $7)
    ON CONFLICT (budget_id, user_id, period_start, percent) DO NOTHING
    RETURNING id
)
-- Every login may listen: the id opens the row to those who may see it, and says nothing to others.
SELECT pg_catalog.pg_notify('aggregator_budgets', noted.id::text)
FROM noted
