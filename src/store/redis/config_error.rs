/// An invalid configuration of a [`RedisStore`](crate::RedisStore).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RedisConfigError {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Url,
    Option,
    #[cfg(feature = "redis-tls")]
    Tls,
}

impl RedisConfigError {
    pub(super) fn url(text: impl Into<String>) -> Self {
        let (kind, text) = (Kind::Url, text.into());
        Self { kind, text }
    }

    pub(super) fn option(text: impl Into<String>) -> Self {
        let (kind, text) = (Kind::Option, text.into());
        Self { kind, text }
    }

    #[cfg(feature = "redis-tls")]
    pub(super) fn tls(text: impl Into<String>) -> Self {
        let (kind, text) = (Kind::Tls, text.into());
        Self { kind, text }
    }

    /// Returns whether a URL is invalid or missing.
    pub fn is_url(&self) -> bool {
        self.kind == Kind::Url
    }

    /// Returns whether an option of the builder is out of range.
    pub fn is_option(&self) -> bool {
        self.kind == Kind::Option
    }

    /// Returns whether a certificate or key is invalid, or TLS cannot be configured otherwise.
    pub fn is_tls(&self) -> bool {
        #[cfg(feature = "redis-tls")]
        return self.kind == Kind::Tls;
        #[cfg(not(feature = "redis-tls"))]
        false
    }
}
