//! How a revision reaches the fleet: a pure machine that decides, events that remember, a driver that executes.

mod audit;
mod baseline;
pub(crate) mod board;
mod conclude;
pub(crate) mod driver;
pub(crate) mod event;
pub(crate) mod evidence;
pub(crate) mod explain;
mod fault;
pub(crate) mod history;
pub(crate) mod look;
pub(crate) mod machine;
pub(crate) mod memory;
mod observe;
pub(crate) mod record;
pub(crate) mod stage;
pub(crate) mod subject;
pub(crate) mod verdict;
pub(crate) mod view;

#[cfg(test)]
mod simulation;
