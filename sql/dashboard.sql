-- The reports as one page of HTML: no script, nothing loaded from elsewhere, everything escaped.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_html(p_text text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN replace(replace(replace(replace(replace(coalesce(p_text, ''),
        '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;');
END
$$;

-- 1234567 as 1.23M, with three digits at the most.
CREATE FUNCTION @extschema@.aggregator_short_number(p_number numeric) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_size   integer := least(greatest(0, CASE WHEN p_number >= 1 THEN floor(log(p_number) / 3)::integer ELSE 0 END), 4);
    v_scaled numeric := round(p_number / 1000::numeric ^ v_size, CASE WHEN v_size = 0 THEN 0 ELSE 2 END);
BEGIN
    IF v_size > 0 THEN
        v_scaled := round(v_scaled, CASE WHEN v_scaled >= 100 THEN 0 WHEN v_scaled >= 10 THEN 1 ELSE 2 END);
    END IF;
    RETURN trim_scale(v_scaled) || (ARRAY['', 'K', 'M', 'B', 'T'])[v_size + 1];
END
$$;

-- USD for the eye: cents, or as many digits as a small sum needs. NULL is unpriced, never $0.
CREATE FUNCTION @extschema@.aggregator_short_usd(p_usd numeric) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE
        WHEN p_usd IS NULL THEN 'unpriced'
        WHEN p_usd = 0 THEN '$0'
        WHEN p_usd >= 10000 THEN '$' || @extschema@.aggregator_short_number(p_usd)
        WHEN p_usd >= 1 THEN '$' || to_char(p_usd, 'FM9990.00')
        WHEN p_usd < 0.000001 THEN '< $0.000001'
        -- Three digits that say something.
        ELSE '$' || trim_scale(round(p_usd, 2 - floor(log(p_usd))::integer))
    END;
END
$$;

CREATE FUNCTION @extschema@.aggregator_short_latency(p_ms numeric) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE
        WHEN p_ms IS NULL THEN chr(8211)
        WHEN p_ms < 1000 THEN round(p_ms) || ' ms'
        ELSE trim_scale(round(p_ms / 1000, CASE WHEN p_ms < 10000 THEN 2 ELSE 1 END)) || ' s'
    END;
END
$$;

-- A figure that is shown short and kept whole.
CREATE FUNCTION @extschema@.aggregator_figure(p_value numeric, p_shown text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN format('<data value="%s" title="%1$s">%s</data>', coalesce(trim_scale(p_value)::text, 'unknown'),
        @extschema@.aggregator_html(p_shown));
END
$$;

CREATE FUNCTION @extschema@.aggregator_count(p_number bigint) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_figure(p_number::numeric, @extschema@.aggregator_short_number(p_number::numeric));
END
$$;

-- The end of an axis: a power of ten, or 2, 4 or 8 of them, whose quarters are round too.
CREATE FUNCTION @extschema@.aggregator_axis_end(p_most numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_power numeric := 10::numeric ^ floor(log(greatest(p_most, 4)));
BEGIN
    RETURN trim_scale((SELECT min(step * v_power) FROM unnest('{1,2,4,8,10}'::numeric[]) AS step
        WHERE step * v_power >= greatest(p_most, 4)));
END
$$;

-- Tokens over time as bars, 720 by 240 units.
CREATE FUNCTION @extschema@.aggregator_chart(p_range text, p_provider text, p_user_id text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_left   CONSTANT numeric := 64;
    c_width  CONSTANT numeric := 636;
    c_top    CONSTANT numeric := 14;
    c_height CONSTANT numeric := 186;
    v_end    numeric;
    v_grid   text;
    v_bars   text;
BEGIN
    SELECT @extschema@.aggregator_axis_end(max(used.tokens)::numeric) INTO v_end
    FROM @extschema@.usage_over_time(p_range, p_provider, p_user_id, NULL::text) AS used;

    SELECT string_agg(format(
            '<line x1="%s" x2="%s" y1="%s" y2="%3$s"/><text class="y" x="%s" y="%s">%s</text>',
            c_left, c_left + c_width, round(at.y, 1), c_left - 10, round(at.y + 4, 1),
            @extschema@.aggregator_short_number((v_end * part / 4)::numeric)), E'\n' ORDER BY part)
    INTO v_grid
    FROM generate_series(0, 4) AS part
    CROSS JOIN LATERAL (SELECT c_top + c_height * (4 - part) / 4 AS y) AS at;

    WITH used AS (
        SELECT u.*, row_number() OVER (ORDER BY u.bucket) - 1 AS place, count(*) OVER () AS places
        FROM @extschema@.usage_over_time(p_range, p_provider, p_user_id, NULL::text) AS u
    ),
    drawn AS (
        SELECT used.*,
            c_left + c_width * place / places AS x,
            c_width / places AS room,
            c_height * tokens / v_end AS height,
            CASE WHEN p_range = 'day' THEN to_char(bucket AT TIME ZONE 'UTC', 'HH24:MI')
                ELSE to_char(bucket AT TIME ZONE 'UTC', 'FMDD Mon') END AS label,
            -- So many buckets from one label to the next, counted from the last.
            CASE p_range WHEN 'day' THEN 4 WHEN 'week' THEN 1 ELSE 5 END AS step
        FROM used
    )
    SELECT string_agg(format(
            '<g class="bar"><title>%s</title><rect class="room" x="%s" y="%s" width="%s" height="%s"/>'
            || '<rect class="value" x="%s" y="%s" width="%s" height="%s" rx="2"/></g>%s',
            @extschema@.aggregator_html(format('%s: %s tokens, %s requests, %s',
                CASE WHEN p_range = 'day' THEN to_char(bucket AT TIME ZONE 'UTC', 'FMDD Mon HH24:MI') ELSE label END,
                tokens, requests,
                coalesce('$' || cost, 'unpriced') || CASE
                    WHEN cost IS NOT NULL AND unpriced_requests > 0 THEN format(' and %s unpriced requests', unpriced_requests)
                    ELSE '' END)),
            round(x, 1), c_top, round(room, 1), c_height,
            round(x + room * 0.15, 1), round(c_top + c_height - height, 1), round(room * 0.7, 1), round(height, 1),
            CASE WHEN (places - 1 - place) % step = 0 THEN format('<text class="x%s" x="%s" y="%s">%s</text>',
                -- On a phone, every other one.
                CASE WHEN (places - 1 - place) / step % 2 = 1 THEN ' extra' ELSE '' END,
                round(x + room / 2, 1), c_top + c_height + 26, @extschema@.aggregator_html(label)) ELSE '' END),
        E'\n' ORDER BY place)
    INTO v_bars
    FROM drawn;

    RETURN format($svg$<svg viewBox="0 0 720 240" role="img" aria-label="Tokens over time">
<g class="grid">
%s
</g>
%s
</svg>$svg$, v_grid, v_bars);
END
$$;

-- A row of a table whose first cell has a bar below it, from 0 to 1.
CREATE FUNCTION @extschema@.aggregator_table_row(p_name text, p_note text, p_share numeric, p_class text, VARIADIC p_cells text[])
RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN format(
        '<tr><th scope="row"><span class="name">%s</span>%s<span class="track"><span class="fill %s" style="width:%s%%"></span></span></th>%s</tr>',
        @extschema@.aggregator_html(p_name),
        CASE WHEN p_note IS NULL THEN '' ELSE format(' <small>%s</small>', @extschema@.aggregator_html(p_note)) END,
        @extschema@.aggregator_html(p_class),
        round(100 * coalesce(p_share, 0), 1),
        (SELECT string_agg(format('<td>%s</td>', cell), '' ORDER BY place) FROM unnest(p_cells) WITH ORDINALITY AS c (cell, place)));
END
$$;

CREATE FUNCTION @extschema@.aggregator_models_table(p_range text, p_provider text, p_user_id text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_shown CONSTANT integer := 20;
    v_rows  text;
    v_rest  bigint;
BEGIN
    WITH used AS (
        SELECT u.*, row_number() OVER () AS place,
            u.total_tokens / nullif(max(u.total_tokens) OVER (), 0)::numeric AS share
        FROM @extschema@.usage_by_model(p_range, p_provider, p_user_id) AS u
    )
    SELECT string_agg(@extschema@.aggregator_table_row(model_id, provider_name, share, ''::text, VARIADIC ARRAY[
                @extschema@.aggregator_count(requests),
                @extschema@.aggregator_count(total_tokens),
                @extschema@.aggregator_figure(cost, @extschema@.aggregator_short_usd(cost))
                || CASE WHEN cost IS NOT NULL AND unpriced_requests > 0
                    THEN format('<small class="note">+ %s unpriced</small>', @extschema@.aggregator_short_number(unpriced_requests::numeric))
                    ELSE '' END]::text[]), E'\n' ORDER BY place) FILTER (WHERE place <= c_shown),
        count(*) FILTER (WHERE place > c_shown)
    INTO v_rows, v_rest
    FROM used;
    RETURN format($table$<table>
<thead><tr><th scope="col">Model</th><th scope="col">Requests</th><th scope="col">Tokens</th><th scope="col">Cost</th></tr></thead>
<tbody>
%s
</tbody>
</table>%s$table$, v_rows,
        CASE WHEN v_rest > 0 THEN format('<p class="note">and %s more: see usage_by_model()</p>', v_rest) ELSE '' END);
END
$$;

CREATE FUNCTION @extschema@.aggregator_statuses_table(p_range text, p_provider text, p_user_id text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rows text;
BEGIN
    WITH used AS (
        SELECT u.*, u.requests / nullif(sum(u.requests) OVER (), 0) AS share
        FROM @extschema@.usage_by_status(p_range, p_provider, p_user_id) AS u
    )
    SELECT string_agg(@extschema@.aggregator_table_row(status, NULL::text, share, status, VARIADIC ARRAY[
            @extschema@.aggregator_count(requests),
            CASE WHEN share < 0.001 THEN '&lt; 0.1' ELSE trim_scale(round(100 * share, 1))::text END || ' %',
            @extschema@.aggregator_figure(cost, @extschema@.aggregator_short_usd(cost))]::text[]), E'\n' ORDER BY requests DESC, status)
    INTO v_rows
    FROM used;
    RETURN format($table$<table>
<thead><tr><th scope="col">Status</th><th scope="col">Requests</th><th scope="col">Share</th><th scope="col">Cost</th></tr></thead>
<tbody>
%s
</tbody>
</table>$table$, v_rows);
END
$$;

CREATE FUNCTION @extschema@.aggregator_dashboard_page(p_range text, p_provider text, p_user_id text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_summary record;
    v_report  record;
    v_whose   text;
    v_range   text := CASE p_range WHEN 'day' THEN 'Last 24 hours' WHEN 'week' THEN 'Last 7 days' ELSE 'Last 30 days' END;
    v_body    text;
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    SELECT * INTO v_summary FROM @extschema@.usage_summary(p_range, p_provider, p_user_id);
    -- Characters that are not ASCII would fail in the script, in databases of some encodings, before the extension
    -- can say that it needs another.
    v_whose := concat_ws(' ' || chr(183) || ' ', v_range,
        CASE WHEN v_report.all_users THEN 'all users' ELSE v_report.user_id END,
        (SELECT coalesce(max(p.display_name), v_report.provider::text) FROM @extschema@.api_providers AS p WHERE p.id = v_report.provider));

    IF v_summary.requests = 0 AND NOT EXISTS (SELECT FROM @extschema@.usage_by_status(p_range, p_provider, p_user_id)) THEN
        v_body := '<section class="panel empty"><h2>Nothing yet</h2><p>No request was made in this time. '
            || 'One made with <code>chat()</code> shows up here at once.</p></section>';
    ELSE
        v_body := format($body$<section class="cards" aria-label="Summary">
<div class="card" id="tokens"><h2>Tokens</h2><p class="big">%s</p><p class="note">%s per request</p></div>
<div class="card" id="cost"><h2>Cost</h2><p class="big">%s</p>%s</div>
<div class="card" id="requests"><h2>Requests</h2><p class="big">%s</p>%s</div>
<div class="card" id="latency"><h2>Average latency</h2><p class="big">%s</p><p class="note">95 %% within %s</p></div>
</section>
<section class="panel" id="over-time"><h2>Tokens over time <small>UTC</small></h2>
%s
</section>
<section class="panel" id="by-model"><h2>By model</h2>
%s
</section>
<section class="panel" id="by-status"><h2>By status</h2>
%s
</section>$body$,
            @extschema@.aggregator_count(v_summary.total_tokens),
            @extschema@.aggregator_short_number(coalesce(v_summary.total_tokens / nullif(v_summary.requests, 0), 0)::numeric),
            @extschema@.aggregator_figure(v_summary.total_cost, @extschema@.aggregator_short_usd(v_summary.total_cost)),
            CASE WHEN v_summary.unpriced_requests > 0 THEN format('<p class="note warn" id="unpriced">%s %s unpriced</p>',
                @extschema@.aggregator_count(v_summary.unpriced_requests),
                CASE v_summary.unpriced_requests WHEN 1 THEN 'request' ELSE 'requests' END)
                ELSE '<p class="note">USD, every request priced</p>' END,
            @extschema@.aggregator_count(v_summary.requests),
            CASE WHEN v_summary.errors > 0 THEN format('<p class="note warn" id="errors">%s failed</p>',
                @extschema@.aggregator_count(v_summary.errors))
                ELSE '<p class="note">none failed</p>' END,
            @extschema@.aggregator_figure(v_summary.avg_latency_ms, @extschema@.aggregator_short_latency(v_summary.avg_latency_ms)),
            @extschema@.aggregator_figure(v_summary.p95_latency_ms::numeric, @extschema@.aggregator_short_latency(v_summary.p95_latency_ms::numeric)),
            @extschema@.aggregator_chart(p_range, p_provider, p_user_id),
            @extschema@.aggregator_models_table(p_range, p_provider, p_user_id),
            @extschema@.aggregator_statuses_table(p_range, p_provider, p_user_id));
    END IF;

    -- The policy forbids what the page does not do anyway.
    RETURN format($page$<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>Usage &middot; %1$s</title>
<style>%3$s</style>
</head>
<body>
<main>
<header><h1>Usage</h1><p>%1$s</p></header>
%2$s
<footer>%4$s UTC</footer>
</main>
</body>
</html>
$page$,
        @extschema@.aggregator_html(v_whose), v_body, @extschema@.aggregator_dashboard_style(),
        to_char(now() AT TIME ZONE 'UTC', 'FMDD Mon YYYY, HH24:MI'));
END
$$;

CREATE FUNCTION @extschema@.aggregator_dashboard_style() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $style$
SELECT '
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --panel: #fff; --edge: #e4e7ec; --text: #14181f; --soft: #596273; --track: #edf0f4;
  --main: #3b6fe0; --good: #1f9d63; --bad: #d2453f; --odd: #c98a12; --warn: #85500a; --shadow: 0 1px 2px rgb(16 24 40 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1116; --panel: #171b22; --edge: #2a313c; --text: #e8ebf0; --soft: #9aa4b4; --track: #252b35;
    --main: #6f9bf5; --good: #43c088; --bad: #f0716b; --odd: #e0ad45; --warn: #e9bd66; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 40px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin-bottom: 20px; }
h1 { font-size: 26px; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; margin: 0; }
header p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
h2 { font-size: 15px; line-height: 1.4; font-weight: 600; margin: 0 0 12px; }
small, .note, footer { font-size: 13px; font-weight: 400; color: var(--soft); }
.panel, .card { background: var(--panel); border: 1px solid var(--edge); border-radius: 12px; box-shadow: var(--shadow); }
.panel { padding: 18px 20px; margin-top: 14px; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; }
.card { padding: 16px 18px; min-width: 0; }
.card h2 { font-size: 13px; font-weight: 500; color: var(--soft); margin: 0 0 4px; }
.big { font-size: 28px; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; margin: 0; white-space: nowrap; }
.note { margin: 4px 0 0; }
.warn { color: var(--warn); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); }
svg .y { text-anchor: end; }
svg .x { text-anchor: middle; }
.grid line { stroke: var(--edge); stroke-width: 1; }
.bar .room { fill: transparent; }
.bar .value { fill: var(--main); }
.bar:hover .room { fill: var(--track); }
table { width: 100%; border-collapse: collapse; }
thead th { font-size: 13px; font-weight: 500; color: var(--soft); padding: 0 0 8px; border-bottom: 1px solid var(--edge); }
th { text-align: left; font-weight: 400; }
td, thead th + th { text-align: right; padding-left: 18px; white-space: nowrap; }
tbody th, td { padding-top: 9px; padding-bottom: 9px; vertical-align: top; }
tbody tr + tr > * { border-top: 1px solid var(--edge); }
td .note { display: block; margin: 0; }
.name { font-weight: 550; overflow-wrap: anywhere; }
.track { display: block; height: 5px; margin-top: 7px; border-radius: 3px; background: var(--track); overflow: hidden; }
.fill { display: block; height: 100%; min-width: 2px; border-radius: 3px; background: var(--main); }
.fill.success { background: var(--good); }
.fill.error, .fill.unreachable { background: var(--bad); }
.fill.cancelled, .fill.unknown { background: var(--odd); }
#by-model th:first-child, #by-status th:first-child { width: 55%; }
.empty { text-align: center; padding: 56px 20px; }
.empty p { margin: 0; color: var(--soft); }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.92em; }
footer { margin-top: 18px; }
@media (max-width: 640px) {
  main { padding: 20px 14px 28px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 10px; }
  .card { padding: 13px 14px; }
  .big { font-size: 23px; }
  .panel { padding: 15px 14px; margin-top: 10px; }
  svg text { font-size: 22px; }
  svg .extra { display: none; }
  td, thead th + th { padding-left: 10px; }
  td, tbody th { font-size: 14px; }
  #by-model th:first-child, #by-status th:first-child { width: 42%; }
}
'
$style$;

-- PostgREST serves as a page what a function returns as the type "text/html". The type is often
-- there already, ours or not; a second one of that name would be another type.
DO $$
DECLARE
    v_type regtype := coalesce(to_regtype('@extschema@."text/html"'), to_regtype('public."text/html"'));
BEGIN
    IF v_type IS NULL THEN
        CREATE DOMAIN @extschema@."text/html" AS text;
        COMMENT ON DOMAIN @extschema@."text/html" IS 'A page of HTML; PostgREST serves it as one.';
        v_type := to_regtype('@extschema@."text/html"');
    ELSE
        -- pg_dump puts extensions before types, and the type could then not be restored beside the one that we
        -- would make. It heeds this; there is no statement that says it.
        INSERT INTO pg_catalog.pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
        SELECT 'pg_extension'::regclass, oid, 0, 'pg_type'::regclass, v_type, 0, 'n'
        FROM pg_catalog.pg_extension WHERE extname = 'aggregator';
    END IF;
    EXECUTE format($function$
        CREATE FUNCTION @extschema@.usage_dashboard(
            p_range    text DEFAULT 'week',
            p_provider text DEFAULT NULL,
            p_user_id  text DEFAULT NULL
        ) RETURNS %s
        LANGUAGE plpgsql STABLE
        SET search_path = pg_catalog, pg_temp
        AS $body$
        BEGIN
            RETURN @extschema@.aggregator_dashboard_page(p_range, p_provider, p_user_id);
        END
        $body$
        $function$, v_type);
END
$$;

COMMENT ON FUNCTION @extschema@.usage_dashboard(text, text, text) IS
    'The reports as a page of HTML: psql -Atc "select usage_dashboard(''week'')" > usage.html. Arguments and errors as in usage_summary.';
COMMENT ON FUNCTION @extschema@.aggregator_html(text) IS 'Text as HTML shows it, in attributes too.';
COMMENT ON FUNCTION @extschema@.aggregator_short_number(numeric) IS 'A number in three digits: 1.23M.';
COMMENT ON FUNCTION @extschema@.aggregator_short_usd(numeric) IS 'USD for the eye; NULL is unpriced.';
COMMENT ON FUNCTION @extschema@.aggregator_short_latency(numeric) IS 'Milliseconds for the eye.';
COMMENT ON FUNCTION @extschema@.aggregator_figure(numeric, text) IS 'HTML of a figure that is shown short and kept whole.';
COMMENT ON FUNCTION @extschema@.aggregator_count(bigint) IS 'HTML of a number that is shown short and kept whole.';
COMMENT ON FUNCTION @extschema@.aggregator_axis_end(numeric) IS 'A round number at which an axis can end.';
COMMENT ON FUNCTION @extschema@.aggregator_chart(text, text, text) IS 'usage_over_time as SVG.';
COMMENT ON FUNCTION @extschema@.aggregator_table_row(text, text, numeric, text, text[]) IS 'HTML of a row with a bar.';
COMMENT ON FUNCTION @extschema@.aggregator_models_table(text, text, text) IS 'usage_by_model as HTML.';
COMMENT ON FUNCTION @extschema@.aggregator_statuses_table(text, text, text) IS 'usage_by_status as HTML.';
COMMENT ON FUNCTION @extschema@.aggregator_dashboard_page(text, text, text) IS 'The page of usage_dashboard.';
COMMENT ON FUNCTION @extschema@.aggregator_dashboard_style() IS 'The style sheet of the page.';

SET LOCAL search_path = @extschema@, pg_temp;
