//! A running Envoy.

#[path = "../../../../../tests/support/envoy.rs"]
mod program;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{Wait, http};

/// A running Envoy with one listener. Dropping it kills the process.
pub(crate) struct Envoy {
    /// Before the directory, so that it is dropped first.
    process: Process,
    address: SocketAddr,
    directory: TempDir,
}

impl Envoy {
    /// Starts Envoy with this configuration, which has no admin interface of its own.
    pub(crate) async fn start(configuration: &str) -> Self {
        let directory = TempDir::with_prefix("tollgate-envoy-").unwrap();
        let path = |name: &str| directory.path().join(name);
        let file = path("envoy.yaml");
        let admin = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n";
        fs::write(&file, [admin, configuration].concat()).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new(program::program());
        command
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(path("admin"))
            // Otherwise two Envoys on a machine take each other for their own predecessor.
            .arg("--disable-hot-restart")
            .args(["--concurrency", "1", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut process = Process::spawn(&mut command);
        let wait = Wait::until("Envoy listens");
        let address = loop {
            if let Some(status) = process.0.try_wait().unwrap() {
                let log = fs::read_to_string(path("log")).unwrap_or_default();
                panic!("Envoy exited with {status}:\n{log}");
            }
            if let Some(address) = listener_address(&path("admin")).await {
                break address;
            }
            wait.sleep().await;
        };
        Self {
            process,
            address,
            directory,
        }
    }

    /// Returns the address of the listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Asks Envoy's admin interface for the address of the listener. Returns `None` while Envoy is not
/// ready. Envoy writes the address of the admin interface into the file.
async fn listener_address(admin_file: &Path) -> Option<SocketAddr> {
    let admin: SocketAddr = fs::read_to_string(admin_file).ok()?.trim().parse().ok()?;
    let ready = http::try_get(admin, "/ready").await?;
    if !ready.status().is_success() {
        return None;
    }
    let listeners = http::try_get(admin, "/listeners?format=json").await?;
    let listeners: Value = serde_json::from_str(listeners.body()).ok()?;
    let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
    let ip: IpAddr = address["address"].as_str()?.parse().ok()?;
    let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
    Some((ip, port).into())
}
