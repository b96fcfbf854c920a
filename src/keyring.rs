//! The keyring file: the master keys of the server, shared by its databases.
//!
//! Sessions read it to seal a key that is being saved; the gateway reads it to open keys. It is
//! created with a random key, never overwritten, and grows by one key with each rotation. The key of a
//! rotation that is not committed yet is in the file, marked as pending: it opens, and seals nothing but
//! what the rotation seals. A rollback takes it away again; what a killed server leaves behind stays
//! pending for ever.

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
/// Begins the line of a key whose rotation is not committed: a comment to versions before 0.3.0.
const PENDING: &str = "# pending: ";
/// No keyring is larger: ten thousand rotations.
const LARGEST_FILE: u64 = 1 << 20;

/// Reads the ring. `None`: there is no such file.
pub fn load(path: &Path) -> Result<Option<Ring>, Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let about = file.metadata().map_err(|e| failed(&e))?;
    if !about.is_file() || about.len() > LARGEST_FILE {
        return Err(Error::Keyring { reason: "it is not a keyring".into() });
    }
    if about.mode() & 0o077 != 0 {
        return Err(Error::Keyring {
            reason: "others than its owner may read or write it (want mode 0600)".into(),
        });
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|e| failed(&e))?;
    parse(&text).map(Some)
}

/// Reads the ring, or creates it with a first random key. Two that create at once agree.
pub fn load_or_create(path: &Path) -> Result<Ring, Error> {
    let seals = |ring: &Ring| !ring.keys().is_empty();
    if let Some(ring) = load(path)?.filter(seals) {
        return Ok(ring);
    }
    let _lock = lock(path)?;
    let pending = match load(path)? {
        Some(ring) if seals(&ring) => return Ok(ring),
        Some(ring) => ring.pending().to_vec(),
        None => Vec::new(),
    };
    let ring = Ring::with_pending(vec![random()?], pending);
    write(path, &ring)?;
    Ok(ring)
}

/// Adds a random key for a rotation that is not committed yet, and says its id.
pub fn begin_rotation(path: &Path) -> Result<String, Error> {
    let _lock = lock(path)?;
    let mut ring = load(path)?.unwrap_or_default();
    let key = random()?;
    let id = key.hex_id();
    ring.push_pending(key);
    write(path, &ring)?;
    Ok(id)
}

/// The rotation is being committed: its key seals from now on.
pub fn commit_rotation(path: &Path, key_id: &str) -> Result<(), Error> {
    let _lock = lock(path)?;
    let mut ring = load(path)?.unwrap_or_default();
    if !ring.promote(key_id) {
        return Err(Error::MissingMasterKey { key_id: key_id.to_owned() });
    }
    write(path, &ring)
}

/// The rotation was rolled back: nothing that counts was sealed with its key.
pub fn undo_rotation(path: &Path, key_id: &str) -> Result<(), Error> {
    let _lock = lock(path)?;
    let Some(mut ring) = load(path)? else { return Ok(()) };
    ring.drop_pending(key_id);
    if ring.keys().is_empty() && ring.pending().is_empty() {
        // This rotation had made the file.
        return std::fs::remove_file(path).map_err(|error| failed(&error));
    }
    write(path, &ring)
}

fn random() -> Result<MasterKey, Error> {
    MasterKey::random().map_err(|error| Error::Keyring { reason: error.to_string() })
}

fn parse(text: &str) -> Result<Ring, Error> {
    let damaged = |line: usize| Error::Keyring { reason: format!("line {line} is damaged") };
    let (mut keys, mut pending) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let (list, line) = match line.strip_prefix(PENDING) {
            Some(line) => (&mut pending, line),
            None if line.is_empty() || line.starts_with('#') => continue,
            None => (&mut keys, line),
        };
        let (id, key) = line.split_once(' ').ok_or_else(|| damaged(number + 1))?;
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(key).map_err(|_| damaged(number + 1))?);
        let key = MasterKey::from_bytes(&bytes).ok_or_else(|| damaged(number + 1))?;
        if key.hex_id() != id {
            return Err(damaged(number + 1));
        }
        list.push(key);
    }
    if keys.is_empty() && pending.is_empty() {
        return Err(Error::Keyring { reason: "it holds no key".to_owned() });
    }
    Ok(Ring::with_pending(keys, pending))
}

/// Writes a new file beside the old one and puts it in its place, both on disk before it counts.
fn write(path: &Path, ring: &Ring) -> Result<(), Error> {
    let mut text = Zeroizing::new(String::from(HEADING));
    let keys = ring.keys().iter().map(|key| ("", key));
    for (mark, key) in keys.chain(ring.pending().iter().map(|key| (PENDING, key))) {
        let mut encoded = BASE64_STANDARD.encode(key.bytes());
        text.push_str(&format!("{mark}{} ", key.hex_id()));
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
        let id = begin_rotation(&path).unwrap();
        let other = begin_rotation(&path).unwrap();
        let ring = load(&path).unwrap().unwrap();
        assert_eq!((ring.keys().len(), ring.pending().len()), (1, 2));
        commit_rotation(&path, &id).unwrap();
        undo_rotation(&path, &other).unwrap();
        let ring = load(&path).unwrap().unwrap();
        assert_eq!((ring.keys().len(), ring.pending().len()), (2, 0));
        assert_eq!(ring.keys()[1].hex_id(), id);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(commit_rotation(&path, &other).is_err());
    }

    #[test]
    fn a_first_rotation_that_is_undone_leaves_no_file() {
        let folder = Folder::new("undone");
        let path = folder.keyring();
        let id = begin_rotation(&path).unwrap();
        undo_rotation(&path, &id).unwrap();
        assert!(load(&path).unwrap().is_none());
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
        for (mode, is_refused) in [
            (0o600, false),
            (0o400, false),
            (0o640, true),
            (0o660, true),
            (0o610, true),
            (0o644, true),
            (0o602, true),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(&path).is_err(), is_refused, "{mode:o}");
        }
    }
}
