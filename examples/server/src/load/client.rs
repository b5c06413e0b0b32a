//! Clients that send checks to a server: `POST /check`, on as many connections as requests are in
//! flight, or `CheckLimit`, all on one connection.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate::{Algorithm, Quota};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status};

use crate::protocol::tollgate::v1;
use crate::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;

/// The part of a response to a check that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckResult {
    pub(super) allowed: bool,
    pub(super) degraded: bool,
}

/// A client for one server. It connects at the first check, and again after the connection is lost.
#[derive(Debug)]
pub(super) enum Client {
    Http(Box<HttpClient>),
    Grpc(Box<GrpcClient>),
}

impl Client {
    pub(super) fn new(
        address: &Address,
        token: Option<&str>,
        limit: Option<Quota>,
    ) -> anyhow::Result<Self> {
        Ok(match address.protocol {
            Protocol::Http => Self::Http(Box::new(HttpClient::new(
                address.uri("/check")?,
                token,
                limit,
            )?)),
            Protocol::Grpc => {
                Self::Grpc(Box::new(GrpcClient::new(address.uri("/")?, token, limit)?))
            }
        })
    }

    /// Sends a check, and waits for the response until the timeout.
    pub(super) async fn check(
        &self,
        key: String,
        timeout: Duration,
    ) -> Result<CheckResult, Failure> {
        let result = async {
            match self {
                Self::Http(client) => client.check(key).await,
                Self::Grpc(client) => client.check(key).await,
            }
        };
        let timed_out = |_| Failure::new("timeout", format!("no response within {timeout:?}"));
        tokio::time::timeout(timeout, result)
            .await
            .map_err(timed_out)?
    }
}

/// The protocol of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Grpc,
}

/// The address of a server: `http://host:port` or `grpc://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    protocol: Protocol,
    authority: Authority,
}

impl Address {
    /// Returns the URI of a path on the server. The scheme of gRPC is HTTP as well.
    fn uri(&self, path: &'static str) -> anyhow::Result<Uri> {
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

#[derive(Debug)]
pub(super) struct HttpClient {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    limit: Option<LimitFields>,
}

#[derive(Serialize)]
struct RequestBody<'a> {
    key: &'a str,
    #[serde(flatten)]
    limit: Option<&'a LimitFields>,
}

#[derive(Debug, Serialize)]
struct LimitFields {
    rate: u32,
    interval: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
    algorithm: &'static str,
}

#[derive(Deserialize)]
struct ResponseBody {
    allowed: bool,
    degraded: bool,
}

impl HttpClient {
    fn new(uri: Uri, token: Option<&str>, limit: Option<Quota>) -> anyhow::Result<Self> {
        let json = HeaderValue::from_static("application/json");
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            client: legacy::Client::builder(TokioExecutor::new()).build(connector),
            uri,
            headers,
            limit: limit.map(LimitFields::from),
        })
    }

    async fn check(&self, key: String) -> Result<CheckResult, Failure> {
        let check = RequestBody {
            key: &key,
            limit: self.limit.as_ref(),
        };
        let body =
            serde_json::to_vec(&check).map_err(|error| Failure::from_error("not sent", &error))?;
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        let response = self.client.request(request).await.map_err(|error| {
            let kind = if error.is_connect() {
                "cannot connect"
            } else {
                "connection lost"
            };
            Failure::from_error(kind, &error)
        })?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await;
        let body = body.map_err(|error| Failure::from_error("connection lost", &error))?;
        let body = body.to_bytes();
        if !parts.status.is_success() {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            let detail = problem["detail"]
                .as_str()
                .unwrap_or("the response gives no reason");
            return Err(Failure::new(parts.status.to_string(), detail));
        }
        let checked: ResponseBody = serde_json::from_slice(&body)
            .map_err(|error| Failure::from_error("invalid response", &error))?;
        Ok(CheckResult {
            allowed: checked.allowed,
            degraded: checked.degraded,
        })
    }
}

impl From<Quota> for LimitFields {
    fn from(quota: Quota) -> Self {
        let (algorithm, burst) = match quota.algorithm() {
            Algorithm::SlidingWindow => ("sliding_window", None),
            Algorithm::FixedWindow => ("fixed_window", None),
            _ => ("token_bucket", Some(quota.capacity())),
        };
        Self {
            rate: quota.limit(),
            interval: humantime::format_duration(quota.period()).to_string(),
            burst,
            algorithm,
        }
    }
}

#[derive(Debug)]
pub(super) struct GrpcClient {
    client: RateLimiterClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    limit: Option<v1::Limit>,
}

impl GrpcClient {
    fn new(uri: Uri, token: Option<&str>, limit: Option<Quota>) -> anyhow::Result<Self> {
        let token = token.map(|token| format!("Bearer {token}").parse());
        Ok(Self {
            client: RateLimiterClient::new(Endpoint::from(uri).connect_lazy()),
            authorization: token.transpose()?,
            limit: limit.map(grpc_limit).transpose()?,
        })
    }

    async fn check(&self, key: String) -> Result<CheckResult, Failure> {
        let mut request = tonic::Request::new(v1::CheckLimitRequest {
            key,
            limit: self.limit,
            ..Default::default()
        });
        if let Some(token) = &self.authorization {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        let response = self.client.clone().check_limit(request).await;
        let response = response
            .map_err(|status| grpc_failure(&status))?
            .into_inner();
        let status = response
            .status
            .ok_or_else(|| Failure::new("invalid response", "it has no status"))?;
        Ok(CheckResult {
            allowed: status.allowed,
            degraded: status.degraded,
        })
    }
}

fn grpc_failure(status: &Status) -> Failure {
    if causes(status).any(|cause| cause.is::<ConnectError>()) {
        return Failure::from_error("cannot connect", status);
    }
    // A status that the server sent has no source.
    match std::error::Error::source(status) {
        Some(cause) => Failure::from_error("connection lost", cause),
        None => Failure::new(grpc_code_name(status.code()), status.message()),
    }
}

/// Returns the name of a code as in the gRPC specification, such as `INVALID_ARGUMENT`.
fn grpc_code_name(code: Code) -> String {
    let mut grpc_code_name = String::new();
    for (index, letter) in format!("{code:?}").char_indices() {
        if index > 0 && letter.is_uppercase() {
            grpc_code_name.push('_');
        }
        grpc_code_name.push(letter.to_ascii_uppercase());
    }
    grpc_code_name
}

fn grpc_limit(quota: Quota) -> anyhow::Result<v1::Limit> {
    let (algorithm, burst) = match quota.algorithm() {
        Algorithm::SlidingWindow => (v1::Algorithm::SlidingWindow, None),
        Algorithm::FixedWindow => (v1::Algorithm::FixedWindow, None),
        _ => (v1::Algorithm::TokenBucket, Some(quota.capacity())),
    };
    Ok(v1::Limit {
        rate: quota.limit(),
        interval: Some(prost_types::Duration::try_from(quota.period())?),
        burst,
        algorithm: algorithm.into(),
    })
}

/// The reason why a check got no result.
#[derive(Debug)]
pub(super) struct Failure {
    /// The kind, by which failures are counted.
    pub(super) kind: Cow<'static, str>,
    /// The message of this failure.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn new(kind: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            detail: detail.into(),
        }
    }

    /// Makes a failure whose detail has the messages of the error and of its causes.
    fn from_error(kind: impl Into<Cow<'static, str>>, error: &(dyn Error + 'static)) -> Self {
        let mut detail = error.to_string();
        for cause in causes(error).skip(1) {
            let cause = cause.to_string();
            // Some errors repeat the message of their cause.
            if !detail.contains(&cause) {
                detail.push_str(": ");
                detail.push_str(&cause);
            }
        }
        Self::new(kind, detail)
    }
}

/// Returns the error, its source, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_has_a_known_scheme_and_no_path() {
        for text in ["http://127.0.0.1:8080", "grpc://limits.example:8081"] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
        let address: Address = "http://localhost:8080/".parse().expect("an address");
        assert_eq!(address.to_string(), "http://localhost:8080");
        for text in [
            "",
            "localhost",
            "localhost:8080",
            "https://localhost:1",
            "http://localhost/check",
            "grpc://localhost?a=b",
        ] {
            let error = text.parse::<Address>().expect_err("not an address");
            assert!(error.contains("http://host:port"), "{text}: {error}");
        }
    }

    #[test]
    fn grpc_codes_are_in_upper_snake_case() {
        assert_eq!(grpc_code_name(Code::InvalidArgument), "INVALID_ARGUMENT");
        assert_eq!(grpc_code_name(Code::Unauthenticated), "UNAUTHENTICATED");
    }
}
