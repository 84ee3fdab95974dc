//! The wire: `sealane.v1` messages and services, their conversions to and from the model, and their JSON.
//!
//! It does not decide anything, and it does not know sockets, files or databases.

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

/// The encoded file descriptor set, for reflection and [`json`].
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
