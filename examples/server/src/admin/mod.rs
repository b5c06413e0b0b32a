//! The admin API: limits that are set while the servers run.

mod conditions;
mod limits;
mod reset;
mod router;

pub(crate) use router::{Admin, router};
