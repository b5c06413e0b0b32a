//! The log, on standard error.

use std::io::stderr;

use tracing_subscriber::EnvFilter;

use crate::configuration::{Fixed, LogFormat};

pub(super) fn start(settings: &Fixed) {
    // The configuration has seen to it that it is a filter.
    let filter = EnvFilter::new(&settings.log_filter);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    match settings.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
