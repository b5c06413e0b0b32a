//! The files in `examples/server/deploy`, checked by validators and by the programs that read them.
//!
//! The tests start no containers. `./tests/run` installs the validators.
//!
//! `tools` and `objects` are support code: they find files and programs, and render the Kubernetes
//! objects.

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
