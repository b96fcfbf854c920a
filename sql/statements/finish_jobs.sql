-- finish_jobs
-- Ends the runs of jobs, one of each array: $1 ids, no two the same, $2 responses, $3 providers, $4 served
-- models, $5 errors (NULL: it succeeded), $6 costs, $7 cost sources. $8: the failure may pass, so it is run
-- again after so many milliseconds, and later each time, at most $10 times in all. $9: it was not sent, because
-- its turn comes later; that is no run. Gives the place and the status of each that has ended. Of those that it
-- does not give, somebody holds a lock on the job, or it does not run.
WITH free AS (
    SELECT job.id, ended.i,
        -- Not a condition of the search, or a plan that was made while nothing ran would read all that runs.
        job.status = 'running' AS is_running,
        CASE
            WHEN $8[i] IS NOT NULL AND (job.attempts < $10 OR $9[i]) THEN 'queued'
            WHEN $5[i] IS NULL THEN 'succeeded'
            ELSE 'failed'
        END AS status
    FROM unnest($1) WITH ORDINALITY AS ended (id, i)
    JOIN @extschema@.aggregator_jobs AS job ON job.id = ended.id
    FOR UPDATE OF job SKIP LOCKED
)
UPDATE @extschema@.aggregator_jobs AS job
SET status = free.status,
    response = $2[i]::jsonb,
    provider_name = $3[i],
    served_model = $4[i],
    error = $5[i]::jsonb,
    cost = $6[i]::numeric,
    cost_source = $7[i],
    run_after = CASE
        -- Spread out, or those that wait for the same thing would all come back at once.
        WHEN free.status = 'queued' AND $9[i] THEN clock_timestamp() + interval '1 millisecond' * $8[i] * (1 + random())
        WHEN free.status = 'queued' THEN clock_timestamp()
            + greatest(interval '1 millisecond' * $8[i], interval '1 second' * least(2 ^ least(job.attempts, 20), 300))
        ELSE job.run_after
    END,
    attempts = CASE WHEN $9[i] THEN greatest(job.attempts, 1) - 1 ELSE job.attempts END,
    finished_at = CASE WHEN free.status <> 'queued' THEN clock_timestamp() END
FROM free
WHERE job.id = free.id AND free.is_running
RETURNING free.i::integer, job.status
