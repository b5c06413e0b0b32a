//! The store in this process.

// local_store:  the store
// open_charges: the charges that are not settled yet
// table:        the hash table with the entries, which the limiter's fallback uses too

mod local_store;
mod open_charges;
mod table;

pub use local_store::LocalStore;
pub(crate) use table::Table;
