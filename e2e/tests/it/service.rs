//! What `deploy/systemd` relies on: the notify socket, reload, watchdog, and an upgrade of the binary under load. The
//! test is the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sealane_e2e::fleet::free_address;
use sealane_e2e::load::{self, Load};
use sealane_e2e::origin::Origin;
use sealane_e2e::process::Process;
use sealane_e2e::wait;

use crate::program;

const SOON: Duration = Duration::from_secs(30);

/// `Type=notify-reload` with `WatchdogSec=`: the socket, and what came through it.
struct Manager {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, said: Vec::new() }
    }

    /// Every message that was not looked at yet.
    fn heard(&mut self) -> Vec<String> {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        std::mem::take(&mut self.said)
    }

    /// Waits for a message with the line `wanted` that was not looked at yet; gives the whole message.
    async fn hears(&mut self, wanted: &str) -> String {
        wait::until(wanted, SOON, async || {
            let mut buffer = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                self.said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            let found = self.said.iter().position(|message| message.lines().any(|line| line == wanted))?;
            Some(self.said.drain(..=found).next_back().expect("the one that was found"))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_readiness_reload_watchdog_and_stop_and_an_upgrade_refuses_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let origins = [Origin::start("one").await, Origin::start("two").await];
    let listen = free_address();
    let config = |to: usize| {
        format!(
            "listen: {listen}\nroutes:\n  - to: http://{}\nshutdown: {{ lb_convergence: 100ms }}\n",
            origins[to].address()
        )
    };
    std::fs::write(at("config.yaml"), config(0)).expect("a file");
    std::fs::hard_link(program(), at("sealane"))
        .or_else(|_| std::fs::copy(program(), at("sealane")).map(drop))
        .expect("the binary");
    let mut manager = Manager::new(&at("notify"));
    let script = format!(
        "NOTIFY_SOCKET={} WATCHDOG_USEC=600000 WATCHDOG_PID=$$ exec {} run config.yaml --admin off --threads 1 --handover handover.sock",
        at("notify").display(),
        at("sealane").display()
    );
    let first = Process::start(Path::new("/bin/sh"), directory.path(), &at("run.log"), &["-c", &script]);
    let ready = manager.hears("READY=1").await;
    assert!(ready.lines().any(|line| line.starts_with("MAINPID=")), "{ready}");
    let url = format!("http://{listen}/");
    assert_eq!(load::get(&load::client(), &url).await, Ok((200, "one".to_owned())), "ready is when it serves");
    // A third of the time that the manager waits: two of them are a rhythm.
    manager.hears("WATCHDOG=1").await;
    manager.hears("WATCHDOG=1").await;

    std::fs::write(at("config.yaml"), config(1)).expect("a file");
    first.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1").await;
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    manager.hears("READY=1").await;
    let client = load::client();
    wait::equals("the new config", SOON, Ok((200, "two".to_owned())), async || load::get(&client, &url).await).await;
    std::fs::write(at("config.yaml"), "listen: nonsense\n").expect("a file");
    first.signal(Signal::HUP);
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    assert_eq!(load::get(&client, &url).await, Ok((200, "two".to_owned())), "a broken file is refused");
    std::fs::write(at("config.yaml"), config(1)).expect("a file");

    // A new binary is installed as a package manager does it, then asked to take over.
    let (kept, fresh) =
        (Load::start(&[listen], Duration::from_millis(5)), Load::start_fresh(listen, Duration::from_millis(5)));
    std::fs::hard_link(program(), at("new"))
        .or_else(|_| std::fs::copy(program(), at("new")).map(drop))
        .expect("the new binary");
    std::fs::rename(at("new"), at("sealane")).expect("the new binary in place");
    first.signal(Signal::USR2);
    let ready = manager.hears("READY=1").await;
    let main = ready.lines().find_map(|line| line.strip_prefix("MAINPID=")).expect("who is the main process now");
    let next = Pid::from_raw(main.parse().expect("a number")).expect("a process");
    let end = KillAtEnd(next);
    assert_eq!(first.ended(SOON).await, 0, "the first one drains and ends by itself");
    let heard = manager.heard();
    let is_stopping = heard.iter().any(|message| message.lines().any(|line| line == "STOPPING=1"));
    assert!(!is_stopping, "what was replaced does not stop the service: {heard:?}");
    let before = fresh.total();
    wait::until("requests to the second", SOON, async || (fresh.total() > before + 50).then_some(())).await;
    assert_eq!((kept.failures(), fresh.failures()), (0, 0), "{:?} {:?}", kept.seen(), fresh.seen());
    drop((kept, fresh));
    manager.hears("WATCHDOG=1").await;

    kill_process(next, Signal::TERM).expect("it runs");
    manager.hears("STOPPING=1").await;
    let refuses = async || tokio::net::TcpStream::connect(listen).await.is_err().then_some(());
    wait::until("the second one's end", SOON, refuses).await;
    drop(end);
}

/// A process that the first one started is nobody's child here.
struct KillAtEnd(Pid);

impl Drop for KillAtEnd {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
