//! A small disk of its own for one part of a fleet, that a test can fill.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

/// Room for a fleet of tests, and soon full.
const MEGABYTES: usize = 32;

impl SmallDisk {
    /// Mounts one at `path`, which is made. `None`, with a printed reason: this user may not mount.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a directory");
        let size = format!("size={MEGABYTES}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            Ok(output) => {
                eprintln!("skipped: no tmpfs can be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: no tmpfs can be mounted here: {error}");
                None
            }
        }
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// If the file cannot be made.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file on the small disk");
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Makes room again.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("what filled the disk");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that ends a moment later may hold it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}
