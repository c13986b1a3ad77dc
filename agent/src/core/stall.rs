//! Whether a trainer makes progress.
//!
//! A trainer that only sends beats has stalled, and so has one that is silent. One that tells of its work and sends no
//! beats has not.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::trainer::{Activity, Beat, LogLevel};
use trainyard_types::{AttemptId, EndReason, Time};

use super::attempt::State;
use super::{Command, Core, log};
use crate::message::Refusal;

/// A pause may last so many times the longest one that the job has shown in the same activity.
const PAUSE_FACTOR: u32 = 20;

/// While a trainer starts, scans and searches, it may pause so many times as long as usually.
const SLOW_FACTOR: u32 = 3;

/// At most so much time counts between two events: a clock that was set, or a machine that slept, says nothing of a
/// trainer.
const LONGEST_BETWEEN_EVENTS: Duration = Duration::from_secs(5);

/// Watches one trainer for stalls. Times are those of the core's own clock, see `Core::advance_clock`.
#[derive(Debug, Clone)]
pub struct StallWatch {
    /// The newest beat.
    beat: Option<Beat>,
    /// When the trainer last made progress.
    progress_at: Duration,
    /// The longest pause between two signs of progress, by what the trainer did.
    pauses: BTreeMap<Option<Activity>, Duration>,
    /// Whether its process is looked at, because it makes no progress.
    being_diagnosed: bool,
}

impl StallWatch {
    /// Begins to watch a trainer that starts.
    pub const fn new(active_time: Duration) -> Self {
        Self { beat: None, progress_at: active_time, pauses: BTreeMap::new(), being_diagnosed: false }
    }

    fn activity(&self) -> Option<Activity> {
        self.beat.map(|beat| beat.activity)
    }

    /// Notes that the trainer told something.
    pub fn on_line(&mut self, active_time: Duration) {
        let pause = active_time.saturating_sub(self.progress_at);
        let longest = self.pauses.entry(self.activity()).or_default();
        *longest = pause.max(*longest);
        (self.progress_at, self.being_diagnosed) = (active_time, false);
    }

    /// Notes a beat, which is progress if its count or its activity is another.
    pub fn on_beat(&mut self, active_time: Duration, beat: Beat) {
        let counts = |beat: Option<Beat>| beat.map(|beat| (beat.activity, beat.done));
        if counts(self.beat) != counts(Some(beat)) {
            self.on_line(active_time);
        }
        self.beat = Some(beat);
    }

    /// The longest pause that counts as no stall.
    fn allowed_pause(&self, stall_after: Duration) -> Duration {
        let factor = match self.activity() {
            Some(Activity::Train | Activity::Validate | Activity::Write) => 1,
            // A trainer that sends no beats tells less often, too.
            Some(Activity::Start | Activity::Scan | Activity::Search | Activity::Other) | None => SLOW_FACTOR,
        };
        let shown = self.pauses.get(&self.activity()).copied().unwrap_or_default();
        (stall_after * factor).max(shown.saturating_mul(PAUSE_FACTOR))
    }

    /// How long the trainer has made no progress, if that is too long.
    fn stalled(&self, active_time: Duration, stall_after: Duration) -> Option<Duration> {
        let still = active_time.saturating_sub(self.progress_at);
        (still >= self.allowed_pause(stall_after)).then_some(still)
    }

    /// What the trainer does, for a person.
    fn description(&self) -> String {
        match self.beat {
            Some(Beat { activity, .. }) => format!("while it {}", activity.in_words()),
            None => "and it has never beaten".to_owned(),
        }
    }
}

impl Core {
    /// Lets the core's own clock go on to `now`.
    pub(super) fn advance_clock(&mut self, now: Time) {
        let step = self.last_event.map_or(Duration::ZERO, |last| now.since(last).min(LONGEST_BETWEEN_EVENTS));
        self.active_time += step;
        self.last_event = Some(now);
    }

    /// Has the processes of trainers looked at that have made no progress for too long.
    pub(super) fn check_for_stalls(&mut self, out: &mut Vec<Command>) {
        for (id, attempt) in &mut self.attempts {
            let stall_watch = &mut attempt.stall_watch;
            let looks = matches!(attempt.state, State::Running) && !stall_watch.being_diagnosed;
            if looks && stall_watch.stalled(self.active_time, self.limits.stall_after).is_some() {
                stall_watch.being_diagnosed = true;
                out.push(Command::DiagnoseStall(*id));
            }
        }
    }

    /// A trainer that has stalled is asked for a checkpoint, and killed if it writes none.
    pub(super) fn on_stall_diagnosed(
        &mut self,
        now: Time,
        id: AttemptId,
        evidence: &str,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        if !matches!(attempt.state, State::Running) {
            return;
        }
        let Some(still) = attempt.stall_watch.stalled(self.active_time, self.limits.stall_after) else {
            return;
        };
        let text = format!("no progress for {} s {}", still.as_secs(), attempt.stall_watch.description());
        let told = format!(
            "the trainer has stalled: {text}; {evidence}; it is stopped, and the job goes on elsewhere"
        );
        out.push(log(id, now, LogLevel::Warning, told));
        let fault = Refusal::new(EndReason::Stalled, format!("{text}; {evidence}"));
        self.fail(now, id, fault, false, out);
    }
}
