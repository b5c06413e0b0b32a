//! Parses the client addresses in `X-Forwarded-For` and `Forwarded`.
//!
//! The client controls the left end of such a header, so it may hold anything. Lines are therefore
//! parsed lazily from the right, entry by entry, and the start of an entry does not depend on the
//! text to its left. An entry that cannot be parsed is `None`.

use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;

use super::address::canonical;

/// Parses the entries of a line of `X-Forwarded-For`, from the right.
pub(super) fn addresses(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    line.rsplit(|&byte| byte == b',').map(address)
}

/// Parses an entry of `X-Forwarded-For`: an address, optionally with a port.
pub(super) fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    match ipv6(entry) {
        Some(address) => Some(address),
        None => node(entry, is_port),
    }
}

/// Parses the elements of a line of `Forwarded`, from the right.
///
/// A proxy may append its element after a quote that the client left open:
/// `for="6.6.6.6, for=203.0.113.7`. Parsed from the right, the proxy's element is found whatever
/// precedes it: it has no comma outside of a string, and escapes every quote within one. Parsed from
/// the left, the whole line is one unterminated string. Such a line is rejected, so that a client can
/// make the proxy's element unreadable but cannot change it. Other lines are not affected, since
/// quoted strings do not span lines.
pub(super) fn elements(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let is_balanced = has_balanced_quotes(line);
    let mut unread = Some(line);
    iter::from_fn(move || {
        let mut element = Backwards {
            unread: unread.take()?,
        };
        let address = element.address();
        if element.skip(b',') {
            unread = Some(element.unread);
        } else if !element.unread.is_empty() {
            // The element is not preceded by a comma.
            return Some(None);
        }
        Some(address.filter(|_| is_balanced))
    })
}

/// Returns whether every quoted string is terminated, parsed from the left.
fn has_balanced_quotes(line: &[u8]) -> bool {
    let mut bytes = line.iter();
    while bytes.any(|&byte| byte == b'"') {
        loop {
            match bytes.next() {
                Some(b'"') => break,
                Some(b'\\') => _ = bytes.next(),
                Some(_) => {}
                None => return false,
            }
        }
    }
    true
}

/// A parser of `Forwarded` that consumes a line from its end.
struct Backwards<'a> {
    unread: &'a [u8],
}

/// A parameter's value as it appears in the line.
enum Value<'a> {
    Bare(&'a [u8]),
    /// The text between the quotes, with its escapes.
    Quoted(&'a [u8]),
}

impl<'a> Backwards<'a> {
    /// Parses one element, such as `for=203.0.113.7;proto=https`, up to the comma that precedes it.
    fn address(&mut self) -> Option<IpAddr> {
        let mut found = None;
        loop {
            self.skip_while(is_blank);
            // RFC 7239 lets a parameter be empty: `for=203.0.113.7;`.
            if !matches!(self.unread.last(), None | Some(b',' | b';')) {
                let (name, value) = self.parameter()?;
                if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
                    return None;
                }
                self.skip_while(is_blank);
            }
            if !self.skip(b';') {
                return found?.address();
            }
        }
    }

    fn parameter(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        let value = if self.skip(b'"') {
            Value::Quoted(self.quoted()?)
        } else {
            Value::Bare(self.skip_while(is_bare))
        };
        let name = if self.skip(b'=') {
            self.skip_while(is_bare)
        } else {
            b""
        };
        (!name.is_empty()).then_some((name, value))
    }

    /// Parses a string whose closing quote has been consumed. Quotes inside are escaped, so the first
    /// quote without a backslash before it is the opening one.
    fn quoted(&mut self) -> Option<&'a [u8]> {
        let text = self.unread;
        let escapes = |reader: &mut Self| reader.skip_while(|byte| byte == b'\\').len();
        if escapes(self) % 2 == 1 {
            // The closing quote is escaped.
            return None;
        }
        loop {
            self.skip_while(|byte| byte != b'"');
            if !self.skip(b'"') {
                return None;
            }
            let start = self.unread.len() + 1;
            match escapes(self) {
                0 => return text.get(start..),
                odd if odd % 2 == 1 => {}
                _ => return None,
            }
        }
    }

    fn skip(&mut self, byte: u8) -> bool {
        match self.unread.split_last() {
            Some((&last, unread)) if last == byte => {
                self.unread = unread;
                true
            }
            _ => false,
        }
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let start = self.unread.iter().rposition(|&byte| !belongs(byte));
        let (unread, skipped) = self.unread.split_at(start.map_or(0, |last| last + 1));
        self.unread = unread;
        skipped
    }
}

impl Value<'_> {
    fn address(&self) -> Option<IpAddr> {
        /// `[`, an IPv6 address of at most 45 bytes, a zone of at most 16, `]:` and a port.
        const LONGEST: usize = 1 + 45 + 16 + 2 + 5;

        match self {
            // RFC 7239 requires quotes around a port, which some proxies omit. Parsing stays
            // unambiguous, since no delimiter is part of a bare value. An IPv6 address in brackets
            // must be quoted.
            Self::Bare([b'[', ..]) => None,
            Self::Bare(text) => node(text, is_port_of_forwarded),
            Self::Quoted(text) => {
                let (mut plain, mut length) = ([0; LONGEST], 0);
                let mut bytes = text.iter();
                while let Some(mut byte) = bytes.next() {
                    if *byte == b'\\' {
                        byte = bytes.next()?;
                    }
                    *plain.get_mut(length)? = *byte;
                    length += 1;
                }
                node(&plain[..length], is_port_of_forwarded)
            }
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Returns whether a byte may be part of a name or an unquoted value. More than a token of RFC 9110
/// allows, since proxies omit the quotes in `host=example.com:8080`, but no delimiter.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',' | b';' | b'=')
}

/// Parses `203.0.113.7` or `[2001:db8::1]`, optionally with a port.
fn node(text: &[u8], is_port: impl Fn(&[u8]) -> bool) -> Option<IpAddr> {
    let find = |text: &[u8], wanted| text.iter().position(|&byte| byte == wanted);
    let (address, rest) = match text.strip_prefix(b"[") {
        Some(text) => {
            let (address, rest) = text.split_at(find(text, b']')?);
            (ipv6(address)?, rest.strip_prefix(b"]")?)
        }
        None => {
            let (address, rest) = text.split_at(find(text, b':').unwrap_or(text.len()));
            (ipv4(address)?, rest)
        }
    };
    let is_valid = rest.is_empty() || rest.strip_prefix(b":").is_some_and(is_port);
    is_valid.then_some(address)
}

fn is_port(text: &[u8]) -> bool {
    // Rust's parser would accept a sign.
    let digits = text.iter().all(u8::is_ascii_digit);
    digits && str::from_utf8(text).is_ok_and(|text| text.parse::<u16>().is_ok())
}

fn is_port_of_forwarded(text: &[u8]) -> bool {
    is_port(text) || is_obfuscated(text)
}

/// Returns whether a port is obfuscated: `_` and a name (RFC 7239, section 6.2).
fn is_obfuscated(port: &[u8]) -> bool {
    port.strip_prefix(b"_")
        .is_some_and(|name| !name.is_empty() && name.iter().copied().all(is_unreserved))
}

/// Parses an IPv4 address. Rust's parser accepts no octal, hexadecimal or shortened form.
fn ipv4(text: &[u8]) -> Option<IpAddr> {
    let address: Ipv4Addr = str::from_utf8(text).ok()?.parse().ok()?;
    specified(address.into())
}

/// Parses an IPv6 address, without its zone, which has a meaning only on the proxy itself.
fn ipv6(text: &[u8]) -> Option<IpAddr> {
    let mut parts = text.splitn(2, |&byte| byte == b'%');
    let address = parts.next()?;
    if let Some(zone) = parts.next() {
        // RFC 6874 writes the `%` as `%25`, as in a URL.
        if zone.is_empty() || !zone.iter().copied().all(is_unreserved) {
            return None;
        }
    }
    let address: Ipv6Addr = str::from_utf8(address).ok()?.parse().ok()?;
    specified(address.into())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~')
}

/// Rejects `0.0.0.0` and `::`, with which a proxy reports an unknown client.
fn specified(address: IpAddr) -> Option<IpAddr> {
    (!canonical(address).is_unspecified()).then_some(address)
}
