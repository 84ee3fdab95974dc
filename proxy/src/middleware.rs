//! The stages of middleware chains, each as [`crate::admission`] runs it: compiled from its config, then asked once per
//! request.
//!
//! A stage does not know which stages are around it, nor which route it serves.

pub(crate) mod compression;
pub(crate) mod cors;
pub(crate) mod header_transform;
pub(crate) mod jwt;
pub(crate) mod plugin;
pub(crate) mod rate_limit;
pub(crate) mod redirect;
pub(crate) mod request_id;
pub(crate) mod structured_logger;
