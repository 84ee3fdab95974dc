//! Stands in for `docker compose` where Docker is not installed, so that the Compose file and its page are followed to the
//! letter: a service is a process in a network and a file system of its own (Linux namespaces), with the command, volumes,
//! secrets, files and read-only root that the file says.
//!
//! It understands what that page types: `compose [--profile P] up [--wait] [SERVICE…]`, `exec`, `cp`, `stop`, `restart`, `down`.
//! It builds and pulls nothing: every service of the image `sealane:local` runs the `sealane` of the PATH, others are left
//! out. It does not change users, has no limits of resources, and needs to be root of a user namespace.
//!
//! State is in `.docker-stand-in` beside the Compose file.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// `stop_grace_period` of every service.
const GRACE: Duration = Duration::from_secs(75);
/// Network of the project; the machine itself is .1.
const NETWORK: &str = "10.77.0";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [relay, listen, target] = words.as_slice()
        && relay == "relay"
    {
        return forward(listen, target).await;
    }
    ensure!(words.first().is_some_and(|word| word == "compose"), "only `docker compose` is known here");
    words.remove(0);
    let mut project = Project::open()?;
    while words.first().is_some_and(|word| word == "--profile") {
        words.remove(0);
        ensure!(!words.is_empty(), "--profile wants a name");
        project.profiles.push(words.remove(0));
    }
    ensure!(!words.is_empty(), "no command");
    let command = words.remove(0);
    let flags: Vec<String> = words.iter().take_while(|word| word.starts_with('-')).cloned().collect();
    words.drain(..flags.len());
    match command.as_str() {
        "up" => project.up(&words).await?,
        "exec" => return project.exec(&words),
        "cp" => project.copy(&words)?,
        "stop" => project.stop_all(&words).await?,
        "restart" => {
            project.stop_all(&words).await?;
            project.up(&words).await?;
        }
        "down" => project.down().await?,
        other => bail!("`docker compose {other}` is not known here"),
    }
    Ok(ExitCode::SUCCESS)
}

struct Project {
    folder: PathBuf,
    state: PathBuf,
    file: Value,
    profiles: Vec<String>,
}

impl Project {
    fn open() -> Result<Self> {
        let folder = std::env::current_dir()?;
        let text = fs::read_to_string(folder.join("compose.yaml")).context("there is no compose.yaml here")?;
        let state = folder.join(".docker-stand-in");
        for part in ["pid", "net", "log", "root", "volume"] {
            fs::create_dir_all(state.join(part))?;
        }
        Ok(Self { folder, state, file: serde_saphyr::from_str(&text)?, profiles: Vec::new() })
    }

    fn service(&self, name: &str) -> Result<&Value> {
        self.file["services"].get(name).with_context(|| format!("no service {name}"))
    }

    /// Ours, in the order of the file, without those of profiles that were not asked for.
    fn wanted(&self, named: &[String]) -> Result<Vec<String>> {
        for name in named {
            self.service(name)?;
        }
        let services = self.file["services"].as_object().context("services")?;
        let is_wanted = |name: &String, service: &Value| {
            let profiles = texts(&service["profiles"]);
            let is_on = profiles.is_empty() || profiles.iter().any(|profile| self.profiles.contains(profile));
            service["image"] == "sealane:local" && if named.is_empty() { is_on } else { named.contains(name) }
        };
        Ok(services.iter().filter(|(name, service)| is_wanted(name, service)).map(|(name, _)| name.clone()).collect())
    }

    async fn up(&self, named: &[String]) -> Result<()> {
        let mut names = self.wanted(named)?;
        self.network()?;
        // Whoever owns a network comes before those in it, and what is depended on before all.
        names.sort_by_key(|name| {
            let service = &self.file["services"][name.as_str()];
            (!service["healthcheck"].is_object(), service["network_mode"].is_string())
        });
        for name in names.iter().filter(|name| self.running(name).is_none()) {
            self.start(name)?;
            if self.file["services"][name.as_str()]["healthcheck"].is_object() {
                self.healthy(name).await?;
            }
        }
        Ok(())
    }

    async fn healthy(&self, name: &str) -> Result<()> {
        let check = &self.file["services"][name]["healthcheck"];
        let test = texts(&check["test"]);
        let retries = check["retries"].as_u64().context("retries")?;
        for _ in 0..retries * 40 {
            ensure!(self.running(name).is_some(), "{name} has ended: {}", self.log(name));
            let mut command = self.inside(name, &test[1..])?;
            if command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{name} is not healthy: {}", self.log(name))
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.state.join("log").join(name)).unwrap_or_default()
    }

    /// A bridge, and a name for every service that has an address of its own.
    fn network(&self) -> Result<()> {
        if self.state.join("hosts").exists() {
            return Ok(());
        }
        let bridge = format!(
            "ip link add sealane0 type bridge && ip addr add {NETWORK}.1/24 dev sealane0 && ip link set sealane0 up"
        );
        shell(&bridge)?;
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for (number, name) in self.owners()?.iter().enumerate() {
            let _ = writeln!(hosts, "{NETWORK}.{} {name}", number + 10);
        }
        fs::write(self.state.join("hosts"), hosts)?;
        Ok(())
    }

    /// Services with a network of their own.
    fn owners(&self) -> Result<Vec<String>> {
        let services = self.file["services"].as_object().context("services")?;
        let own = services.iter().filter(|(_, service)| !service["network_mode"].is_string());
        Ok(own.map(|(name, _)| name.clone()).collect())
    }

    /// The process that keeps the network of a service.
    fn holder(&self, name: &str) -> Result<String> {
        let service = self.service(name)?;
        let owner = service["network_mode"].as_str().and_then(|mode| mode.strip_prefix("service:")).unwrap_or(name);
        let file = self.state.join("net").join(owner);
        if let Ok(pid) = fs::read_to_string(&file) {
            return Ok(pid);
        }
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo there; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pid = holder.id().to_string();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.context("its output")?), &mut line)?;
        let number = self.owners()?.iter().position(|one| one == owner).context("an owner")?;
        let inside = format!("nsenter -t {pid} -n");
        shell(&format!(
            "ip link add c{number} type veth peer name eth0 netns {pid} && ip link set c{number} master sealane0 up && \
             {inside} ip link set lo up && {inside} ip addr add {NETWORK}.{}/24 dev eth0 && {inside} ip link set eth0 up",
            number + 10
        ))?;
        for port in texts(&self.file["services"][owner]["ports"]) {
            let (listen, target) = port.rsplit_once(':').context("HOST:PORT:PORT")?;
            Command::new(std::env::current_exe()?)
                .args(["relay", listen, &format!("{NETWORK}.{}:{target}", number + 10)])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()?;
        }
        fs::write(&file, &pid)?;
        Ok(pid)
    }

    fn start(&self, name: &str) -> Result<()> {
        let holder = self.holder(name)?;
        let service = self.service(name)?;
        let root = self.state.join("root").join(name);
        fs::create_dir_all(&root)?;
        let log = fs::File::options().create(true).append(true).open(self.state.join("log").join(name))?;
        let script = format!("set -e\n{}\nexec chroot . /usr/bin/sealane \"$@\"", self.mounts(name)?);
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &holder, "-n", "unshare", "--mount", "sh", "-c", &script, "sh"])
            .args(texts(&service["command"]));
        let child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables(service))
            .current_dir(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        fs::write(self.state.join("pid").join(name), child.id().to_string())?;
        Ok(())
    }

    /// A root file system in memory: the program, what it is linked with, and what the file mounts; then nobody writes to it.
    fn mounts(&self, name: &str) -> Result<String> {
        let service = self.service(name)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let program = path.split(':').map(|folder| Path::new(folder).join("sealane")).find(|file| file.is_file());
        let program = program.context("no `sealane` on the PATH")?.canonicalize()?;
        let mut script = "R=$PWD; mount -t tmpfs none $R; cd $R; mkdir -p usr/bin etc proc dev\n".to_owned();
        let mut bind = |from: &Path, to: &str, is_folder: bool, options: &str| {
            let make =
                if is_folder { format!("mkdir -p .{to}") } else { format!("mkdir -p $(dirname .{to}); touch .{to}") };
            let _ = writeln!(script, "{make}; mount --rbind {options} '{}' .{to}", from.display());
        };
        for folder in ["/lib", "/lib64", "/usr/lib"].map(Path::new) {
            if folder.exists() {
                bind(&folder.canonicalize()?, &folder.display().to_string(), true, "");
            }
        }
        bind(&program, "/usr/bin/sealane", false, "");
        bind(Path::new("/proc"), "/proc", true, "");
        for device in ["/dev/null", "/dev/urandom"] {
            bind(Path::new(device), device, false, "");
        }
        bind(&self.state.join("hosts"), "/etc/hosts", false, "");
        for volume in service["volumes"].as_array().into_iter().flatten() {
            match volume {
                Value::String(text) => {
                    let (volume, target) = text.split_once(':').context("VOLUME:TARGET")?;
                    let from = self.state.join("volume").join(volume);
                    fs::create_dir_all(&from)?;
                    bind(&from, target, true, "");
                }
                volume => {
                    let source = volume["source"].as_str().context("source")?;
                    let from = self.folder.join(source).canonicalize().with_context(|| format!("{name}: {source}"))?;
                    let target = volume["target"].as_str().context("target")?;
                    bind(&from, target, from.is_dir(), "-o ro");
                }
            }
        }
        for secret in texts(&service["secrets"]) {
            let file = self.file["secrets"][&secret]["file"].as_str().with_context(|| format!("no secret {secret}"))?;
            bind(&self.folder.join(file).canonicalize()?, &format!("/run/secrets/{secret}"), false, "-o ro");
        }
        if service["read_only"] == true {
            script.push_str("mount -o remount,ro $R\n");
        }
        // The mount covers the folder that it is on: enter it anew.
        script.push_str("cd $R");
        Ok(script)
    }

    /// A command in the place of a service that runs.
    fn inside(&self, name: &str, words: &[String]) -> Result<Command> {
        let pid = self.running(name).with_context(|| format!("{name} does not run"))?;
        let (program, args) = words.split_first().context("a command")?;
        let program = if program.starts_with('/') { program.clone() } else { format!("/usr/bin/{program}") };
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.as_raw_nonzero().to_string(), "-n", "-m", "-r", "-w", &program]).args(args);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).envs(variables(self.service(name)?));
        Ok(command)
    }

    fn exec(&self, words: &[String]) -> Result<ExitCode> {
        let (name, words) = words.split_first().context("a service")?;
        // Its signals and its end are those of the command.
        Err(self.inside(name, words)?.exec().into())
    }

    fn copy(&self, words: &[String]) -> Result<()> {
        let [from, to] = words else { bail!("SERVICE:PATH DESTINATION") };
        let (name, path) = from.split_once(':').context("SERVICE:PATH")?;
        let pid = self.running(name).with_context(|| format!("{name} does not run"))?;
        fs::copy(format!("/proc/{}/root{path}", pid.as_raw_nonzero()), to)
            .with_context(|| format!("cannot copy {from}"))?;
        Ok(())
    }

    fn running(&self, name: &str) -> Option<Pid> {
        let pid = fs::read_to_string(self.state.join("pid").join(name)).ok()?.parse().ok()?;
        let pid = Pid::from_raw(pid)?;
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        let is_over = state.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'));
        (test_kill_process(pid).is_ok() && !is_over).then_some(pid)
    }

    async fn stop_all(&self, named: &[String]) -> Result<()> {
        let pids: Vec<Pid> = named.iter().filter_map(|name| self.running(name)).collect();
        for pid in pids {
            kill_process(pid, Signal::TERM)?;
        }
        let all_over = async {
            while named.iter().any(|name| self.running(name).is_some()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(GRACE, all_over).await.context("what was asked to stop does not")
    }

    async fn down(&self) -> Result<()> {
        let services = self.file["services"].as_object().context("services")?;
        self.stop_all(&services.keys().cloned().collect::<Vec<_>>()).await?;
        for entry in fs::read_dir(self.state.join("net"))? {
            if let Some(pid) = Pid::from_raw(fs::read_to_string(entry?.path())?.parse()?) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = shell("ip link del sealane0");
        fs::remove_dir_all(&self.state)?;
        Ok(())
    }
}

/// A published port.
async fn forward(listen: &str, target: &str) -> Result<ExitCode> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        let target = target.to_owned();
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(target).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

fn shell(script: &str) -> Result<()> {
    let ended = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).status()?;
    ensure!(ended.success(), "`{script}` fails");
    Ok(())
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn variables(service: &Value) -> Vec<(String, String)> {
    let all = service["environment"].as_object().into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}
