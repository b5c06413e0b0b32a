//! Reads the files of a configuration, and detects changes.

use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The maximum size of a file, in bytes, which is also the maximum of a Kubernetes ConfigMap.
/// Parsing needs up to 200 times as much memory.
const MAX_SIZE: u64 = 1024 * 1024;

/// The files of a configuration, each with a digest of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources(Vec<(PathBuf, u64)>);

impl Sources {
    pub(super) fn read(&mut self, path: &Path) -> io::Result<String> {
        let text = read(path);
        self.0.push((path.to_owned(), digest(&text)));
        text
    }

    /// Reads the same files again. A file that cannot be read has a digest as well.
    pub(crate) fn read_again(&self) -> Self {
        let mut read_again = Self::default();
        for (path, _) in &self.0 {
            let _ = read_again.read(path);
        }
        read_again
    }
}

fn read(path: &Path) -> io::Result<String> {
    // Only regular files: a pipe would be empty at the next poll, and a device may have no end. To
    // open a pipe must not block until it has a writer.
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_SIZE + 1);
    file.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        io::Error::other(format!("line {line} is not UTF-8: save the file as UTF-8"))
    })
}

/// Returns a digest of the text, or of the error.
fn digest(read: &io::Result<String>) -> u64 {
    let text = read.as_ref().map_err(io::Error::to_string);
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
