//! The keyring file: the master keys of the server, shared by its databases.
//!
//! Sessions read it to seal a key that is being saved; the gateway reads it to open keys. It is
//! created with a random key, never overwritten, and only ever grows.

use crate::core::secret::{MasterKey, Ring};
use crate::error::Error;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

const HEADING: &str = "# Master keys of the PostgreSQL extension aggregator, oldest first.\n\
                       # Whoever has this file and the database has every provider key in it.\n";

/// Reads the ring. `None`: there is no such file.
pub fn load(path: &Path) -> Result<Option<Ring>, Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let mode = file.metadata().map_err(|e| failed(&e))?.mode();
    if mode & 0o007 != 0 {
        return Err(Error::Keyring {
            reason: "others may read or write it (want mode 0600)".into(),
        });
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|e| failed(&e))?;
    parse(&text).map(Some)
}

/// Reads the ring, or creates it with a first random key. Two that create at once agree.
pub fn load_or_create(path: &Path) -> Result<Ring, Error> {
    if let Some(ring) = load(path)? {
        return Ok(ring);
    }
    let _lock = lock(path)?;
    if let Some(ring) = load(path)? {
        return Ok(ring);
    }
    let ring = Ring::new(vec![random()?]);
    write(path, &ring)?;
    Ok(ring)
}

/// Adds a random key, which seals from now on, and says its id.
pub fn rotate(path: &Path) -> Result<String, Error> {
    let _lock = lock(path)?;
    let mut ring = load(path)?.unwrap_or_default();
    let key = random()?;
    let id = key.hex_id();
    ring.push(key);
    write(path, &ring)?;
    Ok(id)
}

fn random() -> Result<MasterKey, Error> {
    MasterKey::random().map_err(|error| Error::Keyring { reason: error.to_string() })
}

fn parse(text: &str) -> Result<Ring, Error> {
    let damaged = |line: usize| Error::Keyring { reason: format!("line {line} is damaged") };
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (id, key) = line.split_once(' ').ok_or_else(|| damaged(number + 1))?;
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(key).map_err(|_| damaged(number + 1))?);
        let key = MasterKey::from_bytes(&bytes).ok_or_else(|| damaged(number + 1))?;
        if key.hex_id() != id {
            return Err(damaged(number + 1));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(Error::Keyring { reason: "it holds no key".to_owned() });
    }
    Ok(Ring::new(keys))
}

/// Writes a new file beside the old one and puts it in its place, both on disk before it counts.
fn write(path: &Path, ring: &Ring) -> Result<(), Error> {
    let mut text = Zeroizing::new(String::from(HEADING));
    for key in ring.keys() {
        let mut encoded = BASE64_STANDARD.encode(key.bytes());
        text.push_str(&format!("{} ", key.hex_id()));
        text.push_str(&encoded);
        text.push('\n');
        encoded.zeroize();
    }
    let fresh = beside(path, "new");
    let _ = std::fs::remove_file(&fresh);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        File::open(directory(path))?.sync_all()
    })();
    result.map_err(|error| failed(&error))
}

/// The lock of those who write; held until the file is dropped.
fn lock(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(beside(path, "lock"))
        .map_err(|error| failed(&error))?;
    file.lock().map_err(|error| failed(&error))?;
    Ok(file)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(error: &std::io::Error) -> Error {
    Error::Keyring { reason: error.kind().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    /// A folder that is gone when dropped, for a keyring.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("aggregator-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn keyring(&self) -> PathBuf {
            self.0.join("keyring")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn is_created_once_private_and_grows() {
        let folder = Folder::new("grow");
        let path = folder.keyring();
        assert!(load(&path).unwrap().is_none());
        let first = load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = load_or_create(&path).unwrap();
        assert_eq!(first.keys()[0].hex_id(), again.keys()[0].hex_id());
        let id = rotate(&path).unwrap();
        let ring = load(&path).unwrap().unwrap();
        assert_eq!(ring.keys().len(), 2);
        assert_eq!(ring.keys()[1].hex_id(), id);
    }

    #[test]
    fn many_that_create_at_once_agree() {
        let folder = Folder::new("race");
        let path = folder.keyring();
        let ids: Vec<String> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || load_or_create(&path).unwrap().keys()[0].hex_id())
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_damaged_or_open_file_is_refused() {
        let folder = Folder::new("bad");
        let path = folder.keyring();
        let write = |text: &str, mode| {
            let _ = std::fs::remove_file(&path);
            let mut f =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
            f.write_all(text.as_bytes()).unwrap();
        };
        for text in ["", "# only a comment\n", "nonsense\n", "0011 AAAA\n"] {
            write(text, 0o600);
            assert_eq!(load(&path).unwrap_err().sqlstate(), "PT503", "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        load_or_create(&path).unwrap();
        for (mode, is_refused) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(&path).is_err(), is_refused, "{mode:o}");
        }
    }
}
