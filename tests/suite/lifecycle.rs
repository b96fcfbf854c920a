//! The worker: starting, leaving, dying, and what is dropped under it.

use crate::bed::{self, Cluster, eventually, failure, rows, value};
use crate::fixtures::{WORKERS, add_provider, chat_sql, kill_worker, prepare, ready};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

#[tokio::test]
async fn sixty_sessions_that_start_the_worker_at_once_use_one_slot() {
    let cluster = Cluster::start("sixty", "max_worker_processes = 4");
    let database = cluster.database().await;
    let mut tasks = tokio::task::JoinSet::new();
    let mut clients = vec![];
    for _ in 0..60 {
        clients.push(database.root().await);
    }
    let began = Instant::now();
    for client in clients {
        tasks.spawn(async move {
            value(&client, "SELECT worker_pid FROM aggregator_status()").await.unwrap()
        });
    }
    let mut pids = tasks.join_all().await;
    pids.sort();
    pids.dedup();
    // More have no room. One that nobody has needed for three seconds makes way for another.
    let most = 1 + began.elapsed().as_secs() as usize / 3;
    assert!(pids.len() <= most, "{pids:?} in {:?}", began.elapsed());
}

#[tokio::test]
async fn without_a_free_slot_the_error_comes_at_once() {
    let cluster = Cluster::start("noslot", "max_worker_processes = 1");
    let database = cluster.database().await;
    let root = database.root().await;
    let began = Instant::now();
    let (code, message) = failure(&root, "SELECT * FROM aggregator_status()").await;
    assert_eq!(code, "PT503");
    assert!(message.contains("max_worker_processes"), "{message}");
    // Waiting for it to answer would take 15 s.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_worker_leaves_and_comes_back() {
    let database = bed::database().await;
    let root = database.root().await;
    // Each look at its state keeps it.
    let there = "SELECT count(*) FROM aggregator_status() AS s JOIN pg_stat_activity AS a ON a.pid = s.worker_pid
        WHERE a.backend_type = 'aggregator worker'";
    eventually(&root, there, "1").await;
    let first = value(&root, "SELECT worker_pid FROM aggregator_status()").await;
    eventually(&root, WORKERS, "0").await;
    let second = value(&root, "SELECT worker_pid FROM aggregator_status()").await;
    assert_ne!(first, second);
    // Its epoch ended well.
    let open =
        "SELECT count(*) FROM aggregator_status(), aggregator_worker_epochs WHERE ended_at IS NULL";
    eventually(&root, open, "1").await;
}

#[tokio::test]
async fn a_worker_with_nothing_to_do_does_nothing() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    let ticks = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit(") ").next()?.split(' ').collect();
        Some(fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
    };
    let used = loop {
        let pid = value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
        let Some(before) = ticks(&pid) else { continue };
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Another, where it has left meanwhile.
        if let Some(after) = ticks(&pid) {
            break after - before;
        }
    };
    // Of the 100 ticks of a second.
    assert!(used < 20, "{used} ticks");
}

/// Drops a database. PostgreSQL waits for the worker for five seconds, in which it leaves unless the machine stands
/// still; one that does not leave is there each time.
async fn drop_database(client: &Client, name: &str, how: &str) {
    let sql = format!("DROP DATABASE {name} {how}");
    let mut said = String::new();
    for _ in 0..3 {
        match client.batch_execute(&sql).await {
            Ok(()) => return,
            Err(error) => said = bed::shown(&error),
        }
        assert!(said.starts_with("55006"), "{said}");
    }
    panic!("{said}");
}

#[tokio::test]
async fn the_extension_and_the_database_can_be_dropped_under_an_idle_worker() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "42883");
    // Made anew in the same session, elsewhere, it works.
    root.batch_execute(
        "CREATE SCHEMA llm; CREATE EXTENSION aggregator SCHEMA llm; SET search_path = llm, public",
    )
    .await
    .unwrap();
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-2', p_validate => false)")
        .await
        .unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, "SELECT count(*) FROM llm.aggregator_usage_logs").await.unwrap(), "1");
    // DROP DATABASE waits 5 s for the worker, which leaves in time.
    drop(root);
    let other = database.cluster.connect("postgres", "postgres").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop_database(&other, &database.name, "").await;
}

#[tokio::test]
async fn with_force_the_database_goes_even_under_a_busy_worker() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (database, root) = ready(&upstream).await;
    let other = database.cluster.connect("postgres", "postgres").await;
    let drop = async {
        upstream.wait_for_chats(1).await;
        drop_database(&other, &database.name, "WITH (FORCE)").await;
    };
    let sql = chat_sql("{}");
    let (call, ()) = tokio::join!(root.simple_query(&sql), drop);
    assert!(call.is_err());
    upstream.wait_for_abort(0).await;
}

#[tokio::test]
async fn dropping_the_extension_under_a_busy_worker_ends_it() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (database, root) = ready(&upstream).await;
    let other = database.root().await;
    let drop = async {
        upstream.wait_for_chats(1).await;
        // The caller's own transaction reads the tables; only its cancel lets the DROP go on.
        let pid = value(&other, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT chat_complete%' AND state = 'active' AND datname = current_database()").await.unwrap();
        value(&other, &format!("SELECT pg_cancel_backend({pid})")).await;
        other.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    };
    let sql = chat_sql("{}");
    let _ = tokio::join!(root.simple_query(&sql), drop);
    eventually(&other, WORKERS, "0").await;
}

#[tokio::test]
async fn a_worker_that_is_terminated_settles_and_is_replaced() {
    let upstream =
        Upstream::start(
            |seen| if seen.body.contains("stall") { Answer::Stall } else { Answer::hello() },
        )
        .await;
    let (database, root) = ready(&upstream).await;
    let other = database.root().await;
    let kill = async {
        upstream.wait_for_chats(1).await;
        value(&other, "SELECT pg_terminate_backend(worker_pid) FROM aggregator_status()").await;
    };
    let sql = chat_sql(r#"{"user": "stall"}"#);
    let ((code, message), ()) = tokio::join!(failure(&root, &sql), kill);
    assert_eq!(code, "PT502", "{message}");
    eventually(&root, "SELECT status FROM aggregator_usage_logs", "cancelled").await;
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(upstream.chats().len(), 2, "nothing was sent twice");
}

#[tokio::test]
async fn a_crash_loses_no_row() {
    let cluster = Cluster::start("crash", "");
    let upstream =
        Upstream::start(
            |seen| if seen.body.contains("stall") { Answer::Stall } else { Answer::hello() },
        )
        .await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-3', p_validate => false)")
        .await
        .unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    let other = database.root().await;
    let kill = async {
        upstream.wait_for_chats(2).await;
        kill_worker(&cluster, &database.name, other).await
    };
    let sql = chat_sql(r#"{"user": "stall"}"#);
    let (call, after) = tokio::join!(root.simple_query(&sql), kill);
    assert!(call.is_err());
    assert_eq!(
        rows(&after, "SELECT status FROM aggregator_usage_logs ORDER BY created_at").await,
        ["success", "pending"]
    );
    value(&after, &chat_sql("{}")).await.unwrap();
    assert_eq!(
        rows(&after, "SELECT status, cost_source FROM aggregator_usage_logs ORDER BY created_at")
            .await,
        ["success|computed", "unknown|incomplete", "success|computed"]
    );
    // An immediate shutdown is the same.
    cluster.down("immediate");
    cluster.up();
    let after = cluster.connect("postgres", &database.name).await;
    value(&after, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&after, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "4");
}

#[tokio::test]
async fn preloaded_it_starts_with_the_server_and_stays() {
    let cluster = Cluster::start("preload", "");
    let database = cluster.database().await;
    cluster.down("fast");
    cluster.configure(&format!(
        "shared_preload_libraries = 'aggregator'\naggregator.databases = 'nosuch, {}'",
        database.name
    ));
    cluster.up();
    let root = database.root().await;
    eventually(&root, WORKERS, "1").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let pid =
        value(&root, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator worker'")
            .await;
    assert_eq!(
        rows(&root, "SELECT worker_pid, preloaded FROM aggregator_status()").await,
        [format!("{}|t", pid.unwrap())]
    );
    drop(root);
    let other = cluster.connect("postgres", "postgres").await;
    drop_database(&other, &database.name, "WITH (FORCE)").await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(
        value(
            &other,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'aggregator worker'"
        )
        .await
        .unwrap(),
        "0"
    );
    // One may have been on its way when the database went, and none comes again.
    let lost = || cluster.log().matches("FATAL:  database").count();
    let before = lost();
    if before > 0 {
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    assert!(before <= 1 && lost() == before, "{}", cluster.log());
}

#[tokio::test]
async fn a_standby_reports_and_calls_once_it_is_promoted() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("primary", "");
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    drop(root);
    let standby = Cluster { dir: cluster.dir.with_file_name("standby"), bin: cluster.bin.clone() };
    bed::run(bed::as_server("mkdir").arg("-p").arg(&standby.dir));
    bed::run(
        bed::as_server(bed::pg_bin("pg_basebackup"))
            .args([
                "-h",
                cluster.dir.to_str().unwrap(),
                "-U",
                "postgres",
                "-c",
                "fast",
                "-R",
                "-X",
                "stream",
                "-D",
            ])
            .arg(standby.data()),
    );
    standby.configure(&format!("unix_socket_directories = '{}'", standby.dir.display()));
    standby.up();
    let root = standby.connect("postgres", &database.name).await;
    for sql in [
        "SELECT * FROM aggregator_status()".to_owned(),
        chat_sql("{}"),
        "SELECT * FROM sync_models()".to_owned(),
    ] {
        let (code, message) = failure(&root, &sql).await;
        assert_eq!(code, "PT503", "{sql}");
        assert!(message.contains("recovery"), "{message}");
    }
    for (sql, expected) in [
        ("SELECT requests FROM usage_summary()", "1"),
        ("SELECT sum(requests) FROM usage_over_time()", "1"),
        ("SELECT requests FROM usage_by_user()", "1"),
        ("SELECT usage_dashboard() LIKE '%standin%'", "t"),
        ("SELECT provider_name FROM aggregator_usage", "standin"),
        ("SELECT calls FROM aggregator_provider_health", "1"),
        ("SELECT count(*) FROM get_user_available_models() WHERE model_id = 'm'", "1"),
        (
            "SELECT max_cost > 0 FROM quote_cost('m', '[{\"role\": \"user\", \"content\": \"hi\"}]', 10)",
            "t",
        ),
        ("SELECT sum(requests) FROM calculate_provider_costs(NULL)", "1"),
    ] {
        assert_eq!(rows(&root, sql).await, [expected], "{sql}");
    }
    // The base backup has brought the keyring, which is in the data directory here.
    cluster.down("immediate");
    value(&root, "SELECT pg_promote()").await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(upstream.chats().len(), 2);
    assert_eq!(rows(&root, "SELECT requests FROM usage_summary()").await, ["2"]);
}

/// DROP EXTENSION and other commands that lock several tables meet the worker in the middle of a
/// transaction. It steps back and comes again; they go on.
#[tokio::test]
async fn who_locks_tables_is_never_the_victim_of_the_worker() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    // Whoever looks for a deadlock first is its victim: the worker does, unless it is left at what the database says.
    // Others look after a second; this one gives a worker time that the machine does not let run.
    root.batch_execute(&format!("ALTER DATABASE {} SET deadlock_timeout = '1min'", database.name))
        .await
        .unwrap();
    let terminate = "SELECT pg_terminate_backend(worker_pid, 60000) FROM aggregator_status()";
    assert_eq!(value(&root, terminate).await.unwrap(), "t");
    value(&root, &chat_sql("{}")).await.unwrap();
    root.batch_execute("SET deadlock_timeout = '10s'").await.unwrap();
    let until = Instant::now() + Duration::from_secs(6);
    let mut callers = vec![];
    for _ in 0..4 {
        let client = database.root().await;
        callers.push(tokio::spawn(async move {
            let mut calls = 0;
            while Instant::now() < until {
                value(&client, &chat_sql("{}")).await.unwrap();
                calls += 1;
            }
            calls
        }));
    }
    // The other way round than the worker, which settles a row before it sums it up.
    while Instant::now() < until {
        root.batch_execute(
            "BEGIN; LOCK aggregator_usage_hourly; LOCK aggregator_usage_logs; COMMIT",
        )
        .await
        .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let mut calls = 2;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    let settled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'";
    eventually(&root, settled, &calls.to_string()).await;
    assert_eq!(upstream.chats().len(), calls);
}

#[tokio::test]
async fn a_worker_waits_for_tables_that_are_locked_and_its_session_says_who_has_locked_them() {
    const LOCK: &str = "BEGIN; LOCK TABLE aggregator_worker_epochs";
    const OURS: &str = "FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let (locker, caller) = (database.root().await, database.root().await);
    eventually(&root, WORKERS, "0").await;
    locker.batch_execute(LOCK).await.unwrap();
    let sql = chat_sql("{}");
    let (answered, ()) = tokio::join!(value(&caller, &sql), async {
        let waits = format!("SELECT count(*) {OURS} AND wait_event_type = 'Lock'");
        eventually(&root, &waits, "1").await;
        let first = value(&root, &format!("SELECT xact_start {OURS}")).await.unwrap();
        // It has waited in vain once, and is there still.
        let again = format!("SELECT count(*) {OURS} AND xact_start > '{first}'");
        eventually(&root, &again, "1").await;
        locker.batch_execute("COMMIT").await.unwrap();
    });
    assert!(answered.is_some());
    // One that leaves.
    eventually(&root, WORKERS, "0").await;
    locker.batch_execute(LOCK).await.unwrap();
    let pid = value(&locker, "SELECT pg_backend_pid()").await.unwrap();
    let leave = format!("SELECT count(pg_terminate_backend(pid)) {OURS}");
    for (who, by, advice) in [
        (&caller, format!("process {pid}"), format!("pg_terminate_backend({pid})")),
        (&locker, "this transaction".to_owned(), "must be committed before".to_owned()),
    ] {
        let told = failure(who, &sql);
        tokio::pin!(told);
        let (code, message) = loop {
            tokio::select! {
                told = &mut told => break told,
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    value(&root, &leave).await;
                }
            }
        };
        assert_eq!(code, "PT503", "{message}");
        assert!(message.contains(&format!("locked by {by}")), "{message}");
        assert!(message.contains(&advice), "{message}");
    }
}
