//! The address, and the connections that come in there.

use crate::core::front::failure::{Failure, Refused};
use crate::core::front::place::Place;
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use uuid::Uuid;

/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// Of a Unix socket: its owner's and its group's, who is the proxy's.
const SOCKET_MODE: u32 = 0o660;
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

pub enum Stream {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl Listener {
    pub fn at(place: &Place) -> io::Result<Self> {
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

    pub async fn accept(&self) -> io::Result<Stream> {
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
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Says that there are too many, if that goes at once. Where TLS is spoken it would not be understood.
    pub fn refuse(self, is_plain: bool) {
        let _ = match self {
            _ if !is_plain => return,
            Self::Tcp(stream, _) => stream.try_write(full().as_bytes()),
            Self::Unix(stream) => stream.try_write(full().as_bytes()),
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
