//! Does what the steps of a page say.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::read::{Step, steps};
use super::skipped;
use crate::wait;

/// For a block to end, and for anything that a page waits for.
const SOON: Duration = Duration::from_secs(120);
/// For what was asked to stop.
const STOP: Duration = Duration::from_secs(60);

/// Follows `page` in an empty directory, with `programs` on the PATH by these names, and copies of `folders`, by theirs.
///
/// # Panics
/// At the first step that does not come out as the page says, with everything that was printed.
pub async fn follow(name: &str, page: &str, programs: &[(&str, &Path)], folders: &[(&str, &Path)]) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut reader = Reader::new(name, directory.path(), programs);
    for (name, folder) in folders {
        let to = reader.work.join(name);
        let copied = Command::new("cp").arg("-R").arg(folder).arg(&to).status().await;
        assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", folder.display());
    }
    for (line, step) in steps(page) {
        reader.place = format!("{name}:{line}");
        reader.take(step).await;
    }
    for terminal in 1..=reader.terminals.len() {
        reader.stop(terminal).await;
    }
}

/// Whoever reads the page.
struct Reader {
    place: String,
    /// Where the work is done.
    work: PathBuf,
    /// Variables of the working terminal, as a script.
    variables: PathBuf,
    /// Output of everything, for the one who must see what went wrong.
    logs: PathBuf,
    path: String,
    home: PathBuf,
    terminals: Vec<Terminal>,
}

struct Terminal {
    script: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Terminal {
    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, signal);
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Reader {
    fn new(name: &str, directory: &Path, programs: &[(&str, &Path)]) -> Self {
        let at = |part: &str| directory.join(part);
        for folder in ["work", "bin", "home", "logs"] {
            std::fs::create_dir(at(folder)).expect("a directory");
        }
        for (name, program) in programs {
            std::os::unix::fs::symlink(program, at("bin").join(name)).expect("a link");
        }
        std::fs::write(at("variables"), "").expect("a file");
        let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap_or_default());
        Self {
            place: name.to_owned(),
            work: at("work"),
            variables: at("variables"),
            logs: at("logs"),
            path,
            home: at("home"),
            terminals: Vec::new(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::File { name, text } => std::fs::write(self.work.join(name), text).expect("a file"),
            Step::Run { script, exit, needs, shows } => {
                let missing = needs.iter().find(|program| !self.has(program));
                match missing {
                    Some(program) => skipped(format_args!("{}: {program} is not installed", self.place)),
                    None => self.run(&script, exit, &shows).await,
                }
            }
            Step::Terminals { scripts } => {
                for script in scripts {
                    self.open(script).await;
                }
            }
            Step::Said { lines } => {
                let found = wait_for(SOON, async || {
                    self.terminals.iter().any(|terminal| missing(&lines, &terminal.said()).is_none())
                });
                assert!(found.await, "{}: no terminal shows\n{}\n{}", self.place, lines.join("\n"), self.everything());
            }
            Step::Wait { script } => {
                let done = wait_for(SOON, async || self.bash(&script).await.0 == 0);
                assert!(done.await, "{}: waited for `{script}`\n{}", self.place, self.everything());
            }
            Step::Stop { terminals } => {
                for terminal in terminals {
                    self.stop(terminal).await;
                }
            }
            Step::Start { terminals } => {
                for terminal in terminals {
                    let script = self.terminals[terminal - 1].script.clone();
                    self.start(terminal - 1, &script);
                }
            }
            Step::Elsewhere { script, reason } => {
                let first = script.lines().next().unwrap_or_default();
                skipped(format_args!("{}: `{first}` is not run here: {reason}", self.place));
            }
        }
    }

    fn has(&self, program: &str) -> bool {
        self.path.split(':').any(|folder| Path::new(folder).join(program).is_file())
    }

    async fn run(&self, script: &str, exit: i32, shows: &[String]) {
        let (code, said) = self.bash(script).await;
        assert_eq!(code, exit, "{}: ends with {code}\n{script}\n{said}\n{}", self.place, self.everything());
        if let Some(line) = missing(shows, &said) {
            panic!("{}: does not print `{line}`\n{script}\n{said}\n{}", self.place, self.everything());
        }
    }

    /// Runs a script in the working terminal: its exit code, and everything that it printed.
    async fn bash(&self, script: &str) -> (i32, String) {
        let log = self.logs.join("working");
        let output = File::create(&log).expect("a file");
        let variables = self.variables.display();
        let whole = format!(
            ". {variables}\ntrap 'code=$?; {{ export -p; echo \"cd $PWD\"; }} > {variables}; exit $code' EXIT\nset -e\n{script}"
        );
        let mut child = self.command(&whole, &output).spawn().expect("a shell");
        let ended = tokio::time::timeout(SOON, child.wait()).await;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let Ok(ended) = ended else {
            panic!("{}: does not end\n{script}\n{said}\n{}", self.place, self.everything());
        };
        (ended.expect("a shell's end").code().unwrap_or(-1), said)
    }

    fn command(&self, script: &str, output: &File) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .current_dir(&self.work)
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", &self.home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a double"))
            .stderr(output.try_clone().expect("a double"))
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Types `script` in a new terminal, again where it fails, until it has ended well or has something to say and runs on.
    async fn open(&mut self, script: String) {
        let number = self.terminals.len();
        let log = self.logs.join(format!("terminal-{}", number + 1));
        self.terminals.push(Terminal { script: script.clone(), log, child: None });
        self.start(number, &script);
        let end = Instant::now() + SOON;
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            let terminal = &mut self.terminals[number];
            let child = terminal.child.as_mut().expect("it was started");
            match child.try_wait().expect("a shell's state") {
                Some(ended) if ended.success() => break,
                Some(_) if Instant::now() < end => self.start(number, &script),
                Some(_) => panic!("{}: fails\n{script}\n{}", self.place, self.everything()),
                None if !terminal.said().is_empty() => break,
                // Traffic and other loops say nothing.
                None if script.starts_with("while ") => break,
                None => assert!(Instant::now() < end, "{}: says nothing\n{script}", self.place),
            }
        }
    }

    fn start(&mut self, number: usize, script: &str) {
        let log = File::options().create(true).append(true).open(&self.terminals[number].log).expect("a log");
        let child = self.command(script, &log).spawn().expect("a shell");
        self.terminals[number].child = Some(child);
    }

    /// Presses Ctrl-C in a terminal (numbers from 1) and waits until what ran in it has ended.
    async fn stop(&mut self, number: usize) {
        let place = self.place.clone();
        let terminal = &mut self.terminals[number - 1];
        terminal.signal(Signal::INT);
        // A shell's loop goes on after the Ctrl-C that ended one of its commands.
        if terminal.script.starts_with("while ") {
            terminal.signal(Signal::KILL);
        }
        if let Some(mut child) = terminal.child.take() {
            let ended = tokio::time::timeout(STOP, child.wait()).await;
            assert!(ended.is_ok(), "{place}: terminal {number} does not stop\n{}", terminal.said());
        }
    }

    /// What every terminal says.
    fn everything(&self) -> String {
        let part = |(index, terminal): (usize, &Terminal)| {
            let said = terminal.said();
            let from = said.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
            format!("--- terminal {}: {}\n{}", index + 1, terminal.script.trim(), &said[from..])
        };
        self.terminals.iter().enumerate().map(part).collect::<Vec<_>>().join("\n")
    }
}

async fn wait_for(deadline: Duration, look: impl AsyncFn() -> bool) -> bool {
    let looked = wait::until("a step", deadline, async || look().await.then_some(()));
    tokio::time::timeout(deadline - Duration::from_secs(1), looked).await.is_ok()
}

/// The first of `lines` that `said` does not contain after those before it. Times are equal to each other.
fn missing<'a>(lines: &'a [String], said: &str) -> Option<&'a str> {
    let said: Vec<String> = said.lines().map(without_times).collect();
    let mut rest = said.iter();
    lines
        .iter()
        .find(|line| {
            let wanted = without_times(line.trim());
            !rest.any(|line| line.contains(&wanted))
        })
        .map(String::as_str)
}

/// `after 1m2s: …` → `after <time>: …`.
fn without_times(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let is_start = !out.ends_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '.');
        match time(rest) {
            Some(length) if is_start => {
                out.push_str("<time>");
                rest = &rest[length..];
            }
            _ => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// The length of the duration that `text` begins with.
fn time(text: &str) -> Option<usize> {
    let mut length = 0;
    loop {
        let rest = &text[length..];
        let digits =
            rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.').len();
        let unit = ["ms", "us", "s", "m", "h"].into_iter().find(|unit| rest[digits..].starts_with(unit));
        match unit.filter(|_| digits > 0) {
            Some(unit) => length += digits + unit.len(),
            None => break,
        }
    }
    let ends = !text[length..].starts_with(|letter: char| letter.is_ascii_alphanumeric());
    (length > 0 && ends).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_all_the_same_and_nothing_else_is() {
        assert_eq!(without_times("COMPLETED r1 in 0.4s: 4 of 4"), "COMPLETED r1 in <time>: 4 of 4");
        assert_eq!(without_times("after 1m2s, r2s 10ms."), "after <time>, r2s <time>.");
        let said = "a\nCOMPLETED in 17s: 4 of 4\n";
        assert_eq!(missing(&["a".into(), "COMPLETED in 1m3s: 4 of 4".into()], said), None);
        assert_eq!(missing(&["COMPLETED in 17s: 4 of 4".into(), "a".into()], said), Some("a"));
        assert_eq!(missing(&["COMPLETED in 17s: 3 of 4".into()], said), Some("COMPLETED in 17s: 3 of 4"));
    }
}
