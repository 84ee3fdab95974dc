//! Help, version and wrong usage.

use super::{code, err, out, run, sealane};

#[test]
fn help_shows_examples_first() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    insta::assert_snapshot!("help", out(&help));
    let help = run(&["publish", "--help"]);
    assert_eq!(code(&help), 0);
    insta::assert_snapshot!("help_publish", out(&help));
}

#[test]
fn version_is_an_answer() {
    let version = run(&["--version"]);
    assert_eq!((code(&version), out(&version)), (0, format!("sealane {}\n", env!("CARGO_PKG_VERSION"))));
    let version = run(&["version", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn wrong_usage_exits_64_and_says_so_on_stderr() {
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["publish", "fleet.yaml"],
        &["rollout"],
        &["rollout", "status", "latest"],
        &["rollout", "watch", "--timeout", "1d"],
        &["validate", "f", "--log-level", "=x=y"],
        &["fleet", "status", "--server", "127.0.0.1:7443"],
        &["fleet", "status", "--token-file", "/nonexistent"],
        &["fleet", "status", "--client", "/nonexistent"],
        &["token", "create", "--role", "agent"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}: {}", err(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_option_can_come_from_the_environment() {
    let output = sealane().args(["version"]).env("SEALANE_OUTPUT", "name").output().unwrap();
    assert_eq!(out(&output), format!("{}\n", env!("CARGO_PKG_VERSION")));
    let output = sealane().args(["version"]).env("SEALANE_OUTPUT", "nonsense").output().unwrap();
    assert_eq!(code(&output), 64);
    let output = sealane().args(["version"]).env("SEALANE_OUTPUT", "").output().unwrap();
    assert_eq!(code(&output), 0, "empty is not set: {}", err(&output));
}

#[test]
fn a_proxys_log_takes_its_level_from_the_environment_and_can_be_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, "nonsense: 1").unwrap();
    let proxy = |level: &str| {
        let arguments = ["proxy", "--log-json", "--config-file", file.to_str().unwrap()];
        sealane().args(arguments).env("PROXY_LOG_LEVEL", level).output().unwrap()
    };
    let refused = proxy("=x=y");
    assert_eq!(code(&refused), 64, "{}", err(&refused));
    assert!(err(&refused).contains("not a log level"), "{}", err(&refused));
    assert_eq!(code(&proxy("debug")), 3, "the config is at fault then");
}

#[test]
fn a_script_for_each_shell_and_a_page_for_each_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("rollback"), "{shell}");
    }
    assert!(out(&run(&["man"])).contains(".TH sealane"));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("man1");
    assert_eq!(code(&run(&["man", "--out", target.to_str().unwrap()])), 0);
    let page = std::fs::read_to_string(target.join("sealane-rollout-watch.1")).unwrap();
    assert!(page.contains("Examples:"), "{page}");
}

#[test]
fn a_server_that_is_not_there_is_told_with_what_to_type() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let output = run(&["fleet", "status", "--server", &url]);
    assert_eq!(code(&output), 6);
    let said = err(&output).replace(&port.to_string(), "PORT");
    insta::assert_snapshot!("unreachable", said);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sealane"))
        .args(["completion", "bash"])
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The script is larger than a pipe: the rest of it finds nobody.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output)), (0, String::new()));
}
