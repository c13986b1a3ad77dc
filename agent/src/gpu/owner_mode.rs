//! Owner mode: the GPU's owner comes first. Decides from what other processes do on a GPU, and from a schedule, whether
//! jobs may use it. Pure: time is an argument. In the configuration it is called `guest`.
//!
//! ```text
//!      use by other processes above a threshold, or the schedule's hours
//!   Free ───────────────────────────────────────────────────────► Owners
//!        ◄───────────────────────────────────────────────────────
//!          outside of the hours, and no use for `idle`
//! ```

mod schedule;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_types::{Gpu, Time};

use super::other_processes::OtherProcesses;
pub use schedule::{LocalTime, OwnerHours, OwnerHoursError};

/// When jobs leave a GPU to its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerModeConfig {
    /// Whether any GPU is in owner mode.
    pub enabled: bool,
    /// The GPUs in owner mode, by UUID or index; none means all.
    pub gpus: Vec<String>,
    /// The owner is active from this share of the GPU's multiprocessors on, 0 to 1.
    pub utilization: f64,
    /// The owner is active from so much memory on.
    pub memory_mib: u64,
    /// After so long without use the GPU takes jobs again.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// From SIGTERM, once the owner is seen at work, to SIGKILL of a trainer that has not left.
    #[serde(with = "humantime_serde")]
    pub leave_within: Duration,
    /// Hours that are the owner's whatever the GPU does, local time: `Mon-Fri 09:00-18:00`.
    pub schedule: Vec<String>,
}

impl Default for OwnerModeConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            gpus: Vec::new(),
            utilization: 0.2,
            memory_mib: 2048,
            idle: Duration::from_secs(600),
            leave_within: Duration::from_secs(20),
            schedule: Vec::new(),
        }
    }
}

impl OwnerModeConfig {
    /// What is wrong with the values, for a person.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !(self.utilization > 0.0 && self.utilization <= 1.0) {
            found
                .push(format!("`guest.utilization` is {}; use a share above 0, at most 1", self.utilization));
        }
        for entry in &self.schedule {
            if let Err(error) = entry.parse::<OwnerHours>() {
                found.push(format!("`guest.schedule` has `{entry}`: {error}"));
            }
        }
        found
    }

    /// Whether `gpu` is in owner mode.
    pub fn covers(&self, gpu: &Gpu) -> bool {
        let named = |wanted: &String| *wanted == gpu.uuid.0 || *wanted == gpu.index.to_string();
        self.enabled && (self.gpus.is_empty() || self.gpus.iter().any(named))
    }

    /// The hours of the schedule, without entries that are none.
    fn hours(&self) -> Vec<OwnerHours> {
        self.schedule.iter().filter_map(|entry| entry.parse().ok()).collect()
    }
}

/// Work counts as the owner's if it lasts so long: a window that moves, or a page that loads, does not.
const SUSTAINED: Duration = Duration::from_secs(2);

/// The owner's use of one GPU.
#[derive(Debug, Clone)]
pub struct OwnerMode {
    config: OwnerModeConfig,
    hours: Vec<OwnerHours>,
    /// Since when other processes have been working without a pause.
    working_since: Option<Time>,
    /// When the owner was active last; `None` while the GPU is free.
    active_last: Option<Time>,
    /// What was seen of the owner then.
    seen: String,
}

impl OwnerMode {
    /// Begins with a GPU that is free.
    pub fn new(config: OwnerModeConfig) -> Self {
        let hours = config.hours();
        Self { config, hours, working_since: None, active_last: None, seen: String::new() }
    }

    /// Takes what other processes do now. Returns why the GPU is its owner's, or `None` when jobs may use it.
    /// `others` is `None` while the GPU does not answer.
    pub fn observe(
        &mut self,
        now: Time,
        local: LocalTime,
        others: Option<&OtherProcesses>,
    ) -> Option<String> {
        if let Some(hours) = self.hours.iter().find(|hours| hours.contain(local)) {
            return Some(format!(
                "these are its owner's hours ({hours}, local time); it takes jobs afterwards"
            ));
        }
        if let Some(others) = others {
            self.observe_use(now, others);
        }
        let last = self.active_last?;
        if now.since(last) >= self.config.idle {
            self.active_last = None;
            return None;
        }
        let idle = duration_text(self.config.idle);
        Some(format!("its owner uses it: {}; it takes jobs again {idle} after the last use", self.seen))
    }

    fn observe_use(&mut self, now: Time, others: &OtherProcesses) {
        let is_owners = self.active_last.is_some();
        // An owner who came at the threshold has gone only well below it, so that a GPU does not flap.
        let (work, memory_mib) = if is_owners {
            (self.config.utilization / 2.0, self.config.memory_mib - self.config.memory_mib / 4)
        } else {
            (self.config.utilization, self.config.memory_mib)
        };
        let ratio = others.utilization_ratio.unwrap_or(0.0);
        if ratio >= work {
            self.working_since = self.working_since.or(Some(now));
        } else {
            self.working_since = None;
        }
        let works = self.working_since.is_some_and(|since| now.since(since) >= SUSTAINED);
        let holds = others.memory_mib >= memory_mib && memory_mib > 0;
        if !works && !holds {
            return;
        }
        self.active_last = Some(now);
        let who = others.who.clone().unwrap_or_else(|| "another program".into());
        let busy = others.utilization_ratio.map(|ratio| format!(", {:.0} % busy", ratio * 100.0));
        self.seen = format!("{who} with {} MiB{}", others.memory_mib, busy.unwrap_or_default());
    }
}

/// A span of time for people: `10 min`, `20 s`.
pub fn duration_text(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        seconds if seconds >= 3600 && seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY_NOON: LocalTime = LocalTime { weekday: 0, minute: 12 * 60 };

    fn owner_mode(schedule: &[&str]) -> OwnerMode {
        let schedule = schedule.iter().map(ToString::to_string).collect();
        OwnerMode::new(OwnerModeConfig { enabled: true, schedule, ..OwnerModeConfig::default() })
    }

    fn used(memory_mib: u64, utilization: f64) -> OtherProcesses {
        OtherProcesses {
            memory_mib,
            utilization_ratio: Some(utilization),
            who: Some("blender (pid 300)".into()),
        }
    }

    /// The seconds of a script at which the GPU changes hands: `(second, is the owner's)`.
    fn changes(
        owner_mode: &mut OwnerMode,
        script: impl Fn(u64) -> OtherProcesses,
        seconds: u64,
    ) -> Vec<(u64, bool)> {
        let mut found = Vec::new();
        let mut before = false;
        for second in 0..seconds {
            let owners =
                owner_mode.observe(Time(second * 1000), MONDAY_NOON, Some(&script(second))).is_some();
            if owners != before {
                found.push((second, owners));
            }
            before = owners;
        }
        found
    }

    #[test]
    fn an_owner_who_works_gets_the_gpu_and_keeps_it_for_the_idle_time() {
        let work = |second| if (100..200).contains(&second) { used(600, 0.8) } else { used(600, 0.02) };
        // Work is believed after two seconds; the last of it is seen at 199.
        assert_eq!(changes(&mut owner_mode(&[]), work, 1000), [(102, true), (799, false)]);
    }

    #[test]
    fn a_moment_of_work_and_a_desktop_at_rest_change_nothing() {
        let flicker = |second| if second % 5 == 0 { used(900, 1.0) } else { used(900, 0.1) };
        assert_eq!(changes(&mut owner_mode(&[]), flicker, 1000), []);
    }

    #[test]
    fn memory_counts_at_once_and_the_gpu_comes_back_only_well_below_the_threshold() {
        let load = |second| match second {
            0..50 => used(500, 0.0),
            50..60 => used(3000, 0.0),
            60..400 => used(1600, 0.0), // Below the threshold, but not well below.
            _ => used(500, 0.0),
        };
        assert_eq!(changes(&mut owner_mode(&[]), load, 1100), [(50, true), (999, false)]);
    }

    #[test]
    fn pauses_in_work_shorter_than_the_idle_time_do_not_give_the_gpu_away() {
        let pauses = |second| if second % 300 < 30 { used(600, 0.9) } else { used(600, 0.0) };
        assert_eq!(changes(&mut owner_mode(&[]), pauses, 1500), [(2, true)]);
    }

    #[test]
    fn a_reading_that_cannot_tell_others_use_from_ours_is_no_sign_of_an_owner() {
        let unknown = |_| OtherProcesses { memory_mib: 700, utilization_ratio: None, who: None };
        assert_eq!(changes(&mut owner_mode(&[]), unknown, 100), []);
    }

    #[test]
    fn the_schedules_hours_are_the_owners_and_end_without_a_wait() {
        let mut owner_mode = owner_mode(&["Mon-Fri 09:00-18:00"]);
        let at = |hour: u32, minute: u32| LocalTime { weekday: 0, minute: hour * 60 + minute };
        let quiet = used(100, 0.0);
        assert_eq!(owner_mode.observe(Time(0), at(8, 59), Some(&quiet)), None);
        let why = owner_mode.observe(Time(60_000), at(9, 0), None).unwrap();
        assert!(why.contains("Mon-Fri 09:00-18:00"), "{why}");
        assert_eq!(owner_mode.observe(Time(120_000), at(18, 0), Some(&quiet)), None);
    }

    #[test]
    fn the_sentence_names_who_and_how_the_gpu_comes_back() {
        let why = owner_mode(&[]).observe(Time(0), MONDAY_NOON, Some(&used(6100, 0.85))).unwrap();
        assert_eq!(
            why,
            "its owner uses it: blender (pid 300) with 6100 MiB, 85 % busy; it takes jobs again 10 min after \
             the last use"
        );
    }

    #[test]
    fn gpus_are_named_by_uuid_or_index_and_none_means_all() {
        let gpu = Gpu {
            uuid: trainyard_types::GpuUuid("GPU-1".into()),
            index: 3,
            model: String::new(),
            memory_total_mib: 0,
            compute_capability: None,
        };
        let with = |gpus: &[&str]| OwnerModeConfig {
            enabled: true,
            gpus: gpus.iter().map(ToString::to_string).collect(),
            ..OwnerModeConfig::default()
        };
        assert!(with(&[]).covers(&gpu) && with(&["3"]).covers(&gpu) && with(&["GPU-1"]).covers(&gpu));
        assert!(!with(&["0"]).covers(&gpu) && !OwnerModeConfig::default().covers(&gpu));
    }

    #[test]
    fn unsound_values_are_named_with_a_way_out() {
        let config = OwnerModeConfig {
            utilization: 0.0,
            schedule: vec!["weekdays".into()],
            ..OwnerModeConfig::default()
        };
        let problems = config.problems().join("\n");
        assert!(
            problems.contains("`guest.utilization` is 0;") && problems.contains("`weekdays`"),
            "{problems}"
        );
    }
}
