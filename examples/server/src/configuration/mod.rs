//! The configuration: a TOML file, and the environment over it.
//!
//! It is read in three steps: text to a tree of values that know where they stand (`tree`), the
//! environment's values into it (`environment`), and from there, field by field (`reader`), into
//! [`Configuration`]. So each mistake can name its file, line and field.

mod admin;
mod authentication;
mod environment;
mod envoy;
mod error;
mod limits;
mod reader;
mod secret;
mod settings;
mod sources;
mod tree;
mod yaml;

pub(crate) use reader::{Field, Result, Table};
pub(crate) use settings::{Configuration, Fixed, LogFormat, Rules, StoreKind, StoreSettings};
pub(crate) use sources::Sources;
pub(crate) use tree::Value;
