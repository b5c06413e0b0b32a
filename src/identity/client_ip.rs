use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::{IPV6_PREFIX, canonical, cut, embedded};
use super::forwarded;
use super::identity::Identity;

/// Determines the client's address: the peer's, or the address that trusted proxies report.
///
/// ```
/// use http::HeaderMap;
/// use tollgate::ClientIp;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.9".parse()?);
///
/// // 10.0.0.5 and 10.0.0.9 are our proxies. The client itself wrote 6.6.6.6.
/// let client_ip = ClientIp::behind(["10.0.0.0/8".parse()?])?;
/// assert_eq!(client_ip.address("10.0.0.5".parse()?, &headers).to_string(), "203.0.113.7");
///
/// // The header of an untrusted peer is ignored.
/// assert_eq!(client_ip.address("203.0.113.9".parse()?, &headers).to_string(), "203.0.113.9");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Proxies
///
/// Any client can send a forwarding header, and a proxy appends to the header that it received. So
/// exactly one header is read, only if the peer is a trusted proxy, and from the right: all its lines
/// form one list, whose rightmost entry that is not a proxy is the client. Entries further left are
/// ignored.
///
/// The peer's own address is used if there is no header, if the walk reaches an entry that cannot be
/// parsed, or if all entries are proxies. All such requests through one proxy share a count. So list
/// every proxy, and have each of them append an address.
///
/// # IPv6
///
/// An IPv6 address that holds an IPv4 address counts as that IPv4 address: IPv4-mapped
/// (`::ffff:0:0/96`), with NAT64's well-known prefix (`64:ff9b::/96`), or in 6to4 (`2002::/16`, where
/// one IPv4 host has 65,536 networks). [`nat64_prefixes`](ClientIp::nat64_prefixes) sets the prefixes
/// of other translators. All other IPv6 addresses are cut to their first 64 bits, since a host can
/// use any address of its /64; see [`ipv6_prefix`](ClientIp::ipv6_prefix).
///
/// 6to4 and other translators' prefixes affect only how a client is counted, never whether a proxy is
/// trusted.
///
/// # Unix sockets
///
/// A connection over a Unix socket has no peer address. [`behind_hops`](ClientIp::behind_hops) works
/// without one if the header has the client's address. With [`behind`](ClientIp::behind), insert a
/// [`PeerAddr`](crate::PeerAddr) of your choice into each request's extensions and trust that.
#[derive(Clone, Debug)]
pub struct ClientIp {
    proxies: Proxies,
    header: ForwardingHeader,
    ipv6_prefix: u8,
    nat64_prefixes: Arc<[Ipv6Net]>,
}

/// Which peers and entries are trusted proxies.
#[derive(Clone, Debug)]
enum Proxies {
    /// The peer and the rightmost entries: this many proxies in all.
    Count(usize),
    /// Every address in these networks.
    Networks(Networks),
}

/// The header from which a [`ClientIp`] reads the client's address.
///
/// Choose a header that your proxies set on every request: if a proxy forwards the header unchanged,
/// its content comes from the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`, a list of addresses, which most proxies write.
    ///
    /// A port may follow an address (`203.0.113.7:443`, `[2001:db8::1]:443`).
    #[default]
    XForwardedFor,
    /// `Forwarded`, as in RFC 7239.
    ///
    /// If a client sends an unbalanced quote and the proxy appends to that line, instead of replacing
    /// it or adding a line, the line cannot be parsed and the request counts as the proxy's.
    Forwarded,
    /// A header with one address, such as `CF-Connecting-IP`. A repeated header or a list of addresses
    /// is ignored.
    SingleValue(HeaderName),
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::peer()
    }
}

impl ClientIp {
    /// Uses the peer's address, for an application without a proxy, and trusts no header. The default.
    pub fn peer() -> Self {
        Self::with(Proxies::Count(0))
    }

    /// Trusts the proxies in these networks.
    ///
    /// List only your proxies: every machine in these networks is trusted, and is never counted as a
    /// client. An IPv4 network may also be given in its IPv4-mapped form (`::ffff:10.0.0.0/104`).
    ///
    /// # Errors
    ///
    /// If an IPv4 network is written as IPv6 with the prefix length that it has in IPv4, such as
    /// `::ffff:10.0.0.0/8`: that is a large IPv6 network without any IPv4 host. The error gives the
    /// correct form.
    pub fn behind(trusted: impl IntoIterator<Item = IpNet>) -> Result<Self, ClientIpError> {
        Ok(Self::with(Proxies::Networks(Networks::new(trusted)?)))
    }

    /// Trusts a chain of `hops` proxies whose addresses are not known in advance.
    ///
    /// The peer is the last proxy, and each proxy appends the address of its own peer, so the client is
    /// the `hops`-th entry from the right. The peer's address is used if there are fewer entries, or if
    /// `hops` is 0. A [single value](ForwardingHeader::SingleValue) is used as it is, for any number of
    /// proxies except 0.
    ///
    /// The peer is not checked. So **every connection to the application must come through all of
    /// these proxies**: a client that can bypass one of them can choose any address.
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
            nat64_prefixes: Arc::default(),
        }
    }

    /// Sets the header to read; `X-Forwarded-For` unless set.
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

    /// Sets how many leading bits of an IPv6 address identify a client; 64 unless set.
    ///
    /// Use fewer bits if customers get larger networks (/56 and /48 are common), so that a customer is
    /// one client; use 128 to count each address separately.
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
            return Err(Flaw::Ipv6Prefix(bits).into());
        }
        self.ipv6_prefix = bits;
        Ok(self)
    }

    /// Sets the prefixes of IPv4/IPv6 translators, whose IPv6 addresses count as the IPv4 addresses
    /// embedded in them (RFC 6052): a NAT64 with a network-specific prefix, such as one of
    /// `64:ff9b:1::/48`, or SIIT's `::ffff:0:0:0/96`. Without its prefix, all IPv4 clients behind a
    /// translator count as one client.
    ///
    /// # Errors
    ///
    /// If a prefix is not an IPv6 network of 32, 40, 48, 56, 64 or 96 bits, or has further bits set.
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
            _ => Err(Flaw::Nat64Prefix(prefix)),
        };
        self.nat64_prefixes = prefixes.into_iter().map(prefix).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Returns the address that a request from `peer` with these headers counts as: the client's
    /// address, with IPv6 cut to the [prefix](ClientIp::ipv6_prefix).
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let client = self.client(Some(peer), headers);
        self.counted(client.unwrap_or(peer))
    }

    /// Returns the identity of the client, or `None` if no address is known.
    pub(super) fn identity(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<Identity> {
        let client = self.client(peer, headers).or(peer)?;
        Some(Identity::exact_ip(self.counted(client)))
    }

    /// Returns whether every peer counts as a proxy, whatever its address.
    pub(super) fn trusts_every_peer(&self) -> bool {
        matches!(self.proxies, Proxies::Count(1..))
    }

    /// Returns the name of the header that is read.
    pub(super) fn header_name(&self) -> &HeaderName {
        match &self.header {
            ForwardingHeader::XForwardedFor => &X_FORWARDED_FOR,
            ForwardingHeader::Forwarded => &header::FORWARDED,
            ForwardingHeader::SingleValue(name) => name,
        }
    }

    /// Returns the client that the proxies report, if the peer is a proxy.
    pub(super) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let is_proxy = match peer {
            Some(peer) => self.proxies.include(peer),
            // A Unix socket has no peer address to compare with the trusted networks.
            None => self.trusts_every_peer(),
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
                let mut prefixes = self.nat64_prefixes.iter();
                let prefix = prefixes.find(|prefix| prefix.contains(&outer));
                prefix.map(|prefix| embedded(outer, prefix.prefix_len()).into())
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
                // With a number of hops, the entry is the client's, whatever its address.
                let by_hops = matches!(self.proxies, Proxies::Count(_));
                (by_hops || !self.proxies.include(address)).then_some(address)
            }
        }
    }
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Proxies {
    /// Returns whether the address of a peer, or of the rightmost entry, is a proxy's.
    fn include(&self, address: IpAddr) -> bool {
        match self {
            Self::Count(hops) => *hops > 0,
            Self::Networks(networks) => networks.contain(address),
        }
    }

    /// Walks `entries` from the right past the proxies, and stops at the first entry that cannot be
    /// parsed.
    fn client(&self, mut entries: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        match self {
            Self::Count(hops) => {
                for _ in 1..*hops {
                    entries.next()??;
                }
                entries.next()?
            }
            Self::Networks(_) => loop {
                let address = entries.next()??;
                if !self.include(address) {
                    return Some(address);
                }
            },
        }
    }
}

/// Networks of hosts that are treated in a special way: as proxies, or as exempt clients.
#[derive(Clone, Debug)]
pub(super) struct Networks(Arc<[IpNet]>);

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = IpNet>) -> Result<Self, ClientIpError> {
        let networks = networks.into_iter().map(checked_network);
        Ok(Self(networks.collect::<Result<_, _>>()?))
    }

    pub(super) fn contain(&self, address: IpAddr) -> bool {
        // The networks keep NAT64 prefixes as they are: an operator who lists `64:ff9b::/96` means the
        // hosts behind that gateway, not every IPv4 address.
        let address = address.to_canonical();
        let translated = canonical(address);
        let mut networks = self.0.iter();
        networks.any(|network| network.contains(&address) || network.contains(&translated))
    }
}

/// Checks a network, and converts a network of IPv4-mapped addresses to IPv4. A larger IPv6
/// network is kept and matches no IPv4 address, so `::/0` matches all of IPv6 only.
fn checked_network(network: IpNet) -> Result<IpNet, ClientIpError> {
    let (address, bits) = (network.addr(), network.prefix_len());
    if let (IpAddr::V6(_), IpAddr::V4(inner), ..96) = (address, canonical(address), bits)
        && address != network.network()
    {
        // IPv4 prefixes have at most 32 bits.
        let intended = Ipv4Net::new(inner, bits.min(32)).unwrap_or_else(|_| inner.into());
        return Err(Flaw::MappedNetwork {
            network,
            intended: intended.trunc(),
        }
        .into());
    }
    Ok(match (address.to_canonical(), bits) {
        (IpAddr::V4(address), 96..) => Ipv4Net::new(address, bits - 96).map_or(network, IpNet::V4),
        _ => network,
    })
}

/// An invalid configuration of a [`ClientIp`].
///
/// ```
/// use tollgate::ClientIp;
///
/// assert!(ClientIp::peer().ipv6_prefix(32).unwrap_err().is_ipv6_prefix());
/// let mapped = "::ffff:10.0.0.0/8".parse()?;
/// assert!(ClientIp::behind([mapped]).unwrap_err().is_trusted_network());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ClientIpError(#[from] Flaw);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Flaw {
    #[error(
        "an IPv6 prefix of {0} bits is out of range: use 48 to 128 (a /64 is one host's network, a \
         /56 or /48 one customer's)"
    )]
    Ipv6Prefix(u8),
    #[error(
        "`{0}` is not the prefix of a NAT64: use an IPv6 network of 32, 40, 48, 56, 64 or 96 bits \
         without further bits set, such as `64:ff9b:1::/48` (RFC 6052)"
    )]
    Nat64Prefix(IpNet),
    #[error(
        "`{network}` is the IPv6 network `{}` and holds no IPv4 host: write `{intended}`",
        network.trunc()
    )]
    MappedNetwork { network: IpNet, intended: Ipv4Net },
}

impl ClientIpError {
    /// Returns whether the prefix length of [`ClientIp::ipv6_prefix`] is out of range.
    pub fn is_ipv6_prefix(&self) -> bool {
        matches!(self.0, Flaw::Ipv6Prefix(_))
    }

    /// Returns whether a prefix of [`ClientIp::nat64_prefixes`] is invalid.
    pub fn is_nat64_prefix(&self) -> bool {
        matches!(self.0, Flaw::Nat64Prefix(_))
    }

    /// Returns whether a network of [`ClientIp::behind`] or of
    /// [`exempt_networks`](crate::RateLimitLayer::exempt_networks) is an IPv4 network in an invalid IPv6
    /// form.
    pub fn is_trusted_network(&self) -> bool {
        matches!(self.0, Flaw::MappedNetwork { .. })
    }
}
