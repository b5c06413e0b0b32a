//! Which limits are whose: those of the configuration, and over them those that were set while the
//! servers run.
//!
//! `catalog` has the former and `runtime` the latter. A `book` is where the latter are written, in
//! Redis so that every replica reads the same, and `keeper` reads it again and again.

mod book;
mod catalog;
mod keeper;
mod redis_book;
mod runtime;
mod subject;

pub(crate) use book::{Book, Condition, WriteError};
pub(crate) use catalog::{Catalog, Tenant, limits_of};
pub(crate) use keeper::Keeper;
pub(crate) use runtime::{Entry, Runtime};
pub(crate) use subject::Subject;
