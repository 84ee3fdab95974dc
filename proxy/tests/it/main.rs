//! The data plane from outside: a proxy in this process, raw-socket clients, toy origins.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod admin;
mod bodies;
mod breakers;
mod cache;
mod cache_poisoning;
mod codec;
mod compression;
mod explained;
mod framing;
mod fuzz;
mod handover;
mod heads;
mod health;
mod hedging;
mod hooks;
mod http2;
mod http2_conformance;
mod http2_upstream;
mod jwt;
mod listeners;
mod logging;
mod loops;
mod middleware;
mod outliers;
mod plugins;
mod pools;
mod readme;
mod refusals;
mod retries;
mod rotation;
mod shutdown;
mod slow;
mod swaps;
mod tls;
mod tracing;
mod traffic;
mod unambiguous;
mod upgrades;
