use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// The files that a configuration stands in, and what they held, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources(Vec<(PathBuf, u64)>);

impl Sources {
    pub(super) fn read(&mut self, path: &Path) -> io::Result<String> {
        let text = fs::read_to_string(path);
        self.0.push((path.to_owned(), digest(text.as_deref().ok())));
        text
    }

    /// The same files, as they are now.
    pub(crate) fn again(&self) -> Self {
        let mut again = Self::default();
        for (path, _) in &self.0 {
            // One that cannot be read is noted as such.
            let _ = again.read(path);
        }
        again
    }
}

fn digest(text: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(text.is_some().into());
    hasher.write(text.unwrap_or_default().as_bytes());
    hasher.finish()
}
