use std::fmt;

use axum::Router;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::call::{CollectBody, MAX_MESSAGE};
use super::{envoy, rate_limiter};
use crate::decision::DecisionService;
use crate::protocol::DESCRIPTORS;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use crate::protocol::tollgate::v1::rate_limiter_server::RateLimiterServer;

/// Sets the statuses of the gRPC health service.
#[derive(Clone)]
pub(crate) struct ServingHealth(HealthReporter);

impl ServingHealth {
    /// Sets the status of all services.
    pub(crate) async fn set_serving(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        let services = [
            "",
            RateLimiterServer::<rate_limiter::RateLimiterService>::NAME,
            RateLimitServiceServer::<envoy::EnvoyRateLimitService>::NAME,
        ];
        for service in services {
            self.0.set_service_status(service, status).await;
        }
    }
}

impl fmt::Debug for ServingHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingHealth")
    }
}

/// Returns the routes of all gRPC services.
pub(crate) async fn router(decisions: DecisionService) -> anyhow::Result<(Router, ServingHealth)> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = ServingHealth(reporter);
    health.set_serving(true).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let limiter = RateLimiterServer::new(rate_limiter::RateLimiterService {
        decisions: decisions.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE);
    let envoy = RateLimitServiceServer::new(envoy::EnvoyRateLimitService {
        decisions: decisions.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE);
    let authenticate_limiter = {
        let decisions = decisions.clone();
        move |request| rate_limiter::authenticate(&decisions, request)
    };
    let authenticate_envoy = move |request| envoy::authenticate(&decisions, request);
    let routes = Routes::new(InterceptedService::new(
        CollectBody(limiter),
        authenticate_limiter,
    ))
    .add_service(InterceptedService::new(
        CollectBody(envoy),
        authenticate_envoy,
    ))
    .add_service(CollectBody(
        health_service.max_decoding_message_size(MAX_MESSAGE),
    ))
    .add_service(
        reflection()
            .build_v1()?
            .max_decoding_message_size(MAX_MESSAGE),
    )
    // Some tools support this version of reflection only.
    .add_service(
        reflection()
            .build_v1alpha()?
            .max_decoding_message_size(MAX_MESSAGE),
    );
    Ok((routes.prepare().into_axum_router(), health))
}
