//! The code that `build.rs` generates from the files in `proto`.

/// The descriptors of the protocol files, for the reflection service.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin"));

#[allow(clippy::all, unreachable_pub, missing_debug_implementations)]
pub(crate) mod tollgate {
    pub(crate) mod v1 {
        tonic::include_proto!("tollgate.v1");
    }
}

/// Envoy's protocol. The modules have the names of its packages, because the generated code refers
/// to them.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations)]
pub(crate) mod envoy {
    pub(crate) mod config {
        pub(crate) mod core {
            pub(crate) mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub(crate) mod extensions {
        pub(crate) mod common {
            pub(crate) mod ratelimit {
                pub(crate) mod v3 {
                    tonic::include_proto!("envoy.extensions.common.ratelimit.v3");
                }
            }
        }
    }
    pub(crate) mod service {
        pub(crate) mod ratelimit {
            pub(crate) mod v3 {
                tonic::include_proto!("envoy.service.ratelimit.v3");
            }
        }
    }
    pub(crate) mod r#type {
        pub(crate) mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}
