//! Which limits are whose.

mod catalog;

pub(crate) use catalog::{Catalog, Tenant};
