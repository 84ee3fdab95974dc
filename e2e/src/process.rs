//! A started program: its arguments, its log, and how it ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// What a finished command said.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A program that runs until it is stopped. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    args: Vec<String>,
    directory: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `program` in `directory`, output to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(program: &Path, directory: &Path, log: &Path, args: &[&str]) -> Self {
        Self::start_with_input(program, directory, log, args, Stdio::null())
    }

    /// The same with something to read.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with_input(program: &Path, directory: &Path, log: &Path, args: &[&str], input: Stdio) -> Self {
        let mut process = Self {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            directory: directory.to_owned(),
            log: log.to_owned(),
            child: None,
        };
        process.spawn(input);
        process
    }

    /// Starts it again with the same arguments; it must have ended.
    ///
    /// # Panics
    /// If it still runs or cannot be started.
    pub fn restart(&mut self) {
        self.spawn(Stdio::null());
    }

    fn spawn(&mut self, input: Stdio) {
        assert!(self.child.is_none(), "{:?} still runs", self.args);
        let log = File::options().create(true).append(true).open(&self.log).expect("log file");
        let child = Command::new(&self.program)
            .args(&self.args)
            .current_dir(&self.directory)
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| !name.starts_with("SEALANE_")))
            .stdin(input)
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("program under test");
        self.child = Some(child);
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to stop and waits; the exit code.
    ///
    /// # Panics
    /// If it does not end within `deadline`.
    pub async fn stop(&mut self, signal: Signal, deadline: Duration) -> i32 {
        self.signal(signal);
        let mut child = self.child.take().expect("a running program");
        let status = tokio::time::timeout(deadline, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{:?} did not stop: {}", self.args, self.log_text()));
        status.ok().and_then(|status| status.code()).unwrap_or(-1)
    }

    /// Waits until it ends by itself; the exit code.
    ///
    /// # Panics
    /// If it does not within `deadline`.
    pub async fn ended(mut self, deadline: Duration) -> i32 {
        let mut child = self.child.take().expect("a running program");
        let status = tokio::time::timeout(deadline, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{:?} did not end: {}", self.args, self.log_text()));
        status.ok().and_then(|status| status.code()).unwrap_or(-1)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The end of what it has written so far, for a message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Runs `program` to its end.
///
/// # Panics
/// If it cannot be started or does not end within `deadline`.
pub async fn finish(program: &Path, directory: &Path, deadline: Duration, args: &[&str]) -> Finished {
    let output = Command::new(program)
        .args(args)
        .current_dir(directory)
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| !name.starts_with("SEALANE_")))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(deadline, output).await;
    let output =
        output.unwrap_or_else(|_| panic!("{args:?} did not end within {deadline:?}")).expect("program under test");
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
