//! The rollout at this agent: which of its proxies run the candidate, and when they are taken back.

pub(crate) mod driver;
pub(crate) mod machine;
