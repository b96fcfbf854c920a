//! Listening: at the address that is set, or trying to, for as long as it is set.

use crate::core::front::failure::{Failure, Refused};
use crate::core::front::place::Place;
use crate::front::Front;
use crate::front::connection::{self, Peer};
use crate::gateway::ledger::Task;
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

/// Between tries to have the address: the first pause, doubled each time, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After accepting has failed: out of descriptors, say.
const BREATH: Duration = Duration::from_millis(50);
/// Connections at one time.
const MOST_CONNECTIONS: usize = 4096;
/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// Of a Unix socket: its owner's and its group's, who is the proxy's.
const SOCKET_MODE: u32 = 0o660;

/// Serves where the settings say, also after they have changed.
pub async fn run(front: Arc<Front>) {
    let shared = front.shared.clone();
    let mut reloads = shared.reloads.subscribe();
    let mut connections = JoinSet::new();
    loop {
        reloads.mark_unchanged();
        read_keys(&front);
        let http = shared.settings().http.clone();
        let problem = match http.place {
            None => {
                shared.listening.is_at(None);
                None
            }
            Some(Err(problem)) => Some(problem),
            Some(Ok(place)) if !place.is_local() && !http.allow_remote => {
                let problem =
                    "other machines can reach it, which needs aggregator.http_allow_remote";
                Some(format!("{place}: {problem}"))
            }
            Some(Ok(place)) => {
                if !place.is_local() {
                    log(
                        &front,
                        format!("HTTP at {place} is not encrypted: put a proxy with TLS before it"),
                    );
                }
                serve_at(&front, &place, &mut connections).await;
                continue;
            }
        };
        if let Some(problem) = problem {
            fails(&front, &problem);
        }
        if reloads.changed().await.is_err() {
            return;
        }
    }
}

/// Serves at one place until another is wanted.
async fn serve_at(front: &Arc<Front>, place: &Place, connections: &mut JoinSet<()>) {
    let mut reloads = front.shared.reloads.subscribe();
    let is_wanted = || front.shared.settings().http.place.as_ref() == Some(&Ok(place.clone()));
    let mut pause = FIRST_PAUSE;
    let listener = loop {
        match Listener::at(place) {
            Ok(listener) => break listener,
            Err(error) => fails(front, &format!("{place}: {error}")),
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            _ = reloads.changed() => {
                if !is_wanted() {
                    return;
                }
            }
        }
    };
    front.shared.listening.is_at(Some(place));
    log(front, format!("HTTP requests are taken at {place}"));
    // Connections end when they have answered what they are at.
    let (closing, _) = watch::channel(false);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    // Proxies ask for many, whose requests are counted.
                    let stranger = stream.address().filter(|_| !front.trusts(stream.address()));
                    let counted = front.addresses.count(stranger);
                    match counted {
                        Some(counted) if connections.len() < MOST_CONNECTIONS => {
                            let (front, closing) = (front.clone(), closing.subscribe());
                            connections.spawn(async move {
                                let _counted = counted;
                                stream.serve(front, closing).await;
                            });
                        }
                        _ => stream.refuse(),
                    }
                }
                Err(_) => sleep(BREATH).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            reloaded = reloads.changed() => {
                if reloaded.is_err() || !is_wanted() {
                    break;
                }
                read_keys(front);
            }
        }
    }
    closing.send_replace(true);
}

/// Reads the keys of access tokens again. Whoever has others knows nobody that the last ones did.
fn read_keys(front: &Front) {
    for problem in front.callers.reload(&front.shared.settings().http) {
        log(front, problem);
    }
    if let Err(problem) = &front.shared.settings().http.proxies {
        log(front, format!("no proxy is trusted: aggregator.http_trusted_proxies: {problem}"));
    }
}

fn log(front: &Front, line: String) {
    front.shared.ledger.send(Task::Log(line));
}

/// Notes why there is no listening, and says so once.
fn fails(front: &Front, problem: &str) {
    if front.shared.listening.fails(problem) {
        log(front, format!("no HTTP requests are taken: {problem}"));
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl Listener {
    fn at(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => {
                let socket = match address.is_ipv4() {
                    true => TcpSocket::new_v4()?,
                    false => TcpSocket::new_v6()?,
                };
                // What is left of connections of the last worker must not keep it away for a minute.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                socket.listen(BACKLOG).map(Self::Tcp)
            }
            Place::Unix(path) => {
                remove_dead(path)?;
                let listener = UnixListener::bind(path)?;
                let listener = Self::Unix(listener, path.clone());
                std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
                Ok(listener)
            }
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream, peer.ip()))
            }
            Self::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| Stream::Unix(stream))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket at which nobody listens any more: what a killed server leaves behind. Nothing else is
/// removed.
fn remove_dead(path: &Path) -> io::Result<()> {
    let is_socket = match std::fs::symlink_metadata(path) {
        Ok(about) => about.file_type().is_socket(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_socket {
        return Err(ErrorKind::AlreadyExists.into());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(ErrorKind::AddrInUse.into()),
    }
}

impl Stream {
    /// The other side. `None`: a Unix socket.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    async fn serve(self, front: Arc<Front>, closing: watch::Receiver<bool>) {
        match self {
            Self::Tcp(stream, address) => {
                let Ok(reached) = stream.local_addr() else { return };
                let peer = Peer { reached: Some(reached), from: Some(address), address: None };
                connection::serve(front, stream, peer, closing).await;
            }
            Self::Unix(stream) => {
                let peer = Peer { reached: None, from: None, address: None };
                connection::serve(front, stream, peer, closing).await;
            }
        }
    }

    /// Says that there are too many, if that goes at once.
    fn refuse(self) {
        let full = full();
        let _ = match self {
            Self::Tcp(stream, _) => stream.try_write(full.as_bytes()),
            Self::Unix(stream) => stream.try_write(full.as_bytes()),
        };
    }
}

/// What is said to a connection that is one too many.
fn full() -> String {
    let failure = Failure::refused(&Refused::Busy);
    let (id, body) = (Uuid::now_v7(), failure.openai());
    let mut text = format!(
        "HTTP/1.1 {} Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\nx-request-id: {id}\r\nrequest-id: {id}\r\n",
        failure.status,
        body.len()
    );
    for (name, value) in failure.headers() {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n" + &body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_when_it_is_full_is_whole() {
        let text = full();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: 1\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nx-request-id: "), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_removed() {
        let folder = std::env::temp_dir().join(format!("aggregator-listen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, file) = (folder.join("s"), folder.join("f"));
        std::fs::write(&file, "x").unwrap();
        assert!(Listener::at(&Place::Unix(file.clone())).is_err());
        assert!(file.exists());
        let dead = UnixListener::bind(&path).unwrap();
        assert!(Listener::at(&Place::Unix(path.clone())).is_err(), "somebody listens");
        drop(dead);
        let listener = Listener::at(&Place::Unix(path.clone())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        drop(listener);
        assert!(!path.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
