-- A walk over the users with queued jobs, in the order of their ids, after $1, over $2 of them at
-- the most: one probe of the index for each, which finds the job that is due first. Gives those who
-- have one that is due, and the last one that the walk has reached.
WITH RECURSIVE users AS (
    (
        SELECT job.user_id, job.run_after, 1 AS number
        FROM @extschema@.aggregator_jobs AS job
        WHERE job.status = 'queued' AND job.user_id > $1
        ORDER BY job.user_id, job.run_after
        LIMIT 1
    )
    UNION ALL
    SELECT following.user_id, following.run_after, users.number + 1
    FROM users
    CROSS JOIN LATERAL (
        SELECT job.user_id, job.run_after
        FROM @extschema@.aggregator_jobs AS job
        WHERE job.status = 'queued' AND job.user_id > users.user_id
        ORDER BY job.user_id, job.run_after
        LIMIT 1
    ) AS following
    WHERE users.number < $2
)
SELECT users.user_id, users.run_after <= now(), users.number
FROM users
WHERE users.run_after <= now()
   OR users.number = (SELECT max(number) FROM users)
ORDER BY users.number
