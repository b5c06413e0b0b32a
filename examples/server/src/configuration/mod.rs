//! The configuration: a TOML file, and the environment over it.
//!
//! Reading takes three steps: `toml` and `yaml` make a tree of values with their lines from a text,
//! `environment` puts the values of variables into it, and `reader` reads it field by field into
//! [`Configuration`]. So each error names its file, line and field.

mod admin;
mod authentication;
mod environment;
mod envoy;
mod error;
#[cfg(test)]
mod fuzz;
mod limits;
mod reader;
mod secret;
mod settings;
mod sources;
mod tokens;
mod toml;
mod tree;
mod yaml;

pub(crate) use reader::{Field, Result, Table};
pub(crate) use settings::{Configuration, Fixed, LogFormat, Rules, StoreKind, StoreSettings};
pub(crate) use sources::Sources;
pub(crate) use tree::Value;
