//! `limits`: lists and changes run-time limits.

use std::process::ExitCode;

use anyhow::{Context, bail};
use axum::http::Method;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{AdminServer, Call, encode};
use crate::limits::Subject;

#[derive(Subcommand)]
pub(super) enum Limits {
    /// List every limit of a tier, a tenant or a key.
    List(List),
    /// Show a limit, and its version.
    Get(Get),
    /// Set a limit.
    Set(Set),
    /// Delete a limit that was set at run time.
    Delete(Delete),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Get {
    /// The limit: `tenants/<tenant>`, `tiers/<tier>` or `keys/<tenant>/<key>`.
    subject: Subject,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Set {
    /// The limit: `tenants/<tenant>`, `tiers/<tier>` or `keys/<tenant>/<key>`.
    subject: Subject,
    /// A quota, such as `100/1m`, or several with names, such as `burst=10/1s daily=1000/1d`.
    #[arg(required = true)]
    limits: Vec<String>,
    /// Only if it still has this version.
    #[arg(long, conflicts_with = "if_absent")]
    if_version: Option<String>,
    /// Only if it has not been set at run time yet.
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Delete {
    /// The limit: `tenants/<tenant>`, `tiers/<tier>` or `keys/<tenant>/<key>`.
    subject: Subject,
    /// Only if it still has this version.
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
        let reply = self
            .server
            .call()?
            .send(Method::GET, "/limits", None)
            .await?;
        let list: Value = serde_json::from_str(&reply.body)?;
        let list = list["limits"]
            .as_array()
            .context("the response has no list `limits`")?;
        for item in list {
            println!("{item}");
        }
        Ok(())
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
        let body = json!({ "limits": limits(&self.limits)? });
        let mut call = if_version(self.server.call()?, self.if_version.as_deref());
        if self.if_absent {
            call = call.header(IF_NONE_MATCH, "*".to_owned());
        }
        let path = path(&self.subject);
        let reply = call.send(Method::PUT, &path, Some(&body)).await?;
        println!("{}", reply.body);
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

/// Reads one quota, or several with names.
fn limits(texts: &[String]) -> anyhow::Result<Value> {
    if let [text] = texts
        && !text.contains('=')
    {
        return Ok(json!(text));
    }
    let mut limits = Map::new();
    for text in texts {
        let named = text.split_once('=');
        let (name, quota) = named.with_context(|| {
            format!("{text:?} has no name, and there are several: write burst=10/1s daily=1000/1d")
        })?;
        if limits.insert(name.to_owned(), json!(quota)).is_some() {
            bail!("{name:?} is there twice");
        }
    }
    Ok(Value::Object(limits))
}

fn path(subject: &Subject) -> String {
    match subject {
        Subject::Key { tenant, key } => format!("/limits/keys/{tenant}/{}", encode(key)),
        other => format!("/limits/{other}"),
    }
}
