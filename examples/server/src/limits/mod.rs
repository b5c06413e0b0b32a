//! The limits of tiers, tenants and keys.
//!
//! Limits are configured, or set at run time by an operator. The latter are *overrides*: each takes
//! precedence over the configured limit of the same subject.
//!
//! - `configured`: the configured limits, and the subjects of limits.
//! - `override_table`: the overrides in memory, and the lookup of a key's limits.
//! - `overrides`: reads and writes overrides, in this process or through Redis.
//! - `redis`: the overrides that all replicas share. Its scripts are `write.lua` and `read.lua`.

mod configured;
mod override_table;
mod overrides;
mod redis;

pub(crate) use configured::{ConfiguredLimits, LimitSubject, Tenant, invalid_tenant};
pub(crate) use override_table::{Condition, Override, WriteError};
pub(crate) use overrides::Overrides;
