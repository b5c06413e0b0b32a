//! IPv6 addresses that stand for IPv4 addresses, and the prefix by which IPv6 clients count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The default prefix length by which IPv6 clients count: a network assigns a /64 to each of its
/// hosts (RFC 4291, section 2.5.4; RFC 6177).
pub(super) const IPV6_PREFIX: u8 = 64;

/// Returns the IPv4 address in an IPv6 address whose translator has a prefix of `prefix` bits (RFC
/// 6052, section 2.2). Octet 8 is never part of it.
pub(super) fn embedded(address: Ipv6Addr, prefix: u8) -> Ipv4Addr {
    let (octets, start) = (address.octets(), usize::from(prefix / 8));
    let mut inner = [0; 4];
    let indexes = (start..octets.len()).filter(|index| *index != 8);
    for (octet, index) in inner.iter_mut().zip(indexes) {
        *octet = octets[index];
    }
    inner.into()
}

/// Converts an IPv6 address to the IPv4 address that it stands for, in both identity and trust: an
/// IPv4-mapped address (`::ffff:0:0/96`, RFC 4291), or one with NAT64's well-known prefix
/// (`64:ff9b::/96`, RFC 6052).
///
/// An "IPv4-compatible" address such as `::1.2.3.4` stays IPv6: no host sends it, and `::1` would be
/// 0.0.0.1.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    const NAT64: u128 = 0x0064_ff9b << 64;
    match address.to_canonical() {
        IpAddr::V6(outer) if outer.to_bits() >> 32 == NAT64 => {
            let [.., a, b, c, d] = outer.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

/// Converts an address to the one that a client counts as: the [`canonical`] address, or the IPv4
/// address of a 6to4 host (`2002::/16`, RFC 3056), which has 65,536 networks of 64 bits. A 6to4
/// address is never trusted as its IPv4 address, since any host can send from it.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match canonical(address) {
        IpAddr::V6(outer) if outer.segments()[0] == 0x2002 => embedded(outer, 16).into(),
        address => address,
    }
}

/// Returns the [`counted`] address, with IPv6 cut to its first `prefix` bits.
pub(super) fn cut(address: IpAddr, prefix: u8) -> IpAddr {
    match counted(address) {
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into()));
            Ipv6Addr::from_bits(address.to_bits() & mask.unwrap_or(0)).into()
        }
        address => address,
    }
}
