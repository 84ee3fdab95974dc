//! Bytes from outside, edited by seed, into everything that takes them. A failure names its seed and shows the bytes;
//! `FUZZ_ROUNDS` asks for more than the usual number of edits.

use std::path::PathBuf;

use crate::support::{Origin, TestProxy, mutate_bytes, to};

mod targets;

/// The files of a target's corpus, in order.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", directory.display());
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Runs `target` on its corpus and on `rounds` edits of it.
fn run(name: &str, rounds: u64, alphabet: &[u8], target: impl Fn(&[u8])) {
    let corpus = corpus(name);
    corpus.iter().for_each(|bytes| target(bytes));
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(rounds);
    for seed in 0..rounds {
        let bytes = mutate_bytes(&corpus[seed as usize % corpus.len()], alphabet, seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&bytes)));
        assert!(outcome.is_ok(), "{name}, seed {seed}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

/// What parsers of HTTP/1 differ about.
const TEXT: &[u8] = b"\r\n\t :;,0123\x00\x7f\x80-+aA/.%?#*";

#[test]
fn any_bytes_make_a_request_head_or_none() {
    run("request_head", 20_000, TEXT, targets::request_head);
}

#[test]
fn any_bytes_make_a_response_head_or_none() {
    run("response_head", 20_000, TEXT, targets::response_head);
}

#[test]
fn any_bytes_make_a_chunked_body_or_none() {
    run("chunked_body", 20_000, TEXT, targets::chunked_body);
}

#[test]
fn any_target_leaves_as_one_word() {
    run("target", 20_000, TEXT, targets::target);
}

#[test]
fn any_text_is_a_config_or_has_problems() {
    run("config_text", 1_500, b"\n:-[]{}'\"#&*!|> \t0a", targets::config_text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_frames_leave_the_proxy_serving() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let address = proxy.address();
    let fuzzed = tokio::task::spawn_blocking(move || {
        run("http2_connection", 1500, &[0, 1, 2, 4, 5, 8, 9, 0x20, 0x7f, 0x80, 0x82, 0xff], |frames| {
            targets::http2_connection(address, frames);
        });
    });
    fuzzed.await.unwrap();
    assert_eq!(proxy.get("/").await.text(), "here");
    assert_eq!(proxy.metric("proxy_panics_total"), Some(0.0));
    proxy.until_metric("proxy_connections_open", 0.0).await;
}
