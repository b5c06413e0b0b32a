//! What is in `deploy/` is what its checkers, and the servers that it is for, say is right.
//!
//! Nothing here runs a container. `./tests/run` installs the checkers.

mod compose;
mod image;
mod kubernetes;
mod monitoring;
mod objects;
mod prometheus;
mod proxy;
mod redis;
mod settings;
mod tools;
