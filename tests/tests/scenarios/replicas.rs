//! Several schedulers as their users meet them: `yard` and agents find the leader, and a long outage of Redis
//! costs no training.
//!
//! `TRAINYARD_OUTAGE_SECONDS` makes the outage longer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, interval};
use trainyard_proto::pb;
use trainyard_tests::cluster::run;
use trainyard_tests::faults::client::{Client, leader, readiness};
use trainyard_tests::faults::members::Members;
use trainyard_tests::faults::net::Net;
use trainyard_tests::faults::verdict;
use trainyard_tests::jobs::tiny;
use trainyard_tests::process::{Process, binary};

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Runs `test` in a network of its own with two schedulers, the first of which leads, and agents.
fn with_cluster(agents: usize, slots: u32, test: impl AsyncFnOnce(Members, Client) -> Result<()>) {
    // Without the right to make a network, the loopback interface does as well.
    let (net, _) = Net::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = async {
        let mut members = Members::new(net, 2, agents, slots)?;
        members.redis.start()?;
        members.schedulers[0].start()?;
        until(async || leader(&members.urls).await == Some(0)).await?;
        for member in members.all() {
            member.start()?;
        }
        until(async || readiness(&members.urls[1]).await.is_some_and(|answer| answer.contains("stands by")))
            .await?;
        let client = Client::new(&members.urls, Instant::now() + PATIENCE);
        test(members, client).await
    };
    runtime.block_on(run).map_err(|error| format!("{error:#}")).unwrap();
}

/// Asks until the answer is yes.
async fn until(mut question: impl AsyncFnMut() -> bool) -> Result<()> {
    let (mut poll, deadline) = (interval(POLL), Instant::now() + PATIENCE);
    while !question().await {
        ensure!(Instant::now() < deadline, "it does not come to that");
        poll.tick().await;
    }
    Ok(())
}

fn yard(servers: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("yard").unwrap());
    command.args(arguments).env("YARD_SERVER", servers);
    command
}

#[test]
fn yard_finds_the_leader_and_goes_on_when_it_dies() {
    with_cluster(1, 1, async |mut members, _client| {
        let job = members.data.with_file_name("job.yaml");
        let data = members.data.join("data.yaml");
        // Forty epochs of a tenth of a second: long enough to outlive a leader.
        let text = format!(
            "name: cells\ntrain: {{ model: yolov8n, data: {}, epochs: 40 }}\nresources: {{ device: cpu }}\n",
            data.display()
        );
        std::fs::write(&job, text)?;
        // It knows the standby only.
        let standby = members.urls[1].clone();
        let submit = ["submit", "-f", job.to_str().context("a path in UTF-8")?];
        let (code, id, error) = run(&mut yard(&standby, &submit)).await?;
        ensure!(code == 0, "yard submit ended with {code}: {error}");
        // The agent may still be on its way.
        until(async || {
            let asked = run(&mut yard(&standby, &["agents"])).await;
            asked.is_ok_and(|(code, agents, _)| code == 0 && agents.contains("agent-0"))
        })
        .await?;

        let both = members.urls.join(",");
        let log = members.data.with_file_name("watch.log");
        let mut watching = Process::spawn(&mut yard(&both, &["watch", id.trim()]), &log)?;
        until(async || watching.output().contains("epoch")).await?;
        members.schedulers[0].kill()?;
        let mut status = None;
        until(async || {
            status = watching.ended().ok().flatten();
            status.is_some()
        })
        .await?;
        ensure!(status.is_some_and(|status| status.success()), "{}", watching.output());
        // The standby that it found has become the leader.
        let (code, job, error) = run(&mut yard(&both, &["job", id.trim(), "-o", "json"])).await?;
        ensure!(code == 0 && job.contains("SUCCEEDED"), "yard job ended with {code}: {job}{error}");
        ensure!(job.matches("\"number\"").count() == 1, "the job was tried again: {job}");
        Ok(())
    });
}

async fn submit(client: &mut Client, name: &str, data: &Path, epochs: u32) -> Result<()> {
    let spec = pb::JobSpec { name: name.to_owned(), ..tiny(data, epochs) };
    let request =
        pb::SubmitJobRequest { request_id: name.to_owned(), spec: Some(spec), validate_only: false };
    let submitted = client.call(|mut jobs| {
        let request = request.clone();
        async move { jobs.submit_job(request).await }
    });
    submitted.await.map(|_| ())
}

#[test]
fn an_outage_of_redis_stops_no_training_and_loses_no_event() {
    let outage = std::env::var("TRAINYARD_OUTAGE_SECONDS").map_or(8, |text| text.parse().unwrap());
    // They train through the outage and beyond it.
    let epochs = u32::try_from(outage * 10 + 40).unwrap();
    with_cluster(2, 3, async |mut members, mut client| {
        let data = members.data.join("data.yaml");
        let names: Vec<String> = (0..6).map(|number| format!("job-{number}")).collect();
        for name in &names {
            submit(&mut client, name, &data, epochs).await?;
        }
        let running =
            pb::ListJobsRequest { states: vec![pb::JobState::Running.into()], ..Default::default() };
        loop {
            let listed = client.call(|mut jobs| {
                let running = running.clone();
                async move { jobs.list_jobs(running).await }
            });
            if listed.await?.jobs.len() == names.len() {
                break;
            }
        }
        members.redis.kill()?;
        let away = Instant::now();
        for url in members.urls.clone() {
            until(async || readiness(&url).await.is_some_and(|answer| answer.contains("not ready"))).await?;
        }
        tokio::time::sleep_until(away + Duration::from_secs(outage)).await;
        members.redis.start()?;
        let mut client = Client::new(&members.urls, Instant::now() + PATIENCE);
        until(async || {
            let jobs = client.list().await.unwrap_or_default();
            jobs.len() == names.len() && jobs.iter().all(|job| job.end_time.is_some())
        })
        .await?;
        let led = leader(&members.urls).await.context("nobody leads")?;
        let mut client = Client::new(&members.urls[led..=led], Instant::now() + PATIENCE);
        for job in client.list().await? {
            ensure!(job.attempts.len() == 1, "job {} was tried again: {:#?}", job.id, job.attempts);
        }
        let submitted = names.into_iter().map(|name| (name, false)).collect();
        verdict::check(&mut client, &submitted, epochs).await
    });
}
