-- Rows as the worker leaves them, once from the gateway's point of view (made) and once in the ledger.
CREATE TABLE made (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, LIKE aggregator_usage_logs_default);

-- Writes those rows after p_first, up to p_last: each transaction settles those that the one before it
-- began, and begins p_batch of them.
CREATE PROCEDURE write_as_worker(p_ledger regclass, p_first bigint, p_last bigint, p_batch integer)
LANGUAGE plpgsql
AS $$
DECLARE
    v_begun   bigint := p_first;
    v_settled bigint := p_first;
    v_next    bigint;
BEGIN
    WHILE v_settled < p_last LOOP
        v_next := least(v_begun + p_batch, p_last);
        EXECUTE format('UPDATE %s AS log
            SET status = made.status,
                served_model = made.served_model,
                prompt_tokens = made.prompt_tokens,
                completion_tokens = made.completion_tokens,
                total_tokens = made.total_tokens,
                cache_read_tokens = made.cache_read_tokens,
                cache_write_tokens = made.cache_write_tokens,
                cache_write_1h_tokens = made.cache_write_1h_tokens,
                audio_input_tokens = made.audio_input_tokens,
                reasoning_tokens = made.reasoning_tokens,
                audio_output_tokens = made.audio_output_tokens,
                latency_ms = made.latency_ms,
                time_to_first_token_ms = made.time_to_first_token_ms,
                http_status = made.http_status,
                error_code = made.error_code,
                request_id = made.request_id,
                finish_reason = made.finish_reason,
                cost_estimate = made.cost_estimate,
                cost_computed = made.cost_computed,
                cost_source = made.cost_source
            FROM made
            WHERE made.n > $1
              AND made.n <= $2
              AND log.call_id = made.call_id
              AND log.attempt = made.attempt
              AND log.created_at = made.created_at
              AND log.status = ''pending''', p_ledger) USING v_settled, v_begun;
        EXECUTE format('INSERT INTO %s
                (call_id, attempt, created_at, user_id, provider_id, user_provider_id, model_id, epoch, is_platform_key, is_listed)
            SELECT call_id, attempt, created_at, user_id, provider_id, user_provider_id, model_id, epoch, false, true
            FROM made
            WHERE n > $1 AND n <= $2', p_ledger) USING v_begun, v_next;
        v_settled := v_begun;
        v_begun := v_next;
        COMMIT;
    END LOOP;
END
$$
