//! Policies on small queues: what a schedule must keep to whatever the policy, and what the policy promises.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use trainyard_scheduler_core::{CoreConfig, Policy};
use trainyard_sim::cases::{Case, CaseJob, Nodes, Schedule, ScheduleError, drive};
use trainyard_sim::rng::Rng;

const KINDS: [(&str, f64, [f64; 3]); 4] = [
    ("yolov8n-640", 3.5, [420.0, 312.0, 157.0]),
    ("yolov8s-640", 5.2, [260.0, 131.0, 63.0]),
    ("yolov8m-640", 8.5, [121.0, 55.0, 0.0]),
    ("yolov8l-640", 12.5, [66.0, 0.0, 0.0]),
];
const GPUS: [(&str, f64); 3] = [("rtx4090", 24.0), ("rtx5070", 12.0), ("rtx4060", 8.0)];

fn fixture(name: &str) -> Case {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    Case::parse(&read("cluster.csv"), &read("jobs.csv"), 30.0).unwrap()
}

fn config(policy: Policy) -> CoreConfig {
    CoreConfig { policy, ..CoreConfig::default() }
}

fn run(case: &Case, config: CoreConfig) -> Schedule {
    let schedule = drive(case, config).unwrap();
    schedule.check(case).unwrap();
    schedule
}

/// Up to four users, jobs of one or more GPUs, some of which stop early.
fn random_case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let mut number = |from: u64, to: u64| from + rng.below(to - from + 1);
    let gpus_per_node = [1, 2, 4][number(0, 2) as usize];
    let nodes =
        |model: &str, vram_gb, nodes| Nodes { gpu_model: model.to_owned(), vram_gb, nodes, gpus_per_node };
    let cluster: Vec<Nodes> =
        GPUS.iter().map(|&(model, vram_gb)| nodes(model, vram_gb, number(1, 2) as u32)).collect();
    let mut jobs = Vec::new();
    let mut submit_s = 0.0;
    for index in 0..number(20, 60) {
        let (kind, min_vram_gb, rates) = KINDS[number(0, 3) as usize];
        let gpus = if number(0, 5) == 0 { gpus_per_node } else { 1 };
        let (images, epochs) = (number(2, 40) as f64 * 100.0, number(1, 40));
        let done = if number(0, 9) < 6 { epochs } else { number(1, epochs) };
        submit_s += number(0, 1200) as f64;
        let noise = number(90, 110) as f64 / 100.0;
        let mut of_gpu = BTreeMap::new();
        for ((model, vram), rate) in GPUS.iter().zip(rates) {
            if *vram >= min_vram_gb && rate > 0.0 {
                of_gpu.insert((*model).to_owned(), rate * noise * f64::from(gpus));
            }
        }
        jobs.push(CaseJob {
            id: format!("j{index}"),
            user: format!("u{}", number(0, 3)),
            submit_s,
            gpus,
            min_vram_gb,
            priority: if number(0, 9) == 0 { 1 } else { 0 },
            work_units: done as f64 * images,
            ckpt_units: images,
            declared_units: epochs as f64 * images,
            kind: kind.to_owned(),
            rates: of_gpu,
        });
    }
    Case { cluster, jobs, restart_s: 30.0 }
}

#[test]
fn every_policy_finishes_what_it_is_given_and_finish_time_does_so_earliest() {
    for name in ["mixed", "gangs"] {
        let case = fixture(name);
        let means = Policy::ALL.map(|policy| run(&case, config(policy)).figures(&case).mean_h);
        assert!(means[2] < means[0] * 0.8 && means[2] < means[1] * 0.9, "{name}: {means:?}");
    }
}

#[test]
fn equal_queues_make_equal_schedules() {
    for case in [fixture("mixed"), fixture("gangs"), crowded(1), crowded(2)] {
        for policy in Policy::ALL {
            assert_eq!(run(&case, config(policy)), run(&case, config(policy)));
        }
    }
}

#[test]
fn random_queues_keep_to_capacity_memory_and_the_order_of_attempts() {
    for seed in 0..20 {
        let case = if seed % 2 == 0 { random_case(seed) } else { crowded(seed) };
        for policy in Policy::ALL {
            let schedule =
                drive(&case, config(policy)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            if let Err(broken) = schedule.check(&case) {
                panic!("seed {seed}, {}: {broken}", policy.name());
            }
        }
    }
}

/// How long the GPUs of a case would be busy with all of its jobs, for each second in which they come.
fn load(case: &Case) -> f64 {
    let gpus: u32 = case.cluster.iter().map(|nodes| nodes.nodes * nodes.gpus_per_node).sum();
    let best = |job: &CaseJob| job.rates.values().copied().fold(0.0, f64::max) / f64::from(job.gpus);
    let work: f64 = case.jobs.iter().map(|job| job.work_units / best(job)).sum();
    work / f64::from(gpus) / case.jobs.last().unwrap().submit_s
}

/// The same jobs in as much less time that there are about 1.3 times as many as the GPUs can do.
fn crowded(seed: u64) -> Case {
    let mut case = random_case(seed);
    let factor = load(&case) / 1.3;
    case.jobs.iter_mut().for_each(|job| job.submit_s *= factor);
    case
}

/// Short jobs come for two days, more than the one GPU can do, behind a few long ones.
fn stream(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let cluster =
        vec![Nodes { gpu_model: GPUS[0].0.to_owned(), vram_gb: GPUS[0].1, nodes: 1, gpus_per_node: 1 }];
    let rate = KINDS[0].2[0];
    let mut submit_s = 0.0;
    let jobs = (0..600_u64).map(|index| {
        let seconds = if index < 6 { 1800 } else { 100 + rng.below(500) } as f64;
        submit_s += rng.below(600) as f64;
        let work = seconds * rate;
        CaseJob {
            id: format!("j{index}"),
            user: format!("u{}", rng.below(3)),
            submit_s,
            gpus: 1,
            min_vram_gb: 0.0,
            priority: 0,
            work_units: work,
            ckpt_units: work / 10.0,
            declared_units: work,
            kind: KINDS[0].0.to_owned(),
            rates: [(GPUS[0].0.to_owned(), rate)].into(),
        }
    });
    Case { cluster, jobs: jobs.collect(), restart_s: 30.0 }
}

/// Jobs that began behind one that came after their patience, and how many were out of patience at all.
fn overtaken(case: &Case, patience: Duration, schedule: &Schedule) -> (Vec<String>, usize) {
    let (mut overtaken, mut due) = (Vec::new(), 0);
    for (index, job) in case.jobs.iter().enumerate().filter(|(_, job)| job.gpus == 1) {
        let first = schedule.rows.iter().find(|row| row.job == index && row.attempt == 1).unwrap();
        // The scheduler may take the job for longer than it says, as long as it knows no better.
        let slowest = job.rates.values().copied().fold(f64::INFINITY, f64::min);
        let own_s = job.declared_units / slowest * 2.0;
        let due_ms = ((job.submit_s + patience.as_secs_f64() + 4.0 * own_s) * 1000.0) as u64;
        due += usize::from(first.start_ms > due_ms);
        let later = |other: usize| case.jobs[other].submit_s * 1000.0 > due_ms as f64;
        let before = schedule.rows.iter().any(|row| {
            row.attempt == 1
                && row.start_ms < first.start_ms
                && later(row.job)
                && job.rates.contains_key(&row.gpu_model)
        });
        overtaken.extend(before.then(|| job.id.clone()));
    }
    (overtaken, due)
}

#[test]
fn nobody_is_overtaken_by_what_comes_after_its_patience() {
    let (patience, forever) = (Duration::from_secs(300), Duration::from_secs(1_000_000_000));
    let (mut due, mut without) = (0, 0);
    for seed in 1000..1003 {
        let case = stream(seed);
        let schedule = run(&case, CoreConfig { patience, ..config(Policy::FinishTime) });
        let (found, of_those) = overtaken(&case, patience, &schedule);
        assert_eq!(found, [""; 0], "seed {seed}");
        due += of_those;
        let schedule = run(&case, CoreConfig { patience: forever, ..config(Policy::FinishTime) });
        without += overtaken(&case, patience, &schedule).0.len();
    }
    assert!(due > 10 && without > 10, "nothing is shown: {due} waited so long, {without} would be overtaken");
}

#[test]
fn what_users_call_their_jobs_changes_nobodys_end() {
    for seed in 2000..2010 {
        let case = crowded(seed);
        let mut renamed = case.clone();
        for (index, job) in renamed.jobs.iter_mut().enumerate() {
            job.id = format!("tiny-urgent-{}", 1000 - index);
        }
        let (one, other) =
            (run(&case, config(Policy::FinishTime)), run(&renamed, config(Policy::FinishTime)));
        assert_eq!(one, other, "seed {seed}");
    }
}

/// Hours from submission to end, on average over the jobs of all users but one.
fn mean_of_others(case: &Case, schedule: &Schedule, but_for: &str) -> f64 {
    let mut ends = vec![0; case.jobs.len()];
    for row in &schedule.rows {
        ends[row.job] = ends[row.job].max(row.end_ms);
    }
    let others = case.jobs.iter().zip(ends).filter(|(job, _)| job.user != but_for);
    let spans: Vec<f64> = others.map(|(job, end)| end as f64 / 1000.0 - job.submit_s).collect();
    spans.iter().sum::<f64>() / spans.len() as f64 / 3600.0
}

#[test]
fn who_cuts_its_jobs_into_pieces_delays_the_others_by_little() {
    let (mut whole, mut cut, mut worst) = (0.0, 0.0, 0.0_f64);
    for seed in 3000..3020 {
        let case = crowded(seed);
        let mut pieces = Case { jobs: Vec::new(), ..case.clone() };
        for job in &case.jobs {
            let parts = if job.user == "u0" && job.declared_units >= 4.0 * job.ckpt_units { 4 } else { 1 };
            for part in 0..parts {
                let share = 1.0 / f64::from(parts);
                let (work, declared) = (job.work_units * share, job.declared_units * share);
                let id = format!("{}-{part}", job.id);
                pieces.jobs.push(CaseJob { id, work_units: work, declared_units: declared, ..job.clone() });
            }
        }
        let before = mean_of_others(&case, &run(&case, config(Policy::FinishTime)), "u0");
        let after = mean_of_others(&pieces, &run(&pieces, config(Policy::FinishTime)), "u0");
        (whole, cut, worst) = (whole + before, cut + after, worst.max(after / before));
    }
    println!("others wait {:.3} times as long on average, {worst:.3} at worst", cut / whole);
    assert!(cut / whole < 1.10, "{}", cut / whole);
}

#[test]
fn a_job_is_left_alone_for_hours_after_it_was_preempted() {
    let case = fixture("mixed");
    let mut restarts = 0;
    for (name, case) in [("mixed", case), ("gangs", fixture("gangs"))] {
        let schedule = run(&case, config(Policy::FinishTime));
        for row in schedule.rows.iter().filter(|row| row.attempt > 1) {
            restarts += 1;
            let next =
                schedule.rows.iter().find(|next| next.job == row.job && next.attempt == row.attempt + 1);
            let ran_ms = row.end_ms - row.start_ms;
            assert!(next.is_none() || ran_ms >= 3 * 3_600_000, "{name}: {row:?}");
        }
    }
    assert!(restarts > 0, "nothing was preempted, so that nothing is shown");
}

#[test]
fn a_schedule_that_cannot_have_happened_is_found_out() {
    let case = fixture("mixed");
    let good = run(&case, config(Policy::FinishTime));
    let spoilt = |spoil: &dyn Fn(&mut Schedule)| {
        let mut schedule = good.clone();
        spoil(&mut schedule);
        schedule.check(&case)
    };
    let busiest = good.rows.iter().position(|row| row.gpu_model == "rtx4090").unwrap();
    let doubled = |schedule: &mut Schedule| {
        for row in &mut schedule.rows {
            if row.gpu_model == "rtx4090" {
                row.node = "rtx4090-0".into();
            }
        }
    };
    assert!(matches!(spoilt(&doubled), Err(ScheduleError::Capacity { .. })));
    assert!(matches!(
        spoilt(&|s| s.rows[busiest].node = "rtx4090-9".into()),
        Err(ScheduleError::Place { .. })
    ));
    assert!(matches!(spoilt(&|s| s.rows[0].attempt = 7), Err(ScheduleError::Order { .. })));
    assert!(matches!(spoilt(&|s| s.rows[0].work_done *= 3.0), Err(ScheduleError::Work { .. })));
    assert!(matches!(spoilt(&|s| drop(s.rows.pop())), Err(ScheduleError::Unfinished(_))));
}

#[test]
fn a_field_that_cannot_be_read_is_named() {
    let cluster = "gpu_model,vram_gb,nodes,gpus_per_node\nt4,16,many,1\n";
    let error = Case::parse(cluster, "", 30.0).unwrap_err();
    assert_eq!(error.to_string(), "cluster.csv, line 2: `nodes` is `many`; use a whole number");
}
