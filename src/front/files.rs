//! Files that an administrator names: of keys and certificates.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Reads a file of at most `most` bytes, and one byte more of a longer one.
pub fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    take(&open(path)?, most)
}

/// Likewise one that nobody but its owner may read or write.
pub fn read_secret(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|error| error.kind().to_string())?.mode();
    match mode & 0o077 {
        0 => take(&file, most),
        _ => Err("others than its owner may read or write it (want mode 0600)".to_owned()),
    }
}

fn open(path: &Path) -> Result<File, String> {
    let said = |error: std::io::Error| error.kind().to_string();
    // What is no file, a pipe say, is not waited for.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(said)?;
    match file.metadata().map_err(said)?.is_file() {
        true => Ok(file),
        false => Err("it is not a file".to_owned()),
    }
}

fn take(file: &File, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    // Room for all of it at once: what outgrows its memory leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    let read = file.take(most as u64 + 1).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| error.kind().to_string())
}
