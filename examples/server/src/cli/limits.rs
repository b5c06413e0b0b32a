//! The commands of `limits`.

use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;

use anyhow::{Context, bail};
use axum::http::Method;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{AdminServer, Call, encode};
use crate::limits::LimitSubject;

#[derive(Subcommand)]
pub(super) enum Limits {
    /// List the limits of tiers, tenants and keys, one JSON object a line.
    List(List),
    /// Show a limit and its version.
    Get(Get),
    /// Set a limit.
    Set(Set),
    /// Delete a limit that was set at run time.
    Delete(Delete),
}

#[derive(Args)]
pub(super) struct List {
    /// List only subjects that begin with this text, such as `keys/acme/`.
    #[arg(long, default_value = "")]
    prefix: String,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Get {
    /// The limit's subject: `tenants/<tenant>`, `tiers/<tier>` or `keys/<tenant>/<key>`.
    subject: LimitSubject,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Set {
    /// The limit's subject: `tenants/<tenant>`, `tiers/<tier>` or `keys/<tenant>/<key>`.
    subject: LimitSubject,
    /// A quota, such as `100/1m`, or several with names, such as `burst=10/1s daily=1000/1d`.
    #[arg(required = true)]
    limits: Vec<String>,
    /// Fail unless the limit has this version.
    #[arg(long, conflicts_with = "if_absent")]
    if_version: Option<String>,
    /// Fail if the limit is already set at run time.
    #[arg(long)]
    if_absent: bool,
    /// Fail if the configuration does not contain the subject, instead of printing a warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Delete {
    /// The limit's subject: `tenants/<tenant>`, `tiers/<tier>` or `keys/<tenant>/<key>`.
    subject: LimitSubject,
    /// Fail unless the limit has this version.
    #[arg(long)]
    if_version: Option<String>,
    #[command(flatten)]
    server: AdminServer,
}

impl Limits {
    pub(super) async fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run().await?,
            Self::Get(get) => get.run().await?,
            Self::Set(set) => set.run().await?,
            Self::Delete(delete) => delete.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(&self) -> anyhow::Result<()> {
        let prefix = encode(&self.prefix);
        let mut path = format!("/limits?prefix={prefix}");
        loop {
            let reply = self.server.call()?.send(Method::GET, &path, None).await?;
            let page: Value = serde_json::from_str(&reply.body)?;
            let limits = page["limits"].as_array();
            // `println!` would panic if the reader, such as `head`, closes the pipe.
            let mut stdout = BufWriter::new(stdout().lock());
            for item in limits.context("the reply has no list `limits`")? {
                writeln!(stdout, "{item}")?;
            }
            stdout.flush()?;
            let Some(next) = page["next"].as_str() else {
                return Ok(());
            };
            path = format!("/limits?prefix={prefix}&after={}", encode(next));
        }
    }
}

impl Get {
    async fn run(&self) -> anyhow::Result<()> {
        let path = path(&self.subject);
        let reply = self.server.call()?.send(Method::GET, &path, None).await?;
        println!("{}", reply.body);
        Ok(())
    }
}

impl Set {
    async fn run(&self) -> anyhow::Result<()> {
        let body = json!({ "limits": parse_limits(&self.limits)? });
        let mut call = if_version(self.server.call()?, self.if_version.as_deref());
        if self.if_absent {
            call = call.header(IF_NONE_MATCH, "*".to_owned());
        }
        let mut path = path(&self.subject);
        if self.strict {
            path.push_str("?strict=true");
        }
        let reply = call.send(Method::PUT, &path, Some(&body)).await?;
        println!("{}", reply.body);
        let item: Value = serde_json::from_str(&reply.body)?;
        if let Some(warning) = item["warning"].as_str() {
            eprintln!("tollgate-server: warning: {warning}");
        }
        Ok(())
    }
}

impl Delete {
    async fn run(&self) -> anyhow::Result<()> {
        let call = if_version(self.server.call()?, self.if_version.as_deref());
        call.send(Method::DELETE, &path(&self.subject), None)
            .await?;
        Ok(())
    }
}

fn if_version<'a>(call: Call<'a>, version: Option<&str>) -> Call<'a> {
    match version {
        Some(version) => call.header(IF_MATCH, format!("\"{version}\"")),
        None => call,
    }
}

/// Parses one quota, or several with names.
fn parse_limits(texts: &[String]) -> anyhow::Result<Value> {
    if let [text] = texts
        && !text.contains('=')
    {
        return Ok(json!(text));
    }
    let mut limits = Map::new();
    for text in texts {
        let named = text.split_once('=');
        let (name, quota) = named.with_context(|| {
            format!(
                "{text:?} has no name: name each of several quotas, as in burst=10/1s daily=1000/1d"
            )
        })?;
        if limits.insert(name.to_owned(), json!(quota)).is_some() {
            bail!("the name {name:?} is given twice");
        }
    }
    Ok(Value::Object(limits))
}

/// Returns the path of a subject's limit.
fn path(subject: &LimitSubject) -> String {
    match subject {
        LimitSubject::Key { tenant, key } => format!("/limits/keys/{tenant}/{}", encode(key)),
        other => format!("/limits/{other}"),
    }
}
