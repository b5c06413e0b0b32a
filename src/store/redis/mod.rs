//! A store in Redis or Valkey, shared by every process that uses the same server.
//!
//! A check goes through these files, in this order:
//!
//! 1. `store` denies the check from the `denial_cache`, or else makes it a `pending` check. Equal checks
//!    have equal `fingerprint`s.
//! 2. `shared` defines the `Topology`, which chooses the server: a `single_server` (also if a `sentinel`
//!    returned its address) or a `cluster`, with a `cluster_map` that is read from `cluster_slots`.
//! 3. `server_queue` has a `check_queue` for each runtime, in which the check waits.
//! 4. `worker` takes a `batch` from the queue, turns it into calls of the `script` (`check.lua`), and
//!    sends them over the `connection`.
//! 5. `delivery` answers the checks. `retry` sends checks again that the server has not run.
//! 6. `settlement` sends a settlement or a renewal of an allowed check the same way.
//!
//! A `server` is connected to at its `endpoint`, with `credentials` and `tls`, and after a failure with
//! a `backoff`. `error` classifies error replies. `builder` has the options, `config_error` their errors,
//! and `url` parses the URLs.
//!
//! Three timeouts follow from the deadline of a check:
//!
//! - A check that would time out before the reply is not sent (`check_queue`).
//! - A batch item is not decided after the earliest deadline of its checks, by the server's clock
//!   (`script`).
//! - A reply is awaited until the latest deadline in its batch, and for as long again, but at most a
//!   second: then the connection is closed (`worker`).

mod backoff;
mod batch;
mod builder;
mod check_queue;
#[cfg(feature = "redis-cluster")]
mod cluster;
#[cfg(feature = "redis-cluster")]
mod cluster_map;
#[cfg(feature = "redis-cluster")]
mod cluster_slots;
mod config_error;
mod connection;
mod credentials;
mod delivery;
mod denial_cache;
mod endpoint;
mod error;
mod fingerprint;
mod pending;
#[cfg(all(test, feature = "test-util"))]
mod reservation_tests;
mod retry;
mod script;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
mod server;
mod server_queue;
mod settlement;
mod shared;
mod single_server;
mod store;
#[cfg(all(test, feature = "test-util"))]
mod tests;
#[cfg(feature = "redis-tls")]
mod tls;
mod url;
mod worker;

pub use self::builder::RedisStoreBuilder;
pub use self::config_error::RedisConfigError;
pub use self::credentials::RedisCredentials;
pub use self::store::RedisStore;
