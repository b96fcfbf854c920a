//! Objects planted in the extension's schema by somebody who may create there: functions whose arguments fit our
//! internal calls a little better than our own, operators that fit our views' columns better than PostgreSQL's,
//! triggers, rules, foreign keys. None of them may ever run as somebody else.

use crate::bed::{Cluster, failure, nodes, rows, shown, value};
use crate::fixtures::{HELLO, add_provider, save_key};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

/// What a planted object leaves in the server's log when it runs, whatever becomes of the transaction.
const RAN: &str = "PLANTED OBJECT RAN";

/// Plants operators for every pair of types that we use, better than PostgreSQL's own where the two differ.
const OPERATORS: &str = r#"
DO $do$
DECLARE
    c_types CONSTANT text[] := '{text,smallint,integer,bigint,numeric,double precision,boolean,uuid,timestamptz,timestamp,interval,jsonb,integer[],bigint[],text[],bytea,name,oid}';
    v_one text; v_other text; v_sign text;
BEGIN
    FOREACH v_one IN ARRAY c_types LOOP FOREACH v_other IN ARRAY c_types LOOP
        EXECUTE format($f$CREATE FUNCTION public.planted(%s, %s) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN RAISE LOG ''PLANTED OBJECT RAN: operator''; RETURN NULL; END'$f$, v_one, v_other);
        FOREACH v_sign IN ARRAY '{=,<>,<,>,<=,>=,+,-,*,/,%,^,||,->,->>,@>,?,~,&&}'::text[] LOOP
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.planted)', v_sign, v_one, v_other);
        END LOOP;
    END LOOP; END LOOP;
END
$do$"#;

/// Plants functions that are called instead of PostgreSQL's own where a script looks into the schema first.
const LOOKALIKES: &str = r#"
DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'format(text, regclass)', 'format(text, name)', 'format(text, text)', 'coalesce_(text)', 'round(numeric, bigint)',
        'count(uuid)', 'max(timestamptz, text)', 'quote_ident(name)', 'current_setting(name)', 'greatest_(bigint)',
        'date_trunc(text, timestamptz, name)', 'to_char(bigint, name)', 'replace(name, name, name)', 'now(text)',
        'starts_with(name, text)', 'has_schema_privilege(oid, regnamespace, text)', 'string_agg_(text)'
    ] LOOP
        EXECUTE format($f$CREATE FUNCTION public.%s RETURNS text LANGUAGE plpgsql AS
            'BEGIN RAISE LOG ''PLANTED OBJECT RAN: look-alike''; RETURN NULL; END'$f$, v_function);
    END LOOP;
END
$do$"#;

/// Plants, beside each function of the extension, every overload with one argument's type changed, with two changed,
/// with the last ones that have a default left out, and with variadic ones spelt out.
const OVERLOADS: &str = r#"
DO $do$
DECLARE
    c_types CONSTANT text[] := '{text,smallint,integer,bigint,numeric,real,double precision,boolean,uuid,timestamptz,timestamp,date,interval,jsonb,json,bytea,name,oid,regclass,regrole,xid,text[],uuid[],integer[],bigint[],numeric[],jsonb[],anyelement,anyarray,aggregator_usage_logs,aggregator_usage_logs[],aggregator_jobs,aggregator_models,aggregator_budgets}';
    c_near CONSTANT text[] := '{text,integer,bigint,numeric,jsonb,oid,timestamptz,bigint[],anyelement}';
    v_function record; v_types text[]; v_planted integer := 0; i integer; j integer; v_one text; v_other text;
BEGIN
    SET LOCAL check_function_bodies = off;
    FOR v_function IN
        SELECT p.proname, p.pronargs, p.pronargdefaults, p.provariadic <> 0 AS is_variadic,
            ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (t, n) ORDER BY n) AS types
        FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'aggregator'
        WHERE p.prokind = 'f' AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
    LOOP
        FOR i IN 1..v_function.pronargs LOOP
            FOREACH v_one IN ARRAY c_types LOOP
                v_types := v_function.types;
                v_types[i] := v_one;
                v_planted := v_planted + planted_overload(v_function.proname, v_types)::integer;
                CONTINUE WHEN v_one <> ALL (c_near);
                FOR j IN i + 1..v_function.pronargs LOOP
                    FOREACH v_other IN ARRAY c_near LOOP
                        v_types[j] := v_other;
                        v_planted := v_planted + planted_overload(v_function.proname, v_types)::integer;
                    END LOOP;
                    v_types[j] := v_function.types[j];
                END LOOP;
            END LOOP;
        END LOOP;
        FOR i IN 1..v_function.pronargdefaults LOOP
            v_planted := v_planted + planted_overload(v_function.proname, v_function.types[:v_function.pronargs - i])::integer;
        END LOOP;
        v_planted := v_planted + planted_overload(v_function.proname, v_function.types || 'text'::text)::integer;
        IF v_function.is_variadic THEN
            FOR i IN 1..4 LOOP
                v_types := v_function.types[:v_function.pronargs - 1] || array_fill('text'::text, ARRAY[i]);
                v_planted := v_planted + planted_overload(v_function.proname, v_types)::integer;
            END LOOP;
        END IF;
    END LOOP;
    RAISE LOG 'planted % overloads', v_planted;
    IF v_planted < 5000 THEN
        RAISE EXCEPTION 'only % overloads were planted', v_planted;
    END IF;
END
$do$"#;

const PLANT_ONE: &str = r#"
CREATE FUNCTION planted_overload(p_name text, p_types text[]) RETURNS boolean LANGUAGE plpgsql AS $body$
BEGIN
    EXECUTE format($f$CREATE FUNCTION public.%I(%s) RETURNS text LANGUAGE plpgsql AS
        'BEGIN RAISE LOG ''PLANTED OBJECT RAN: overload of %s''; RETURN NULL; END'$f$, p_name, array_to_string(p_types, ', '), p_name);
    RETURN true;
EXCEPTION
    -- What is there already, and types that no argument can have.
    WHEN duplicate_function OR invalid_function_definition OR feature_not_supported THEN RETURN false;
END
$body$"#;

async fn cluster(name: &str) -> Cluster {
    let cluster = Cluster::start(name, "fsync = off\nautovacuum = off");
    cluster.supabase_roles().await;
    cluster
}

/// The database `app`, of somebody who is no superuser.
async fn database_of_mallory(cluster: &Cluster) {
    let root = cluster.connect("postgres", "postgres").await;
    root.batch_execute("CREATE ROLE mallory LOGIN").await.unwrap();
    root.batch_execute("CREATE DATABASE app OWNER mallory").await.unwrap();
}

async fn all(client: &Client, statements: &[String]) {
    for sql in statements {
        client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", shown(&error)));
    }
}

/// Calls everything that the extension has, with exactly the types that it asks for: what is found then is ours.
async fn exercise(cluster: &Cluster, database: &str, upstream: &Upstream) {
    let root = cluster.connect("postgres", database).await;
    add_provider(&root, upstream).await;
    let hello = format!("'{HELLO}'::jsonb");
    let chat = format!("chat_complete('m'::text, {hello}, '{{}}'::jsonb, NULL::text, NULL::text)");
    all(&root, &[
        "SELECT save_provider_key('standin'::text, 'sk-good'::text, NULL::text, false)".to_owned(),
        "SELECT save_platform_key('standin'::text, 'sk-platform'::text)".to_owned(),
        "SELECT set_budget(1000::numeric, 1000000000::bigint, NULL::bigint, 'month'::text, NULL::text, true, NULL::text, NULL::text, 'block'::text, NULL::text, NULL::uuid, NULL::text)".to_owned(),
        "SELECT set_budget(1000::numeric, NULL::bigint, NULL::bigint, 'day'::text, NULL::text, false, 'standin'::text, 'm'::text, 'warn'::text, 'own'::text, NULL::uuid, 'a'::text)".to_owned(),
        "SELECT set_rate_limit(100000::bigint, 100000000::bigint, NULL::text, true, NULL::text, NULL::text, NULL::uuid, NULL::text)".to_owned(),
        "SELECT create_gateway_key('x'::text, '{m}'::text[], now() + '1 day'::interval, 5::numeric, 'day'::text, 100::bigint, 100000::bigint, '{a}'::text[], NULL::text)".to_owned(),
        "SELECT create_gateway_key('y'::text, NULL::text[], NULL::timestamptz, NULL::numeric, 'month'::text, NULL::bigint, NULL::bigint, NULL::text[], NULL::text)".to_owned(),
        "SELECT rotate_gateway_key(id, '1 hour'::interval) FROM aggregator_gateway_keys".to_owned(),
        "SELECT set_budget(9::numeric, NULL::bigint, NULL::bigint, 'day'::text, NULL::text, false, NULL::text, NULL::text, 'warn'::text, 'own'::text, id, NULL::text) FROM aggregator_gateway_keys WHERE name = 'y'".to_owned(),
        format!("SELECT chat_complete('m'::text, {hello}, '{{\"tags\": [\"a\", \"b\"]}}'::jsonb, NULL::text, NULL::text)"),
        format!("SELECT {chat}"),
        // A batch, so that the sums of many are made as well as those of one.
        format!("SELECT count(*) FROM generate_series(1, 3) AS i, LATERAL (SELECT {chat} AS reply OFFSET 0) AS c WHERE i > 0"),
        format!("SELECT * FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'messages', {hello})) FROM generate_series(1, 20)), '{{}}'::jsonb, 20)"),
        format!("SELECT (t).delta FROM (SELECT chat_stream('m'::text, {hello}, '{{}}'::jsonb, NULL::text, NULL::text) AS t) AS s"),
        "SELECT chat('Hello'::text, 'm'::text, '{}'::jsonb)".to_owned(),
        format!("SELECT chat_completions(jsonb_build_object('model', 'm', 'messages', {hello}))"),
    ]).await;
    let submit = format!(
        "SELECT chat_submit('m'::text, {hello}, '{{}}'::jsonb, NULL::text, NULL::text, NULL::timestamptz, NULL::text)"
    );
    let job = value(&root, &submit).await.unwrap();
    let later = format!(
        "SELECT chat_submit('m'::text, {hello}, '{{}}'::jsonb, NULL::text, NULL::text, now() + interval '1 hour', 'k'::text)"
    );
    let later = value(&root, &later).await.unwrap();
    let wait = format!("SELECT status FROM chat_wait('{job}'::uuid, 60000)");
    assert_eq!(value(&root, &wait).await.unwrap(), "succeeded");
    all(&root, &[
        format!("SELECT * FROM chat_result('{job}'::uuid)"),
        format!("SELECT chat_cancel('{later}'::uuid)"),
        "SELECT * FROM get_user_available_models(NULL::text)".to_owned(),
        "SELECT * FROM get_model_provider_config('m'::text, NULL::text)".to_owned(),
        "SELECT validate_provider_key('standin'::text, NULL::text)".to_owned(),
        "SELECT * FROM sync_models(NULL::text)".to_owned(),
        "SELECT calculate_cost('m'::text, '{\"prompt_tokens\": 3, \"completion_tokens\": 4}'::jsonb, NULL::text, now())".to_owned(),
        format!("SELECT * FROM quote_cost('m'::text, {hello}, NULL::integer, NULL::text)"),
        "SELECT * FROM set_model_price('m'::text, '{\"input\": 1, \"output\": 2}'::jsonb, 'standin'::text)".to_owned(),
        "SELECT * FROM recost_usage(NULL::timestamptz, NULL::timestamptz)".to_owned(),
        "SELECT * FROM calculate_provider_costs(aggregator_user_id(), NULL::uuid, NULL::timestamptz, NULL::timestamptz)".to_owned(),
        "SELECT * FROM aggregator_status()".to_owned(),
        "SELECT aggregator_grant('alice'::regrole, 'user'::text)".to_owned(),
        "SELECT aggregator_grant('bob'::regrole, 'admin'::text)".to_owned(),
        "SELECT * FROM aggregator_granted_roles()".to_owned(),
        "SELECT aggregator_recount_usage(NULL::timestamptz, NULL::timestamptz)".to_owned(),
        "SELECT * FROM maintain_usage()".to_owned(),
        "SELECT aggregator_make_partition(now() - interval '90 days', false)".to_owned(),
        "UPDATE aggregator_usage_logs SET cost_estimate = 1 WHERE status = 'success'".to_owned(),
        "UPDATE api_providers SET display_name = 'x' WHERE name = 'standin'".to_owned(),
        "UPDATE user_api_providers SET priority = 3".to_owned(),
        "UPDATE aggregator_usage_logs SET gateway_key_id = gen_random_uuid() WHERE tags IS NOT NULL".to_owned(),
        "SELECT revoke_gateway_key(id) FROM aggregator_gateway_keys WHERE name = 'x'".to_owned(),
        "SELECT remove_budget(id) FROM aggregator_budgets WHERE action = 'warn'".to_owned(),
        "SELECT remove_rate_limit(id) FROM aggregator_rate_limits".to_owned(),
        "SELECT rotate_master_key()".to_owned(),
    ]).await;
    // An administrator, and a user, who look at what there is.
    let bob = cluster.connect("bob", database).await;
    let alice = cluster.connect("alice", database).await;
    for client in [&root, &bob, &alice] {
        let mut looks: Vec<String> =
            ["usage_summary", "usage_by_model", "usage_by_status", "usage_by_key", "usage_by_tag"]
                .iter()
                .map(|report| {
                    format!("SELECT * FROM {report}('week'::text, NULL::text, NULL::text)")
                })
                .collect();
        looks.push(
            "SELECT * FROM usage_over_time('day'::text, NULL::text, NULL::text, NULL::text)"
                .to_owned(),
        );
        looks.push(
            "SELECT length(usage_dashboard('week'::text, NULL::text, NULL::text)::text) > 1000"
                .to_owned(),
        );
        for view in [
            "usage",
            "usage_by_hour",
            "usage_by_day",
            "usage_sums",
            "budget_status",
            "provider_health",
        ] {
            looks.push(format!("SELECT * FROM aggregator_{view}"));
        }
        all(client, &looks).await;
    }
    all(&bob, &["SELECT * FROM usage_by_user('month'::text, NULL::text, NULL::text)".to_owned()])
        .await;
    all(&root, &[
        "SELECT forget_user('role:alice'::text)".to_owned(),
        "DELETE FROM aggregator_usage_logs WHERE ctid IN (SELECT ctid FROM aggregator_usage_logs LIMIT 1)".to_owned(),
        "SELECT remove_provider_key('standin'::text, NULL::text)".to_owned(),
        "SELECT remove_platform_key('standin'::text)".to_owned(),
    ]).await;
    // Every member of the sums is right: nothing fell back on something else in silence.
    assert_eq!(
        value(&root, "SELECT (SELECT sum(requests)::bigint FROM aggregator_usage_hourly) = (SELECT count(*) FROM aggregator_usage_logs WHERE status <> 'pending' AND error_code IS DISTINCT FROM 'unreachable')").await.unwrap(),
        "t"
    );
}

fn assert_nothing_ran(cluster: &Cluster) {
    let log = cluster.log();
    let ran: Vec<&str> = log.lines().filter(|line| line.contains(RAN)).collect();
    assert!(
        ran.is_empty(),
        "{} lines, among them\n{}",
        ran.len(),
        ran[..ran.len().min(20)].join("\n")
    );
}

#[tokio::test]
async fn overloads_and_operators_planted_after_create_extension_never_run() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("planted").await;
    database_of_mallory(&cluster).await;
    let root = cluster.connect("postgres", "app").await;
    root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
    // The owner of the database may create in public, by PostgreSQL's defaults.
    let mallory = cluster.connect("mallory", "app").await;
    for plant in [PLANT_ONE, OVERLOADS, LOOKALIKES, OPERATORS] {
        mallory.batch_execute(plant).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    }
    exercise(&cluster, "app", &upstream).await;
    assert_nothing_ran(&cluster);
    assert_eq!(value(&mallory, "SELECT public.planted(1, 2)").await, None);
    assert!(cluster.log().contains(RAN), "what is planted does leave its mark when it runs");
}

#[tokio::test]
async fn what_is_planted_before_create_extension_is_never_baked_in() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("sown").await;
    // The overloads are learnt from another database: mallory knows what is coming.
    database_of_mallory(&cluster).await;
    let root = cluster.connect("postgres", "postgres").await;
    root.batch_execute("CREATE DATABASE model").await.unwrap();
    let model = cluster.connect("postgres", "model").await;
    model.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
    model.batch_execute(PLANT_ONE).await.unwrap();
    // Types of tables that are not there yet cannot be named yet.
    let overloads = OVERLOADS.replace(
        ",aggregator_usage_logs,aggregator_usage_logs[],aggregator_jobs,aggregator_models,aggregator_budgets",
        "",
    );
    model.batch_execute(&overloads).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    let planted = rows(
        &model,
        "SELECT format('%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) FROM pg_proc AS p
         WHERE p.pronamespace = 'public'::regnamespace AND p.prosrc LIKE '%PLANTED%'
           AND pg_get_function_identity_arguments(p.oid) !~ 'aggregator_'",
    )
    .await;
    assert!(planted.len() > 3000, "{}", planted.len());
    let mallory = cluster.connect("mallory", "app").await;
    for plant in [OPERATORS, LOOKALIKES] {
        mallory.batch_execute(plant).await.unwrap();
    }
    // What a session keeps of so many functions of one name would be gigabytes.
    for part in planted.chunks(100) {
        let mallory = cluster.connect("mallory", "app").await;
        let sql: String = part
            .iter()
            .map(|signature| {
                format!("CREATE FUNCTION public.{signature} RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE LOG ''{RAN}''; RETURN NULL; END';")
            })
            .collect();
        mallory.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    }
    let root = cluster.connect("postgres", "app").await;
    root.batch_execute("CREATE EXTENSION aggregator")
        .await
        .unwrap_or_else(|error| panic!("{}", shown(&error)));
    exercise(&cluster, "app", &upstream).await;
    assert_nothing_ran(&cluster);
}

#[tokio::test]
async fn whoever_may_create_beside_the_extension_is_named() {
    let cluster = cluster("named").await;
    database_of_mallory(&cluster).await;
    let root = cluster.connect("postgres", "app").await;
    root.batch_execute("GRANT CREATE ON SCHEMA public TO alice; CREATE EXTENSION aggregator")
        .await
        .unwrap();
    let warning = "WARNING:  not only superusers may create objects in schema public, where the extension aggregator is: alice, mallory";
    assert!(cluster.log().contains(warning), "{}", cluster.log());
    let safe = cluster.connect("postgres", "postgres").await;
    safe.batch_execute("CREATE SCHEMA aggregator; CREATE EXTENSION aggregator SCHEMA aggregator")
        .await
        .unwrap();
    assert_eq!(cluster.log().matches("WARNING:  not only superusers may create").count(), 1);
}

#[tokio::test]
async fn a_sweeping_grant_hands_out_no_truncate_no_trigger_and_no_foreign_key() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = crate::fixtures::ready(&upstream).await;
    root.batch_execute(
        "GRANT CREATE ON SCHEMA public TO alice; SELECT maintain_usage();
         GRANT ALL ON ALL TABLES IN SCHEMA public TO alice",
    )
    .await
    .unwrap();
    let alice = database.user("alice").await;
    let tables = rows(
        &root,
        "SELECT c.oid::regclass FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')",
    )
    .await;
    assert!(tables.len() > 14, "{tables:?}");
    alice
        .batch_execute("CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE ''ALTER ROLE alice SUPERUSER''; RETURN NEW; END'")
        .await
        .unwrap();
    for table in &tables {
        for sql in [
            format!("TRUNCATE {table} CASCADE"),
            format!(
                "CREATE TRIGGER evil BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION evil()"
            ),
        ] {
            let (code, message) = failure(&alice, &sql).await;
            // A trigger of the log would be one of the months that are with Citus, where nobody has any right.
            let is_refused = code == "42501" && message.contains("foreign table ledger_");
            assert!(code == "PT403" || nodes::wanted() && is_refused, "{sql}: {code} {message}");
        }
    }
    for sql in [
        "CREATE TABLE holds (id uuid REFERENCES api_providers)",
        "CREATE TABLE holds (id uuid); ALTER TABLE holds ADD FOREIGN KEY (id) REFERENCES aggregator_jobs",
        "CREATE SCHEMA AUTHORIZATION alice CREATE TABLE holds (id uuid REFERENCES public.api_providers)",
    ] {
        let (code, message) = failure(&alice, sql).await;
        assert!(
            code == "PT403" || (code == "42501" && sql.starts_with("CREATE SCHEMA")),
            "{sql}: {code} {message}"
        );
    }
    // What is not ours is hers.
    alice
        .batch_execute("CREATE TABLE mine (id int PRIMARY KEY); CREATE TABLE too (id int REFERENCES mine); CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION evil()")
        .await
        .unwrap();
}

#[tokio::test]
async fn the_worker_runs_no_trigger_and_no_rule_that_is_not_the_extensions() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("foreign").await;
    let database = cluster.database().await;
    let root = database.root().await;
    // There since before the tables were guarded, or put there by a superuser: as a trigger of all events, and as a rule.
    root.batch_execute(&format!(
        "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE LOG ''{RAN} as %'', current_user; RETURN NEW; END';
         CREATE TRIGGER evil BEFORE INSERT OR UPDATE ON aggregator_usage_logs FOR EACH ROW EXECUTE FUNCTION evil();
         CREATE CONSTRAINT TRIGGER put_off AFTER INSERT OR UPDATE ON aggregator_usage_hourly DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil();
         CREATE RULE evil AS ON INSERT TO aggregator_worker_epochs DO ALSO DELETE FROM api_providers"
    ))
    .await
    .unwrap();
    add_provider(&root, &upstream).await;
    save_key(&root, "standin", "sk-good").await;
    let chat = crate::fixtures::chat_sql("{}");
    value(&root, &chat).await.unwrap();
    assert_nothing_ran(&cluster);
    let log = cluster.log();
    for name in [
        "trigger evil on public.aggregator_usage_logs",
        "rule evil on public.aggregator_worker_epochs",
    ] {
        assert!(log.contains(&format!("{name} is not the extension's")), "{name}: {log}");
    }
    assert_eq!(value(&root, "SELECT count(*) > 5 FROM api_providers").await.unwrap(), "t");

    // Where a superuser wants it to run in the worker too, it runs as the owner, who is nobody.
    root.batch_execute("ALTER TABLE aggregator_usage_logs ENABLE ALWAYS TRIGGER evil")
        .await
        .unwrap();
    value(&root, &chat).await.unwrap();
    assert!(cluster.log().contains(&format!("{RAN} as aggregator_owner")), "{}", cluster.log());
    assert!(!cluster.log().contains(&format!("{RAN} as postgres")));
}

#[tokio::test]
async fn sums_follow_the_ledger_after_a_restore_that_turned_triggers_off() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = crate::bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    root.batch_execute(
        // What pg_restore --disable-triggers leaves behind.
        "ALTER TABLE aggregator_usage_logs DISABLE TRIGGER ALL;
         ALTER TABLE aggregator_usage_logs ENABLE TRIGGER ALL;
         INSERT INTO aggregator_worker_epochs (epoch) VALUES (1);
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id)
         SELECT gen_random_uuid(), 1, now(), 1, id, 'u', 'm' FROM api_providers WHERE name = 'standin'",
    )
    .await
    .unwrap();
    save_key(&root, "standin", "sk-good").await;
    // The worker that begins finds an orphan, whose sum its trigger makes.
    value(&root, &crate::fixtures::chat_sql("{}")).await.unwrap();
    assert_eq!(
        rows(&root, "SELECT status, requests FROM aggregator_usage_hourly ORDER BY 1").await,
        ["success|1", "unknown|1"]
    );
}

#[tokio::test]
async fn a_provider_that_is_gone_gets_no_models_where_no_foreign_key_is_checked() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let list = "ARRAY['x'], ARRAY['x'], ARRAY['X'], ARRAY['chat'], ARRAY['{}'], ARRAY[NULL]::integer[], ARRAY[NULL]::integer[], ARRAY[NULL]";
    // As the worker runs.
    root.batch_execute("SET session_replication_role = replica").await.unwrap();
    for call in [
        "aggregator_store_catalogue(gen_random_uuid(), false",
        "aggregator_store_user_models('u', gen_random_uuid()",
    ] {
        let sql = format!("SELECT {call}, {list})");
        assert_eq!(failure(&root, &sql).await.0, "23503", "{call}");
    }
    assert_eq!(
        rows(&root, "SELECT (SELECT count(*) FROM aggregator_models), (SELECT count(*) FROM aggregator_user_models)").await,
        ["0|0"]
    );
}

#[tokio::test]
async fn nothing_of_ours_belongs_to_a_superuser_or_runs_as_one() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = crate::fixtures::ready(&upstream).await;
    value(&root, &crate::fixtures::chat_sql("{}")).await.unwrap();
    root.batch_execute("SELECT maintain_usage()").await.unwrap();
    // But for what PostgreSQL asks of a superuser.
    assert_eq!(
        rows(
            &root,
            "WITH others AS (
                 SELECT d.objid FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname <> 'aggregator'
             )
             SELECT relowner::regrole::text FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND oid NOT IN (SELECT objid FROM others)
             UNION SELECT t.typowner::regrole::text FROM pg_type AS t LEFT JOIN pg_type AS of ON of.oid = t.typelem
             WHERE t.typnamespace = 'public'::regnamespace
               AND NOT EXISTS (SELECT FROM others WHERE objid IN (t.oid, t.typrelid, of.oid, of.typrelid))
             UNION SELECT proowner::regrole::text FROM pg_proc
             WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'event_trigger'::regtype
               AND oid NOT IN (SELECT objid FROM others)"
        )
        .await,
        ["aggregator_owner"]
    );
    assert_eq!(
        rows(
            &root,
            "SELECT rolsuper, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
                 (SELECT count(*) FROM pg_auth_members WHERE r.oid IN (roleid, member))
             FROM pg_roles AS r WHERE rolname = 'aggregator_owner'"
        )
        .await,
        ["f|f|f|f|f|f|0"]
    );
    // Made a superuser, it runs nothing.
    let other = Cluster::start("promoted", "");
    let admin = other.connect("postgres", "postgres").await;
    admin
        .batch_execute("CREATE EXTENSION aggregator; ALTER ROLE aggregator_owner SUPERUSER")
        .await
        .unwrap();
    for sql in ["SELECT save_platform_key('openai', 'sk-x')", "SELECT * FROM aggregator_status()"] {
        let (code, message) = failure(&admin, sql).await;
        assert_eq!(code, "PT503", "{message}");
        assert!(message.contains("aggregator_owner is a superuser"), "{message}");
    }
    // And one that is there already with more rights than an owner needs is refused.
    admin.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    assert_eq!(failure(&admin, "CREATE EXTENSION aggregator").await.0, "55000");
}
