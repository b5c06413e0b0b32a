use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::client_ip::{counted, cut};
use super::secret;
use crate::error::NameError;
use crate::quota::check_name;

/// Who is asking: a kind and a value, shown as `ip:203.0.113.7` or `user:42`.
///
/// Any value will do, of any length: one of more than 64 bytes, or with anything but printable
/// ASCII, or with a brace or a space, or that begins with `#`, is replaced by `#` and the SHA-256
/// of kind and value. So a value is never large, never reaches into another's key in a store, and
/// never chooses its place in a cluster. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of the value, with a secret key. It is needed several times for each request.
    hash: [u64; 2],
    value: Value,
}

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Address(IpAddr),
    /// `kind:value`, and the length of the kind.
    Text(Arc<str>, u8),
}

/// Begins a digest, and no value that is kept as it is.
const HASHED: char = '#';

/// How many IPv6 addresses are one client, unless told otherwise: those of one /64, which is what
/// a network hands to each of its hosts (RFC 4291, section 2.5.4; RFC 6177).
pub(super) const IPV6_PREFIX: u8 = 64;

impl Identity {
    /// A client by its address. IPv6 addresses that hold an IPv4 address (`::ffff:0:0/96`,
    /// `64:ff9b::/96`, 6to4's `2002::/16`) count as that; all others of one /64 are one identity.
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

    /// An address that has been cut to its prefix already.
    pub(super) fn exact_ip(address: IpAddr) -> Self {
        Self::of(Value::Address(counted(address)))
    }

    /// A user by an id that the application has verified. A layer takes an identity with an empty
    /// value as none, so that requests without an id do not share one count.
    ///
    /// ```
    /// assert_eq!(tollgate::Identity::user("42").to_string(), "user:42");
    /// ```
    pub fn user(id: &str) -> Self {
        Self::text("user", id)
    }

    /// An identity of a kind of your own: an organisation, a route, everybody.
    ///
    /// Its kind labels metrics, so let there be few. Of kind `ip`, a value that is an address is
    /// the same identity as [`Identity::ip`] makes of it, except that no prefix is cut.
    ///
    /// # Errors
    ///
    /// If the kind is not one to 64 ASCII letters, digits, `.`, `_` and `-`.
    pub fn new(kind: &str, value: &str) -> Result<Self, NameError> {
        check_name("kind", kind)?;
        match value.parse() {
            Ok(address) if kind == "ip" => Ok(Self::exact_ip(address)),
            _ => Ok(Self::text(kind, value)),
        }
    }

    /// An identity whose value must not be seen, such as an API key: always hashed.
    ///
    /// # Errors
    ///
    /// If the kind is not one to 64 ASCII letters, digits, `.`, `_` and `-`.
    ///
    /// ```
    /// let key = tollgate::Identity::secret("key", "s3cr3t")?;
    /// assert!(key.to_string().starts_with("key:#"));
    /// assert!(!format!("{key:?}").contains("s3cr3t"));
    /// # Ok::<(), tollgate::NameError>(())
    /// ```
    pub fn secret(kind: &str, value: &str) -> Result<Self, NameError> {
        check_name("kind", kind)?;
        // An empty value has nothing to hide, and stays recognizable as empty.
        Ok(match value {
            "" => Self::text(kind, value),
            _ => Self::hashed(kind, value),
        })
    }

    /// Whether the value is empty.
    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Address(_) => false,
            Value::Text(text, kind) => text.len() == usize::from(*kind) + 1,
        }
    }

    /// The kind: `ip`, `user` or your own.
    pub fn kind(&self) -> &str {
        match &self.value {
            Value::Address(_) => "ip",
            Value::Text(text, kind) => &text[..usize::from(*kind)],
        }
    }

    fn of(value: Value) -> Self {
        // Bytes that tell it from any other: no text has a byte of zero, as four of an IPv4
        // address's eight are, nor ends with a 6.
        let hash = match &value {
            Value::Address(IpAddr::V4(address)) => {
                secret::hash(&u64::from(address.to_bits()).to_le_bytes())
            }
            Value::Address(IpAddr::V6(address)) => {
                let mut bytes = [6; 17];
                bytes[..16].copy_from_slice(&address.octets());
                secret::hash(&bytes)
            }
            Value::Text(text, _) => secret::hash(text.as_bytes()),
        };
        Self { hash, value }
    }

    /// A hash that no client can choose, and no other process knows.
    #[inline]
    pub(crate) fn secret_hash(&self) -> u128 {
        u128::from(self.hash[0]) | u128::from(self.hash[1]) << 64
    }

    /// Adds it to a text, as it is shown.
    #[cfg(feature = "redis")]
    pub(crate) fn write_to(&self, text: &mut String) {
        match &self.value {
            Value::Address(_) => write!(text, "{self}").expect("a String takes everything"),
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

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes everything");
            text
        })
}
