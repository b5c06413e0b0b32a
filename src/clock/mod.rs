//! What time it is, for a store in the process.

mod recent;
mod system;

pub(crate) use recent::LATE;
pub use system::{Clock, SystemClock};
