//! Whether a trainer gets on. One that beats and does no more has stalled, and so has one that is silent; one that
//! tells of its work and does not beat has not.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::trainer::{Activity, Beat, LogLevel};
use trainyard_types::{AttemptId, EndReason, Time};

use super::attempt::State;
use super::{Command, Core, Refusal, log};

/// So many times the longest pause that a job has shown in an activity, it may take there.
const PAUSES: u32 = 20;

/// While a trainer starts, scans and searches, so many times the usual patience.
const SLOW_FACTOR: u32 = 3;

/// Between two events at most so much time has passed: a clock that was set, or a machine that slept, says nothing
/// of a trainer.
const LONGEST_STEP: Duration = Duration::from_secs(5);

/// The watch over one trainer. Times are spans of the core's own clock, which only runs while the agent does.
#[derive(Debug, Clone)]
pub struct Vigil {
    /// The newest beat.
    beat: Option<Beat>,
    /// When something went on.
    progress_at: Duration,
    /// The longest pause between two signs of progress, by what the trainer was at.
    pauses: BTreeMap<Option<Activity>, Duration>,
    /// Whether it is being looked at because nothing goes on.
    examined: bool,
}

impl Vigil {
    /// The watch over a trainer that starts.
    pub const fn new(awake: Duration) -> Self {
        Self { beat: None, progress_at: awake, pauses: BTreeMap::new(), examined: false }
    }

    fn activity(&self) -> Option<Activity> {
        self.beat.map(|beat| beat.activity)
    }

    /// Notes that the trainer told something.
    pub fn on_line(&mut self, awake: Duration) {
        let pause = awake.saturating_sub(self.progress_at);
        let longest = self.pauses.entry(self.activity()).or_default();
        *longest = pause.max(*longest);
        (self.progress_at, self.examined) = (awake, false);
    }

    /// Notes a beat, which is progress if its count or its activity is another.
    pub fn on_beat(&mut self, awake: Duration, beat: Beat) {
        let counts = |beat: Option<Beat>| beat.map(|beat| (beat.activity, beat.done));
        if counts(self.beat) != counts(Some(beat)) {
            self.on_line(awake);
        }
        self.beat = Some(beat);
    }

    /// The longest span in which nothing may go on.
    fn patience(&self, stall_after: Duration) -> Duration {
        let factor = match self.activity() {
            Some(Activity::Train | Activity::Validate | Activity::Write) => 1,
            // One that never beats tells less often, too.
            Some(Activity::Start | Activity::Scan | Activity::Search | Activity::Other) | None => SLOW_FACTOR,
        };
        let shown = self.pauses.get(&self.activity()).copied().unwrap_or_default();
        (stall_after * factor).max(shown.saturating_mul(PAUSES))
    }

    /// For how long nothing has gone on, if that is too long.
    fn stalled(&self, awake: Duration, stall_after: Duration) -> Option<Duration> {
        let still = awake.saturating_sub(self.progress_at);
        (still >= self.patience(stall_after)).then_some(still)
    }

    /// What it is at, for a person.
    fn words(&self) -> String {
        match self.beat {
            Some(Beat { activity, .. }) => format!("while it {}", activity.in_words()),
            None => "and it has never beaten".to_owned(),
        }
    }
}

impl Core {
    /// Lets the core's own clock go on.
    pub(super) fn pass(&mut self, now: Time) {
        let step = self.before.map_or(Duration::ZERO, |before| now.since(before).min(LONGEST_STEP));
        self.awake += step;
        self.before = Some(now);
    }

    /// Has trainers looked at that have not got on for too long.
    pub(super) fn look_for_stalls(&mut self, out: &mut Vec<Command>) {
        for (id, attempt) in &mut self.attempts {
            let vigil = &mut attempt.vigil;
            let looks = matches!(attempt.state, State::Running) && !vigil.examined;
            if looks && vigil.stalled(self.awake, self.limits.stall_after).is_some() {
                vigil.examined = true;
                out.push(Command::Examine(*id));
            }
        }
    }

    /// A trainer that does not get on is asked for a checkpoint, and killed if it does not answer.
    pub(super) fn on_examined(&mut self, now: Time, id: AttemptId, evidence: &str, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        if !matches!(attempt.state, State::Running) {
            return;
        }
        let Some(still) = attempt.vigil.stalled(self.awake, self.limits.stall_after) else { return };
        let text = format!("no progress for {} s {}", still.as_secs(), attempt.vigil.words());
        let told = format!(
            "the trainer has stalled: {text}; {evidence}; it is stopped, and the job goes on elsewhere"
        );
        out.push(log(id, now, LogLevel::Warning, told));
        let fault = Refusal::new(EndReason::Stalled, format!("{text}; {evidence}"));
        self.fail(now, id, fault, false, out);
    }
}
