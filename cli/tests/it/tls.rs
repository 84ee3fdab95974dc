//! https: the server's certificate is checked, against the given authority or the system's.

use super::fake::{Fake, Script};
use super::{code, err};

#[test]
fn a_server_is_believed_only_if_its_certificate_chains_to_the_ca_file() {
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, own.cert.pem()).unwrap();
    std::fs::write(&wrong, other.cert.pem()).unwrap();
    let fake = Fake::start_tls(Script::default(), &own.cert.pem(), &own.signing_key.serialize_pem());

    let output = fake.run(&["fleet", "status", "--ca-file", right.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let output = fake.run(&["fleet", "status", "--ca-file", wrong.to_str().unwrap()]);
    assert_eq!(code(&output), 6);
    assert!(err(&output).contains("--ca-file"), "{}", err(&output));
    let plain = fake.url.replacen("https", "http", 1);
    let output = super::run(&["fleet", "status", "--server", &plain]);
    assert_eq!(code(&output), 6, "{}", err(&output));
    assert!(err(&output).contains("https://"), "{}", err(&output));
    let output = super::run(&["fleet", "status", "--server", &plain, "--ca-file", right.to_str().unwrap()]);
    assert_eq!(code(&output), 64);
}

#[test]
fn a_plain_server_is_told_from_one_that_speaks_tls() {
    let folder = tempfile::tempdir().unwrap();
    let any = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, any.cert.pem()).unwrap();
    let fake = Fake::start(Script::default());
    let url = fake.url.replacen("http", "https", 1);
    let output = super::run(&["fleet", "status", "--server", &url, "--ca-file", ca.to_str().unwrap()]);
    assert_eq!(code(&output), 6);
    assert!(err(&output).contains(&format!("try {}", fake.url)), "{}", err(&output));
}
