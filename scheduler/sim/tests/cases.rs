//! Policies on small queues: what a schedule must keep to whatever the policy, and what the policy promises.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use trainyard_scheduler_core::{CoreConfig, Policy};
use trainyard_sim::cases::{Broken, Case, CaseJob, Nodes, Schedule, drive};
use trainyard_sim::rng::Rng;

const KINDS: [(&str, f64, [f64; 3]); 4] = [
    ("yolov8n-640", 3.5, [420.0, 312.0, 157.0]),
    ("yolov8s-640", 5.2, [260.0, 131.0, 63.0]),
    ("yolov8m-640", 8.5, [121.0, 55.0, 0.0]),
    ("yolov8l-640", 12.5, [66.0, 0.0, 0.0]),
];
const CARDS: [(&str, f64); 3] = [("rtx4090", 24.0), ("rtx5070", 12.0), ("rtx4060", 8.0)];

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

/// Up to four users, jobs of one or more cards, some of which stop early.
fn random_case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let mut number = |from: u64, to: u64| from + rng.below(to - from + 1);
    let gpus_per_node = [1, 2, 4][number(0, 2) as usize];
    let nodes =
        |model: &str, vram_gb, nodes| Nodes { gpu_model: model.to_owned(), vram_gb, nodes, gpus_per_node };
    let cluster: Vec<Nodes> =
        CARDS.iter().map(|&(model, vram_gb)| nodes(model, vram_gb, number(1, 2) as u32)).collect();
    let mut jobs = Vec::new();
    let mut submit_s = 0.0;
    for index in 0..number(20, 60) {
        let (kind, min_vram_gb, rates) = KINDS[number(0, 3) as usize];
        let gpus = if number(0, 5) == 0 { gpus_per_node } else { 1 };
        let (images, epochs) = (number(2, 40) as f64 * 100.0, number(1, 40));
        let done = if number(0, 9) < 6 { epochs } else { number(1, epochs) };
        submit_s += number(0, 1200) as f64;
        let noise = number(90, 110) as f64 / 100.0;
        let mut of_card = BTreeMap::new();
        for ((model, vram), rate) in CARDS.iter().zip(rates) {
            if *vram >= min_vram_gb && rate > 0.0 {
                of_card.insert((*model).to_owned(), rate * noise * f64::from(gpus));
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
            rates: of_card,
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
    let case = fixture("mixed");
    assert_eq!(run(&case, config(Policy::FinishTime)), run(&case, config(Policy::FinishTime)));
}

#[test]
fn random_queues_keep_to_capacity_memory_and_the_order_of_attempts() {
    for seed in 0..20 {
        let case = random_case(seed);
        for policy in Policy::ALL {
            let schedule =
                drive(&case, config(policy)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            if let Err(broken) = schedule.check(&case) {
                panic!("seed {seed}, {}: {broken}", policy.name());
            }
        }
    }
}

#[test]
fn nobody_is_overtaken_by_what_comes_after_its_patience() {
    let patience = Duration::from_secs(1800);
    for seed in 0..20 {
        let case = random_case(1000 + seed);
        let schedule = run(&case, CoreConfig { patience, ..config(Policy::FinishTime) });
        for (index, job) in case.jobs.iter().enumerate().filter(|(_, job)| job.gpus == 1) {
            let first = schedule.rows.iter().find(|row| row.job == index && row.attempt == 1).unwrap();
            // The scheduler may take the job for longer than it says, as long as it knows no better.
            let slowest = job.rates.values().copied().fold(f64::INFINITY, f64::min);
            let own_s = job.declared_units / slowest * 2.0;
            let due_ms = ((job.submit_s + patience.as_secs_f64() + 4.0 * own_s) * 1000.0) as u64;
            let later = |other: usize| case.jobs[other].submit_s * 1000.0 > due_ms as f64;
            let overtaken = schedule.rows.iter().find(|row| {
                row.start_ms < first.start_ms
                    && later(row.job)
                    && case.jobs[row.job].priority <= job.priority
                    && job.rates.contains_key(&row.gpu_model)
            });
            assert!(overtaken.is_none(), "seed {seed}: {} by {overtaken:?}", job.id);
        }
    }
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
    assert!(matches!(spoilt(&doubled), Err(Broken::Capacity { .. })));
    assert!(matches!(spoilt(&|s| s.rows[busiest].node = "rtx4090-9".into()), Err(Broken::Place { .. })));
    assert!(matches!(spoilt(&|s| s.rows[0].attempt = 7), Err(Broken::Order { .. })));
    assert!(matches!(spoilt(&|s| s.rows[0].work_done *= 3.0), Err(Broken::Work { .. })));
    assert!(matches!(spoilt(&|s| drop(s.rows.pop())), Err(Broken::Unfinished(_))));
}

#[test]
fn a_field_that_cannot_be_read_is_named() {
    let cluster = "gpu_model,vram_gb,nodes,gpus_per_node\nt4,16,many,1\n";
    let error = Case::parse(cluster, "", 30.0).unwrap_err();
    assert_eq!(error.to_string(), "cluster.csv, line 2: `nodes` is `many`; use a whole number");
}
