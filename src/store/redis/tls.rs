//! TLS with rustls.

use std::io;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config_error::RedisConfigError;

/// A client certificate: the chain and its private key, in PEM.
#[derive(Clone)]
pub(super) struct ClientCertificate {
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// Opens TLS connections.
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Trusts the root certificates in `roots` (PEM), or those of the operating system.
    pub(super) fn new(
        roots: Option<&[u8]>,
        client: Option<&ClientCertificate>,
    ) -> Result<Self, RedisConfigError> {
        let roots = match roots {
            Some(pem) => read_roots(pem)?,
            None => system_roots()?,
        };
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RedisConfigError::tls(format!("TLS cannot be configured: {error}")))?
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let unusable = |error: &dyn std::fmt::Display| {
                    let advice = "give the chain and its key in PEM";
                    let error = format!("the client certificate cannot be used: {error}; {advice}");
                    RedisConfigError::tls(error)
                };
                let chain = CertificateDer::pem_slice_iter(&client.chain).collect();
                let chain: Vec<_> = Result::map_err(chain, |error| unusable(&error))?;
                if chain.is_empty() {
                    return Err(unusable(&"the chain is empty"));
                }
                let key = PrivateKeyDer::from_pem_slice(&client.key);
                let key = key.map_err(|error| unusable(&error))?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| unusable(&error))?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

fn read_roots(pem: &[u8]) -> Result<RootCertStore, RedisConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate.map_err(|error| error.to_string());
        added
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| {
                RedisConfigError::tls(format!("the root certificates cannot be read: {error}"))
            })?;
    }
    if roots.is_empty() {
        let error = "the root certificates contain no certificate in PEM";
        return Err(RedisConfigError::tls(error));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, RedisConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = match found.errors.first() {
            Some(error) => error.to_string(),
            None => "none is installed".into(),
        };
        return Err(RedisConfigError::tls(format!(
            "the operating system's root certificates cannot be read: {reason}; install them (on \
             Debian, the package `ca-certificates`) or set `root_certificates`"
        )));
    }
    Ok(roots)
}
