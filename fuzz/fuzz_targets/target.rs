#![no_main]

#[allow(dead_code, reason = "each wrapper uses one function")]
#[path = "../../proxy/tests/it/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::target(bytes));
