//! The files that a config names and a snapshot holds the content of: certificates, keys and CAs. Whoever serves a config
//! looks at their stamps now and then, and compiles it again when they have changed. Files of JWKS are looked at by
//! `crate::jwks`, without a new snapshot.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sealane_model::config::Config;

/// What a file looked like: another stamp means that it may have changed. Follows links, so a renamed file and a
/// swapped directory link (Kubernetes' `..data`) both show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Stamp {
    /// `None` while the file is not there.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino())
            },
        })
    }
}

/// Files and what they looked like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    /// What these files look like now.
    #[must_use]
    pub fn of(files: Vec<PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (Stamp::of(&file), file)).map(|(stamp, file)| (file, stamp)).collect())
    }

    /// What the same files look like now.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(self.0.iter().map(|(file, _)| file.clone()).collect())
    }
}

/// The files that `config` names.
#[must_use]
pub fn named(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut add = |name: &str| files.push(PathBuf::from(name));
    if let Some(tls) = &config.tls {
        for certificate in &tls.certificates {
            add(&certificate.cert_file);
            add(&certificate.key_file);
        }
        if let Some(mtls) = &tls.mtls {
            add(&mtls.ca_file);
        }
    }
    for pool in &config.pools {
        pool.tls.ca_file.iter().for_each(|file| add(file));
        if let Some((certificate, key)) = &pool.tls.client_certificate {
            add(certificate);
            add(key);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapped_directory_link_shows_in_the_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("config.yaml"), version).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/config.yaml", at("config.yaml")).unwrap();
        let before = Stamp::of(&at("config.yaml"));
        let stamps = Stamps::of(vec![at("config.yaml"), at("missing")]);
        assert_eq!(stamps, stamps.again());
        std::os::unix::fs::symlink("v2", at("..next")).unwrap();
        std::fs::rename(at("..next"), at("..data")).unwrap();
        assert!(before.is_some());
        assert_ne!(before, Stamp::of(&at("config.yaml")));
        assert_ne!(stamps, stamps.again());
    }
}
