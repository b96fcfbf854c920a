//! The worker's socket, as somebody finds it who speaks to it by hand.

use crate::bed::{PATIENCE, eventually, rows, value};
use crate::fixtures::{chat_sql, ready};
use crate::upstream::{Answer, Gate, Upstream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[tokio::test]
async fn a_stranger_on_the_socket_gets_nothing() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| match seen.body.contains("held") {
        true => Answer::held(&held, Answer::hello()),
        false => Answer::hello(),
    })
    .await;
    let (database, root) = ready(&upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    // The worker stays, however long this takes.
    let caller = database.root().await;
    let call = tokio::spawn(async move { value(&caller, &chat_sql(r#"{"user": "held"}"#)).await });
    upstream.wait_for_chats(2).await;
    let pid = value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    let oid = value(&root, "SELECT oid FROM pg_database WHERE datname = current_database()").await;
    let directory = database.cluster.data().join("pg_stat_tmp");
    let prefix = format!("aggregator.{}.", oid.unwrap());
    let socket = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            // Clerks have one of their own, at which nobody is answered.
            name.starts_with(&prefix)
                && !name.contains(".clerks.")
                && path.metadata().unwrap().file_type().is_socket()
        })
        .expect("the socket is there");
    // Only the server's user: by its own mode, and by that of the data directory above it.
    for path in [&socket, &database.cluster.data()] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{path:?}");
    }

    let mut random = 7u64;
    let mut noise = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 56) as u8
            })
            .collect()
    };
    let mut messages = vec![
        vec![],
        vec![0; 4],
        vec![0xff; 4],
        vec![0xff; 64],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        [&100_000_000u32.to_le_bytes()[..], b"short"].concat(),
        [&100_000_000u32.to_be_bytes()[..], b"short"].concat(),
    ];
    for length in [1, 3, 5, 16, 1000, 100_000] {
        messages.push(noise(length));
        // A length that fits, and nonsense behind it.
        messages.push([&(length as u32).to_le_bytes()[..], &noise(length)].concat());
        messages.push([&(length as u32).to_be_bytes()[..], &noise(length)].concat());
    }
    for message in &messages {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let _ = stream.write_all(message).await;
        let _ = stream.shutdown().await;
        let mut answer = vec![];
        // It may answer with an error or close; it does not hang.
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
        let _ = read.await.expect("the gateway does not hang");
        assert!(!String::from_utf8_lossy(&answer).contains("sk-good"));
    }
    // The same worker goes on, nothing was sent, and nothing is left behind.
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap(), pid);
    gate.open();
    assert!(call.await.unwrap().is_some());
    assert_eq!(upstream.chats().len(), 3);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs").await, ["3"]);
    eventually(&root, "SELECT in_flight FROM aggregator_status()", "0").await;
}
