//! GPUs over scripted time: every second they tell what the script says, and the test checks the orders.

use std::path::Path;

use trainyard_types::UnavailableCause::{ForeignUse, Owner, Quarantined, Unsupported};

use super::*;
use crate::gpu::other_processes::Process;
use crate::gpu::reading::GpuProcess;

const NOON: LocalTime = LocalTime { weekday: 0, minute: 12 * 60 };
const HOUR: u64 = 3600;

fn uuid(index: u32) -> GpuUuid {
    GpuUuid(format!("GPU-{index}"))
}

fn gpu(index: u32) -> Gpu {
    Gpu {
        uuid: uuid(index),
        index,
        model: "NVIDIA GeForce RTX 4090".into(),
        memory_total_mib: 24564,
        compute_capability: Some((8, 9)),
    }
}

/// Every process is some program that is not ours.
struct OnlyOthers;

impl ProcessTable for OnlyOthers {
    fn process(&self, _pid: u32) -> Option<Process> {
        Some(Process { parent: 1, group: 1, name: "blender".into() })
    }
}

/// A machine with two GPUs.
struct Machine {
    gpus: GpuStates,
    now: u64,
    trainers: BTreeMap<GpuUuid, u32>,
}

impl Machine {
    fn new(owner_mode: OwnerModeConfig, data_dir: &Path, boot_id: &str, found: Vec<Gpu>) -> Self {
        let rules =
            GpuRules { owner_mode, others_memory_allowance_mib: 1024, health: HealthConfig::default() };
        let gpus = GpuStates::new(rules, found, QuarantineStore::load(data_dir), boot_id.into());
        Self { gpus, now: 1_000_000, trainers: BTreeMap::new() }
    }

    /// One second in which the GPUs tell `readings`, by index.
    fn second(&mut self, readings: Vec<Result<GpuReading, ReadError>>) -> Vec<GpuOrder> {
        self.now += 1;
        let answer = |(index, reading)| GpuAnswer { uuid: uuid(index), reading };
        let answers = (0..).zip(readings).map(answer).collect();
        self.read(Ok(answers))
    }

    fn read(&mut self, read: Result<Vec<GpuAnswer>, ProbeError>) -> Vec<GpuOrder> {
        self.gpus.on_readings(Time(self.now * 1000), NOON, read, &self.trainers, 100, &OnlyOthers)
    }

    fn xid(&mut self, index: u32, xid: u64, action: Option<RecoveryAction>) -> Vec<GpuOrder> {
        let event = XidEvent { gpu: Some(uuid(index)), xid };
        self.gpus.on_xid(Time(self.now * 1000), &event, action)
    }

    fn causes(&self) -> Vec<Option<UnavailableCause>> {
        let telemetry = self.gpus.telemetry();
        telemetry.into_iter().map(|reading| reading.unavailable.map(|because| because.cause)).collect()
    }

    fn why(&self, index: usize) -> String {
        self.gpus.telemetry()[index].unavailable.clone().unwrap().message
    }
}

fn machine() -> (tempfile::TempDir, Machine) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(OwnerModeConfig::default(), folder.path(), "boot-1", vec![gpu(0), gpu(1)]);
    (folder, machine)
}

fn owner_mode() -> OwnerModeConfig {
    OwnerModeConfig { enabled: true, ..OwnerModeConfig::default() }
}

fn idle() -> Result<GpuReading, ReadError> {
    Ok(GpuReading {
        memory_total_mib: Some(24564),
        memory_used_mib: Some(300),
        processes: Some(Vec::new()),
        utilization_ratio: Some(0.0),
        ..GpuReading::default()
    })
}

/// A program that is not ours holds so much.
fn used(memory_mib: u64) -> Result<GpuReading, ReadError> {
    let process = GpuProcess { pid: 300, memory_mib: Some(memory_mib), utilization_percent: Some(0) };
    let processes = Some(vec![process]);
    Ok(GpuReading { memory_used_mib: Some(memory_mib + 100), processes, ..idle().unwrap() })
}

fn fail(index: u32, reason: EndReason, message: &str, at_once: bool) -> GpuOrder {
    GpuOrder::Fail { gpu: uuid(index), reason, message: message.into(), at_once }
}

#[test]
fn a_gpu_takes_no_job_while_others_hold_more_than_is_allowed() {
    let (_folder, mut machine) = machine();
    let mut seen = Vec::new();
    for memory_mib in [200, 900, 1024, 6000, 900] {
        assert_eq!(machine.second(vec![used(memory_mib), idle()]), []);
        seen.push(machine.causes()[0]);
    }
    assert_eq!(seen, [None, None, Some(ForeignUse), Some(ForeignUse), None]);
    machine.second(vec![used(6000), idle()]);
    assert_eq!(machine.causes(), [Some(ForeignUse), None]);
    let why = machine.why(0);
    assert!(why.contains("blender (pid 300)") && why.contains("6100 MiB"), "{why}");
    assert_eq!(machine.gpus.telemetry()[0].memory_foreign_mib, Some(6100));
}

#[test]
fn others_beside_a_running_trainer_keep_new_jobs_away_and_do_not_stop_it() {
    let (_folder, mut machine) = machine();
    machine.trainers.insert(uuid(0), 300); // The process is ours now.
    assert_eq!(machine.second(vec![used(9000), idle()]), []);
    assert_eq!(machine.causes(), [None, None]);
    let mut both = used(9000).unwrap();
    let other = GpuProcess { pid: 301, memory_mib: Some(2000), utilization_percent: Some(50) };
    both.processes.as_mut().unwrap().push(other);
    assert_eq!(machine.second(vec![Ok(both), idle()]), []);
    assert_eq!(machine.causes(), [Some(ForeignUse), None]);
}

#[test]
fn an_owner_who_comes_back_gets_the_gpu_once_and_the_other_gpu_stays() {
    let folder = tempfile::tempdir().unwrap();
    let config = OwnerModeConfig { gpus: vec!["0".into()], ..owner_mode() };
    let mut machine = Machine::new(config, folder.path(), "", vec![gpu(0), gpu(1)]);
    assert_eq!(machine.second(vec![used(100), used(100)]), []);
    let orders = machine.second(vec![used(8000), used(8000)]);
    let [GpuOrder::Vacate { gpu, within, message }] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!((gpu, *within), (&uuid(0), Duration::from_secs(20)));
    assert!(message.contains("blender (pid 300)"), "{message}");
    // The other GPU is not in owner mode: it only takes no new job.
    assert_eq!(machine.causes(), [Some(Owner), Some(ForeignUse)]);
    assert_eq!(machine.second(vec![used(8000), used(8000)]), []);
    for _ in 0..600 {
        assert_eq!(machine.causes()[0], Some(Owner));
        assert_eq!(machine.second(vec![used(100), used(100)]), []);
    }
    assert_eq!(machine.causes(), [None, None]);
}

#[test]
fn xid_79_quarantines_its_gpu_alone_through_restarts_of_the_agent_until_the_machines() {
    let (folder, mut before) = machine();
    before.second(vec![idle(), idle()]);
    let wanted = fail(0, EndReason::GpuFault, "XID 79 (the GPU has fallen off the bus)", true);
    assert_eq!(before.xid(0, 79, None), [wanted]);
    assert_eq!(before.second(vec![Err(ReadError::Lost), idle()]), []);
    assert_eq!(before.causes(), [Some(Quarantined), None]);
    assert!(before.why(0).contains("XID 79") && before.why(0).contains("restart of this machine"));

    // A new agent does not even find it.
    let mut again = Machine::new(OwnerModeConfig::default(), folder.path(), "boot-1", vec![gpu(1)]);
    assert_eq!(again.gpus.gpus(), [gpu(0), gpu(1)]);
    again.now += 5 * HOUR;
    assert_eq!(again.second(vec![Err(ReadError::Lost), idle()]), []);
    assert_eq!(again.second(vec![idle(), idle()]), []);
    assert_eq!(again.causes(), [Some(Quarantined), None]);

    let mut rebooted =
        Machine::new(OwnerModeConfig::default(), folder.path(), "boot-2", vec![gpu(0), gpu(1)]);
    rebooted.second(vec![idle(), idle()]);
    assert_eq!(rebooted.causes(), [None, None]);
}

#[test]
fn a_double_bit_error_is_tested_after_an_hour_and_new_errors_begin_it_anew() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    assert_eq!(
        machine.xid(1, 48, None),
        [fail(1, EndReason::GpuFault, "XID 48 (double-bit memory error)", true)]
    );
    machine.now += HOUR - 10;
    machine.second(vec![idle(), idle()]);
    machine.xid(1, 48, None);
    machine.now += HOUR - 10;
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.causes(), [None, Some(Quarantined)]);
    machine.now += 60;
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.causes(), [None, None]);
}

#[test]
fn a_gpu_that_does_not_answer_its_test_stays_until_it_does() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    let lost = fail(0, EndReason::GpuFault, "the GPU has vanished (GPU is lost)", true);
    assert_eq!(machine.second(vec![Err(ReadError::Lost), idle()]), [lost]);
    machine.now += HOUR;
    machine.second(vec![Err(ReadError::Lost), idle()]);
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.causes(), [Some(Quarantined), None]);
    machine.now += HOUR;
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.causes(), [None, None]);
}

#[test]
fn clearing_brings_a_gpu_back_at_once_unless_it_is_still_gone() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    machine.xid(0, 119, None);
    assert!(machine.why(0).contains("reset"), "{}", machine.why(0));
    assert!(machine.gpus.on_clear(&uuid(0)));
    assert_eq!(machine.causes(), [None, None]);
    machine.second(vec![Err(ReadError::Lost), idle()]);
    machine.gpus.on_clear(&uuid(0));
    machine.second(vec![Err(ReadError::Lost), idle()]);
    assert_eq!(machine.causes(), [Some(Quarantined), None]);
}

#[test]
fn faults_of_a_job_end_its_attempt_and_keep_the_gpu() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    let crash = |message| [fail(0, EndReason::TrainerCrash, message, false)];
    assert_eq!(machine.xid(0, 31, None), crash("XID 31 (memory page fault)"));
    assert_eq!(machine.xid(0, 13, None), crash("XID 13 (graphics engine exception)"));
    assert_eq!(machine.xid(0, 43, None), crash("XID 43 (the GPU stopped processing)"));
    let free = fail(0, EndReason::GpuFault, "XID 94 (contained memory error)", false);
    assert_eq!(machine.xid(0, 94, None), [free]);
    assert_eq!(machine.xid(0, 45, None), []);
    assert_eq!(machine.causes(), [None, None]);
    let counts = machine.gpus.snapshots()[0].counts.clone();
    assert_eq!((counts.xids[&94], counts.xids[&45], counts.last_xid), (1, 1, 45));
}

#[test]
fn a_page_fault_beside_another_process_is_not_the_jobs() {
    let (_folder, mut machine) = machine();
    machine.second(vec![used(6000), idle()]);
    assert_eq!(machine.xid(0, 31, None), [fail(0, EndReason::GpuFault, "XID 31 (memory page fault)", false)]);
}

#[test]
fn xid_154_does_what_the_driver_asks_for() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.xid(0, 154, Some(RecoveryAction::None)), []);
    assert_eq!(machine.xid(0, 154, None), []);
    assert_eq!(machine.causes(), [None, None]);
    machine.xid(0, 154, Some(RecoveryAction::Reset));
    machine.xid(1, 154, Some(RecoveryAction::Reboot));
    assert!(machine.why(0).contains("nvidia-smi --gpu-reset"), "{}", machine.why(0));
    assert!(machine.why(1).contains("comes back with a restart"), "{}", machine.why(1));
}

#[test]
fn rising_memory_errors_quarantine_a_gpu() {
    let (_folder, mut machine) = machine();
    let errors = |count| Ok(GpuReading { ecc_uncorrected: Some(count), ..idle().unwrap() });
    assert_eq!(machine.second(vec![errors(7), idle()]), []);
    let wanted = fail(0, EndReason::GpuFault, "uncorrected memory errors rose from 7 to 8", true);
    assert_eq!(machine.second(vec![errors(8), idle()]), [wanted]);
    // No new ones: it passes its test.
    machine.now += HOUR;
    machine.second(vec![errors(8), idle()]);
    assert_eq!(machine.causes(), [None, None]);
}

#[test]
fn when_nvml_says_unknown_error_for_all_no_gpu_takes_jobs_until_it_answers_again() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.read(Err(ProbeError::Unknown)), []);
    assert_eq!(machine.causes(), [Some(Unsupported); 2]);
    assert!(machine.why(0).contains("daemon-reload") && machine.why(0).contains("restart the container"));
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.causes(), [None, None]);
}

#[test]
fn devices_that_stay_gone_come_back_to_a_new_process_only() {
    let (_folder, mut machine) = machine();
    let gone = machine.now;
    machine.read(Err(ProbeError::Unknown));
    let after = |seconds| Time(gone * 1000) + Duration::from_secs(seconds);
    machine.read(Err(ProbeError::Unknown));
    assert_eq!(machine.gpus.needs_restart(after(59)), None);
    let why = machine.gpus.needs_restart(after(60)).unwrap();
    assert!(why.contains("restart the container"), "{why}");
    machine.read(Err(ProbeError::Failed("Driver Not Loaded".into())));
    assert_eq!(machine.gpus.needs_restart(after(600)), None);
    machine.read(Err(ProbeError::Unknown));
    machine.second(vec![idle(), idle()]);
    assert_eq!(machine.gpus.needs_restart(after(600)), None);
}

#[test]
fn the_owners_hours_come_also_while_nvml_fails() {
    let folder = tempfile::tempdir().unwrap();
    let config = OwnerModeConfig { schedule: vec!["Mon 12:00-13:00".into()], ..owner_mode() };
    let mut machine = Machine::new(config, folder.path(), "", vec![gpu(0)]);
    let orders = machine.read(Err(ProbeError::Unknown));
    assert!(matches!(&orders[..], [GpuOrder::Vacate { .. }]), "{orders:?}");
    assert_eq!(machine.read(Err(ProbeError::Unknown)), [], "once");
}

#[test]
fn a_gpu_that_answers_only_later_is_taken_in() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(OwnerModeConfig::default(), folder.path(), "", vec![gpu(1)]);
    let no_answer = || Err(ReadError::Failed("Timeout".into()));
    machine.second(vec![no_answer(), idle()]);
    assert!(!machine.gpus.has_unknown());
    machine.second(vec![idle(), idle()]);
    assert!(machine.gpus.has_unknown());
    assert!(machine.gpus.adopt(vec![gpu(0), gpu(1)]) && !machine.gpus.adopt(vec![gpu(0)]));
    assert_eq!(machine.gpus.gpus(), [gpu(0), gpu(1)]);
    machine.second(vec![idle(), idle()]);
    assert!(!machine.gpus.has_unknown() && machine.causes() == [None, None]);
    machine.read(Err(ProbeError::Failed("Driver Not Loaded".into())));
    assert!(machine.gpus.unresponsive().unwrap().contains("Driver Not Loaded"));
}

#[test]
fn a_gpu_that_libtorch_has_no_code_for_says_so() {
    let (_folder, mut machine) = machine();
    machine.second(vec![idle(), idle()]);
    let libtorch = LibtorchBuild {
        version: "2.13.0".into(),
        driver: true,
        cuda: Some("13.0".into()),
        architectures: vec!["sm_120".into()],
        problem: String::new(),
    };
    machine.gpus.on_libtorch(&Driver { version: "580.95.05".into(), cuda: Some((13, 0)) }, &libtorch);
    assert_eq!(machine.causes(), [Some(Unsupported); 2]);
    assert!(machine.why(0).contains("sm_89"), "{}", machine.why(0));
}
