//! On a standby every function works or is PT503: no other error, and nothing is written.

use crate::bed::{self, Cluster, rows, shown, value};
use crate::fixtures::{HELLO, prepare};
use crate::upstream::{Answer, Upstream};

/// Functions that write, or need a worker that does: each is refused.
fn refused() -> Vec<String> {
    let nobody = "'00000000-0000-0000-0000-000000000000'";
    let mut calls: Vec<String> = [
        "SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)",
        "SELECT save_provider_key('standin', 'sk-good-1')",
        "SELECT save_platform_key('standin', 'sk-good-1')",
        "SELECT validate_provider_key('standin')",
        "SELECT validate_provider_key('standin', 'sk-good-1')",
        "SELECT remove_provider_key('standin')",
        "SELECT remove_platform_key('standin')",
        "SELECT set_platform_models('standin', '{m}')",
        "SELECT rotate_master_key()",
        "SELECT forget_user('u-1')",
        "SELECT aggregator_grant('authenticated', 'user')",
        "SELECT aggregator_revoke('authenticated', 'user')",
        "SELECT aggregator_status()",
        "SELECT * FROM sync_models()",
        "SELECT set_budget(1)",
        "SELECT set_rate_limit(1)",
        "SELECT set_model_price('m', '{\"input\": 1}')",
        "SELECT * FROM recost_usage()",
        "SELECT * FROM maintain_usage()",
        "SELECT schedule_model_sync()",
        "SELECT unschedule_model_sync()",
        "SELECT schedule_usage_maintenance()",
        "SELECT unschedule_usage_maintenance()",
        "SELECT chat('hi', 'm')",
        "SELECT chat_completions('{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}')",
        "SELECT * FROM chat_many('[{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}]')",
        "SELECT aggregator_note_prices('{00000000-0000-0000-0000-000000000000}')",
        "SELECT aggregator_require_admin('write')",
        "SELECT aggregator_require_writable('write')",
    ]
    .map(str::to_owned)
    .into();
    calls.push(format!("SELECT chat_complete('m', '{HELLO}')"));
    calls.push(format!("SELECT chat_complete('m', '{HELLO}', '{{\"on_deadline\": \"queue\"}}')"));
    calls.push(format!("SELECT * FROM chat_stream('m', '{HELLO}')"));
    calls.push(format!("SELECT chat_submit('m', '{HELLO}')"));
    calls.push(format!("SELECT chat_submit('m', '{HELLO}', p_idempotency_key => 'k')"));
    for name in ["chat_cancel", "remove_budget", "remove_rate_limit"] {
        calls.push(format!("SELECT {name}({nobody})"));
    }
    calls
}

#[tokio::test]
async fn every_function_works_on_a_standby_or_says_that_it_cannot() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("functions-primary", "");
    cluster.supabase_roles().await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let standby =
        Cluster { dir: cluster.dir.with_file_name("functions-standby"), bin: cluster.bin.clone() };
    bed::run(bed::as_server("mkdir").arg("-p").arg(&standby.dir));
    bed::run(
        bed::as_server(bed::pg_bin("pg_basebackup"))
            .args(["-h", cluster.dir.to_str().unwrap(), "-U", "postgres"])
            .args(["-c", "fast", "-R", "-X", "stream", "-D"])
            .arg(standby.data()),
    );
    standby.configure(&format!("unix_socket_directories = '{}'", standby.dir.display()));
    standby.up();
    let keyring = standby.data().join("aggregator.keyring");
    let ring = || bed::run(bed::as_server("md5sum").arg(&keyring)).stdout;
    let before = ring();
    let client = standby.connect("postgres", &database.name).await;
    let calls = refused();
    for sql in &calls {
        let error = client.simple_query(sql).await.expect_err(sql);
        let message = shown(&error);
        assert!(message.starts_with("PT503") && message.contains("recovery"), "{sql}: {message}");
    }
    // All the others, with nothing as their arguments: they may refuse those, and nothing else.
    let others = rows(
        &client,
        "SELECT p.proname, p.oid::regprocedure,
             format('SELECT %s(%s)', p.oid::regproc, (
                 SELECT string_agg(format('%sNULL::%s',
                     CASE WHEN p.provariadic <> 0 AND n = p.pronargs THEN 'VARIADIC ' END, format_type(t, NULL)), ', ' ORDER BY n)
                 FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS argument (t, n)))
         FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
         WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
           AND p.prokind = 'f' AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
           AND has_function_privilege('service_role', p.oid, 'EXECUTE')
         ORDER BY 2",
    )
    .await;
    assert!(others.len() > 50, "{others:?}");
    for line in others {
        let [name, signature, sql] = line.splitn(3, '|').collect::<Vec<_>>()[..] else { panic!() };
        if calls.iter().any(|call| call.contains(&format!("{name}("))) {
            continue;
        }
        if let Err(error) = client.simple_query(sql).await {
            let message = shown(&error);
            assert!(message.starts_with("PT"), "{signature}: {message}");
        }
    }
    assert_eq!(ring(), before, "the keyring was written");
    drop(root);
    value(&client, "SELECT 1").await.unwrap();
}
