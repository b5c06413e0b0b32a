//! A running Envoy.

#[path = "../../../../../tests/support/envoy.rs"]
mod program;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Wait, client};

/// An Envoy with one listener; killed when dropped.
pub(crate) struct Envoy {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Envoy {
    /// Starts it with this configuration, to which its administration is added.
    pub(crate) async fn start(configuration: &str) -> Self {
        let directory = TempDir::with_prefix("tollgate-envoy-").unwrap();
        let path = |name: &str| directory.path().join(name);
        let file = path("envoy.yaml");
        let admin = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n";
        fs::write(&file, [admin, configuration].concat()).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut process = Command::new(program::program())
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(path("admin"))
            // Else two of them on a machine take each other for their own past.
            .arg("--disable-hot-restart")
            .args(["--concurrency", "1", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy runs");
        let wait = Wait::until("Envoy listens");
        let address = loop {
            if let Some(status) = process.try_wait().unwrap() {
                let log = fs::read_to_string(path("log")).unwrap_or_default();
                panic!("Envoy ended with {status}:\n{log}");
            }
            if let Some(address) = listener(&path("admin")).await {
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

    /// Where it takes requests.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Where it listens, if it does yet.
async fn listener(admin: &Path) -> Option<SocketAddr> {
    let admin: SocketAddr = fs::read_to_string(admin).ok()?.trim().parse().ok()?;
    let ready = client::try_get(admin, "/ready").await?;
    if !ready.status().is_success() {
        return None;
    }
    let listeners = client::try_get(admin, "/listeners?format=json").await?;
    let listeners: Value = serde_json::from_str(listeners.body()).ok()?;
    let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
    let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
    Some(
        (
            address["address"]
                .as_str()?
                .parse::<std::net::IpAddr>()
                .ok()?,
            port,
        )
            .into(),
    )
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
