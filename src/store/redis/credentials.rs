//! Credentials that a provider returns for each new connection.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use redis::RedisConnectionInfo;

use crate::store::{StoreError, StoreErrorKind};

/// A user and password for Redis, returned by the provider of
/// [`RedisStoreBuilder::credentials`](crate::RedisStoreBuilder::credentials).
#[derive(Clone)]
pub struct RedisCredentials {
    username: Option<String>,
    password: String,
}

impl RedisCredentials {
    /// Credentials of a named user.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: Some(username.into()),
            password: password.into(),
        }
    }

    /// Credentials of the default user.
    pub fn password(password: impl Into<String>) -> Self {
        Self {
            username: None,
            password: password.into(),
        }
    }

    pub(super) fn apply_to(&self, login: RedisConnectionInfo) -> RedisConnectionInfo {
        let login = login.set_password(&self.password);
        match &self.username {
            Some(username) => login.set_username(username),
            None => login,
        }
    }
}

/// Omits the password.
impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCredentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

type BoxError = Box<dyn Error + Send + Sync>;
type ProviderFuture = Pin<Box<dyn Future<Output = Result<RedisCredentials, BoxError>> + Send>>;

/// Provides the credentials for a new connection.
#[derive(Clone)]
pub(super) struct CredentialsProvider(Arc<dyn Fn() -> ProviderFuture + Send + Sync>);

impl CredentialsProvider {
    pub(super) fn new<P, F, E>(provider: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Arc::new(move || {
            let credentials = provider();
            Box::pin(async { credentials.await.map_err(Into::into) })
        }))
    }

    pub(super) async fn get(&self) -> Result<RedisCredentials, StoreError> {
        (self.0)().await.map_err(|error| {
            let error = format!("the credentials provider failed: {error}");
            StoreError::new(StoreErrorKind::Unavailable, error)
        })
    }
}
