//! Key files of people: a private key (PKCS#8 PEM, 0600) and beside it one line with the public half, to hand around.
//!
//! It opens no connection. A private key never shows in output, errors or `Debug`.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sealane_model::keys::{PublicKey, SigningKey};

use crate::exit::{Exit, Failure};

/// The first word of a public key's line.
const PUBLIC_WORD: &str = "sealane-ed25519";
/// Keys are small; more is a mistake.
const KEY_FILE_BYTES_MAX: u64 = 16 << 10;

/// A public key and what its owner wrote beside it.
#[derive(Clone, Debug)]
pub(crate) struct NamedKey {
    pub(crate) key: PublicKey,
    pub(crate) comment: String,
}

/// A new key from the system's random bytes.
pub(crate) fn generate() -> Result<SigningKey, Failure> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy)
        .map_err(|error| Failure::new(Exit::Failed, "the system gave no random bytes").because(error))?;
    Ok(SigningKey::from_entropy(entropy))
}

/// Where the public half of the private key in `path` lies.
pub(crate) fn public_path(path: &Path) -> PathBuf {
    path.with_extension("pub")
}

/// The line with a public key.
pub(crate) fn public_line(key: &PublicKey, comment: &str) -> String {
    format!("{PUBLIC_WORD} {} {comment}", STANDARD.encode(key.to_bytes())).trim_end().to_owned()
}

/// Writes a file that must not be there yet.
pub(crate) fn create(path: &Path, content: &str, mode: u32) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| {
        let failure = Failure::new(Exit::Failed, format!("cannot write `{}`", path.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.hint("what is there is never overwritten: name another file with `--out`")
            }
            _ => failure.because(error),
        }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(cannot)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)
}

/// Reads a text file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<String, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::NotFound, format!("cannot read `{}`", path.display())).because(error)
    };
    let mut text = String::new();
    let mut file = std::fs::File::open(path).map_err(cannot)?.take(max + 1);
    file.read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > max {
        return Err(Failure::usage(format!("`{}` has more than {max} bytes", path.display())));
    }
    Ok(text)
}

/// A private key.
pub(crate) fn private(path: &Path) -> Result<SigningKey, Failure> {
    let text = read(path, KEY_FILE_BYTES_MAX)?;
    SigningKey::from_pem(&text).map_err(|error| {
        Failure::usage(format!("`{}` holds no signing key", path.display()))
            .because(error)
            .hint("`sealane key generate --out FILE` makes one")
    })
}

/// A public key: from its line, or from the private key.
pub(crate) fn public(path: &Path) -> Result<NamedKey, Failure> {
    let text = read(path, KEY_FILE_BYTES_MAX)?;
    if text.contains("-----BEGIN") {
        let key = private(path)?.public();
        return Ok(NamedKey { key, comment: String::new() });
    }
    parse_line(&text).ok_or_else(|| {
        Failure::usage(format!("`{}` holds no public key", path.display()))
            .hint(format!("its line is `{PUBLIC_WORD} BASE64 comment`, as `sealane key show KEYFILE` prints it"))
    })
}

fn parse_line(text: &str) -> Option<NamedKey> {
    let mut words = text.trim().splitn(3, ' ');
    if words.next() != Some(PUBLIC_WORD) {
        return None;
    }
    let bytes = STANDARD.decode(words.next()?).ok()?;
    let comment = words.next().unwrap_or_default();
    if comment.contains(char::is_control) {
        return None;
    }
    Some(NamedKey { key: PublicKey::from_bytes(&bytes).ok()?, comment: comment.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_line_survives_and_nonsense_is_none() {
        let key = SigningKey::from_entropy([3; 32]).public();
        let line = public_line(&key, "ana's laptop");
        let read = parse_line(&line).unwrap();
        assert_eq!((read.key, read.comment.as_str()), (key.clone(), "ana's laptop"));
        assert_eq!(parse_line(&public_line(&key, "")).unwrap().comment, "");
        for nonsense in ["", "sealane-ed25519", "sealane-ed25519 AAAA", "ssh-ed25519 AAAA x"] {
            assert!(parse_line(nonsense).is_none(), "{nonsense}");
        }
    }
}
