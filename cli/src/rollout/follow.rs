//! Follows a rollout to its verdict, across restarts of the authority: the stream gives whole states, so that a new
//! stream goes on where the old one broke, and nothing is told twice.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sealane_proto::v1::{Rollout, RolloutServiceWatchRequest, RolloutState};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::progress::{Progress, live_line};
use super::status::problem_lines;
use crate::args::Format;
use crate::client::{Server, broke, incomplete};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::{duration, problems, words};

/// First wait before connecting again; doubled up to the last one.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(3);
/// Without `--timeout`: an authority that stays away for this long is given up.
const AWAY_MAX: Duration = Duration::from_secs(600);

/// What to follow.
#[derive(Debug)]
pub(crate) struct Follow<'a> {
    /// 0: the newest.
    pub(crate) revision: u64,
    /// The config that was published, by file name and text, if at hand: problems then show their line.
    pub(crate) text: Option<(&'a str, &'a str)>,
    /// The publisher asked to be held: that is what was wanted.
    pub(crate) hold_is_done: bool,
}

/// Follows until the verdict, and prints it.
///
/// # Errors
/// The exit code of the verdict where it is not "completed"; [`Exit::Unfinished`] at `--timeout`.
pub(crate) async fn follow(
    server: &Server,
    wanted: Follow<'_>,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut view = View::new(format, printer);
    let mut revision = wanted.revision;
    let followed = until_verdict(server, &mut revision, &mut view);
    let ended = match server.time_limit {
        None => followed.await,
        Some(limit) => match tokio::time::timeout(limit, followed).await {
            Ok(ended) => ended,
            Err(_) => {
                view.close();
                let name = if revision == 0 { String::new() } else { format!(" r{revision}") };
                return Err(Failure::new(
                    Exit::Unfinished,
                    format!("no verdict after {}; the rollout goes on", duration::show(limit)),
                )
                .hint(format!("`sealane rollout watch{name}` follows it again")));
            }
        },
    };
    view.close();
    verdict(&ended?, &wanted, format, printer)
}

async fn until_verdict(server: &Server, revision: &mut u64, view: &mut View<'_>) -> Result<Rollout, Failure> {
    let mut backoff = BACKOFF_FIRST;
    let mut away_since: Option<Instant> = None;
    let mut seen_version = 0;
    loop {
        let broke = match server.rollout().watch(RolloutServiceWatchRequest { revision: *revision }).await {
            Err(status) => status,
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            let rollout = message.rollout.ok_or_else(|| incomplete("rollout"))?;
                            *revision = rollout.revision;
                            (backoff, away_since) = (BACKOFF_FIRST, None);
                            // After a reconnect the first state may be one that was told before.
                            if rollout.state_version >= seen_version {
                                seen_version = rollout.state_version;
                                view.show(&rollout)?;
                                if words::ends_watch(rollout.state()) {
                                    return Ok(rollout);
                                }
                            }
                        }
                        Ok(None) => break Status::unavailable("the authority ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if !passes(&broke) {
            return Err(server.failure(&broke));
        }
        let since = *away_since.get_or_insert_with(|| {
            view.away(server.url());
            Instant::now()
        });
        if server.time_limit.is_none() && since.elapsed() > AWAY_MAX {
            return Err(server.failure(&broke));
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

/// Whether a stream that ended is worth another: a restart of the authority looks like any of these.
fn passes(status: &Status) -> bool {
    broke(status) || matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted)
}

fn verdict(rollout: &Rollout, wanted: &Follow<'_>, format: Format, printer: &Printer) -> Result<(), Failure> {
    let human = matches!(format, Format::Human | Format::Wide);
    if human {
        match wanted.text {
            Some((file, text)) if !rollout.problems.is_empty() => {
                printer.talk_text(&problems::on_nodes(&rollout.problems, file, text, printer.talks_in_colour()));
            }
            _ => problem_lines(&rollout.problems).iter().for_each(|line| printer.talk(line)),
        }
    }
    match format {
        Format::Human | Format::Wide => {
            let line = words::verdict(rollout);
            printer.data(&words::state_paint(rollout.state()).apply(printer.look(format).colour, &line))?;
        }
        Format::Name => printer.data(&words::revision(rollout.revision))?,
        // The last object holds it.
        Format::Json | Format::Yaml => {}
    }
    let exit = match wanted.hold_is_done && is_held_by_publisher(rollout) {
        true => Exit::Done,
        false => words::exit_of(rollout.state()),
    };
    if let (true, Some(next)) = (human, words::next_step(rollout)) {
        printer.hint(&next);
    }
    if exit == Exit::Done { Ok(()) } else { Err(Failure::quiet(exit)) }
}

fn is_held_by_publisher(rollout: &Rollout) -> bool {
    let said =
        |reason: &sealane_proto::v1::Reason| reason.gate == "hold" || reason.message.contains("by the publisher");
    rollout.state() == RolloutState::Held && rollout.reason.as_ref().is_none_or(said)
}

/// How the changes are shown.
struct View<'a> {
    printer: &'a Printer,
    format: Format,
    progress: Progress,
    last: Option<Rollout>,
    bar: Option<ProgressBar>,
}

impl<'a> View<'a> {
    fn new(format: Format, printer: &'a Printer) -> Self {
        let live = printer.is_live() && matches!(format, Format::Human | Format::Wide);
        let bar = live.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { printer, format, progress: Progress::default(), last: None, bar }
    }

    fn show(&mut self, rollout: &Rollout) -> Result<(), Failure> {
        if self.last.as_ref() == Some(rollout) {
            return Ok(());
        }
        match self.format {
            Format::Json | Format::Yaml => {
                let value = sealane_proto::json::to_json("Rollout", rollout);
                self.printer.value_of_many(self.format, &value)?;
            }
            Format::Human | Format::Wide => {
                for line in self.progress.lines(rollout) {
                    self.say(&line);
                }
                if let Some(bar) = &self.bar {
                    bar.set_message(live_line(rollout));
                }
            }
            Format::Name => {}
        }
        self.last = Some(rollout.clone());
        Ok(())
    }

    fn away(&self, url: &str) {
        self.say(&format!("the authority at {url} is away; the fleet serves on; connecting again"));
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.printer.talk(line),
        }
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
