//! When the rows of chat_stream reach a client, next to the chunks of the same upstream read
//! directly.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod standin;
#[path = "../support/wire.rs"]
#[allow(dead_code)]
mod wire;

use bed::Cluster;
use common::{Direct, HELLO, Times, flushes, wakes};
use standin::{Manner, Standin, Told};
use std::time::{Duration, Instant};
use wire::Wire;

/// Streams that are asked for one after the other, directly and through the database in turn.
struct Streams {
    streams: usize,
    chunks: usize,
    pause: Duration,
}

/// Each lasts so long that nothing of the way of the other is left in any cache: what somebody waits for who asks now
/// and then.
const AFTER_SILENCE: Streams =
    Streams { streams: 30, chunks: 40, pause: Duration::from_millis(10) };
/// What it takes where others have gone the same way just before.
const AT_ONCE: Streams = Streams { streams: 500, chunks: 2, pause: Duration::from_millis(1) };

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for sync in ["on", "off"] {
        let settings = format!("aggregator.ledger_sync = {sync}");
        let cluster = Cluster::start(&format!("bench_stream_{sync}"), &settings);
        for streams in [AT_ONCE, AFTER_SILENCE] {
            streams.measure(&cluster, sync).await;
        }
    }
    let silence = AFTER_SILENCE.pause * AFTER_SILENCE.chunks as u32;
    let flush = flushes(20, silence);
    println!(
        "a flush alone, after a silence of {} ms, of which ledger_sync has one before upstream: {:.3} {:.3}",
        silence.as_millis(),
        flush.at(50),
        flush.at(99)
    );
    let wake = wakes(20, silence);
    println!(
        "a byte to a thread that waits and back, likewise: {:.3} {:.3}",
        wake.at(50),
        wake.at(99)
    );
    println!("times in milliseconds; aim: first text added50 at most 1.0");
}

impl Streams {
    async fn measure(&self, cluster: &Cluster, sync: &str) {
        let mut upstream = Standin::start(Manner::Drip(self.chunks, self.pause));
        let database = cluster.database().await;
        let _root = common::prepare(&database, &upstream.base_url()).await;
        let direct = Direct::to(&upstream.base_url());
        let mut client = Wire::connect(&database).await;

        let (mut directly, mut rows) = (Seen::default(), Seen::default());
        // The first streams start the worker and open connections.
        for i in 0..=self.streams {
            let (began, arrived) = read(&direct).await;
            directly.add(i > 0, began, &upstream.so_far(), &arrived);
            assert_eq!(arrived.len(), self.chunks);
            let (began, arrived) = select(&mut client).await;
            rows.add(i > 0, began, &upstream.so_far(), &arrived);
            assert_eq!(arrived.len(), self.chunks);
        }
        println!(
            "chat_stream, ledger_sync {sync}: {} streams of {} chunks, {} ms apart, in turn with as many asked for directly",
            self.streams,
            self.chunks,
            self.pause.as_millis()
        );
        println!(
            "{:<26} | {:>9} {:>9} | {:>9} {:>9} | {:>9} {:>9}",
            "", "direct50", "direct99", "rows50", "rows99", "added50", "added99"
        );
        for (what, direct, row) in [
            ("asking to first text", directly.first, rows.first),
            ("  of this, until upstream", directly.asked, rows.asked),
            ("sending to arrival, each", directly.each, rows.each),
            ("gap between two", directly.gaps, rows.gaps),
        ] {
            let (direct, row) = (Times::new(direct), Times::new(row));
            println!(
                "{what:<26} | {:>9.3} {:>9.3} | {:>9.3} {:>9.3} | {:>9.3} {:>9.3}",
                direct.at(50),
                direct.at(99),
                row.at(50),
                row.at(99),
                row.at(50) - direct.at(50),
                row.at(99) - direct.at(99),
            );
        }
    }
}

/// What was seen of some streams.
#[derive(Default)]
struct Seen {
    first: Vec<Duration>,
    asked: Vec<Duration>,
    each: Vec<Duration>,
    gaps: Vec<Duration>,
}

impl Seen {
    fn add(&mut self, counts: bool, began: Instant, told: &[Told], arrived: &[Instant]) {
        let (mut asked, mut sent) = (None, vec![]);
        for told in told {
            match told {
                Told::Arrived(at) => asked = Some(*at),
                Told::Sent(at) => sent.push(*at),
                Told::Gone(_) => panic!("nobody goes away"),
            }
        }
        assert_eq!(sent.len(), arrived.len());
        if counts {
            self.first.push(arrived[0] - began);
            self.asked.extend(asked.map(|at| at - began));
            self.each.extend(arrived.iter().zip(&sent).map(|(arrived, sent)| *arrived - *sent));
            self.gaps.extend(arrived.windows(2).map(|pair| pair[1] - pair[0]));
        }
    }
}

/// When the texts arrive that are asked for directly.
async fn read(direct: &Direct) -> (Instant, Vec<Instant>) {
    let began = Instant::now();
    let mut answer = direct.ask(true).await;
    let mut arrived = vec![];
    while let Some(chunk) = answer.chunk().await.expect("the stream goes on") {
        let now = Instant::now();
        // Two may have come together.
        let events = String::from_utf8_lossy(&chunk).matches("\"content\"").count();
        arrived.extend(std::iter::repeat_n(now, events));
    }
    (began, arrived)
}

/// When the rows arrive.
async fn select(client: &mut Wire) -> (Instant, Vec<Instant>) {
    let sql = format!("SELECT (t).delta FROM (SELECT chat_stream('m', '{HELLO}') AS t) s");
    let heard = client.run(&sql).await;
    assert!(heard.failure.is_none(), "{:?}", heard.failure);
    // The last row has no text.
    let texts = heard.rows.iter().filter(|(_, row)| row[0].is_some());
    (heard.began, texts.map(|(at, _)| *at).collect())
}
