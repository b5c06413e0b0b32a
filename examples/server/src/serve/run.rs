use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::connection::Deadlines;
use super::connections::Connections;
use super::listener::{Front, Shared};
use super::log::Log;
use super::reload::Reloader;
use super::stopping::Stopping;
use super::{descriptors, limiter};
use crate::admin::{self, Admin};
use crate::configuration::{Configuration, Sources, StoreKind};
use crate::decide::Gate;
use crate::{FAILED, grpc, http, meter};

/// Serves until a signal to stop. Once the log has started, it has all errors.
pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut sources = Sources::default();
    let configuration = Configuration::load(file, &mut sources)?;
    let (fixed, rules) = (&configuration.fixed, &configuration.rules);
    let log = Log::start(fixed.log_format, &rules.log_filter)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = %fixed.store.kind,
        configuration = file.map(|file| tracing::field::display(file.display())),
        "starting"
    );
    let served = serve(file, configuration, sources, log).await;
    Ok(served.map_or_else(
        |error| {
            tracing::error!(error = format!("{error:#}"), "the server failed");
            ExitCode::from(FAILED)
        },
        |()| ExitCode::SUCCESS,
    ))
}

async fn serve(
    file: Option<&Path>,
    configuration: Configuration,
    sources: Sources,
    log: Log,
) -> anyhow::Result<()> {
    let Configuration { fixed, rules } = configuration;
    let metrics = meter::install()?;
    tokio::spawn(meter::upkeep(metrics.clone()));
    // From now on, no signal ends the process at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;

    let overrides = limiter::overrides(&fixed.store)?;
    // Before the first request, if Redis can be reached.
    overrides.refresh().await;
    tokio::spawn(overrides.clone().keep_fresh());
    let gate = Gate::new(limiter::limiters(&fixed.store, &rules)?, rules, overrides);
    let (listen, shutdown) = (fixed.listen, fixed.shutdown);
    let to_redis = match fixed.store.kind {
        StoreKind::Redis { connections, .. } => connections,
        StoreKind::Local { .. } => 0,
    };
    let reloader = Reloader::new(file, fixed, sources, &gate, log);
    let reloads = reloader.reloads();

    let stopping = Stopping::new();
    let door = http::Door {
        gate: gate.clone(),
        metrics,
        stopping: stopping.clone(),
    };
    let (grpc, health) = grpc::router(gate.clone()).await?;
    let max_connections = descriptors::max_connections(listen.max_connections, to_redis)?;
    // Half of them, so that no address keeps all others out.
    let max_per_address = match listen.max_connections_per_address {
        Some(max) => max as usize,
        None => max_connections.div_ceil(2),
    };
    let shared = Shared {
        connections: Connections::new(max_connections, max_per_address),
        deadlines: Deadlines {
            request: listen.request_deadline,
            age: listen.max_connection_age,
        },
        stopping: stopping.clone(),
    };
    let mut fronts = vec![
        Front::open("http", listen.http, http::router(door), &shared).await?,
        Front::open("grpc", listen.grpc, grpc, &shared).await?,
    ];
    if let Some(address) = listen.admin {
        let router = admin::router(Admin { gate, reloads });
        fronts.push(Front::open("admin", address, router, &shared).await?);
    }
    let addresses: Vec<_> = fronts.iter().map(|front| front.to_string()).collect();
    let addresses = addresses.join(", ");
    tracing::info!(addresses, "listening");
    // For programs that start the server. Standard output may be closed.
    let _ = writeln!(stdout(), "Listening: {addresses}");
    tokio::spawn(reloader.watch(hangup));

    let mut fronts = tokio::spawn(join_all(fronts.into_iter().map(Front::serve)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut fronts => return ended.map(drop).context("a listener failed"),
    }
    tracing::info!("stopping: asking clients to go elsewhere");
    let end = async {
        health.say(false).await;
        stopping.stop(shutdown.delay).await;
        if timeout(shutdown.deadline, fronts).await.is_err() {
            tracing::warn!("stopped before all requests were answered");
        }
    };
    tokio::select! {
        () = end => {}
        _ = terminate.recv() => tracing::warn!("stopping at once on a second signal"),
        _ = interrupt.recv() => tracing::warn!("stopping at once on a second signal"),
    }
    Ok(())
}
