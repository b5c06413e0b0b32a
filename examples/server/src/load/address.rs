use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use axum::http::uri::{Authority, PathAndQuery, Scheme};

/// By which door a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

/// A server's door: `http://host:port` or `grpc://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) protocol: Protocol,
    authority: Authority,
}

impl Address {
    /// Where the server has something: gRPC is HTTP too.
    pub(super) fn uri(&self, path: &'static str) -> anyhow::Result<Uri> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(PathAndQuery::from_static(path));
        Ok(uri.build()?)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hint = || "write http://host:port, or grpc://host:port for gRPC".to_owned();
        let uri: Uri = text.parse().map_err(|_| hint())?;
        let protocol = match uri.scheme_str() {
            Some("http") => Protocol::Http,
            Some("grpc") => Protocol::Grpc,
            _ => return Err(hint()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(hint());
        }
        let authority = uri.authority().cloned().ok_or_else(hint)?;
        Ok(Self {
            protocol,
            authority,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        };
        write!(formatter, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_is() {
        for text in ["http://127.0.0.1:8080", "grpc://limits.example:8081"] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
        let with_a_slash: Address = "http://localhost:8080/".parse().expect("an address");
        assert_eq!(with_a_slash.to_string(), "http://localhost:8080");
        for text in [
            "",
            "localhost",
            "localhost:8080",
            "https://localhost:1",
            "http://localhost/check",
            "grpc://localhost?a=b",
        ] {
            let said = text.parse::<Address>().expect_err("no address");
            assert!(said.contains("http://host:port"), "{text}: {said}");
        }
    }
}
