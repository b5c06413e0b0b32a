use std::fmt;

use axum::Router;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::call::{Collected, MAX_MESSAGE};
use super::{envoy, rate_limiter};
use crate::decision::Gate;
use crate::protocol::DESCRIPTORS;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use crate::protocol::tollgate::v1::rate_limiter_server::RateLimiterServer;

/// The statuses that the health service reports.
#[derive(Clone)]
pub(crate) struct Health(HealthReporter);

impl Health {
    /// Says whether our services are to be asked.
    pub(crate) async fn say(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        let services = [
            "",
            RateLimiterServer::<rate_limiter::Door>::NAME,
            RateLimitServiceServer::<envoy::Door>::NAME,
        ];
        for service in services {
            self.0.set_service_status(service, status).await;
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Health")
    }
}

/// All the gRPC services.
pub(crate) async fn router(gate: Gate) -> anyhow::Result<(Router, Health)> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health(reporter);
    health.say(true).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let limiter = RateLimiterServer::new(rate_limiter::Door { gate: gate.clone() })
        .max_decoding_message_size(MAX_MESSAGE);
    let envoy = RateLimitServiceServer::new(envoy::Door { gate: gate.clone() })
        .max_decoding_message_size(MAX_MESSAGE);
    let before_limiter = {
        let gate = gate.clone();
        move |request| rate_limiter::authenticate(&gate, request)
    };
    let before_envoy = move |request| envoy::authenticate(&gate, request);
    let routes = Routes::new(InterceptedService::new(Collected(limiter), before_limiter))
        .add_service(InterceptedService::new(Collected(envoy), before_envoy))
        .add_service(Collected(
            health_service.max_decoding_message_size(MAX_MESSAGE),
        ))
        .add_service(
            reflection()
                .build_v1()?
                .max_decoding_message_size(MAX_MESSAGE),
        )
        // For tools that know no other.
        .add_service(
            reflection()
                .build_v1alpha()?
                .max_decoding_message_size(MAX_MESSAGE),
        );
    Ok((routes.prepare().into_axum_router(), health))
}
