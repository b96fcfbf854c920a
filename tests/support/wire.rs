//! A client that says when each message of the server arrived: rows are seen as they are sent, and
//! the client can go away in the middle.

use crate::bed::Database;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A message of the server.
#[derive(Debug)]
pub enum Said {
    Row(Vec<Option<String>>),
    /// A line of a COPY.
    Line(String),
    /// SQLSTATE and message.
    Failed(String, String),
    Ready,
}

/// What a statement gave.
pub struct Heard {
    pub began: Instant,
    pub rows: Vec<(Instant, Vec<Option<String>>)>,
    pub failure: Option<(String, String)>,
    pub ended: Instant,
}

impl Heard {
    /// The first column of every row where it is not NULL.
    pub fn texts(&self) -> Vec<&str> {
        self.rows.iter().filter_map(|(_, row)| row[0].as_deref()).collect()
    }

    /// A column of the last row, as JSON.
    pub fn last(&self, column: usize) -> serde_json::Value {
        assert!(self.failure.is_none(), "{:?}", self.failure);
        let text = self.rows.last().expect("there is a row").1[column].as_deref();
        serde_json::from_str(text.expect("it is not NULL")).expect("it is JSON")
    }
}

pub struct Wire {
    stream: BufReader<UnixStream>,
    pub pid: u32,
}

impl Wire {
    /// Connects as the superuser.
    pub async fn connect(database: &Database<'_>) -> Self {
        let socket = database.cluster.dir.join(".s.PGSQL.5432");
        let stream = UnixStream::connect(socket).await.expect("the server listens");
        let mut wire = Self { stream: BufReader::new(stream), pid: 0 };
        let parameters = format!("user\0postgres\0database\0{}\0\0", database.name);
        let length = u32::try_from(parameters.len() + 8).unwrap();
        let start = [&length.to_be_bytes(), &196_608u32.to_be_bytes(), parameters.as_bytes()];
        wire.stream.write_all(&start.concat()).await.unwrap();
        loop {
            let (kind, body) = wire.message().await;
            match kind {
                b'K' => wire.pid = u32::from_be_bytes(body[..4].try_into().unwrap()),
                b'Z' => return wire,
                b'E' => panic!("{:?}", failure(&body)),
                _ => {}
            }
        }
    }

    /// Sends a statement.
    pub async fn ask(&mut self, sql: &str) {
        let length = u32::try_from(sql.len() + 5).unwrap();
        let query = [b"Q".as_slice(), &length.to_be_bytes(), sql.as_bytes(), b"\0"];
        self.stream.write_all(&query.concat()).await.unwrap();
    }

    /// The next message of interest.
    pub async fn next(&mut self) -> Said {
        loop {
            let (kind, body) = self.message().await;
            match kind {
                b'D' => return Said::Row(row(&body)),
                b'd' => return Said::Line(String::from_utf8(body).unwrap().trim_end().to_owned()),
                b'E' => {
                    let (code, message) = failure(&body);
                    return Said::Failed(code, message);
                }
                b'Z' => return Said::Ready,
                _ => {}
            }
        }
    }

    /// The first column of the next message, which is a row.
    pub async fn row(&mut self) -> Option<String> {
        match self.next().await {
            Said::Row(mut row) => row.swap_remove(0),
            other => panic!("not a row: {other:?}"),
        }
    }

    /// Runs a statement to its end.
    pub async fn run(&mut self, sql: &str) -> Heard {
        self.run_and(sql, |_| {}).await
    }

    /// Runs a statement to its end. What is to be done after each row is told how many rows there are by then.
    pub async fn run_and(&mut self, sql: &str, mut at_row: impl FnMut(usize)) -> Heard {
        let began = Instant::now();
        self.ask(sql).await;
        let (mut rows, mut failure) = (vec![], None);
        loop {
            match self.next().await {
                Said::Row(row) => {
                    rows.push((Instant::now(), row));
                    at_row(rows.len());
                }
                Said::Line(line) => {
                    rows.push((Instant::now(), vec![Some(line)]));
                    at_row(rows.len());
                }
                Said::Failed(code, message) => failure = Some((code, message)),
                Said::Ready => return Heard { began, rows, failure, ended: Instant::now() },
            }
        }
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let kind = self.stream.read_u8().await.expect("the server says something");
            let length = self.stream.read_u32().await.unwrap();
            let mut body = vec![0; length as usize - 4];
            self.stream.read_exact(&mut body).await.unwrap();
            (kind, body)
        };
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("a message within a minute")
    }
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = &body[2..];
    let mut columns = vec![];
    while !rest.is_empty() {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        columns.push(usize::try_from(length).ok().map(|length| {
            let (text, after) = rest.split_at(length);
            rest = after;
            String::from_utf8(text.to_vec()).unwrap()
        }));
    }
    columns
}

fn failure(body: &[u8]) -> (String, String) {
    let mut found = (String::new(), String::new());
    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'C' => found.0 = text,
            b'M' => found.1 = text,
            _ => {}
        }
    }
    found
}
