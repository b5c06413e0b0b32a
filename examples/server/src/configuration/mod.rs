//! The configuration: a TOML file, and environment variables that override it.
//!
//! Each text is parsed into a tree of values with their lines. The values of environment variables
//! are put into the tree, and the tree is read field by field into a [`Configuration`]. So each
//! error names its file, line and field.
//!
//! - `load`: reads a configuration as a whole. `reload` does so again when a file changes.
//! - `sources`: reads files. `toml`, `yaml` and `environment` parse texts and variables.
//! - `tree`: the tree of values, and the errors of a configuration. `field` reads typed values from
//!   it.
//! - `settings`, `limits`, `authentication` and `envoy`: the sections of a configuration.

mod authentication;
mod environment;
mod envoy;
mod field;
mod limits;
mod load;
mod reload;
mod settings;
mod sources;
mod toml;
mod tree;
mod yaml;

pub(crate) use load::{Configuration, ReloadableSettings};
pub(crate) use reload::{ReloadStatus, Reloader};
pub(crate) use settings::{LogFormat, StoreKind, StoreSettings};
pub(crate) use sources::Sources;

#[cfg(test)]
pub(crate) use self::{
    envoy::read_domain,
    field::Field,
    toml::from_toml,
    tree::{ConfigurationError, Node, Value},
    yaml::from_yaml,
};
