use std::borrow::Cow;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::iter;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::address::{IPV6_PREFIX, counted, cut};
use super::keyed_hash::keyed_hash;
use super::level_error::LevelError;
use crate::quota::{Kind, NameError, check_name};

/// The identity of a request's sender: a kind and a value, shown as `ip:203.0.113.7` or `user:42`.
///
/// The value may have any length and any characters. A value is replaced by `#` and the SHA-256 of
/// kind and value if it is longer than 64 bytes, starts with `#`, or has a space, a brace or anything
/// other than printable ASCII. So values are small, cannot collide with another identity's keys in a
/// store, and cannot contain a hash tag of Redis Cluster. Clones share the value.
///
/// The text form of an identity without outer levels is parsed by [`FromStr`], as by
/// [`Identity::new`]. The text of a hashed value is an error: it does not hold the value.
///
/// ```
/// use tollgate::{Identity, Kind};
///
/// let alice: Identity = "user:alice".parse()?;
/// assert_eq!(alice, Identity::user("alice"));
/// assert_eq!(alice.to_string(), "user:alice");
///
/// let key = Identity::secret(&Kind::new("key"), "s3cr3t");
/// assert!(key.to_string().parse::<Identity>().unwrap_err().is_digest());
/// assert!("alice".parse::<Identity>().unwrap_err().is_missing_kind());
/// # Ok::<(), tollgate::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// A keyed hash of kind and value and of the outer identity, computed once because each check uses
    /// it several times.
    hash: [u64; 2],
    value: Value,
    outer: Option<Arc<Identity>>,
}

/// The largest number of levels of an identity.
const MAX_LEVELS: usize = 4;

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
        Self::of(Value::Address(counted(address)), None)
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
    /// An address of kind `ip` is the same identity as that of [`Identity::ip`], except that no prefix
    /// is cut.
    pub fn new(kind: &Kind, value: &str) -> Self {
        match value.parse() {
            Ok(address) if *kind == Kind::IP => Self::exact_ip(address),
            _ => Self::text(kind.as_str(), value),
        }
    }

    /// Creates an identity whose value is always hashed, such as an API key.
    ///
    /// ```
    /// use tollgate::{Identity, Kind};
    ///
    /// let key = Identity::secret(&Kind::new("key"), "s3cr3t");
    /// assert!(key.to_string().starts_with("key:#"));
    /// assert!(!format!("{key:?}").contains("s3cr3t"));
    /// assert_eq!(key.value(), None);
    /// ```
    pub fn secret(kind: &Kind, value: &str) -> Self {
        // A layer must recognize an empty value, so it is not hashed.
        match value {
            "" => Self::text(kind.as_str(), value),
            _ => Self::hashed(kind.as_str(), value),
        }
    }

    /// Puts the identity inside another one, such as a user in an organisation. A
    /// [policy](crate::Policy::per) counts by any of an identity's levels.
    ///
    /// Equal ids in different organisations are different identities. An identity that has outer
    /// levels already gets `outer` as its outermost one. A value with a `:` is hashed, except in the
    /// outermost level.
    ///
    /// # Errors
    ///
    /// If there would be more than four levels, or two of the same kind.
    ///
    /// ```
    /// use tollgate::{Identity, Kind};
    ///
    /// const ORG: Kind = Kind::new("org");
    ///
    /// let acme = Identity::new(&ORG, "acme");
    /// let alice = Identity::user("alice").within(acme.clone())?;
    /// assert_eq!(alice.to_string(), "user:alice in org:acme");
    /// assert_eq!(alice.level(&ORG), Some(&acme));
    /// assert_ne!(alice, Identity::user("alice"));
    /// # Ok::<(), tollgate::LevelError>(())
    /// ```
    pub fn within(self, outer: Self) -> Result<Self, LevelError> {
        let levels = self.levels().count() + outer.levels().count();
        if levels > MAX_LEVELS {
            return Err(LevelError::too_many(levels));
        }
        for level in self.levels() {
            if outer.levels().any(|outer| outer.kind() == level.kind()) {
                return Err(LevelError::duplicate(level.kind()));
            }
        }
        Ok(self.nested_in(outer))
    }

    fn nested_in(self, outer: Self) -> Self {
        let outer = match self.outer {
            Some(own) => Arc::unwrap_or_clone(own).nested_in(outer),
            None => outer,
        };
        let has_colon = |text: &str, kind: u8| text[usize::from(kind) + 1..].contains(':');
        let value = match self.value {
            // Else two different lists of levels could have one key in a store.
            Value::Text(text, kind) if has_colon(&text, kind) => {
                let (kind, value) = text.split_at(kind.into());
                Self::hashed_value(kind, &value[1..])
            }
            Value::Address(IpAddr::V6(address)) => {
                Self::hashed_value(Kind::IP.as_str(), &address.to_string())
            }
            value => value,
        };
        Self::of(value, Some(Arc::new(outer)))
    }

    /// Returns the level of this kind: the identity itself, or an outer one.
    pub fn level(&self, kind: &Kind) -> Option<&Self> {
        self.levels().find(|level| level.kind() == kind.as_str())
    }

    /// Returns the identity and its outer identities, from the inside out.
    pub(super) fn levels(&self) -> impl Iterator<Item = &Self> {
        iter::successors(Some(self), |level| level.outer.as_deref())
    }

    /// Returns the outermost level.
    #[cfg(feature = "redis")]
    pub(crate) fn root(&self) -> &Self {
        self.outer.as_deref().map_or(self, Self::root)
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

    fn of(value: Value, outer: Option<Arc<Self>>) -> Self {
        // No two identities hash the same bytes: an IPv4 address is 8 bytes with four zeros, an IPv6
        // address 17 bytes that end with 0x06, and a text is printable ASCII. A nested identity is
        // a zero, 16 bytes of its outer identity, and a text.
        let hash = match (&outer, &value) {
            (Some(outer), value) => {
                let mut bytes = vec![0];
                bytes.extend(outer.hash.iter().flat_map(|word| word.to_le_bytes()));
                bytes.extend(value.to_string().bytes());
                keyed_hash(&bytes)
            }
            (None, Value::Address(IpAddr::V4(address))) => {
                keyed_hash(&u64::from(address.to_bits()).to_le_bytes())
            }
            (None, Value::Address(IpAddr::V6(address))) => {
                let mut bytes = [6; 17];
                bytes[..16].copy_from_slice(&address.octets());
                keyed_hash(&bytes)
            }
            (None, Value::Text(text, _)) => keyed_hash(text.as_bytes()),
        };
        Self { hash, value, outer }
    }

    /// Returns a hash whose key is secret to this process, so that no client can choose it.
    #[inline]
    pub(crate) fn keyed_hash(&self) -> u128 {
        u128::from(self.hash[0]) | u128::from(self.hash[1]) << 64
    }

    /// Appends the levels to the key of a store, from the outside in. The braces around the outermost
    /// level make it the hash tag of Redis Cluster.
    #[cfg(feature = "redis")]
    pub(crate) fn write_key(&self, key: &mut String) {
        match &self.outer {
            Some(outer) => {
                outer.write_key(key);
                key.push(':');
                self.write_level(key);
            }
            None => {
                key.push('{');
                self.write_level(key);
                key.push('}');
            }
        }
    }

    #[cfg(feature = "redis")]
    fn write_level(&self, key: &mut String) {
        match &self.value {
            Value::Text(text, _) => key.push_str(text),
            value => write!(key, "{value}").expect("writing to a String never fails"),
        }
    }

    fn text(kind: &str, value: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if value.len() <= 64 && !value.starts_with(HASHED) && value.bytes().all(plain) {
            let text = [kind, ":", value].concat();
            Self::of(Value::Text(text.into(), kind.len() as u8), None)
        } else {
            Self::hashed(kind, value)
        }
    }

    fn hashed(kind: &str, value: &str) -> Self {
        Self::of(Self::hashed_value(kind, value), None)
    }

    fn hashed_value(kind: &str, value: &str) -> Value {
        let mut hash = Sha256::new();
        for part in [kind, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let text = format!("{kind}:{HASHED}{}", hex(&hash.finalize()));
        Value::Text(text.into(), kind.len() as u8)
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
        Ok(Self::new(&Kind::try_new(kind)?, value))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "ip:{address}"),
            Self::Text(text, _) => f.write_str(text),
        }
    }
}

/// Writes the levels from the inside out: `user:42 in org:acme`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outer {
            Some(outer) => write!(f, "{} in {outer}", self.value),
            None => self.value.fmt(f),
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
        let secret = Identity::secret(&Kind::new("key"), "s3cr3t");
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
