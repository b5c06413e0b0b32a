//! The configuration: a TOML file, and the environment over it.
//!
//! Reading takes three steps: a text becomes a tree of values with their lines, the values of variables
//! are put into the tree, and the tree is read field by field into [`Configuration`]. So each error
//! names its file, line and field.
//!
//! - `load`: reads a configuration as a whole; `reload` does so again when a file changes.
//! - `sources`: the files that were read. `toml`, `yaml` and `environment`: their texts and the
//!   environment variables as a `tree`, with the errors that a tree can have.
//! - `field`: reads typed values from a tree.
//! - `settings`, `limits`, `authentication` and `envoy`: read the sections of the configuration.

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

pub(crate) use load::{Configuration, Rules};
pub(crate) use reload::{Reloader, Reloads};
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
