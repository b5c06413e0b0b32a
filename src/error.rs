/// An invalid configuration of a [`RedisStore`](crate::RedisStore).
#[cfg(feature = "redis")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RedisConfigError(pub(crate) String);

/// Returns at most 80 characters of an invalid value for an error's text, with control characters
/// escaped.
pub(crate) fn shortened(value: &str) -> String {
    let mut short: String = value
        .chars()
        .take(80)
        .flat_map(char::escape_debug)
        .collect();
    if value.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
