//! Asks a running server by HTTP.

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

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// No answer that makes sense is longer.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Which server to ask, and as whom.
#[derive(Args)]
pub(super) struct Server {
    /// The server's HTTP door.
    #[arg(long, env = "TOLLGATE_SERVER", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// The token to show, if the server wants one.
    #[arg(long, env = "TOLLGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// Which server's limits to change, and by which right.
#[derive(Args)]
pub(super) struct AdminServer {
    /// The server's admin API.
    #[arg(long, env = "TOLLGATE_ADMIN", default_value = "http://127.0.0.1:8082")]
    admin: String,
    /// One of the tokens in `admin.tokens`.
    #[arg(long, env = "TOLLGATE_ADMIN_TOKEN", hide_env_values = true)]
    token: String,
}

/// A request of one of the commands.
pub(super) struct Call<'a> {
    base: &'a str,
    token: Option<&'a str>,
    headers: Vec<(HeaderName, String)>,
}

/// What the server said, where it did as it was asked.
pub(super) struct Reply {
    pub(super) body: String,
}

impl Server {
    pub(super) fn call(&self) -> Call<'_> {
        Call {
            base: &self.server,
            token: self.token.as_deref(),
            headers: Vec::new(),
        }
    }
}

impl AdminServer {
    pub(super) fn call(&self) -> Call<'_> {
        Call {
            base: &self.admin,
            token: Some(&self.token),
            headers: Vec::new(),
        }
    }
}

impl Call<'_> {
    pub(super) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends it, and takes an error that the server tells for one of ours.
    pub(super) async fn send(
        self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Reply> {
        let base = self.base.trim_end_matches('/');
        let uri: Uri = format!("{base}{path}").parse()?;
        if uri.scheme_str() != Some("http") {
            bail!("{base} is no server: write http://host:port");
        }
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
        let answer = async {
            let (parts, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((parts, String::from_utf8(body.into())?))
        };
        let answer = timeout(PATIENCE, answer).await;
        let answer = answer.with_context(|| format!("{base} did not answer in {PATIENCE:?}"))?;
        let (parts, body) = answer.with_context(|| format!("{base} cannot be asked"))?;
        if !parts.status.is_success() {
            let problem: Value = serde_json::from_str(&body).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("it does not say why");
            bail!("{base} says {}: {detail}", parts.status);
        }
        Ok(Reply { body })
    }
}

/// A text as a part of a path or a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
