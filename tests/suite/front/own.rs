//! A server of one test's own, which it may set, stop and start.

use super::{Request, Response, SECRET, free_port, send, write_secret};
use crate::bed::{Cluster, Database, PATIENCE, eventually, shown};
use crate::fixtures::{add_provider, user};
use crate::upstream::Upstream;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_postgres::Client;

/// A server whose database `name` is reached over HTTP.
pub struct Own {
    pub cluster: Cluster,
    pub name: String,
    pub port: u16,
    pub root: Client,
}

impl Own {
    /// With these lines in its configuration.
    pub async fn start(name: &str, configuration: &str) -> Self {
        let port = free_port().await;
        let cluster = Cluster::make(
            &format!("front_{name}"),
            &format!(
                "fsync = off\naggregator.jwt_secret_file = 'jwt_secret'\n\
                 aggregator.http_listen = 'app=127.0.0.1:{port}'\n{configuration}"
            ),
        );
        write_secret(&cluster.data().join("jwt_secret"), SECRET);
        cluster.up();
        cluster.supabase_roles().await;
        let client = cluster.connect("postgres", "postgres").await;
        client.batch_execute("CREATE DATABASE app").await.unwrap();
        let root = cluster.connect("postgres", "app").await;
        root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
        root.batch_execute("SELECT aggregator_start()").await.unwrap();
        let own = Self { cluster, name: "app".to_owned(), port, root };
        own.is_up().await;
        own
    }

    /// The same, with the provider `standin`, for which u-1 has a key.
    pub async fn ready(name: &str, configuration: &str, upstream: &Upstream) -> Self {
        let own = Self::start(name, configuration).await;
        add_provider(&own.root, upstream).await;
        user(&own.database(), "u-1").await;
        own
    }

    pub fn database(&self) -> Database<'_> {
        Database { cluster: &self.cluster, name: self.name.clone() }
    }

    /// Changes the configuration, as an administrator does.
    pub fn set(&self, lines: &str) {
        self.cluster.configure(lines);
        self.cluster.reload();
    }

    /// Waits until the worker says this of where it listens, and of what is wrong.
    pub async fn says(&self, expected: &str) {
        let told = "SELECT concat_ws(' ', coalesce(http_address, '-'), http_error)
            FROM aggregator_status()";
        eventually(&self.root, told, expected).await;
    }

    /// Waits until the log of the server has this.
    pub async fn logs(&self, expected: &str) {
        until_logged(&self.cluster, expected).await;
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens")
    }

    pub async fn send(&self, request: &Request) -> Response {
        send(self.connect().await, &request.bytes(self.port)).await
    }

    pub async fn is_up(&self) {
        until_up(self.port).await;
    }
}

/// Waits until the log of a server has this.
pub async fn until_logged(cluster: &Cluster, expected: &str) {
    let began = Instant::now();
    while !cluster.log().contains(expected) {
        assert!(began.elapsed() < PATIENCE, "'{expected}' is not in {}", cluster.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks until the answer has this status, and gives it back.
pub async fn until_status(port: u16, request: &Request, status: u16) -> Response {
    let began = Instant::now();
    loop {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        let response = send(stream, &request.bytes(port)).await;
        if response.status == status {
            return response;
        }
        assert!(began.elapsed() < PATIENCE, "not {status}: {response:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Drops a database with all that is connected to it. The server waits 5 seconds for those whom it ends, and on a busy
/// machine they take longer.
pub async fn drop_by_force(client: &Client, name: &str) {
    let began = Instant::now();
    while let Err(error) = client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await
    {
        let is_in_use = error.code().is_some_and(|code| code.code() == "55006");
        assert!(is_in_use && began.elapsed() < PATIENCE, "{}", shown(&error));
    }
}

/// Waits until the address answers, and asks nobody else.
pub async fn until_up(port: u16) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await
            && send(stream, &Request::new("GET", "/health").bytes(port)).await.status == 200
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("port {port} does not answer");
}

/// Waits until nobody answers at the address.
pub async fn until_down(port: u16) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("port {port} still answers");
}
