//! Starts everything that runs, and stops it on a signal.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::connection::Deadlines;
use super::connection_table::{ConnectionTable, max_connections};
use super::listener::{Listener, Shared};
use super::log::Log;
use super::shutdown::Shutdown;
use crate::admin::{self, AdminState};
use crate::configuration::{
    Configuration, ReloadableSettings, Reloader, Sources, StoreKind, StoreSettings,
};
use crate::decision::{DecisionService, Limiters};
use crate::http::{self, HttpState};
use crate::limits::Overrides;
use crate::{grpc, server_metrics};

/// How a server ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    /// It stopped on a signal.
    Stopped,
    /// It failed. The log has the error.
    Failed,
}

/// Serves until a signal to stop. Returns only the errors from before the log has started; later
/// errors are logged.
pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<Ended> {
    let mut sources = Sources::default();
    let configuration = Configuration::load(file, &mut sources)?;
    let fixed = &configuration.fixed;
    let log = Log::start(fixed.log_format, &configuration.reloadable.log_filter)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = %fixed.store.kind,
        configuration = file.map(|file| tracing::field::display(file.display())),
        "starting"
    );
    match serve(file, configuration, sources, log).await {
        Ok(()) => Ok(Ended::Stopped),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the server failed");
            Ok(Ended::Failed)
        }
    }
}

async fn serve(
    file: Option<&Path>,
    configuration: Configuration,
    sources: Sources,
    log: Log,
) -> anyhow::Result<()> {
    let Configuration { fixed, reloadable } = configuration;
    let metrics = server_metrics::install()?;
    tokio::spawn(server_metrics::upkeep(metrics.clone()));
    // From here on, signals no longer end the process at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;

    let overrides = overrides(&fixed.store)?;
    // Read before the first request. If Redis is unavailable, the server starts without them.
    overrides.refresh().await;
    tokio::spawn(overrides.clone().keep_fresh());
    let limiters = Limiters::new(&fixed.store, &reloadable)?;
    let decisions = DecisionService::new(limiters, reloadable, overrides);
    let (listen, phases) = (fixed.listen, fixed.shutdown);
    let redis_connections = match fixed.store.kind {
        StoreKind::Redis { connections, .. } => connections,
        StoreKind::Local { .. } => 0,
    };
    let reloader = Reloader::new(file, fixed, sources, {
        let decisions = decisions.clone();
        move |settings: ReloadableSettings| {
            log.set_filter(&settings.log_filter);
            decisions.replace_settings(settings);
        }
    });
    let reload_status = reloader.status();

    let shutdown = Shutdown::default();
    let http = http::router(HttpState {
        decisions: decisions.clone(),
        metrics,
        stopping: shutdown.draining().clone(),
    });
    let (grpc, health) = grpc::router(decisions.clone()).await?;
    let max_connections = max_connections(listen.max_connections, redis_connections)?;
    // Half of all by default, so that one address cannot use all connections.
    let max_per_address = match listen.max_connections_per_address {
        Some(max) => max as usize,
        None => max_connections.div_ceil(2),
    };
    let shared = Shared {
        connections: ConnectionTable::new(max_connections, max_per_address),
        deadlines: Deadlines {
            request: listen.request_deadline,
            age: listen.max_connection_age,
        },
        shutdown: shutdown.clone(),
    };
    let mut listeners = vec![
        Listener::open("http", listen.http, http, &shared).await?,
        Listener::open("grpc", listen.grpc, grpc, &shared).await?,
    ];
    if let Some(address) = listen.admin {
        let router = admin::router(AdminState {
            decisions,
            reload_status,
        });
        listeners.push(Listener::open("admin", address, router, &shared).await?);
    }
    let addresses: Vec<_> = listeners.iter().map(Listener::to_string).collect();
    let addresses = addresses.join(", ");
    tracing::info!(addresses, "listening");
    // For programs that start the server. Standard output may be closed.
    let _ = writeln!(stdout(), "Listening: {addresses}");
    tokio::spawn(reloader.watch(hangup));

    let mut serving = tokio::spawn(join_all(listeners.into_iter().map(Listener::serve)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut serving => return ended.map(drop).context("a listener failed"),
    }
    tracing::info!("stopping: asking clients to go elsewhere");
    let stop = async {
        health.set_serving(false).await;
        shutdown.start(phases.delay).await;
        if timeout(phases.deadline, serving).await.is_err() {
            tracing::warn!(
                "stopped before all requests were answered: shutdown.deadline has passed"
            );
        }
    };
    tokio::select! {
        () = stop => {}
        _ = terminate.recv() => tracing::warn!("stopping at once on a second signal"),
        _ = interrupt.recv() => tracing::warn!("stopping at once on a second signal"),
    }
    Ok(())
}

/// Returns the run-time limits, which are in the same store as the counts.
fn overrides(store: &StoreSettings) -> redis::RedisResult<Overrides> {
    match &store.kind {
        StoreKind::Local { .. } => Ok(Overrides::in_memory()),
        StoreKind::Redis { url, prefix, .. } => Overrides::in_redis(url.reveal(), prefix),
    }
}
