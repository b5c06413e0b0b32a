use std::borrow::Cow;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::address::{IPV6_PREFIX, counted, cut};
use super::keyed_hash::keyed_hash;
use crate::quota::{NameError, check_name};

/// The identity of a request's sender: a kind and a value, shown as `ip:203.0.113.7` or `user:42`.
///
/// The value may have any length and any characters. A value is replaced by `#` and the SHA-256 of
/// kind and value if it is longer than 64 bytes, starts with `#`, or has a space, a brace or anything
/// other than printable ASCII. So values are small, cannot collide with another identity's keys in a
/// store, and cannot contain a hash tag of Redis Cluster. Clones share the value.
///
/// The text form is parsed by [`FromStr`], as by [`Identity::new`]. The text of a hashed value is an
/// error: it does not hold the value.
///
/// ```
/// use tollgate::Identity;
///
/// let alice: Identity = "user:alice".parse()?;
/// assert_eq!(alice, Identity::user("alice"));
/// assert_eq!(alice.to_string(), "user:alice");
///
/// let key = Identity::secret("key", "s3cr3t")?;
/// assert!(key.to_string().parse::<Identity>().unwrap_err().is_digest());
/// assert!("alice".parse::<Identity>().unwrap_err().is_missing_kind());
/// # Ok::<(), tollgate::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// A keyed hash of kind and value, computed once because each check uses it several times.
    hash: [u64; 2],
    value: Value,
}

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Address(IpAddr),
    /// `kind:value`, and the length of the kind.
    Text(Arc<str>, u8),
}

/// The first character of a hashed value. A value that starts with it is always hashed.
const HASHED: char = '#';

impl Identity {
    /// Creates the identity of a client address. An IPv6 address that holds an IPv4 address
    /// (`::ffff:0:0/96`, `64:ff9b::/96`, 6to4's `2002::/16`) counts as that IPv4 address. All other
    /// addresses of one /64 are one identity.
    ///
    /// ```
    /// use tollgate::Identity;
    ///
    /// assert_eq!(Identity::ip("::ffff:203.0.113.7".parse()?).to_string(), "ip:203.0.113.7");
    /// assert_eq!(Identity::ip("2001:db8::1".parse()?), Identity::ip("2001:db8::2".parse()?));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn ip(address: IpAddr) -> Self {
        Self::exact_ip(cut(address, IPV6_PREFIX))
    }

    /// Creates the identity of an address that has been cut to its prefix already.
    pub(super) fn exact_ip(address: IpAddr) -> Self {
        Self::of(Value::Address(counted(address)))
    }

    /// Creates the identity of a user, from an id that the application has verified. A layer rejects
    /// an empty id as unidentified, so that requests without an id do not share one count.
    ///
    /// ```
    /// assert_eq!(tollgate::Identity::user("42").to_string(), "user:42");
    /// ```
    pub fn user(id: &str) -> Self {
        Self::text("user", id)
    }

    /// Creates an identity of any kind: an organisation, a route, the whole service.
    ///
    /// The kind is a label of metrics, so an application should have few. An address of kind `ip` is
    /// the same identity as that of [`Identity::ip`], except that no prefix is cut.
    ///
    /// # Errors
    ///
    /// If the kind is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`.
    pub fn new(kind: &str, value: &str) -> Result<Self, NameError> {
        check_name("kind", kind)?;
        match value.parse() {
            Ok(address) if kind == "ip" => Ok(Self::exact_ip(address)),
            _ => Ok(Self::text(kind, value)),
        }
    }

    /// Creates an identity whose value is always hashed, such as an API key.
    ///
    /// # Errors
    ///
    /// If the kind is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`.
    ///
    /// ```
    /// let key = tollgate::Identity::secret("key", "s3cr3t")?;
    /// assert!(key.to_string().starts_with("key:#"));
    /// assert!(!format!("{key:?}").contains("s3cr3t"));
    /// assert_eq!(key.value(), None);
    /// # Ok::<(), tollgate::NameError>(())
    /// ```
    pub fn secret(kind: &str, value: &str) -> Result<Self, NameError> {
        check_name("kind", kind)?;
        // A layer must recognize an empty value, so it is not hashed.
        Ok(match value {
            "" => Self::text(kind, value),
            _ => Self::hashed(kind, value),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Address(_) => false,
            Value::Text(text, kind) => text.len() == usize::from(*kind) + 1,
        }
    }

    /// Returns the kind: `ip`, `user` or another.
    pub fn kind(&self) -> &str {
        match &self.value {
            Value::Address(_) => "ip",
            Value::Text(text, kind) => &text[..usize::from(*kind)],
        }
    }

    /// Returns the value, or `None` if it is hashed: a [secret](Identity::secret), or a value that
    /// is too long or has a character that cannot be shown.
    ///
    /// ```
    /// use tollgate::Identity;
    ///
    /// assert_eq!(Identity::user("42").value().as_deref(), Some("42"));
    /// assert_eq!(Identity::ip("203.0.113.7".parse()?).value().as_deref(), Some("203.0.113.7"));
    /// assert_eq!(Identity::user("two words").value(), None);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn value(&self) -> Option<Cow<'_, str>> {
        match &self.value {
            Value::Address(address) => Some(address.to_string().into()),
            Value::Text(text, kind) => {
                let value = &text[usize::from(*kind) + 1..];
                (!value.starts_with(HASHED)).then_some(value.into())
            }
        }
    }

    fn of(value: Value) -> Self {
        // No two values hash the same bytes: an IPv4 address is 8 bytes with four zeros, an IPv6
        // address 17 bytes that end with 0x06, and a text is printable ASCII.
        let hash = match &value {
            Value::Address(IpAddr::V4(address)) => {
                keyed_hash(&u64::from(address.to_bits()).to_le_bytes())
            }
            Value::Address(IpAddr::V6(address)) => {
                let mut bytes = [6; 17];
                bytes[..16].copy_from_slice(&address.octets());
                keyed_hash(&bytes)
            }
            Value::Text(text, _) => keyed_hash(text.as_bytes()),
        };
        Self { hash, value }
    }

    /// Returns a hash whose key is secret to this process, so that no client can choose it.
    #[inline]
    pub(crate) fn keyed_hash(&self) -> u128 {
        u128::from(self.hash[0]) | u128::from(self.hash[1]) << 64
    }

    /// Appends the text form.
    #[cfg(feature = "redis")]
    pub(crate) fn write_to(&self, text: &mut String) {
        match &self.value {
            Value::Address(_) => write!(text, "{self}").expect("writing to a String never fails"),
            Value::Text(own, _) => text.push_str(own),
        }
    }

    fn text(kind: &str, value: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if value.len() <= 64 && !value.starts_with(HASHED) && value.bytes().all(plain) {
            Self::of(Value::Text(
                [kind, ":", value].concat().into(),
                kind.len() as u8,
            ))
        } else {
            Self::hashed(kind, value)
        }
    }

    fn hashed(kind: &str, value: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [kind, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let text = format!("{kind}:{HASHED}{}", hex(&hash.finalize()));
        Self::of(Value::Text(text.into(), kind.len() as u8))
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.hash.hash(hasher);
    }
}

impl FromStr for Identity {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (kind, value) = text.split_once(':').ok_or_else(NameError::missing_kind)?;
        if is_digest(value) {
            check_name("kind", kind)?;
            return Err(NameError::digest(kind));
        }
        Self::new(kind, value)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Address(address) => write!(f, "ip:{address}"),
            Value::Text(text, _) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// Returns whether a value has the form of a hashed one: `#` and 64 hexadecimal digits.
fn is_digest(value: &str) -> bool {
    let digits = value.strip_prefix(HASHED).unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String never fails");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_error(text: &str) -> NameError {
        text.parse::<Identity>().expect_err("the text is invalid")
    }

    #[test]
    fn text_form_of_a_shown_value_round_trips() {
        for text in [
            "ip:203.0.113.7",
            "ip:2001:db8::",
            "ip:unknown",
            "user:42",
            "user:a:b",
            "user:",
        ] {
            let identity: Identity = text.parse().expect(text);
            assert_eq!(identity.to_string(), text);
            let (_, value) = text.split_once(':').expect("the text has a kind");
            assert_eq!(identity.value().as_deref(), Some(value));
        }
        let mapped: Identity = "ip:::ffff:203.0.113.7".parse().expect("an address");
        assert_eq!(mapped.to_string(), "ip:203.0.113.7");
        let hashed: Identity = "user:two words".parse().expect("any value");
        assert_eq!(hashed, Identity::user("two words"));
    }

    #[test]
    fn text_form_of_a_hashed_value_is_an_error() {
        let secret = Identity::secret("key", "s3cr3t").expect("the kind is valid");
        for identity in [secret, Identity::user(&"y".repeat(65)), Identity::user("#")] {
            assert_eq!(identity.value(), None);
            let error = parse_error(&identity.to_string());
            assert!(error.is_digest(), "{error}");
        }
    }

    #[test]
    fn text_form_without_a_valid_kind_is_an_error() {
        let no_kind = parse_error("s3cr3t");
        assert!(no_kind.is_missing_kind());
        assert!(!no_kind.to_string().contains("s3cr3t"));
        assert!(parse_error(":42").is_invalid_name());
        assert!(parse_error("a b:42").is_invalid_name());
    }
}
