//! Opening provider keys. The keyring file is read when it is first needed and again when it has
//! changed.

use crate::core::secret::{Ring, SecretError};
use crate::error::Error;
use crate::keyring;
use crate::protocol::SealedKey;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

/// The ring as of the last reading.
#[derive(Default)]
pub struct Keys {
    cached: Mutex<Option<Cached>>,
}

struct Cached {
    path: PathBuf,
    /// Which file it was, and when it or its mode was changed. Each rotation makes a new file, perhaps
    /// within one tick of the clock.
    file: Option<[i64; 4]>,
    ring: Ring,
}

impl Keys {
    /// Opens a key for use in a header.
    pub fn open(
        &self,
        file: &Path,
        provider: &str,
        key: &SealedKey,
    ) -> Result<Zeroizing<String>, Error> {
        let plain = self
            .with_ring(file, |ring| ring.open(&key.envelope, &key.binding))?
            .map_err(|error| Error::from_secret(error, provider))?;
        match String::from_utf8(plain.to_vec()) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(Error::from_secret(SecretError::Malformed, provider))
            }
        }
    }

    /// Opens envelopes and seals them again with the master key of this id.
    pub fn reseal(
        &self,
        file: &Path,
        master_key: &str,
        keys: &[SealedKey],
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.with_ring(file, |ring| {
            keys.iter()
                .map(|key| {
                    let plain = ring.open(&key.envelope, &key.binding)?;
                    ring.seal_with(master_key, &plain, &key.binding)
                })
                .collect::<Result<_, _>>()
        })?
        .map_err(|error| Error::from_secret(error, "(any)"))
    }

    pub fn with_ring<T>(&self, file: &Path, work: impl FnOnce(&Ring) -> T) -> Result<T, Error> {
        let mut cached = self.cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let about = std::fs::metadata(file).ok();
        let now = about
            .map(|meta| [meta.dev() as i64, meta.ino() as i64, meta.ctime(), meta.ctime_nsec()]);
        let is_fresh =
            cached.as_ref().is_some_and(|c| c.path == file && c.file == now && now.is_some());
        if !is_fresh {
            let ring = keyring::load(file)?.unwrap_or_default();
            *cached = Some(Cached { path: file.to_owned(), file: now, ring });
        }
        Ok(work(&cached.as_ref().expect("it was just filled").ring))
    }
}
