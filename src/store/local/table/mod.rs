//! A set-associative hash table of a fixed size, which evicts entries when it is full.
//!
//! A set has five slots of 24 bytes, which fill two cache lines together with the set's mutex. Each key
//! has two candidate sets. With two and a half slots for each entry of the table's capacity, all ten
//! candidate slots of a key are hardly ever taken by live entries (Azar, Broder, Karlin and Upfal,
//! "Balanced Allocations", 1994). Most keys are in their first set, which is searched first, and in its
//! first cache line, which has everything that a lock-free charge needs.
//!
//! A check of one policy that is a token bucket, which is the common case, takes no lock if it finds its
//! entry. All other checks lock the sets of their entries.
//!
//! `model` tests the table with a model checker, in every interleaving of two threads.

// table:      decides checks; the lock-free path
// locked:     the entries of one check, locked
// storage:    the sets, how a key finds its slot, and the estimate of live entries
// set:        five slots and their mutex
// slot:       an entry packed into atomic words
// huge_pages: memory for the sets
// sync:       the mutex and atomics, which the model checker replaces

mod huge_pages;
mod locked;
#[cfg(all(test, tollgate_loom))]
mod model;
mod set;
mod slot;
mod storage;
mod sync;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod table;

pub(crate) use table::Table;
