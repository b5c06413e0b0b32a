//! Starts proxies for the Redis protocol: Envoy and twemproxy.
//!
//! It needs `support/redis/mod.rs` as the module `servers`.

#[path = "envoy.rs"]
mod envoy;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::servers::{Port, Wait};

/// A running proxy. Dropping it kills the process.
pub(crate) struct RedisProxy {
    process: Child,
    port: Port,
    directory: TempDir,
}

impl RedisProxy {
    /// Starts an Envoy that distributes keys by their hash tags over the servers at these ports.
    pub(crate) async fn envoy(servers: &[u16]) -> Self {
        let endpoint = |port: &u16| {
            format!(
                "\n        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: \
                 {port}}}}}}}"
            )
        };
        let port = Port::reserve();
        let configuration = format!(
            r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: redis
          settings: {{op_timeout: 20s, enable_hashtagging: true}}
          prefix_routes: {{catch_all_route: {{cluster: redis}}}}
  clusters:
  - name: redis
    type: STATIC
    lb_policy: MAGLEV
    load_assignment:
      cluster_name: redis
      endpoints:
      - lb_endpoints:{}
"#,
            port.number(),
            servers.iter().map(endpoint).collect::<String>()
        );
        let start = |file: &Path| {
            let mut command = Command::new(envoy::program());
            command.arg("--config-path").arg(file);
            // Else two Envoys on one machine would share the memory used for hot restarts.
            command.arg("--disable-hot-restart");
            command.args(["--concurrency", "1", "--log-level", "warning"]);
            command
        };
        Self::start(port, &configuration, start).await
    }

    /// Starts a twemproxy that distributes keys by their hash tags over the servers at these ports.
    /// Returns `None` unless it is installed under the name that Debian gives it, `nutcracker`.
    pub(crate) async fn twemproxy(servers: &[u16]) -> Option<Self> {
        let paths = ["/usr/sbin/nutcracker", "/usr/bin/nutcracker"];
        let program = paths.into_iter().find(|path| Path::new(path).exists())?;
        let server = |port: &u16| format!("\n   - 127.0.0.1:{port}:1 server{port}");
        let (port, statistics) = (Port::reserve(), Port::reserve());
        let configuration = format!(
            "pool:\n  listen: 127.0.0.1:{}\n  hash: md5\n  hash_tag: \"{{}}\"\n  distribution: \
             ketama\n  redis: true\n  servers:{}\n",
            port.number(),
            servers.iter().map(server).collect::<String>()
        );
        let start = |file: &Path| {
            let mut command = Command::new(program);
            let port = statistics.number().to_string();
            command.arg("--stats-port").arg(port);
            command.arg("--conf-file").arg(file);
            command
        };
        Some(Self::start(port, &configuration, start).await)
    }

    async fn start(port: Port, configuration: &str, start: impl Fn(&Path) -> Command) -> Self {
        let directory = TempDir::with_prefix("tollgate-proxy-").unwrap();
        let file = directory.path().join("configuration.yaml");
        fs::write(&file, configuration).unwrap();
        let log = || {
            File::options()
                .create(true)
                .append(true)
                .open(directory.path().join("log"))
        };
        let process = start(&file)
            .stdin(Stdio::null())
            .stdout(log().unwrap())
            .stderr(log().unwrap())
            .spawn()
            .expect("the proxy runs");
        let mut proxy = Self {
            process,
            port,
            directory,
        };
        let wait = Wait::until("the proxy reaches its servers");
        while !proxy.reaches_all_servers().await {
            if let Some(status) = proxy.process.try_wait().unwrap() {
                let log = fs::read_to_string(proxy.directory.path().join("log"));
                panic!(
                    "the proxy ended with {status}:\n{}",
                    log.unwrap_or_default()
                );
            }
            wait.sleep().await;
        }
        proxy
    }

    /// Returns whether 32 keys, which are spread over all servers, can be reached through the
    /// proxy.
    ///
    /// It does not use the client library, which sends CLIENT first: twemproxy would close the
    /// connection.
    async fn reaches_all_servers(&self) -> bool {
        let answer = async |key: usize| -> io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).await?;
            let mut command = redis::cmd("EVAL");
            command.arg("return 1").arg(1).arg(key);
            stream.write_all(&command.get_packed_command()).await?;
            let mut reply = [0; 4];
            stream.read_exact(&mut reply).await?;
            Ok(reply == *b":1\r\n")
        };
        for key in 0..32 {
            if !matches!(answer(key).await, Ok(true)) {
                return false;
            }
        }
        true
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }
}

impl Drop for RedisProxy {
    fn drop(&mut self) {
        // Fails if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
