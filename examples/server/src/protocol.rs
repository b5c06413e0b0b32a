//! What the protocol files say, as Rust.

/// The protocol files themselves, for the reflection service.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin"));

pub(crate) mod tollgate {
    pub(crate) mod v1 {
        #![allow(clippy::all, unreachable_pub, missing_debug_implementations)]
        tonic::include_proto!("tollgate.v1");
    }
}
