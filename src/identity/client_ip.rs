use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::forwarded;
use super::identity::IPV6_PREFIX;
use crate::error::ClientIpError;

/// The client's address: the peer's, or what trusted proxies say of whom they forward for.
///
/// ```
/// use http::HeaderMap;
/// use tollgate::ClientIp;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.9".parse()?);
///
/// // 10.0.0.5 and 10.0.0.9 are our proxies. 6.6.6.6 is what the client said of itself.
/// let client_ip = ClientIp::behind(["10.0.0.0/8".parse()?])?;
/// assert_eq!(client_ip.address("10.0.0.5".parse()?, &headers).to_string(), "203.0.113.7");
///
/// // No proxy of ours: whatever it says of others, it counts as itself.
/// assert_eq!(client_ip.address("203.0.113.9".parse()?, &headers).to_string(), "203.0.113.9");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Proxies
///
/// Anyone can send a forwarding header, and a proxy adds to the end of the one it was sent. So
/// exactly one header is read, only where a proxy of yours has written to it, and from its right
/// end: all its lines as one list, in order, past the proxies to the first entry that is none.
/// That one is the client; nothing further left is looked at.
///
/// The peer's own address is used where no client can be told: no header, an entry that cannot be
/// read, nothing but proxies. All such requests through one proxy are then one client, which is
/// the safe side: name every proxy, and have each of them add an address.
///
/// # IPv6
///
/// An IPv6 address that holds an IPv4 address counts as that IPv4 address, however it is spelled:
/// IPv4-mapped (`::ffff:0:0/96`), behind NAT64's well-known prefix (`64:ff9b::/96`), or in 6to4
/// (`2002::/16`, where one IPv4 host has 65,536 networks). The prefixes of other translators are set
/// by [`nat64_prefixes`](ClientIp::nat64_prefixes). All other IPv6 addresses are cut to their first
/// 64 bits, since a host can choose freely among the addresses of its /64; see
/// [`ipv6_prefix`](ClientIp::ipv6_prefix).
///
/// 6to4 and further prefixes decide as whom a client counts, and never whether a proxy is trusted.
///
/// # Unix sockets
///
/// A connection over a Unix socket has no peer address. [`behind_hops`](ClientIp::behind_hops) needs
/// none where the header tells the client. With [`behind`](ClientIp::behind), insert a
/// [`PeerAddr`](crate::PeerAddr) of your choice into each request's extensions and trust that.
#[derive(Clone, Debug)]
pub struct ClientIp {
    proxies: Proxies,
    header: ForwardingHeader,
    ipv6_prefix: u8,
    translators: Arc<[Ipv6Net]>,
}

#[derive(Clone, Debug)]
enum Proxies {
    /// So many, the peer being the last of them.
    Count(usize),
    /// Those in these networks.
    Within(Arc<[IpNet]>),
}

/// The header in which a [`ClientIp`] looks for the client's address.
///
/// Choose the one that your proxies write, and that they write always: a header that a proxy
/// passes on as it came is the client's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`, a list of addresses: what most proxies write.
    ///
    /// A port may follow an address (`203.0.113.7:443`, `[2001:db8::1]:443`).
    #[default]
    XForwardedFor,
    /// `Forwarded`, as in RFC 7239.
    ///
    /// A client that sends an unbalanced quote to a proxy that adds to the line, rather than
    /// replacing it or adding a line, makes the line unreadable, and so counts as that proxy.
    Forwarded,
    /// A header with one address, such as `CF-Connecting-IP`. Sent twice, or with a list in it,
    /// it cannot be read.
    SingleValue(HeaderName),
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::peer()
    }
}

impl ClientIp {
    /// The address at the other end of the connection, for an application without a proxy: no
    /// header is trusted. The default.
    pub fn peer() -> Self {
        Self::with(Proxies::Count(0))
    }

    /// The client of the proxies in these networks.
    ///
    /// List your proxies and nothing else: every machine in these networks is believed, and is
    /// never itself a client. An IPv4 network may be given in its IPv4-mapped form too
    /// (`::ffff:10.0.0.0/104`).
    ///
    /// # Errors
    ///
    /// If an IPv4 network is written as IPv6 with the prefix length that it has in IPv4, such as
    /// `::ffff:10.0.0.0/8`: that is a large IPv6 network, and holds none of the IPv4 hosts. The error
    /// says what to write.
    pub fn behind(trusted: impl IntoIterator<Item = IpNet>) -> Result<Self, ClientIpError> {
        let networks = trusted.into_iter().map(trusted_network);
        let networks = networks.collect::<Result<_, _>>()?;
        Ok(Self::with(Proxies::Within(networks)))
    }

    /// The client of a chain of so many proxies, where their addresses are not known beforehand.
    ///
    /// The last of them is the peer, and each adds the address it was called from, so that the
    /// client is the `hops`-th entry from the right. With fewer entries the peer's address is
    /// used, as it is behind no proxy at all. A [single value](ForwardingHeader::SingleValue) is
    /// used as it is, behind any number of proxies.
    ///
    /// The peer is checked against no list. So **nobody may be able to reach the application but
    /// through all of these proxies**: whoever can choose an address at will.
    ///
    /// ```
    /// # use tollgate::ClientIp;
    /// # let mut headers = http::HeaderMap::new();
    /// headers.insert("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.9".parse()?);
    ///
    /// let client_ip = ClientIp::behind_hops(2);
    /// assert_eq!(client_ip.address("10.0.0.5".parse()?, &headers).to_string(), "203.0.113.7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn behind_hops(hops: usize) -> Self {
        Self::with(Proxies::Count(hops))
    }

    fn with(proxies: Proxies) -> Self {
        Self {
            proxies,
            header: ForwardingHeader::default(),
            ipv6_prefix: IPV6_PREFIX,
            translators: Arc::default(),
        }
    }

    /// Reads this header instead of `X-Forwarded-For`, and no other.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tollgate::{ClientIp, ForwardingHeader};
    ///
    /// let header = HeaderName::from_static("cf-connecting-ip");
    /// let client_ip = ClientIp::behind(["173.245.48.0/20".parse()?])?
    ///     .header(ForwardingHeader::SingleValue(header));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn header(mut self, header: ForwardingHeader) -> Self {
        self.header = header;
        self
    }

    /// How many leading bits of an IPv6 address tell clients apart: 64 unless set.
    ///
    /// Fewer where customers get larger networks (56 or 48 are common), so that none of them is
    /// many clients; 128 for single addresses.
    ///
    /// # Errors
    ///
    /// If `bits` is not 48 to 128.
    ///
    /// ```
    /// use http::HeaderMap;
    /// use tollgate::ClientIp;
    ///
    /// let client_ip = ClientIp::peer().ipv6_prefix(56)?;
    /// let peer = "2001:db8:1:234::7".parse()?;
    /// assert_eq!(client_ip.address(peer, &HeaderMap::new()).to_string(), "2001:db8:1:200::");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ipv6_prefix(mut self, bits: u8) -> Result<Self, ClientIpError> {
        if !(48..=128).contains(&bits) {
            return Err(ClientIpError(format!(
                "an IPv6 prefix of {bits} bits does not tell clients apart: use 48 to 128 \
                 (64 is one host's network, 56 or 48 one customer's)"
            )));
        }
        self.ipv6_prefix = bits;
        Ok(self)
    }

    /// Counts IPv6 addresses in these prefixes as the IPv4 addresses that a translator put into them
    /// (RFC 6052): a NAT64 with a prefix of its own, such as one of `64:ff9b:1::/48`, or SIIT's
    /// `::ffff:0:0:0/96`. Otherwise all IPv4 clients behind such a translator count as one client.
    ///
    /// # Errors
    ///
    /// If a prefix is not one of IPv6 with 32, 40, 48, 56, 64 or 96 bits, or has bits set after those.
    ///
    /// ```
    /// use http::HeaderMap;
    /// use tollgate::ClientIp;
    ///
    /// let client_ip = ClientIp::peer().nat64_prefixes(["64:ff9b:1::/96".parse()?])?;
    /// let peer = "64:ff9b:1::203.0.113.7".parse()?;
    /// assert_eq!(client_ip.address(peer, &HeaderMap::new()).to_string(), "203.0.113.7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nat64_prefixes(
        mut self,
        prefixes: impl IntoIterator<Item = IpNet>,
    ) -> Result<Self, ClientIpError> {
        let prefix = |prefix: IpNet| match prefix {
            IpNet::V6(prefix)
                if matches!(prefix.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96)
                    && prefix.addr() == prefix.network() =>
            {
                Ok(prefix)
            }
            _ => Err(ClientIpError(format!(
                "`{prefix}` is not the prefix of a NAT64: use an IPv6 network of 32, 40, 48, 56, 64 \
                 or 96 bits without further bits set, such as `64:ff9b:1::/48` (RFC 6052)"
            ))),
        };
        self.translators = prefixes.into_iter().map(prefix).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Returns the address that a request from `peer` with these headers counts as: the client's,
    /// with IPv6 cut to the [prefix](ClientIp::ipv6_prefix).
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let client = self.client(Some(peer), headers);
        self.counted(client.unwrap_or(peer))
    }

    /// Returns the address that a request counts as; `None` if neither the peer nor a header tells it.
    pub(super) fn known_address(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Option<IpAddr> {
        let client = self.client(peer, headers).or(peer)?;
        Some(self.counted(client))
    }

    /// The client that the proxies name, if the peer is a proxy.
    fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let is_proxy = match peer {
            Some(peer) => self.proxies.include(peer),
            // Over a Unix socket there is no address that could be compared with a network.
            None => matches!(self.proxies, Proxies::Count(1..)),
        };
        if is_proxy {
            self.forwarded(headers)
        } else {
            None
        }
    }

    fn counted(&self, address: IpAddr) -> IpAddr {
        let translated = match address {
            IpAddr::V6(outer) => {
                let mut translators = self.translators.iter();
                let translator = translators.find(|prefix| prefix.contains(&outer));
                translator.map(|prefix| embedded(outer, prefix.prefix_len()).into())
            }
            IpAddr::V4(_) => None,
        };
        cut(translated.unwrap_or(address), self.ipv6_prefix)
    }

    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = |name| headers.get_all(name).into_iter().rev();
        match &self.header {
            ForwardingHeader::XForwardedFor => self.proxies.client(
                lines(&X_FORWARDED_FOR).flat_map(|line| forwarded::addresses(line.as_bytes())),
            ),
            ForwardingHeader::Forwarded => self.proxies.client(
                lines(&header::FORWARDED).flat_map(|line| forwarded::elements(line.as_bytes())),
            ),
            ForwardingHeader::SingleValue(name) => {
                let mut lines = lines(name);
                let (line, None) = (lines.next()?, lines.next()) else {
                    return None;
                };
                let address = forwarded::address(line.as_bytes())?;
                // The proxy that wrote it has counted already.
                let counted = matches!(self.proxies, Proxies::Count(_));
                (counted || !self.proxies.include(address)).then_some(address)
            }
        }
    }
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Proxies {
    /// Whether an address at this end of the chain is a proxy's.
    fn include(&self, address: IpAddr) -> bool {
        match self {
            Self::Count(hops) => *hops > 0,
            Self::Within(networks) => {
                // NAT64 is not undone in `networks`: an operator who lists `64:ff9b::/96` means
                // the hosts behind that gateway, and not every IPv4 address there is.
                let address = address.to_canonical();
                let inside = canonical(address);
                networks
                    .iter()
                    .any(|network| network.contains(&address) || network.contains(&inside))
            }
        }
    }

    /// Walks from the right past the proxies, and stops at the first entry that cannot be read.
    fn client(&self, mut entries: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        match self {
            Self::Count(hops) => {
                for _ in 1..*hops {
                    entries.next()??;
                }
                entries.next()?
            }
            Self::Within(_) => loop {
                let address = entries.next()??;
                if !self.include(address) {
                    return Some(address);
                }
            },
        }
    }
}

/// Checks a network of proxies, and converts one of IPv4-mapped addresses to IPv4. A larger IPv6
/// network stays as it is and holds no IPv4 address, so that `::/0` is all of IPv6 only.
fn trusted_network(network: IpNet) -> Result<IpNet, ClientIpError> {
    let (address, bits) = (network.addr(), network.prefix_len());
    if let (IpAddr::V6(_), IpAddr::V4(inner), ..96) = (address, canonical(address), bits)
        && address != network.network()
    {
        // Longer prefixes cannot be those of an IPv4 network.
        let meant = Ipv4Net::new(inner, bits.min(32)).unwrap_or_else(|_| inner.into());
        let wide = network.trunc();
        return Err(ClientIpError(format!(
            "`{network}` is the IPv6 network `{wide}` and holds no IPv4 host: write `{}`",
            meant.trunc()
        )));
    }
    Ok(match (address.to_canonical(), bits) {
        (IpAddr::V4(address), 96..) => Ipv4Net::new(address, bits - 96).map_or(network, IpNet::V4),
        _ => network,
    })
}

/// The IPv4 address in an IPv6 address whose translator has a prefix of so many bits (RFC 6052,
/// section 2.2). Octet 8 is never part of it.
fn embedded(address: Ipv6Addr, prefix: u8) -> Ipv4Addr {
    let (octets, start) = (address.octets(), usize::from(prefix / 8));
    let mut inner = [0; 4];
    let places = (start..octets.len()).filter(|place| *place != 8);
    for (octet, place) in inner.iter_mut().zip(places) {
        *octet = octets[place];
    }
    inner.into()
}

/// The IPv4 address that an IPv6 address stands for, which is trusted where that is: mapped
/// (`::ffff:0:0/96`, RFC 4291) or behind NAT64's well-known prefix (`64:ff9b::/96`, RFC 6052).
///
/// "IPv4-compatible" `::1.2.3.4` stays IPv6: no host sends it, and `::1` would be 0.0.0.1.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    const NAT64: u128 = 0x0064_ff9b << 64;
    match address.to_canonical() {
        IpAddr::V6(outer) if outer.to_bits() >> 32 == NAT64 => {
            let [.., a, b, c, d] = outer.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

/// The address that a client counts as: the [`canonical`] one, or the IPv4 address of a 6to4 host
/// (`2002::/16`, RFC 3056), which holds 65,536 networks of 64 bits. Trust never follows from 6to4,
/// since any host can send such addresses.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match canonical(address) {
        IpAddr::V6(outer) if outer.segments()[0] == 0x2002 => embedded(outer, 16).into(),
        address => address,
    }
}

/// The [`counted`] address, with IPv6 cut to its first `prefix` bits.
pub(crate) fn cut(address: IpAddr, prefix: u8) -> IpAddr {
    match counted(address) {
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into()));
            Ipv6Addr::from_bits(address.to_bits() & mask.unwrap_or(0)).into()
        }
        address => address,
    }
}
