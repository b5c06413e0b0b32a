use std::sync::{Mutex, PoisonError};

use tollgate::Limits;

use super::redis_book::RedisBook;
use super::runtime::{Entry, Runtime};
use super::subject::Subject;

/// Where limits that are set at run time are written.
#[derive(Debug)]
pub(crate) enum Book {
    /// In this process, and gone with it.
    Memory(Mutex<Runtime>),
    /// In Redis, for every server that asks the same one.
    Redis(RedisBook),
}

/// What must hold for a write to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// There is no limit yet.
    Absent,
    /// There is one.
    Present,
    /// The limit was last set by this write.
    Version(String),
}

/// Why a write was not done.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The condition does not hold: the limit's version is another.
    Conflict,
    /// There is nothing to delete.
    Missing,
    /// The book cannot be reached. It may have been done.
    Unavailable(redis::RedisError),
}

impl Condition {
    fn check(&self, version: Option<&str>) -> Result<(), WriteError> {
        let holds = match self {
            Self::None => true,
            Self::Absent => version.is_none(),
            Self::Present => version.is_some(),
            Self::Version(expected) => version == Some(expected),
        };
        if holds {
            Ok(())
        } else {
            Err(WriteError::Conflict)
        }
    }
}

impl Book {
    pub(crate) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub(crate) fn in_redis(url: &str, prefix: &str) -> redis::RedisResult<Self> {
        Ok(Self::Redis(RedisBook::new(url, prefix)?))
    }

    /// All that is written, unless nothing was since that revision.
    pub(super) async fn read(
        &self,
        known: Option<&str>,
    ) -> Result<Option<Runtime>, redis::RedisError> {
        match self {
            Self::Memory(runtime) => {
                let runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner);
                let is_known = runtime.revision.as_deref() == known;
                Ok((!is_known).then(|| runtime.clone()))
            }
            Self::Redis(book) => book.read(known).await,
        }
    }

    /// Sets a limit, or deletes it, and returns the version that it has now.
    pub(super) async fn write(
        &self,
        subject: &Subject,
        limits: Option<&Limits>,
        condition: &Condition,
    ) -> Result<String, WriteError> {
        let runtime = match self {
            Self::Memory(runtime) => runtime,
            Self::Redis(book) => return book.write(subject, limits, condition).await,
        };
        let mut runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let version = runtime.get(subject).map(|entry| entry.version.as_str());
        condition.check(version)?;
        if limits.is_none() && version.is_none() {
            return Err(WriteError::Missing);
        }
        let last = runtime
            .revision
            .as_deref()
            .and_then(|last| last.parse().ok());
        let version = (last.unwrap_or(0u64) + 1).to_string();
        match limits {
            Some(limits) => runtime.insert(
                subject.clone(),
                Entry {
                    limits: limits.clone(),
                    version: version.clone(),
                },
            ),
            None => runtime.remove(subject),
        }
        runtime.revision = Some(version.clone());
        Ok(version)
    }
}
