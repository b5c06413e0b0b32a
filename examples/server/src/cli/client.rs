//! An HTTP client for a running server.

use std::env;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, Method, Request, Uri};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::timeout;

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum size of a response body, in bytes. A page of limits is smaller.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// The server to send requests to, and the token of the caller.
#[derive(Args)]
pub(super) struct Server {
    /// The server's HTTP address [default: the address in TOLLGATE__LISTEN__HTTP, with 0.0.0.0 or
    /// :: as the loopback address, or http://127.0.0.1:8080].
    #[arg(long, env = "TOLLGATE_SERVER")]
    server: Option<String>,
    /// The token to send, if the server requires one.
    #[arg(long, env = "TOLLGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// The admin API to send requests to, and a token for it.
#[derive(Args)]
pub(super) struct AdminServer {
    /// The address of the server's admin API [default: the address in TOLLGATE__LISTEN__ADMIN, with
    /// 0.0.0.0 or :: as the loopback address, or http://127.0.0.1:8082].
    #[arg(long, env = "TOLLGATE_ADMIN")]
    admin: Option<String>,
    /// A token from the server's `[admin.tokens]`.
    #[arg(long, env = "TOLLGATE_ADMIN_TOKEN", hide_env_values = true)]
    token: String,
}

/// A request to a server.
pub(super) struct Call<'a> {
    base: String,
    /// The option that sets `base`, for errors.
    option: &'static str,
    token: Option<&'a str>,
    headers: Vec<(HeaderName, String)>,
}

/// A successful response.
pub(super) struct Reply {
    pub(super) body: String,
}

impl Server {
    pub(super) fn call(&self) -> anyhow::Result<Call<'_>> {
        Ok(Call {
            base: match &self.server {
                Some(server) => server.clone(),
                None => http_server()?,
            },
            option: "--server",
            token: self.token.as_deref(),
            headers: Vec::new(),
        })
    }
}

impl AdminServer {
    pub(super) fn call(&self) -> anyhow::Result<Call<'_>> {
        Ok(Call {
            base: match &self.admin {
                Some(admin) => admin.clone(),
                None => local_server("TOLLGATE__LISTEN__ADMIN", 8082)?,
            },
            option: "--admin",
            token: Some(&self.token),
            headers: Vec::new(),
        })
    }
}

impl Call<'_> {
    pub(super) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends the request. A response with an error status is an error.
    pub(super) async fn send(
        self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Reply> {
        let base = self.base.trim_end_matches('/');
        let uri = format!("{base}{path}").parse::<Uri>().ok();
        let Some(uri) = uri.filter(|uri| uri.scheme_str() == Some("http")) else {
            bail!(
                "{} `{base}` is not a URL: write http://host:port",
                self.option
            );
        };
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let response = async {
            let (parts, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((parts, String::from_utf8(body.into())?))
        };
        let response = timeout(TIMEOUT, response).await;
        let response =
            response.with_context(|| format!("{base} did not respond within {TIMEOUT:?}"))?;
        let (parts, body) = response.with_context(|| format!("cannot reach {base}"))?;
        if !parts.status.is_success() {
            let problem: Value = serde_json::from_str(&body).unwrap_or_default();
            let detail = problem["detail"]
                .as_str()
                .unwrap_or("the response gives no reason");
            bail!("{base} responded {}: {detail}", parts.status);
        }
        Ok(Reply { body })
    }
}

/// Returns the URL of the HTTP API of the server on this machine, or in this container.
pub(super) fn http_server() -> anyhow::Result<String> {
    local_server("TOLLGATE__LISTEN__HTTP", 8080)
}

/// Returns the URL of a server on this machine that reads its address from this variable.
fn local_server(variable: &str, default_port: u16) -> anyhow::Result<String> {
    // The configuration accepts the variable in lower case too.
    let is_meant = |name: &OsStr| name.eq_ignore_ascii_case(variable);
    let Some((_, text)) = env::vars_os().find(|(name, _)| is_meant(name)) else {
        return Ok(format!("http://127.0.0.1:{default_port}"));
    };
    let address = text.to_str().and_then(|text| text.parse().ok());
    let Some(mut address): Option<SocketAddr> = address.filter(|it: &SocketAddr| it.port() > 0)
    else {
        bail!(
            "{variable} is {text:?}, which is not the address of a server: write an IP \
             address and a port, such as 0.0.0.0:{default_port}, or name the server by an option"
        );
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok(format!("http://{address}"))
}

/// Percent-encodes a part of a path or a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
