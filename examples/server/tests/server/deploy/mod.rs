//! The files in `deploy/`, checked by validators and by the servers that read them.
//!
//! These tests run no container. `./tests/run` installs the validators.

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
