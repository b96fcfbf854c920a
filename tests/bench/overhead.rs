//! What a call through the database adds to the same request made directly over a kept-alive connection, what
//! it costs of CPU, and what a function costs that somebody would write by hand; all in one run.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[path = "common.rs"]
#[allow(dead_code)]
mod common;
#[path = "pgbench.rs"]
mod pgbench;
#[path = "process.rs"]
#[allow(dead_code)]
mod process;
#[path = "standin.rs"]
#[allow(dead_code)]
mod standin;

use bed::{Cluster, value};
use common::{Direct, Times, flushes, prepare};
use pgbench::{Load, load};
use standin::{Manner, Standin};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const CHAT: &str = r#"SELECT chat_complete('m', '[{"role":"user","content":"hi"}]');"#;
const BY_HAND: &str = r#"SELECT by_hand('m', '[{"role":"user","content":"hi"}]');"#;
const DIRECT: usize = 2000;
/// Further loads, for the size of the ledger.
const LONGER: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{:<22} {:>7} | {:>8} {:>8} | {:>8} | {:>8} | {:>8} {:>8} {:>8}",
        "", "clients", "p50 ms", "p99 ms", "added", "calls/s", "backend", "main", "gateway"
    );
    for sync in ["on", "off"] {
        let cluster = Cluster::start(
            &format!("bench_{sync}"),
            &format!(
                "aggregator.ledger_sync = {sync}\nshared_buffers = 256MB\nmax_wal_size = 4GB\nautovacuum_naptime = 5s"
            ),
        );
        let upstream = Standin::start(Manner::Late(Duration::ZERO));
        let database = cluster.database().await;
        let root = prepare(&database, &upstream.base_url()).await;
        value(&root, &CHAT.replace(';', "")).await;
        if sync == "on" {
            let flush = flushes(500, Duration::ZERO);
            println!(
                "{:<22} {:>7} | {:>8.3} {:>8.3} |",
                "a flush alone",
                1,
                flush.at(50),
                flush.at(99)
            );
        }
        let direct = direct(&Direct::to(&upstream.base_url())).await;
        println!(
            "{:<22} {:>7} | {:>8.3} {:>8.3} | {:>8} | {:>8.0} |",
            "without a database",
            1,
            direct.at(50),
            direct.at(99),
            "",
            1000.0 / direct.at(50)
        );
        let has_by_hand = sync == "on" && by_hand(&root, &upstream).await;
        for clients in [1, 8, 32] {
            let chat = load(&cluster, &database.name, &root, CHAT, clients).await;
            print(&format!("chat, ledger_sync {sync}"), clients, &chat, &direct);
            if has_by_hand {
                let other = load(&cluster, &database.name, &root, BY_HAND, clients).await;
                print("PL/Python by hand", clients, &other, &direct);
                println!(
                    "{:<22} {:>7} | {:.2} of its latency, {:.2} of its calls per second",
                    "ratio",
                    clients,
                    chat.times.at(50) / other.times.at(50),
                    chat.per_second / other.per_second
                );
            }
        }
        // What dead versions leave is used again once autovacuum has come by: over a longer time than the above takes.
        for _ in 0..LONGER {
            load(&cluster, &database.name, &root, CHAT, 32).await;
            print_size(&root, sync).await;
        }
    }
    println!(
        "added: to the median without a database; backend, main and gateway: microseconds of CPU per call, of the \
         callers' processes, of the worker's main thread and of its others"
    );
}

fn print(what: &str, clients: usize, load: &Load, direct: &Times) {
    println!(
        "{what:<22} {clients:>7} | {:>8.3} {:>8.3} | {:>8.3} | {:>8.0} | {:>8.0} {:>8.0} {:>8.0}",
        load.times.at(50),
        load.times.at(99),
        load.times.at(50) - direct.at(50),
        load.per_second,
        load.cpu.backend,
        load.cpu.main,
        load.cpu.gateway
    );
}

async fn print_size(root: &Client, sync: &str) {
    let rows = "SELECT count(*) FILTER (WHERE status = 'success') || ' of ' || count(*) FROM aggregator_usage_logs";
    let rows = value(root, rows).await.unwrap();
    let size = value(
        root,
        "SELECT round(sum(pg_total_relation_size(relid)) / (SELECT count(*) FROM aggregator_usage_logs), 1)
         FROM pg_partition_tree('aggregator_usage_logs') WHERE isleaf",
    );
    let size = size.await.unwrap();
    println!(
        "ledger_sync {sync}: {rows} rows settled as success, {size} bytes per row with indexes, autovacuum each 5 s"
    );
}

async fn direct(client: &Direct) -> Times {
    let mut times = Vec::with_capacity(DIRECT);
    for _ in 0..DIRECT {
        let began = Instant::now();
        assert!(client.ask(false).await.text().await.unwrap().contains("hello"));
        times.push(began.elapsed());
    }
    Times::new(times)
}

/// What a user would write: a connection that is kept alive, and the usage in the same transaction. `false`:
/// PL/Python is not there.
async fn by_hand(root: &Client, upstream: &Standin) -> bool {
    let made = root
        .batch_execute(&format!(
            "CREATE EXTENSION plpython3u;
             CREATE TABLE usage_by_hand (
                 id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),
                 model text, prompt_tokens integer, completion_tokens integer, cost numeric);
             CREATE FUNCTION by_hand(model text, messages jsonb) RETURNS jsonb LANGUAGE plpython3u AS $$
                 import http.client, json
                 if 'connection' not in SD:
                     SD['connection'] = http.client.HTTPConnection('127.0.0.1', {port})
                     SD['plan'] = plpy.prepare('INSERT INTO usage_by_hand (model, prompt_tokens, completion_tokens, cost) VALUES ($1, $2, $3, ($2 * 2 + $3 * 10) / 1000000.0)', ['text', 'integer', 'integer'])
                 connection = SD['connection']
                 body = json.dumps({{'model': model, 'messages': json.loads(messages)}})
                 connection.request('POST', '/v1/chat/completions', body, {{'Content-Type': 'application/json', 'Authorization': 'Bearer sk-good-bench'}})
                 text = connection.getresponse().read()
                 usage = json.loads(text)['usage']
                 plpy.execute(SD['plan'], [model, usage['prompt_tokens'], usage['completion_tokens']])
                 return text.decode()
             $$",
            port = upstream.port()
        ))
        .await;
    if let Err(error) = &made {
        println!("no function by hand to compare with: {}", bed::shown(error));
    }
    made.is_ok()
}
