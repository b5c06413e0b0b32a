use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

use super::identify::{Identify, IdentifyError};
use super::identity::Identity;
use crate::quota::Kind;

const TARGET: Kind = Kind::new("host");

const DEFAULT_PORTS: [(&str, u16); 4] = [("http", 80), ("ws", 80), ("https", 443), ("wss", 443)];

/// Identifies an outgoing request by the host that it is sent to: the host of its URI, else of its `Host`
/// header, in lower case and with its port unless that is the default port of the URI's scheme.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetHost;

impl Identify for TargetHost {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        let host = target_host(parts).ok_or_else(|| {
            IdentifyError::new(
                "the outgoing request has no host; give it an absolute URI, such as \
                 `https://example.com/`, or a `Host` header",
            )
        })?;
        Ok(Identity::new(&TARGET, &host))
    }
}

fn target_host(parts: &Parts) -> Option<String> {
    let uri = &parts.uri;
    let authority = match uri.authority() {
        Some(authority) => authority.clone(),
        None => {
            let host = parts.headers.get(HOST)?.as_bytes();
            Authority::try_from(host).ok()?
        }
    };
    // A host with a dot at its end is the same host.
    let host = authority.host();
    let mut host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_default = |port: &u16| {
        let scheme = uri.scheme_str().unwrap_or_default();
        let mut defaults = DEFAULT_PORTS.iter();
        defaults.any(|(name, default)| port == default && scheme.eq_ignore_ascii_case(name))
    };
    if let Some(port) = authority.port_u16().filter(|port| !is_default(port)) {
        host = format!("{host}:{port}");
    }
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn identity(uri: &str, host: Option<&str>) -> Option<String> {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let identity = TargetHost.identify(&parts).ok()?;
        Some(identity.to_string())
    }

    #[test]
    fn equal_hosts_are_one_identity() {
        for (uri, expected) in [
            ("http://example.com/a", "host:example.com"),
            ("HTTP://EXAMPLE.com:80/b", "host:example.com"),
            ("https://user:secret@example.com:443", "host:example.com"),
            ("wss://example.com.:443", "host:example.com"),
            ("https://example.com:80", "host:example.com:80"),
            ("http://example.com:8080", "host:example.com:8080"),
            ("http://[2001:DB8::1]/", "host:[2001:db8::1]"),
            ("http://[2001:db8::1]:81/", "host:[2001:db8::1]:81"),
        ] {
            assert_eq!(identity(uri, None).as_deref(), Some(expected), "{uri}");
        }
    }

    #[test]
    fn host_header_replaces_missing_uri_host() {
        assert_eq!(
            identity("/", Some("Example.com")).as_deref(),
            Some("host:example.com")
        );
        assert_eq!(
            identity("http://a.example/", Some("b.example")).as_deref(),
            Some("host:a.example")
        );
        assert_eq!(identity("/", None), None);
        assert_eq!(identity("/", Some("a b")), None);
    }
}
