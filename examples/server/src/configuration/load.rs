//! Reads a configuration as a whole.

use std::io;
use std::path::Path;

use anyhow::anyhow;
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
use crate::limits::ConfiguredLimits;

/// All settings of a server.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) fixed: FixedSettings,
    pub(crate) reloadable: ReloadableSettings,
}

/// The settings that take effect at a restart only.
#[derive(Debug)]
pub(crate) struct FixedSettings {
    pub(crate) listen: Listen,
    pub(crate) store: StoreSettings,
    pub(crate) log_format: LogFormat,
    pub(crate) shutdown: Shutdown,
}

/// The settings that take effect at a reload.
#[derive(Debug)]
pub(crate) struct ReloadableSettings {
    pub(crate) failure_strategy: FailureStrategy,
    pub(crate) configured_limits: ConfiguredLimits,
    pub(crate) authenticator: Authenticator,
    /// The tokens of administrators, with their names.
    pub(crate) admin_tokens: Tokens<String>,
    pub(crate) envoy: EnvoySettings,
    pub(crate) log_filter: Targets,
}

/// The names of the tables at the root, beside [`limits::TABLES`].
const TABLES: [&str; 7] = [
    "listen",
    "store",
    "log",
    "shutdown",
    "authentication",
    "admin",
    "envoy",
];

impl FixedSettings {
    /// Returns the tables that differ and need a restart. A different log format is not among them:
    /// it does not keep a reload from taking effect.
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
    /// Reads the file, if there is one, and the environment. Adds the files that it reads to
    /// `sources`, even if it returns an error.
    pub(crate) fn load(file: Option<&Path>, sources: &mut Sources) -> anyhow::Result<Self> {
        let root = match file {
            Some(path) => {
                let name = path.display().to_string();
                let text = sources.read(path).map_err(|error| {
                    let fix = match error.kind() {
                        io::ErrorKind::NotFound => {
                            "; correct the path in `--config`, `TOLLGATE_CONFIG` or `validate`"
                        }
                        _ => "",
                    };
                    anyhow!("the configuration {name} cannot be read: {error}{fix}")
                })?;
                from_toml(&text, &name)?
            }
            None => Node {
                value: Value::Table(Vec::new()),
                origin: Origin::no_file(),
            },
        };
        let directory = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let variables = environment::variables()?;
        Ok(Self::from_tree(root, variables, directory, sources)?)
    }

    /// Reads the tree of a file and the environment. The paths of other files are relative to
    /// `directory`.
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
        let (configured_limits, tokens) = limits::read(&root, &mut reader)?;
        let admin_tokens = authentication::read_admin_tokens(&root, &mut reader)?;
        let listen = settings::listen(&root, !admin_tokens.is_empty())?;
        let envoy = envoy::read(&root, &mut reader, directory, sources)?;
        let authenticator =
            authentication::read(&root, tokens, !envoy.tokens.is_empty(), listen.is_local())?;
        if authenticator.required && !envoy.rules.is_empty() && envoy.tokens.is_empty() {
            let problem = "callers must authenticate, and Envoy could not: give it `tokens`";
            return Err(root.required("envoy")?.error(problem));
        }
        let (log_filter, log_format) = settings::log(&root)?;
        Ok(Self {
            fixed: FixedSettings {
                listen,
                store,
                log_format,
                shutdown: settings::shutdown(&root)?,
            },
            reloadable: ReloadableSettings {
                failure_strategy,
                configured_limits,
                authenticator,
                admin_tokens,
                envoy,
                log_filter,
            },
        })
    }
}
