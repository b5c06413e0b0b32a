//! The limits of tiers, tenants and keys: configured limits, and overrides.
//!
//! An *override* is a limit that an operator sets at run time. It replaces the configured limit of the
//! same subject. `catalog` holds the configured limits. `overrides` holds the overrides in a `map`, and
//! with Redis (`redis`) shares them with every other replica.

mod catalog;
mod map;
mod overrides;
mod redis;
mod subject;

pub(crate) use catalog::{Catalog, Tenant};
pub(crate) use map::Override;
pub(crate) use overrides::{Condition, Overrides, WriteError};
pub(crate) use subject::Subject;
