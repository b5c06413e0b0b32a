//! Redis Sentinel: whoever is the primary is asked of the sentinels, for each new connection, and
//! again while one is in use: a primary that was replaced goes on as if it were one, until the
//! sentinels tell it, and what it counts is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, Pipeline, Value};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Core;
use super::connection::Connection;
use super::endpoint::Endpoint;
use super::refusal::{broken, unavailable};
use crate::store::{StoreError, StoreErrorKind};

/// How often a sentinel is asked whether the primary has been replaced.
const WATCHED: Duration = Duration::from_secs(1);

/// The place of the server that a connection is to.
pub(super) struct Place {
    address: ConnectionAddr,
    /// When a sentinel was last asked.
    asked_at: Mutex<Instant>,
    lost: Arc<AtomicBool>,
}

impl Place {
    /// Whether a sentinel has said that another server is the primary.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

pub(super) struct Sentinel {
    sentinels: Vec<Endpoint>,
    /// The name that the sentinels know the primary by.
    service: String,
    /// How to connect to the primary, but for its address.
    primary: Endpoint,
    /// The sentinel to ask next whether the primary has been replaced.
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

    /// The time that is set for what sentinels say, or nothing.
    pub(super) fn discovery_timeout(&self) -> Duration {
        self.primary.options.discovery_timeout.unwrap_or_default()
    }

    /// Connects to the first server that a sentinel names and that says it is a primary. All
    /// sentinels are asked at once, so that one that does not answer costs no time.
    pub(super) async fn open(self: &Arc<Self>, core: &Core) -> Result<Connection, StoreError> {
        let mut asked = JoinSet::new();
        for sentinel in 0..self.sentinels.len() {
            let this = self.clone();
            asked.spawn(async move { this.ask(&this.sentinels[sentinel]).await });
        }
        let mut failure = unavailable("no sentinel could be asked");
        let mut tried = Vec::new();
        while let Some(named) = asked.join_next().await {
            let opened = match named {
                Ok(Ok(primary)) if tried.contains(&primary.address) => continue,
                Ok(Ok(primary)) => {
                    tried.push(primary.address.clone());
                    self.open_primary(&primary, core).await
                }
                Ok(Err(error)) => Err(error),
                Err(_) => continue,
            };
            match opened {
                Ok(connection) => return Ok(connection),
                // An answer says more than that another sentinel did not answer.
                Err(error) if failure.kind() != StoreErrorKind::Rejected => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn open_primary(
        &self,
        primary: &Endpoint,
        core: &Core,
    ) -> Result<Connection, StoreError> {
        let mut connection = Connection::open(primary, core).await?;
        connection.place = Some(Place {
            address: primary.address.clone(),
            asked_at: Mutex::new(Instant::now()),
            lost: Arc::default(),
        });
        let mut role = Pipeline::with_capacity(1);
        role.cmd("ROLE");
        let replies = connection.send(&role).await;
        let replies = replies.map_err(|error| broken(&error).at(&primary.address))?;
        match replies.first() {
            Some(Value::Array(parts))
                if parts.first() == Some(&Value::BulkString("master".into())) =>
            {
                Ok(connection)
            }
            _ => {
                let error = "a sentinel named this server as the primary, and it is not one";
                let error = StoreError::new(StoreErrorKind::Rejected, error);
                Err(error.at(&primary.address))
            }
        }
    }

    /// Has a sentinel asked, unless that was done a moment ago, whether the server that is
    /// connected to still has its place.
    pub(super) fn watch(self: &Arc<Self>, connection: &Connection, runtime: &Handle) {
        let Some(place) = &connection.place else {
            return;
        };
        {
            let asked_at = place.asked_at.lock();
            let mut asked_at = asked_at.unwrap_or_else(PoisonError::into_inner);
            if asked_at.elapsed() < WATCHED {
                return;
            }
            *asked_at = Instant::now();
        }
        let (sentinel, address, lost) = (self.clone(), place.address.clone(), place.lost.clone());
        runtime.spawn(async move {
            for _ in &sentinel.sentinels {
                let next = sentinel.next.load(Ordering::Relaxed);
                let asked = &sentinel.sentinels[next % sentinel.sentinels.len()];
                if let Ok(primary) = sentinel.ask(asked).await {
                    lost.store(primary.address != address, Ordering::Relaxed);
                    return;
                }
                sentinel.next.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Where a sentinel says that the primary is.
    async fn ask(&self, sentinel: &Endpoint) -> Result<Endpoint, StoreError> {
        let mut command = Cmd::new();
        command
            .arg("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.service);
        match sentinel.discover::<Option<(String, u16)>>(&command).await? {
            Some((host, port)) => Ok(self.primary.named(&host, port)),
            None => {
                let error = format!("the sentinel knows no `{}`", self.service);
                let error = StoreError::new(StoreErrorKind::Rejected, error);
                Err(error.at(&sentinel.address))
            }
        }
    }
}
