//! A benchmark beside other proxies: what one request costs in CPU, as a ratio in the same run.
//!
//! Reading order: an [`origin`] gives constant answers; a [`peer`] is a proxy before it, one worker each, on a [`place`] of its own; a [`client`]
//! drives one of them in a closed loop; [`cost`] is what the system says of a process; a [`case`] puts them together, round
//! after round, one peer after the other, so that a busy machine is busy for all; [`report`] prints medians and ratios.

pub mod case;
pub mod client;
pub mod cost;
pub mod origin;
pub mod peer;
pub mod place;
pub mod relay;
pub mod report;
pub mod token;
