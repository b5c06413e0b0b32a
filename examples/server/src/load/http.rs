//! `POST /check`, on as many connections as requests are in flight.

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate::{Algorithm, Quota};

use super::client::Answer;
use super::failure::Failure;

#[derive(Debug)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    limit: Option<Limit>,
}

#[derive(Serialize)]
struct Check<'a> {
    key: &'a str,
    #[serde(flatten)]
    limit: Option<&'a Limit>,
}

#[derive(Debug, Serialize)]
struct Limit {
    rate: u32,
    interval: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
    algorithm: &'static str,
}

#[derive(Deserialize)]
struct Checked {
    allowed: bool,
    degraded: bool,
}

impl Http {
    pub(super) fn new(uri: Uri, token: Option<&str>, limit: Option<Quota>) -> anyhow::Result<Self> {
        let json = HeaderValue::from_static("application/json");
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri,
            headers,
            limit: limit.map(Limit::from),
        })
    }

    pub(super) async fn check(&self, key: String) -> Result<Answer, Failure> {
        let check = Check {
            key: &key,
            limit: self.limit.as_ref(),
        };
        let body = serde_json::to_vec(&check).map_err(|error| Failure::of("not asked", &error))?;
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
            Failure::of(kind, &error)
        })?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await;
        let body = body.map_err(|error| Failure::of("connection lost", &error))?;
        let body = body.to_bytes();
        if !parts.status.is_success() {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("it does not say why");
            return Err(Failure::new(parts.status.to_string(), detail));
        }
        let checked: Checked = serde_json::from_slice(&body)
            .map_err(|error| Failure::of("an answer that is none", &error))?;
        Ok(Answer {
            allowed: checked.allowed,
            degraded: checked.degraded,
        })
    }
}

impl From<Quota> for Limit {
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
