//! The wire: `sealane.v1` messages and services, their conversions to and from the model, and their JSON; what plugins
//! speak.
//!
//! It does not decide anything, and it does not know sockets, files or databases.

pub mod codec;
pub mod convert;
pub mod json;
pub mod otlp;

/// The generated messages, clients and servers of package `sealane.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("sealane.v1");
}

/// The generated messages, clients and servers of package `sealane.plugin.v1`: what external plugins implement.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod plugin {
    tonic::include_proto!("sealane.plugin.v1");
}

/// The part of `envoy.service.auth.v3` that asks existing authorisers.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod ext_authz {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// The encoded file descriptor set, for reflection and [`json`].
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
