-- Users with queued jobs, in the order of their ids, after $1: one probe of the index for each, $2
-- at the most. Whether a job of theirs is due is the claim's question.
WITH RECURSIVE users AS (
    (
        SELECT job.user_id, 1 AS number
        FROM @extschema@.aggregator_jobs AS job
        WHERE job.status = 'queued' AND job.user_id > $1
        ORDER BY job.user_id
        LIMIT 1
    )
    UNION ALL
    SELECT following.user_id, users.number + 1
    FROM users
    CROSS JOIN LATERAL (
        SELECT job.user_id
        FROM @extschema@.aggregator_jobs AS job
        WHERE job.status = 'queued' AND job.user_id > users.user_id
        ORDER BY job.user_id
        LIMIT 1
    ) AS following
    WHERE users.number < $2
)
SELECT user_id FROM users ORDER BY number
