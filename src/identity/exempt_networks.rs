use std::net::IpAddr;

use http::header::{FORWARDED, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::client_ip::{ClientIp, ClientIpError, Networks};
use super::peer::peer;

/// The networks whose clients a layer does not limit.
#[derive(Clone, Debug)]
pub(crate) struct ExemptNetworks(Networks);

/// Whether a request is exempt by its client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exemption {
    Exempt,
    NotExempt,
    /// The peer is in an exempt network, but forwarded the request of a client whose address is not known.
    UnknownClient {
        peer: IpAddr,
    },
}

/// Headers, besides `X-Forwarded-*`, that only proxies add.
const PROXY_HEADERS: [HeaderName; 10] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("fastly-client-ip"),
    HeaderName::from_static("fly-client-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-envoy-external-address"),
    HeaderName::from_static("x-real-ip"),
];

impl ExemptNetworks {
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Result<Self, ClientIpError> {
        Networks::new(networks).map(Self)
    }

    /// Returns whether the client of a request is in one of the networks.
    ///
    /// `client_ip` falls back to the peer's address if it finds no client in the forwarding header. Here
    /// the peer stands for the client only if it forwarded nothing: otherwise a proxy in an exempt
    /// network, that is not trusted or whose header a client has made unreadable, would exempt every client.
    pub(crate) fn exempt(&self, client_ip: Option<&ClientIp>, parts: &Parts) -> Exemption {
        let default;
        let client_ip = match client_ip {
            Some(client_ip) => client_ip,
            None => {
                default = ClientIp::peer();
                &default
            }
        };
        let peer = peer(&parts.extensions);
        match (client_ip.client(peer, &parts.headers), peer) {
            (Some(client), _) if self.0.contain(client) => Exemption::Exempt,
            (None, Some(peer)) if self.0.contain(peer) => {
                let forwards = client_ip.trusts_every_peer()
                    || parts.headers.contains_key(client_ip.header_name())
                    || has_proxy_header(&parts.headers);
                match forwards {
                    true => Exemption::UnknownClient { peer },
                    false => Exemption::Exempt,
                }
            }
            _ => Exemption::NotExempt,
        }
    }
}

fn has_proxy_header(headers: &HeaderMap) -> bool {
    let is_proxy_header = |name: &HeaderName| {
        name.as_str().starts_with("x-forwarded-") || PROXY_HEADERS.contains(name)
    };
    headers.keys().any(is_proxy_header)
}
