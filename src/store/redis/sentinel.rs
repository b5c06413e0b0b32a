//! Finds the primary through Redis Sentinel.
//!
//! The sentinels are asked for each new connection, and once a second while a connection is in use: a
//! primary that was replaced accepts writes, which are lost, until the sentinels reconfigure it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Connection, PrimaryVerification};
use super::endpoint::Endpoint;
use super::error::{connection_error, unavailable};
use super::shared::Shared;
use crate::store::{StoreError, StoreErrorKind};

const VERIFICATION_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Sentinel {
    sentinels: Vec<Endpoint>,
    /// The sentinels' name for the primary.
    service: String,
    /// How to connect to the primary. The address is a placeholder.
    primary: Endpoint,
    /// The index of the sentinel to ask next for a verification.
    next: AtomicUsize,
}

impl Sentinel {
    pub(super) fn new(sentinels: Vec<Endpoint>, service: String, primary: Endpoint) -> Self {
        Self {
            sentinels,
            service,
            primary,
            next: AtomicUsize::new(0),
        }
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// The configured discovery timeout, or zero.
    pub(super) fn discovery_timeout(&self) -> Duration {
        self.primary.options.discovery_timeout.unwrap_or_default()
    }

    /// Connects to the first server that a sentinel names and that is a primary. Asks all sentinels
    /// concurrently, so that an unreachable sentinel costs no time.
    pub(super) async fn connect(
        self: &Arc<Self>,
        shared: &Shared,
    ) -> Result<Connection, StoreError> {
        let mut queries = JoinSet::new();
        for sentinel in 0..self.sentinels.len() {
            let this = self.clone();
            queries.spawn(async move { this.query(&this.sentinels[sentinel]).await });
        }
        let mut failure = unavailable("no sentinel could be reached");
        let mut tried = Vec::new();
        while let Some(named) = queries.join_next().await {
            let connected = match named {
                Ok(Ok(primary)) if tried.contains(&primary.address) => continue,
                Ok(Ok(primary)) => {
                    tried.push(primary.address.clone());
                    self.connect_to_primary(&primary, shared).await
                }
                Ok(Err(error)) => Err(error),
                Err(_) => continue,
            };
            match connected {
                Ok(connection) => return Ok(connection),
                // An error reply tells more than a sentinel that cannot be reached.
                Err(error) if failure.kind() != StoreErrorKind::Rejected => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn connect_to_primary(
        &self,
        primary: &Endpoint,
        shared: &Shared,
    ) -> Result<Connection, StoreError> {
        let mut connection = Connection::open(primary, shared).await?;
        connection.verification = Some(PrimaryVerification {
            started_at: Mutex::new(Instant::now()),
            is_replaced: Arc::default(),
        });
        let mut role = Pipeline::with_capacity(1);
        role.cmd("ROLE");
        let replies = connection.send(&role).await;
        let replies = replies.map_err(|error| connection_error(&error).at(&primary.address))?;
        match replies.first() {
            Some(Value::Array(parts))
                if parts.first() == Some(&Value::BulkString("master".into())) =>
            {
                Ok(connection)
            }
            _ => {
                let error =
                    "a sentinel named this server as the primary, but its ROLE is not `master`";
                let error = StoreError::new(StoreErrorKind::Rejected, error);
                Err(error.at(&primary.address))
            }
        }
    }

    /// Starts a task that asks a sentinel whether the connected server is still the primary, unless the
    /// last such task started less than a second ago.
    pub(super) fn verify_primary(self: &Arc<Self>, connection: &Connection, runtime: &Handle) {
        let Some(verification) = &connection.verification else {
            return;
        };
        {
            let started_at = verification.started_at.lock();
            let mut started_at = started_at.unwrap_or_else(PoisonError::into_inner);
            if started_at.elapsed() < VERIFICATION_INTERVAL {
                return;
            }
            *started_at = Instant::now();
        }
        let (sentinel, address) = (self.clone(), connection.address.clone());
        let is_replaced = verification.is_replaced.clone();
        runtime.spawn(async move {
            for _ in &sentinel.sentinels {
                let next = sentinel.next.load(Ordering::Relaxed);
                let asked = &sentinel.sentinels[next % sentinel.sentinels.len()];
                if let Ok(primary) = sentinel.query(asked).await {
                    is_replaced.store(primary.address != address, Ordering::Relaxed);
                    return;
                }
                sentinel.next.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Asks a sentinel for the address of the primary.
    async fn query(&self, sentinel: &Endpoint) -> Result<Endpoint, StoreError> {
        let mut command = Cmd::new();
        command
            .arg("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.service);
        match sentinel
            .query_topology::<Option<(String, u16)>>(&command)
            .await?
        {
            Some((host, port)) => Ok(self.primary.resolve(&host, port)),
            None => {
                let error = format!("the sentinel monitors no primary named `{}`", self.service);
                let error = StoreError::new(StoreErrorKind::Rejected, error);
                Err(error.at(&sentinel.address))
            }
        }
    }
}
