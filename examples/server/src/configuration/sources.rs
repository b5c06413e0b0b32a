use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The greatest size of a file, in bytes. A ConfigMap of Kubernetes has the same limit. Parsing needs
/// up to 200 times as much memory.
const MAX_SIZE: u64 = 1024 * 1024;

/// The files of a configuration, each with a digest of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources(Vec<(PathBuf, u64)>);

impl Sources {
    pub(super) fn read(&mut self, path: &Path) -> io::Result<String> {
        let text = read(path);
        self.0.push((path.to_owned(), digest(text.as_deref().ok())));
        text
    }

    /// Reads the same files again. A file that cannot be read has a digest too.
    pub(crate) fn again(&self) -> Self {
        let mut again = Self::default();
        for (path, _) in &self.0 {
            let _ = again.read(path);
        }
        again
    }
}

fn read(path: &Path) -> io::Result<String> {
    // A pipe would be empty at the next look, and a device may have no end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    let mut file = File::open(path)?.take(MAX_SIZE + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn digest(text: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(text.is_some().into());
    hasher.write(text.unwrap_or_default().as_bytes());
    hasher.finish()
}
