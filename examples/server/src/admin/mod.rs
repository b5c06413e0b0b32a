//! The admin API: limits that are set at run time.

mod conditions;
mod limits;
mod list;
mod parameters;
mod reset;
mod router;

pub(crate) use router::{Admin, router};
