use std::io::{Write, stdout};
use std::path::Path;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::connection::Deadlines;
use super::connection_table::{Connections, max_connections};
use super::listener::{Front, Shared};
use super::log::Log;
use super::shutdown::Stopping;
use crate::admin::{self, Admin};
use crate::configuration::{Configuration, Reloader, Rules, Sources, StoreKind, StoreSettings};
use crate::decision::{Gate, Limiters};
use crate::limits::Overrides;
use crate::{grpc, http, server_metrics};

/// How a server ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    /// It was told to stop.
    Stopped,
    /// It could not start or go on. The log has the error.
    Failed,
}

/// Serves until a signal to stop. Once the log has started, it has all errors.
pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<Ended> {
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
            Ended::Failed
        },
        |()| Ended::Stopped,
    ))
}

async fn serve(
    file: Option<&Path>,
    configuration: Configuration,
    sources: Sources,
    log: Log,
) -> anyhow::Result<()> {
    let Configuration { fixed, rules } = configuration;
    let metrics = server_metrics::install()?;
    tokio::spawn(server_metrics::upkeep(metrics.clone()));
    // From now on, no signal ends the process at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;

    let overrides = overrides(&fixed.store)?;
    // Before the first request, if Redis can be reached.
    overrides.refresh().await;
    tokio::spawn(overrides.clone().keep_fresh());
    let gate = Gate::new(
        Limiters::from_settings(&fixed.store, &rules)?,
        rules,
        overrides,
    );
    let (listen, shutdown) = (fixed.listen, fixed.shutdown);
    let to_redis = match fixed.store.kind {
        StoreKind::Redis { connections, .. } => connections,
        StoreKind::Local { .. } => 0,
    };
    let reloader = Reloader::new(file, fixed, sources, {
        let gate = gate.clone();
        move |rules: Rules| {
            log.set_filter(&rules.log_filter);
            gate.follow(rules);
        }
    });
    let reloads = reloader.reloads();

    let stopping = Stopping::default();
    let door = http::Door {
        gate: gate.clone(),
        metrics,
        stopping: stopping.leaving().clone(),
    };
    let (grpc, health) = grpc::router(gate.clone()).await?;
    let max_connections = max_connections(listen.max_connections, to_redis)?;
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

/// The run-time limits, which are stored beside the counts.
fn overrides(settings: &StoreSettings) -> redis::RedisResult<Overrides> {
    match &settings.kind {
        StoreKind::Local { .. } => Ok(Overrides::in_memory()),
        StoreKind::Redis { url, prefix, .. } => Overrides::in_redis(url.reveal(), prefix),
    }
}
