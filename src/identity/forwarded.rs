//! Reads addresses out of the headers in which proxies say whom they forward for.
//!
//! What stands to the left in such a header was written by whoever came first, so it may be
//! anything. Lines are therefore read from the right, an entry at a time and no further than
//! asked, and each entry tells by itself where it begins. `None` is an entry that cannot be read.

use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;

use super::client_ip::canonical;

/// The entries of a line of `X-Forwarded-For`, from the right.
pub(super) fn addresses(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    line.rsplit(|&byte| byte == b',').map(address)
}

/// An entry of `X-Forwarded-For`: an address, perhaps with a port.
pub(super) fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    match ipv6(entry) {
        Some(address) => Some(address),
        None => node(entry, is_port),
    }
}

/// The elements of a line of `Forwarded`, from the right.
///
/// A proxy may have put its own after a quote that the client left open:
/// `for="6.6.6.6, for=203.0.113.7`. From the right that reads as the proxy meant it, whatever is
/// in front: no comma of its own is inside a string, and within its strings every quote is
/// escaped. From the left the whole is one string that never ends. The two must agree, else the
/// line cannot be read; so what a client sends can make its entry unreadable, but never change it.
/// Lines further left are not asked: each one's quotes are its own.
pub(super) fn elements(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let closed = closes_its_quotes(line);
    let mut unread = Some(line);
    iter::from_fn(move || {
        let mut element = Backwards {
            unread: unread.take()?,
        };
        let address = element.address();
        if element.skip(b',') {
            unread = Some(element.unread);
        } else if !element.unread.is_empty() {
            // It begins in the middle of something else.
            return Some(None);
        }
        Some(address.filter(|_| closed))
    })
}

/// Whether every quoted string has an end, as read from the left.
fn closes_its_quotes(line: &[u8]) -> bool {
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

/// A reader of `Forwarded` that takes from the end of what it has not read yet.
struct Backwards<'a> {
    unread: &'a [u8],
}

/// A parameter's value as it stands in the line.
enum Value<'a> {
    Bare(&'a [u8]),
    /// What is between the quotes, with its escapes.
    Quoted(&'a [u8]),
}

impl<'a> Backwards<'a> {
    /// Reads one element, `for=203.0.113.7;proto=https`, up to the comma in front of it.
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

    /// Reads a string whose closing quote has been read. Quotes inside are escaped, so the first
    /// that has no backslash in front of it is the opening one.
    fn quoted(&mut self) -> Option<&'a [u8]> {
        let text = self.unread;
        let escapes = |reader: &mut Self| reader.skip_while(|byte| byte == b'\\').len();
        if escapes(self) % 2 == 1 {
            // Even the closing quote is escaped.
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
            // RFC 7239 has a port quoted, which some proxies forget. No character of a bare value
            // could be mistaken for its end. Brackets must be quoted, so this is no IPv6 address.
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

/// Wider than a token of RFC 9110, since proxies forget to quote `host=example.com:8080`; but of
/// nothing that could be mistaken for the end of a name or a value.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',' | b';' | b'=')
}

/// `203.0.113.7` or `[2001:db8::1]`, perhaps with a port.
fn node(text: &[u8], is_port: impl Fn(&[u8]) -> bool) -> Option<IpAddr> {
    let find = |text: &[u8], mark| text.iter().position(|&byte| byte == mark);
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
    let readable = rest.is_empty() || rest.strip_prefix(b":").is_some_and(is_port);
    readable.then_some(address)
}

fn is_port(text: &[u8]) -> bool {
    // Digits alone: Rust's own parser would take a sign.
    let digits = text.iter().all(u8::is_ascii_digit);
    digits && str::from_utf8(text).is_ok_and(|text| text.parse::<u16>().is_ok())
}

fn is_port_of_forwarded(text: &[u8]) -> bool {
    is_port(text) || is_obfuscated(text)
}

/// A port that a proxy does not disclose: `_`, and a name (RFC 7239, section 6.2).
fn is_obfuscated(port: &[u8]) -> bool {
    port.strip_prefix(b"_")
        .is_some_and(|name| !name.is_empty() && name.iter().copied().all(is_unreserved))
}

/// Four decimal numbers: Rust's parser takes no octal, hexadecimal or shortened form.
fn ipv4(text: &[u8]) -> Option<IpAddr> {
    let address: Ipv4Addr = str::from_utf8(text).ok()?.parse().ok()?;
    specified(address.into())
}

/// An IPv6 address. A zone means something only on the machine that wrote it, and is dropped.
fn ipv6(text: &[u8]) -> Option<IpAddr> {
    let mut parts = text.splitn(2, |&byte| byte == b'%');
    let address = parts.next()?;
    if let Some(zone) = parts.next() {
        // RFC 6874 writes the `%` as `%25`, as in a URL.
        let named = |&byte: &u8| is_unreserved(byte);
        if zone.is_empty() || !zone.iter().all(named) {
            return None;
        }
    }
    let address: Ipv6Addr = str::from_utf8(address).ok()?.parse().ok()?;
    specified(address.into())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~')
}

/// Nobody sends from `0.0.0.0` or `::`, so a proxy that writes them does not know.
fn specified(address: IpAddr) -> Option<IpAddr> {
    (!canonical(address).is_unspecified()).then_some(address)
}
