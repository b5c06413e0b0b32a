//! Reads a configuration as a whole.

use std::path::Path;

use anyhow::Context;
use tollgate::FailureStrategy;
use tracing_subscriber::filter::Targets;

use super::authentication::TokenReader;
use super::envoy::EnvoySettings;
use super::field::Field;
use super::settings::{Listen, LogFormat, Shutdown, StoreSettings};
use super::sources::Sources;
use super::toml::from_toml;
use super::tree::{Node, Origin, Result, Value};
use super::{authentication, environment, envoy, limits, settings};
use crate::authentication::{Authenticator, Tokens};
use crate::limits::Catalog;

/// A whole configuration.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) fixed: Fixed,
    pub(crate) rules: Rules,
}

/// The settings that only a restart changes.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) listen: Listen,
    pub(crate) store: StoreSettings,
    pub(crate) log_format: LogFormat,
    pub(crate) shutdown: Shutdown,
}

/// The settings that a reload changes.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) failure_strategy: FailureStrategy,
    pub(crate) catalog: Catalog,
    pub(crate) authenticator: Authenticator,
    /// The names of the administrators, by their tokens.
    pub(crate) admin_tokens: Tokens<String>,
    pub(crate) envoy: EnvoySettings,
    pub(crate) log_filter: Targets,
}

const TABLES: [&str; 7] = [
    "listen",
    "store",
    "log",
    "shutdown",
    "authentication",
    "admin",
    "envoy",
];

impl Fixed {
    /// The tables that differ, if a server must not take over a configuration that differs there.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("listen", self.listen == other.listen),
            ("store", self.store == other.store),
            ("shutdown", self.shutdown == other.shutdown),
        ];
        let different = same.into_iter().filter(|(_, same)| !same);
        different.map(|(name, _)| name).collect()
    }
}

impl Configuration {
    /// Reads the file, if there is one, and the environment. `sources` lists the files that were read,
    /// also if an error is returned.
    pub(crate) fn load(file: Option<&Path>, sources: &mut Sources) -> anyhow::Result<Self> {
        let root = match file {
            Some(path) => {
                let name = path.display().to_string();
                let text = sources
                    .read(path)
                    .with_context(|| format!("the configuration {name} cannot be read"))?;
                from_toml(&text, &name)?
            }
            None => Node {
                value: Value::Table(Vec::new()),
                origin: Origin::unwritten(),
            },
        };
        let directory = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let variables = environment::variables()?;
        Ok(Self::from_tree(root, variables, directory, sources)?)
    }

    pub(crate) fn from_tree(
        mut root: Node,
        variables: Vec<(String, String)>,
        directory: &Path,
        sources: &mut Sources,
    ) -> Result<Self> {
        let known = [&TABLES[..], &limits::TABLES].concat();
        environment::apply(&mut root, variables, &known)?;
        let root = Field::root(&root).table(&known)?;
        let (store, failure_strategy) = settings::store(&root)?;
        let mut reader = TokenReader::default();
        let (catalog, tokens) = limits::read(&root, &mut reader)?;
        let admin_tokens = authentication::read_admin_tokens(&root, &mut reader)?;
        let listen = settings::listen(&root, !admin_tokens.is_empty())?;
        let envoy = envoy::read(&root, &mut reader, directory, sources)?;
        let authenticator =
            authentication::read(&root, tokens, !envoy.tokens.is_empty(), listen.is_local())?;
        if authenticator.required && !envoy.rules.is_empty() && envoy.tokens.is_empty() {
            let problem = "callers must authenticate, and Envoy could not: give it `tokens`";
            return Err(root.required("envoy")?.wrong(problem));
        }
        let (log_filter, log_format) = settings::log(&root)?;
        Ok(Self {
            fixed: Fixed {
                listen,
                store,
                log_format,
                shutdown: settings::shutdown(&root)?,
            },
            rules: Rules {
                failure_strategy,
                catalog,
                authenticator,
                admin_tokens,
                envoy,
                log_filter,
            },
        })
    }
}
