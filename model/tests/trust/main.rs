//! Trust, from the outside: every attack that these pure pieces refuse, golden vectors, and what holds for any input.

#![expect(clippy::unwrap_used, reason = "all of it is tests, the functions that they share included")]

mod attacks;
mod attacks_on_content;
mod attacks_on_roots;
mod content;
mod properties;
mod support;
mod vectors;
