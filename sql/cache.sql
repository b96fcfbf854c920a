-- The response cache: answers that are kept for calls that ask the same. Written by the worker alone. Unlogged: a
-- crash empties it, which costs money and loses nothing. Not dumped.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE UNLOGGED TABLE @extschema@.aggregator_cache (
    -- Keyed by a master key: of the request, whose it is, and who answered (src/gateway/cache).
    print       bytea       PRIMARY KEY CHECK (octet_length(print) = 32),
    user_id     text        NOT NULL,
    provider_id uuid        NOT NULL,
    model_id    text        NOT NULL,
    is_shared   boolean     NOT NULL,
    answer      bytea       NOT NULL,
    size        integer     NOT NULL CHECK (size > 0),
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX ON @extschema@.aggregator_cache (user_id);
-- The oldest go first; those that are no longer good go by themselves.
CREATE INDEX ON @extschema@.aggregator_cache (created_at) INCLUDE (size);
CREATE INDEX ON @extschema@.aggregator_cache (expires_at);

-- Sealed, it does not get smaller.
ALTER TABLE @extschema@.aggregator_cache ALTER COLUMN answer SET STORAGE EXTERNAL;

-- Planners need not remember users and what they were told.
ALTER TABLE @extschema@.aggregator_cache
    ALTER COLUMN print SET STATISTICS 0,
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN answer SET STATISTICS 0;

-- What the cache has answered, and what that would have cost. Its rows of the ledger are the source, so that a hit
-- costs no sum of its own.
CREATE FUNCTION @extschema@.usage_cache(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    provider_name text,
    model_id      text,
    hits          bigint,
    saved_cost    numeric,
    saved_tokens  bigint,
    unpriced_hits bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    SELECT coalesce(p.name, hit.provider_id::text),
        hit.model_id,
        count(*),
        @extschema@.aggregator_known_cost(
            sum((hit.metadata ->> 'saved_cost')::numeric),
            count(hit.metadata ->> 'saved_cost')::numeric,
            (count(*) - count(hit.metadata ->> 'saved_cost'))::numeric),
        coalesce(sum((hit.metadata ->> 'saved_tokens')::bigint), 0)::bigint,
        count(*) - count(hit.metadata ->> 'saved_cost')
    FROM @extschema@.aggregator_usage_logs AS hit
    LEFT JOIN @extschema@.api_providers AS p ON p.id = hit.provider_id
    WHERE hit.cost_source = 'cached'
      AND hit.created_at >= v_report.since
      AND (v_report.all_users OR hit.user_id = v_report.user_id)
      AND (v_report.provider IS NULL OR hit.provider_id = v_report.provider)
    GROUP BY p.name, hit.provider_id, hit.model_id
    ORDER BY 4 DESC NULLS LAST, 3 DESC, 1, 2;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_cache IS 'Answers that are kept for calls that ask the same, encrypted. Of its columns users see those that say which entries they have.';
COMMENT ON COLUMN @extschema@.aggregator_cache.print IS 'By which the answer is found: of the request, of whose it is and of who answered, keyed by a master key.';
COMMENT ON COLUMN @extschema@.aggregator_cache.user_id IS 'Whose call was answered by the provider.';
COMMENT ON COLUMN @extschema@.aggregator_cache.provider_id IS 'Who answered.';
COMMENT ON COLUMN @extschema@.aggregator_cache.model_id IS 'The model that was asked.';
COMMENT ON COLUMN @extschema@.aggregator_cache.is_shared IS 'Whether it answers other users too (aggregator_models.shares_cache).';
COMMENT ON COLUMN @extschema@.aggregator_cache.answer IS 'The answer, encrypted with a master key.';
COMMENT ON COLUMN @extschema@.aggregator_cache.size IS 'Bytes that count against aggregator.cache_size.';
COMMENT ON COLUMN @extschema@.aggregator_cache.created_at IS 'When it was kept.';
COMMENT ON COLUMN @extschema@.aggregator_cache.expires_at IS 'Until when it is good.';
COMMENT ON COLUMN @extschema@.aggregator_models.shares_cache IS 'Whether an answer of the platform''s key to one user may answer others who ask the same. They can tell, by time and cost, that somebody has asked that.';
COMMENT ON FUNCTION @extschema@.usage_cache(text, text, text) IS
    'Calls that the response cache has answered in the last day, week or month, by model, and what they would have cost. PT400, PT404.';

SET LOCAL search_path = @extschema@, pg_temp;
