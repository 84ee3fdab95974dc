//! The files that the demo writes into its directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Paths of the three configs.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    pub(crate) fleet: PathBuf,
    pub(crate) good: PathBuf,
    pub(crate) bad: PathBuf,
}

/// Writes the three configs: what runs at first, a change that is fine, and one that sends a path to a dead backend.
pub(crate) fn write(directory: &Path, backends: &[SocketAddr], dead: SocketAddr) -> std::io::Result<Configs> {
    let configs = Configs {
        fleet: directory.join("fleet.yaml"),
        good: directory.join("good.yaml"),
        bad: directory.join("bad.yaml"),
    };
    let endpoints: Vec<String> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    let pool = format!("pools:\n  - id: shop\n    endpoints: [{}]\n", endpoints.join(", "));
    std::fs::write(&configs.fleet, fleet(&pool))?;
    std::fs::write(&configs.good, good(&pool))?;
    std::fs::write(&configs.bad, bad(dead))?;
    Ok(configs)
}

/// The host on which the demo's sandbox routes go by priority.
pub(super) const SANDBOX_HOST: &str = "dev.localhost";

fn sandboxes() -> String {
    format!(
        "# On this host the routes of sandboxes come first; elsewhere behind those of this file.\nsandboxes: {{ hosts: [{SANDBOX_HOST}] }}\n"
    )
}

fn fleet(pool: &str) -> String {
    format!(
        "# What the demo's fleet runs at first. Each proxy binds its own port instead of this one.\nlisten: :8080\nroutes:\n  - id: shop\n    path_prefix: /\n    pool: shop\n{pool}{}",
        sandboxes()
    )
}

fn good(pool: &str) -> String {
    format!(
        "# A change that is fine: one more route and a deadline.\nlisten: :8080\nroutes:\n  - id: health\n    path: /health\n    pool: shop\n  - id: shop\n    path_prefix: /\n    pool: shop\n    policy: {{ timeout: 5s }}\n{pool}{}",
        sandboxes()
    )
}

fn bad(dead: SocketAddr) -> String {
    format!(
        "# A change that is wrong: it is well-formed, and it sends every request to a backend that is dead.\nlisten: :8080\nroutes:\n  - id: shop\n    path_prefix: /\n    to: http://{dead}\n{}",
        sandboxes()
    )
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use sealane_model::parse::{Reader, parse};

    use super::*;

    #[test]
    fn every_config_of_the_demo_is_clean() {
        let directory = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:8181".parse().unwrap();
        let configs = write(directory.path(), &[address], "127.0.0.1:9".parse().unwrap()).unwrap();
        for path in [configs.fleet, configs.good, configs.bad] {
            let (_, warnings) = parse("x", &std::fs::read_to_string(&path).unwrap(), Reader::Fleet).unwrap();
            assert!(warnings.is_empty(), "{path:?}: {warnings:?}");
        }
    }
}
