//! One budget over several gateways: the hub has it, the others lease of it, and together they never pass it.

use crate::bed::{Cluster, Database, PATIENCE, eventually, failure, rows, value};
use crate::fixtures::{a_thousand_calls, chat_sql, ended, prepare, submit};
use crate::front::{Request, free_port, send};
use crate::upstream::{Answer, Upstream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

/// 100 tokens in and 50 out, at 2 and 10 USD per million: 0.0007 USD.
const USAGE: &str = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}"#;
const BUDGET: &str = "00000000-0000-4000-8000-000000000001";

fn paid() -> Answer {
    Answer::says("paid", USAGE)
}

/// The hub and two others, each a server, with the master keys of one file.
struct Fleet {
    servers: Vec<Cluster>,
    database: String,
    /// Where the hub listens.
    port: u16,
}

impl Fleet {
    /// Makes them. `relay`: through which the others reach the hub.
    async fn start(name: &str, upstream: &Upstream, relay: Option<&Relay>) -> (Self, Vec<Client>) {
        let port = free_port().await;
        let look_at = relay.map_or(port, |relay| {
            *relay.to.lock().unwrap() = Some(port);
            relay.port
        });
        let hub = Cluster::make(
            &format!("{name}-hub"),
            &format!(
                "aggregator.gateway = 'hub'\naggregator.http_listen = 'fleet=127.0.0.1:{port}'\n\
                 aggregator.http_hosts = '127.0.0.1:{look_at}'\nshared_preload_libraries = 'aggregator'"
            ),
        );
        let keyring: PathBuf = hub.data().join("aggregator.keyring");
        let follower = |own: &str| {
            Cluster::make(
                &format!("{name}-{own}"),
                &format!(
                    "aggregator.gateway = '{own}'\naggregator.hub = 'http://127.0.0.1:{}'\n\
                     aggregator.keyring_file = '{}'\nshared_preload_libraries = 'aggregator'",
                    look_at,
                    keyring.display()
                ),
            )
        };
        let servers = vec![follower("b"), follower("c")];
        let servers: Vec<Cluster> = [hub].into_iter().chain(servers).collect();
        let mut roots = vec![];
        for server in &servers {
            server.up();
            let root = server.connect("postgres", "postgres").await;
            root.batch_execute("CREATE DATABASE fleet").await.unwrap();
            // What each is given here comes to the others otherwise, from their hub; so may a restore write it.
            root.batch_execute("ALTER ROLE postgres SET row_security = off").await.unwrap();
            let database = Database { cluster: server, name: "fleet".to_owned() };
            let root = database.root().await;
            root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
            roots.push(prepare(&database, upstream).await);
            let root = &roots[roots.len() - 1];
            let others = "INSERT INTO aggregator_gateways (name) VALUES ('b'), ('c')";
            root.batch_execute(others).await.unwrap();
        }
        let fleet = Self { servers, database: "fleet".to_owned(), port };
        value(&roots[0], "SELECT aggregator_start()").await;
        let address = format!("http://127.0.0.1:{port}");
        eventually(&roots[0], "SELECT http_address FROM aggregator_status()", &address).await;
        (fleet, roots)
    }

    async fn again(&self, index: usize) -> Client {
        self.servers[index].again(&self.database).await
    }

    /// An administrator of the hub who is no superuser.
    async fn administrator(&self) -> Client {
        let client = self.servers[0].connect("postgres", &self.database).await;
        let become_one = "CREATE ROLE admin; SELECT aggregator_grant('admin', 'admin');
             SET row_security = on; SET ROLE admin";
        client.batch_execute(become_one).await.unwrap();
        client
    }
}

/// The same budget on each of them, as the hub's tables would come to the others.
async fn set_budget(roots: &[Client], columns: &str, values: &str) {
    for root in roots {
        let sql = format!(
            "INSERT INTO aggregator_budgets (id, period, keys, {columns}) VALUES ('{BUDGET}', 'total', 'all', {values})"
        );
        root.batch_execute(&sql).await.unwrap();
    }
}

const CAPPED: &str = r#"{"max_tokens": 50}"#;

/// Calls until it is refused: how many passed, and what the last one was refused with.
async fn spend(root: &Client, most: usize) -> (usize, String) {
    for passed in 0..most {
        if let Err(error) = root.simple_query(&chat_sql(CAPPED)).await {
            let error = error.as_db_error().unwrap();
            return (passed, format!("{} {}", error.code().code(), error.message()));
        }
    }
    (most, String::new())
}

#[tokio::test]
async fn a_thousand_calls_on_three_gateways_never_pass_one_cap() {
    let upstream =
        Upstream::start(|_| Answer::After(Duration::from_millis(20), Box::new(paid()))).await;
    let (fleet, roots) = Fleet::start("cap", &upstream, None).await;
    // Room for 0.07 / 0.0007 = 100 calls.
    set_budget(&roots, "limit_usd", "0.07").await;
    let mut clients = vec![];
    for index in 0..10 {
        clients.push(fleet.servers[index % 3].connect("postgres", &fleet.database).await);
    }
    let ok = a_thousand_calls(clients).await;
    assert!(ok > 20 && ok <= 100, "{ok}");
    assert_eq!(upstream.chat_count(), ok, "what was refused was not sent");
    // What one has leased and does not need comes back, until all is spent, and no more.
    let began = Instant::now();
    let mut passed = ok;
    while passed < 99 && began.elapsed() < PATIENCE {
        for root in &roots {
            passed += spend(root, 200).await.0;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!((99..=100).contains(&passed), "{passed}");
    assert_eq!(upstream.chat_count(), passed);
    let mut rows_of_all = 0;
    for root in &roots {
        let own = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'";
        rows_of_all += value(root, own).await.unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(rows_of_all, passed);
    // The hub says what each of the others has.
    let sums = "SELECT count(*), sum(granted_usd) + (SELECT sum(cost_estimate) FROM aggregator_usage_logs) <= 0.07,
            bool_and(used_usd <= granted_usd)
        FROM aggregator_leases";
    assert_eq!(rows(&roots[0], sums).await, ["2|t|t"]);
    let seen = "SELECT count(*) FROM aggregator_gateways AS g JOIN aggregator_gateway_messages AS m ON m.gateway = g.name
        WHERE m.seen_at > g.created_at";
    eventually(&roots[0], seen, "2").await;
    // Of all of them: at 80 and at 100 percent.
    let warned =
        "SELECT string_agg(percent::text, ',' ORDER BY percent) FROM aggregator_budget_warnings";
    eventually(&roots[0], &format!("SELECT ({warned}) LIKE '80%'"), "t").await;
    assert_eq!(value(&roots[1], warned).await, None, "the hub says it");
}

#[tokio::test]
async fn each_gateway_goes_on_with_what_it_has_leased_and_no_further() {
    let upstream = Upstream::start(|_| paid()).await;
    let (fleet, roots) = Fleet::start("alone", &upstream, None).await;
    set_budget(&roots, "limit_requests", "60").await;
    // The first lease: one, and a sixth of the 59 that are left beyond.
    assert_eq!(spend(&roots[1], 1).await.0, 1);
    let leased =
        "SELECT granted_requests, used_requests FROM aggregator_leases WHERE gateway = 'b'";
    assert_eq!(rows(&roots[0], leased).await, ["10|0"]);
    // Without its hub it spends that, and then nothing.
    fleet.servers[0].down("immediate");
    let (passed, refused) = spend(&roots[1], 60).await;
    assert_eq!(passed, 9, "{refused}");
    assert!(refused.starts_with("PT503 a lease of the hub's budgets cannot be had"), "{refused}");
    // One that has leased nothing has nothing; a job waits for the hub.
    let (code, message) = failure(&roots[2], &chat_sql(CAPPED)).await;
    assert_eq!(code, "PT503", "{message}");
    let job = submit(&roots[2], CAPPED, "").await;
    fleet.servers[0].up();
    let hub = fleet.again(0).await;
    assert_eq!(ended(&roots[2], &job).await, "succeeded|paid|1");
    // What was leased before it went down counts still.
    assert_eq!(rows(&hub, leased).await.concat().split('|').next(), Some("10"));
    // One that dies keeps what it has leased from the others, who spend all the rest.
    let before = upstream.chat_count();
    fleet.servers[1].down("immediate");
    let mut passed = 0;
    let began = Instant::now();
    while before + passed < 60 && began.elapsed() < PATIENCE {
        passed += spend(&hub, 200).await.0 + spend(&roots[2], 200).await.0;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(before + passed, 60, "b had spent what it had");
    assert!(spend(&hub, 1).await.1.starts_with("PT402"));
    // Its own rows are there when it comes back, and it still knows that there is nothing left.
    fleet.servers[1].up();
    let back = fleet.again(1).await;
    let own = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'";
    assert_eq!(value(&back, own).await.unwrap(), "10");
    assert!(spend(&back, 1).await.1.starts_with("PT402"));
    assert_eq!(upstream.chat_count(), 60);
}

#[tokio::test]
async fn what_is_leased_for_nothing_comes_back() {
    let upstream = Upstream::start(|_| paid()).await;
    let (fleet, roots) = Fleet::start("back", &upstream, None).await;
    set_budget(&roots, "each_user, limit_requests", "true, 12").await;
    assert_eq!(spend(&roots[1], 1).await.0, 1);
    let leased = "SELECT user_id, gateway, granted_requests FROM aggregator_leases";
    assert_eq!(rows(&roots[0], leased).await, ["role:postgres|b|2"]);
    // It dies with it, and comes back: what it does not need is given back.
    fleet.servers[1].down("immediate");
    fleet.servers[1].up();
    let back = fleet.again(1).await;
    assert_eq!(spend(&back, 1).await.0, 1);
    let given_back =
        "SELECT granted_requests = used_requests AND used_requests = 2 FROM aggregator_leases";
    eventually(&roots[0], given_back, "t").await;
    assert_eq!(spend(&roots[0], 60).await.0, 10);
    // A user who is forgotten leaves no lease with their name.
    value(&roots[0], "SELECT forget_user('role:postgres')").await;
    // Not by what another gateway, where they are not forgotten yet, asks for afterwards either.
    assert!(spend(&back, 1).await.1.contains("or has forgotten its user"));
    assert_eq!(rows(&roots[0], leased).await, Vec::<String>::new());
    for (name, words) in [
        ("hub", "is the name of this gateway itself"),
        ("B", "a gateway's name may have small letters"),
        ("", "a gateway's name is empty"),
    ] {
        let (code, message) = failure(&roots[0], &format!("SELECT add_gateway('{name}')")).await;
        assert!(code == "PT400" && message.contains(words), "{message}");
    }
    assert_eq!(value(&roots[0], "SELECT add_gateway('b')").await.unwrap(), "f");
    let insert = "INSERT INTO aggregator_gateways (name) VALUES ('D')";
    assert_eq!(failure(&roots[0], insert).await.0, "23514");
    // Whom an administrator has added.
    let administrator = fleet.administrator().await;
    assert_eq!(value(&administrator, "SELECT add_gateway('d')").await.unwrap(), "t");
    // A gateway that is removed leases no more.
    assert_eq!(value(&roots[0], "SELECT remove_gateway('c')").await.unwrap(), "t");
    let (code, message) = failure(&roots[2], &chat_sql(CAPPED)).await;
    assert_eq!(code, "PT503");
    assert!(message.contains("no gateway 'c' is known here"), "{message}");
}

#[tokio::test]
async fn what_a_gateway_that_is_gone_had_leased_is_settled() {
    let upstream = Upstream::start(|_| paid()).await;
    let (fleet, roots) = Fleet::start("settled", &upstream, None).await;
    set_budget(&roots, "limit_requests", "60").await;
    assert_eq!(spend(&roots[1], 4).await, (4, String::new()));
    let counted =
        value(&roots[1], "SELECT jsonb_agg(to_jsonb(t)) FROM aggregator_usage_totals AS t");
    let counted = counted.await.unwrap();
    fleet.servers[1].down("immediate");
    // One, and a sixth of the 59 that are left beyond.
    let granted = "SELECT granted_requests FROM aggregator_leases WHERE gateway = 'b'";
    assert_eq!(value(&roots[0], granted).await.unwrap(), "10");
    let administrator = fleet.administrator().await;
    // Not while it may lease, nor one that nobody knows.
    let settle = "SELECT * FROM settle_gateway('b')";
    let (code, message) = failure(&administrator, settle).await;
    assert!(code == "PT409" && message.contains("remove_gateway()"), "{message}");
    assert_eq!(value(&administrator, "SELECT remove_gateway('b')").await.unwrap(), "t");
    for name in ["'nobody'", "'hub'", "NULL"] {
        let (code, message) =
            failure(&administrator, &format!("SELECT settle_gateway({name})")).await;
        assert!(code == "PT404" && message.contains("has leased anything here"), "{message}");
    }
    // What it has counted has come, and says more than its last message may have said.
    let come = format!(
        "INSERT INTO aggregator_usage_totals SELECT * FROM jsonb_populate_recordset(NULL::aggregator_usage_totals, '{counted}')"
    );
    roots[0].batch_execute(&come).await.unwrap();
    // Until it is settled, the hub has 50.
    assert_eq!(spend(&roots[0], 60).await.0, 50);
    let released = "SELECT budget_id, user_id, released_requests FROM settle_gateway('b')";
    assert_eq!(rows(&administrator, released).await, [format!("{BUDGET}|∅|6")]);
    let kept = "SELECT granted_usd >= 0.0028, granted_tokens >= 600, granted_requests FROM aggregator_leases WHERE gateway = 'b'";
    assert_eq!(rows(&roots[0], kept).await, ["t|t|4"]);
    assert_eq!(rows(&administrator, released).await, Vec::<String>::new());
    // The six are there within five seconds, and no more than these.
    let began = Instant::now();
    let mut passed = 0;
    while passed < 6 && began.elapsed() < PATIENCE {
        passed += spend(&roots[0], 60).await.0;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(passed, 6);
    // Its disk is found after all: what it has spent is what counts, and its old messages are none.
    fleet.servers[1].up();
    let back = fleet.again(1).await;
    let (code, message) = failure(&back, &chat_sql(CAPPED)).await;
    assert!(code == "PT503" && message.contains("no gateway 'b' is known here"), "{message}");
    let number = "SELECT number FROM aggregator_gateway_messages WHERE gateway = 'b'";
    let before = value(&roots[0], number).await.unwrap();
    assert_eq!(value(&administrator, "SELECT add_gateway('b')").await.unwrap(), "t");
    assert_eq!(value(&roots[0], number).await.unwrap(), before);
    let began = Instant::now();
    let refused = loop {
        match spend(&back, 1).await {
            (0, refused) if refused.starts_with("PT503") && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => break other,
        }
    };
    assert!(refused.0 == 0 && refused.1.starts_with("PT402"), "{refused:?}");
    assert_eq!(value(&roots[0], granted).await.unwrap(), "4");
    assert_eq!(upstream.chat_count(), 60);
}

#[tokio::test]
async fn a_gateway_that_is_removed_spends_no_more_of_what_it_has_leased() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_fleet, roots) = Fleet::start("removed", &upstream, None).await;
    set_budget(&roots, "limit_requests", "600000").await;
    assert_eq!(spend(&roots[1], 1).await, (1, String::new()));
    let granted = "SELECT granted_requests FROM aggregator_leases WHERE gateway = 'b'";
    assert_eq!(value(&roots[0], granted).await.unwrap(), "100000");
    // On the hub, and, as it comes from there, on itself.
    for root in &roots[..2] {
        assert_eq!(value(root, "SELECT remove_gateway('b')").await.unwrap(), "t");
    }
    let began = Instant::now();
    let mut passed = 1;
    let refused = loop {
        match spend(&roots[1], 1).await {
            (0, refused) => break refused,
            _ => passed += 1,
        }
        assert!(began.elapsed() < PATIENCE, "it goes on spending");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(refused.starts_with("PT503"), "{refused}");
    assert_eq!(upstream.chat_count(), passed);
    assert!(passed < 100_000);
}

#[tokio::test]
async fn rate_limits_are_shared_out() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_fleet, roots) = Fleet::start("rates", &upstream, None).await;
    for root in &roots {
        value(root, "SELECT set_rate_limit(11)").await;
    }
    for (root, share) in roots.iter().zip([5, 3, 3]) {
        let (passed, refused) = spend(root, 12).await;
        assert_eq!(passed, share, "{refused}");
        assert!(refused.starts_with("PT429"), "{refused}");
    }
    // One of which a gateway has no share.
    value(&roots[1], "SELECT set_rate_limit(2)").await;
    let (code, message) = failure(&roots[1], &chat_sql(CAPPED)).await;
    assert_eq!(code, "PT429", "{message}");
    // A list that does not have its name.
    value(&roots[1], "SELECT remove_gateway('b')").await;
    let unlisted = "SELECT 'x' FROM aggregator_gateways";
    assert_eq!(rows(&roots[1], unlisted).await.len(), 1);
    let began = Instant::now();
    loop {
        let (code, message) = failure(&roots[1], &chat_sql(CAPPED)).await;
        if code == "PT503" {
            assert!(message.contains("'b' is not in the list of gateways"), "{message}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{message}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Passes connections on to a port that is told later, and keeps what clients have sent.
struct Relay {
    port: u16,
    to: Arc<Mutex<Option<u16>>>,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self { port, to: Arc::default(), sent: Arc::default() };
        let (to, sent) = (relay.to.clone(), relay.sent.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(to) = *to.lock().unwrap() else { continue };
                let sent = sent.clone();
                tokio::spawn(async move {
                    let Ok(hub) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let (mut from, mut back) = client.into_split();
                    let (mut answers, mut there) = hub.into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = from.read(&mut bytes).await {
                        sent.lock().unwrap().extend(&bytes[..read]);
                        there.write_all(&bytes[..read]).await.unwrap();
                    }
                });
            }
        });
        relay
    }
}

#[tokio::test]
async fn nobody_without_the_master_keys_changes_a_lease() {
    let upstream = Upstream::start(|_| paid()).await;
    let relay = Relay::start().await;
    let (fleet, roots) = Fleet::start("seal", &upstream, Some(&relay)).await;
    set_budget(&roots, "limit_requests", "60").await;
    assert_eq!(spend(&roots[1], 1).await, (1, String::new()));
    fleet.servers[1].down("immediate");
    fleet.servers[2].down("immediate");
    let seen = String::from_utf8(relay.sent.lock().unwrap().clone()).unwrap();
    assert!(seen.contains("POST /v1/gateways/lease"), "{seen}");
    for secret in ["role:postgres", BUDGET, "wanted"] {
        assert!(!seen.contains(secret), "{seen}");
    }
    let body = seen.split("\r\n\r\n").nth(1).unwrap();
    let body = &body[..=body.find('}').unwrap()];
    let before = rows(&roots[0], "SELECT * FROM aggregator_leases").await;
    let ask = async |body: &str| {
        let request = Request::new("POST", "/v1/gateways/lease").json(body);
        let stream = TcpStream::connect(("127.0.0.1", fleet.port)).await.unwrap();
        let response = send(stream, &request.bytes(fleet.port)).await;
        (response.status, response.body)
    };
    // Once more what was said already; with one byte changed; and what is nothing.
    let (status, text) = ask(body).await;
    assert!(status == 400 && text.contains("a later message of it has come"), "{text}");
    let changed = body.replacen('A', "B", 1);
    for (body, said) in [
        (changed.as_str(), "not sealed with a master key of this gateway"),
        (r#"{"sealed":""}"#, "not sealed with a master key of this gateway"),
        (r#"{"sealed":"!"}"#, "not one of a gateway"),
        (r#"{"from":"b","number":9,"asks":[]}"#, "not one of a gateway"),
        ("[]", "not one of a gateway"),
    ] {
        let (status, text) = ask(body).await;
        assert!(status == 400 && text.contains(said), "{body}: {text}");
    }
    let (status, _) = ask(&format!(r#"{{"sealed":"{}"}}"#, "A".repeat(600_000))).await;
    assert_eq!(status, 413);
    assert_eq!(rows(&roots[0], "SELECT * FROM aggregator_leases").await, before);
}

#[tokio::test]
async fn whoever_is_killed_and_when_the_cap_is_never_passed() {
    const CAP: usize = 120;
    let upstream =
        Upstream::start(|_| Answer::After(Duration::from_millis(10), Box::new(paid()))).await;
    let (fleet, roots) = Fleet::start("killed", &upstream, None).await;
    set_budget(&roots, "limit_requests", &CAP.to_string()).await;
    drop(roots);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for index in 0..6 {
        let address = fleet.servers[index % 3].dir.display().to_string();
        let is_over = is_over.clone();
        callers.spawn(async move {
            let configuration = format!("host={address} user=postgres dbname=fleet");
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((client, connection)) =
                    tokio_postgres::connect(&configuration, tokio_postgres::NoTls).await
                {
                    tokio::spawn(connection);
                    while client.simple_query(&chat_sql(CAPPED)).await.is_ok() {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    for (kill, server) in [1, 0, 2, 0, 1, 2].into_iter().enumerate() {
        // Each while calls are made, as long as there is something left.
        upstream.wait_for_chats(15 * (kill + 1)).await;
        fleet.servers[server].down("immediate");
        fleet.servers[server].up();
    }
    let mut roots = vec![];
    for index in 0..3 {
        roots.push(fleet.again(index).await);
    }
    let began = Instant::now();
    let counted = "SELECT count(*) FROM aggregator_usage_logs WHERE status <> 'pending'";
    let mut sum = 0;
    // What was on its way when its server died may have been paid, and counts.
    while sum < CAP && began.elapsed() < PATIENCE {
        sum = 0;
        for root in &roots {
            sum += value(root, counted).await.unwrap().parse::<usize>().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    is_over.store(true, Ordering::Relaxed);
    callers.join_all().await;
    assert_eq!(sum, CAP);
    assert!(upstream.chat_count() <= CAP, "{}", upstream.chat_count());
    let leased = "SELECT sum(granted_requests) + (SELECT count(*) FROM aggregator_usage_logs) FROM aggregator_leases";
    assert_eq!(value(&roots[0], leased).await.unwrap(), CAP.to_string());
}
