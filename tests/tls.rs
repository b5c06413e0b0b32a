//! Connections by TLS, to servers whose certificates are made here.

#[path = "support/redis/mod.rs"]
mod servers;

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use servers::{Port, Server};
use tempfile::TempDir;
use tokio::time::sleep;
use tollgate::{Check, Identity, Limits, Quota, RedisStore, Store, StoreError, StoreErrorKind};

/// An authority, and what it vouches with.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate for these names, and its key, in PEM.
    fn certificate(&self, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The options of a server with a certificate for these names, and the directory of their files.
struct TlsOptions {
    options: Vec<(&'static str, String)>,
    _directory: TempDir,
}

impl TlsOptions {
    fn new(authority: &Authority, names: &[&str], auth_clients: &str) -> Self {
        let directory = TempDir::with_prefix("tollgate-tls-").unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path.to_str().expect("its path is UTF-8").to_owned()
        };
        let (certificate, key) = authority.certificate(names);
        Self {
            options: vec![
                ("tls-auth-clients", auth_clients.to_owned()),
                ("tls-key-file", file("key", &key)),
                ("tls-cert-file", file("certificate", &certificate)),
                ("tls-ca-cert-file", file("authority", &authority.pem)),
            ],
            _directory: directory,
        }
    }
}

/// A server that is spoken to by TLS, under names that its certificate has.
struct TlsServer {
    server: Server,
    port: u16,
    _options: TlsOptions,
}

impl TlsServer {
    /// Returns `None` if the server was built without TLS.
    async fn start(authority: &Authority, names: &[&str]) -> Option<Self> {
        Self::start_with(authority, names, "no").await
    }

    async fn start_with(authority: &Authority, names: &[&str], auth_clients: &str) -> Option<Self> {
        let options = TlsOptions::new(authority, names, auth_clients);
        let server = Server::start().await;
        for (option, value) in &options.options {
            let set = ["CONFIG", "SET", option, value];
            if let Err(error) = server.try_command(&set).await {
                servers::skip(&format!("TLS: {error}"));
                return None;
            }
        }
        let mut port = None;
        for _ in 0..20 {
            // Somebody else may take the port before the server does.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let free = listener.local_addr().unwrap().port();
            drop(listener);
            let set = ["CONFIG", "SET", "tls-port", &free.to_string()];
            if server.try_command(&set).await.is_ok() {
                port = Some(free);
                break;
            }
            sleep(Duration::from_millis(100)).await;
            if !server.is_answering() {
                servers::skip("TLS: the server ends when TLS is configured");
                return None;
            }
        }
        let port = port.expect("one of twenty ports is free");
        Some(Self {
            server,
            port,
            _options: options,
        })
    }

    fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port)
    }
}

fn store(url: &str, trusted: &Authority) -> RedisStore {
    let builder = RedisStore::builder(url).root_certificates(trusted.pem.as_str());
    builder.build().unwrap()
}

/// What an operator would read.
async fn refusal(store: &RedisStore) -> String {
    let error: StoreError = store.ping().await.expect_err("it must not be trusted");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    error.source().expect("a reason").to_string()
}

#[tokio::test]
async fn checks_go_by_tls_to_a_server_that_is_vouched_for() {
    let authority = Authority::new("authority");
    let names = ["localhost", "127.0.0.1"];
    let Some(server) = TlsServer::start(&authority, &names).await else {
        return;
    };
    for name in names {
        let store = store(&server.url(name), &authority);
        store.ping().await.unwrap();
        let (who, limits) = (Identity::user(name), Limits::from(Quota::per_day(2)));
        for allowed in [true, true, false] {
            let verdict = store.check(&Check::new(&who, &limits)).wait().await;
            assert_eq!(verdict.unwrap().is_allowed(), allowed);
        }
        let keys = server.server.keys().await;
        assert!(keys.iter().any(|key| key.contains(&who.to_string())));
    }
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_refused() {
    let [authority, stranger] = ["authority", "stranger"].map(Authority::new);
    let Some(server) = TlsServer::start(&authority, &["localhost"]).await else {
        return;
    };
    let refusal = refusal(&store(&server.url("localhost"), &stranger)).await;
    assert!(refusal.contains("UnknownIssuer"), "{refusal}");
    // Nor is it known to the operating system's authorities, if there are any.
    let store = RedisStore::new(&server.url("localhost")).unwrap();
    store.ping().await.expect_err("it must not be trusted");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let authority = Authority::new("authority");
    let Some(server) = TlsServer::start(&authority, &["redis.example"]).await else {
        return;
    };
    for name in ["localhost", "127.0.0.1"] {
        let refusal = refusal(&store(&server.url(name), &authority)).await;
        assert!(refusal.contains("not valid for name"), "{refusal}");
    }
}

#[tokio::test]
async fn tls_spoken_to_by_one_side_only_is_an_error_soon() {
    let authority = Authority::new("authority");
    let plain = Server::start().await;
    let url = plain.url().replace("redis://", "rediss://");
    refusal(&store(&url, &authority)).await;
    let Some(server) = TlsServer::start(&authority, &["localhost"]).await else {
        return;
    };
    let url = server.url("localhost").replace("rediss://", "redis://");
    refusal(&store(&url, &authority)).await;
}

#[tokio::test]
async fn client_certificate_is_shown_to_a_server_that_asks() {
    let [authority, stranger] = ["authority", "stranger"].map(Authority::new);
    let Some(server) = TlsServer::start_with(&authority, &["localhost"], "yes").await else {
        return;
    };
    let url = server.url("localhost");
    let builder = || RedisStore::builder(&url).root_certificates(authority.pem.as_str());
    builder()
        .build()
        .unwrap()
        .ping()
        .await
        .expect_err("no certificate");
    let (chain, key) = stranger.certificate(&["client"]);
    let unknown = builder().client_certificate(chain, key).build().unwrap();
    unknown.ping().await.expect_err("signed by a stranger");
    let (chain, key) = authority.certificate(&["client"]);
    let known = builder().client_certificate(chain.as_str(), key.as_str());
    known.build().unwrap().ping().await.unwrap();

    for (chain, key) in [("", ""), ("none", key.as_str()), (chain.as_str(), "none")] {
        let error = builder().client_certificate(chain, key).build();
        let error = error.expect_err("no usable certificate").to_string();
        assert!(
            error.contains("the client certificate cannot be used"),
            "{error}"
        );
        assert!(!error.contains("PRIVATE"), "{error}");
    }
}

/// Starts a server with TLS on a port of its own, which is named to others.
async fn start_with_tls(options: &TlsOptions, more: &[&str]) -> (Server, Port) {
    let port = Port::reserve();
    let number = port.number().to_string();
    let named: Vec<_> = options
        .options
        .iter()
        .map(|(option, value)| (format!("--{option}"), value.clone()))
        .collect();
    let mut words = vec!["--tls-port", &number];
    words.extend(
        named
            .iter()
            .flat_map(|(option, value)| [option.as_str(), value]),
    );
    words.extend(more);
    (Server::start_with(&words).await, port)
}

#[cfg(feature = "redis-cluster")]
#[tokio::test]
async fn nodes_of_a_cluster_are_connected_to_by_tls() {
    let authority = Authority::new("authority");
    let names = ["localhost", "127.0.0.1"];
    if TlsServer::start(&authority, &names).await.is_none() {
        return;
    }
    let options = TlsOptions::new(&authority, &names, "no");
    let more = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let (server, port) = start_with_tls(&options, &more).await;
    server.serve_all_slots().await;

    let url = format!("rediss://localhost:{}", port.number());
    let store = RedisStore::cluster([url.as_str()]).root_certificates(authority.pem.as_str());
    let store = store.build().unwrap();
    store.ping().await.unwrap();
    let (who, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(2)));
    let check = Check::new(&who, &limits);
    assert!(store.check(&check).wait().await.unwrap().is_allowed());
    let node = store.lane_name(store.lane(&check));
    assert!(node.ends_with(&format!(":{}", port.number())), "{node}");
    let clients: String = server.ask(&["CLIENT", "LIST"]).await;
    let by_tls = format!("laddr=127.0.0.1:{}", port.number());
    assert!(
        clients.lines().any(|line| line.contains(&by_tls)),
        "{clients}"
    );
}

#[cfg(feature = "redis-sentinel")]
#[tokio::test]
async fn sentinels_and_their_primary_are_connected_to_by_tls() {
    let authority = Authority::new("authority");
    let names = ["localhost", "127.0.0.1"];
    if TlsServer::start(&authority, &names).await.is_none() {
        return;
    }
    let options = TlsOptions::new(&authority, &names, "no");
    let (server, port) = start_with_tls(&options, &["--tls-replication", "yes"]).await;
    let sentinel_port = Port::reserve();
    let mut configuration = format!(
        "tls-port {}\ntls-replication yes\nsentinel monitor main 127.0.0.1 {} 1\n",
        sentinel_port.number(),
        port.number()
    );
    for (option, value) in &options.options {
        configuration += &format!("{option} {value}\n");
    }
    let _sentinel = Server::start_sentinel(&configuration).await;

    let url = format!("rediss://localhost:{}", sentinel_port.number());
    let store =
        RedisStore::sentinel([url.as_str()], "main").root_certificates(authority.pem.as_str());
    let store = store.build().unwrap();
    store.ping().await.unwrap();
    let keys = server.keys().await;
    assert!(
        keys.iter().any(|key| key.contains("tollgate:probe")),
        "{keys:?}"
    );
}

#[test]
fn certificates_that_are_none_are_an_error_at_once() {
    for none in ["", "none", "-----BEGIN CERTIFICATE-----\nnone"] {
        let builder = RedisStore::builder("rediss://localhost").root_certificates(none);
        let error = builder.build().expect_err("there is no certificate");
        assert!(error.to_string().contains("root certificates"), "{error}");
    }
}
