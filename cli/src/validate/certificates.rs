//! The certificate files that a config names, as far as this machine has them: what cannot be read, what has expired,
//! what soon will. Warnings only, since the nodes may have other files than the author.

use std::path::Path;

use sealane_model::config::{Config, Position};
use sealane_model::problem::{Problem, Severity};
use x509_parser::pem::Pem;

/// Warned about when less is left.
const SOON_SECONDS: i64 = 30 * 24 * 3600;
/// Largest certificate file that is looked at.
const BYTES_MAX: u64 = 4 << 20;

/// What is wrong with the files of `config`, which was read from `text`, at `now` (seconds since 1970).
pub(crate) fn check(config: &Config, (file, text): (&str, &str), now: i64) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut warn = |code: &str, (name, at): (&str, Position), path: String, message: String, help: &str| {
        let (at, end_column) = written(text, name, at);
        found.push(Problem {
            code: code.to_owned(),
            severity: Severity::Warning,
            message,
            file: file.to_owned(),
            line: at.line,
            column: at.column,
            end_column,
            path,
            help: help.to_owned(),
            suggestion: None,
        });
    };
    const ELSEWHERE: &str = "fine if the nodes have it; a node that cannot read it refuses the config";
    let mut files: Vec<(&str, Position, String)> = Vec::new();
    if let Some(tls) = &config.tls {
        for (index, certificate) in tls.certificates.iter().enumerate() {
            let path = |key: &str| format!("tls.certificates[{index}].{key}");
            files.push((&certificate.cert_file, certificate.at, path("cert_file")));
            if let Err(cause) = std::fs::File::open(&certificate.key_file) {
                let message = format!("cannot read `{}`: {cause}", certificate.key_file);
                let key = (&*certificate.key_file, certificate.at);
                warn("certificate_unreadable", key, path("key_file"), message, ELSEWHERE);
            }
        }
        if let Some(mtls) = &tls.mtls {
            files.push((&mtls.ca_file, mtls.at, "tls.mtls.ca_file".to_owned()));
        }
    }
    for pool in &config.pools {
        let path = |key: &str| format!("pools.{}.tls.{key}", pool.id);
        files.extend(pool.tls.ca_file.iter().map(|file| (file.as_str(), pool.tls.at, path("ca_file"))));
        if let Some((certificate, _)) = &pool.tls.client_certificate {
            files.push((certificate, pool.tls.at, path("cert_file")));
        }
    }
    for (name, at, path) in files {
        match earliest_end(Path::new(name)) {
            Err(cause) => {
                warn("certificate_unreadable", (name, at), path, format!("cannot read `{name}`: {cause}"), ELSEWHERE);
            }
            Ok(end) if end <= now => {
                let ago = crate::duration::show(seconds(now - end));
                warn("certificate_expired", (name, at), path, format!("`{name}` expired {ago} ago"), "renew it");
            }
            Ok(end) if end - now < SOON_SECONDS => {
                let left = crate::duration::show(seconds(end - now));
                warn("certificate_expires_soon", (name, at), path, format!("`{name}` expires in {left}"), "renew it");
            }
            Ok(_) => {}
        }
    }
    found
}

/// Where `name` is written at or behind `at`, and the column behind it. A config knows only where the section begins.
fn written(text: &str, name: &str, at: Position) -> (Position, u32) {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX - 1);
    let lines = (1..).zip(text.lines()).skip(at.line.saturating_sub(1) as usize).take(LINES_LOOKED_AT);
    let found = lines.filter(|_| at.line > 0).find_map(|(line, here)| {
        let skipped = if line == at.line { at.column.saturating_sub(1) as usize } else { 0 };
        let from = here.char_indices().nth(skipped).map_or(here.len(), |(from, _)| from);
        let start = from + here.get(from..)?.find(name)?;
        Some(Position { line, column: small(here[..start].chars().count()) + 1 })
    });
    match found {
        Some(at) => (at, at.column + small(name.chars().count())),
        None => (at, at.column + 1),
    }
}

/// A certificate's section is shorter.
const LINES_LOOKED_AT: usize = 20;

fn seconds(seconds: i64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds.unsigned_abs())
}

/// When the first certificate of a PEM file ends, in seconds since 1970; or why it cannot be told.
pub(crate) fn earliest_end(path: &Path) -> Result<i64, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > BYTES_MAX {
        return Err("it is too large for a certificate".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut earliest = None;
    for pem in Pem::iter_from_buffer(&bytes).flatten().filter(|pem| pem.label == "CERTIFICATE") {
        let certificate = pem.parse_x509().map_err(|_| "it holds a certificate that cannot be parsed".to_owned())?;
        let end = certificate.validity().not_after.timestamp();
        earliest = Some(earliest.map_or(end, |known: i64| known.min(end)));
    }
    earliest.ok_or_else(|| "it holds no PEM certificate".to_owned())
}

#[cfg(test)]
mod tests {
    use sealane_model::parse::{Reader, parse};

    use super::*;

    #[test]
    fn a_certificate_that_is_gone_expired_or_soon_will_be_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let signed = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (cert, key) = (folder.path().join("a.crt"), folder.path().join("a.key"));
        std::fs::write(&cert, signed.cert.pem()).unwrap();
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        let text = format!(
            "listeners: [{{ address: \":1\", tls: true }}]\nroutes: []\ntls:\n  certificates:\n    - {{ cert_file: {}, key_file: {} }}\n",
            cert.display(),
            key.display()
        );
        let (config, _) = parse("f.yaml", &text, Reader::Local).unwrap();
        let end = earliest_end(&cert).unwrap();
        let codes = |now| {
            let found = check(&config, ("f.yaml", &text), now);
            for problem in &found {
                let line = text.lines().nth(problem.line as usize - 1).unwrap();
                let token = &line[problem.column as usize - 1..problem.end_column as usize - 1];
                assert!([&cert, &key].iter().any(|file| file.to_str() == Some(token)), "{token}");
            }
            found.into_iter().map(|problem| (problem.code, problem.line)).collect::<Vec<_>>()
        };
        assert_eq!(codes(end - SOON_SECONDS - 1), []);
        assert_eq!(codes(end - 5), [("certificate_expires_soon".to_owned(), 5)]);
        assert_eq!(codes(end + 5), [("certificate_expired".to_owned(), 5)]);
        std::fs::remove_file(&cert).unwrap();
        std::fs::remove_file(&key).unwrap();
        let gone = ("certificate_unreadable".to_owned(), 5);
        assert_eq!(codes(0), [gone.clone(), gone]);
    }
}
