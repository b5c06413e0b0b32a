//! The store in this process.

// local_store: the store
// table:       the hash table with the entries, which the limiter's fallback uses too

mod local_store;
mod table;

pub use local_store::LocalStore;
pub(crate) use table::Table;
