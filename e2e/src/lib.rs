//! Whole-fleet tests: real processes, real sockets, real traffic, and faults.
//!
//! Reading order: a [`process`] is a started program with its log; an [`origin`] is a backend whose answers a test
//! controls; a [`load`] is steady traffic that counts what users saw; a [`relay`] is a network that can be cut, a [`disk`]
//! one that can be filled; a [`fleet`] puts them together. A [`page`] of the docs is followed
//! to the letter. A [`bench`] compares what requests cost; [`scale`] what thousands of agents do.

pub mod bench;
pub mod disk;
pub mod fleet;
pub mod load;
pub mod origin;
pub mod page;
pub mod process;
pub mod relay;
pub mod scale;
pub mod wait;
