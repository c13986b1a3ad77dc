//! A client as it should be: asks again with the same request id, follows the leader, gives up on nobody.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use trainyard_proto::pb;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_proto::route::{Next, Route};

/// How long one call may take: a paused leader answers nothing.
const CALL: Duration = Duration::from_secs(3);
const WAIT: Duration = Duration::from_millis(100);
/// How often it is looked whether jobs have ended.
const LOOK: Duration = Duration::from_secs(1);

/// A client of the cluster under faults, that asks again until its deadline.
pub struct Client {
    route: Route,
    jobs: JobServiceClient<Channel>,
    deadline: Instant,
}

fn dial(url: &str) -> JobServiceClient<Channel> {
    let endpoint =
        Endpoint::from_shared(url.to_owned()).unwrap_or_else(|_| Endpoint::from_static("http://x"));
    JobServiceClient::new(endpoint.connect_timeout(CALL).timeout(CALL).connect_lazy())
}

impl Client {
    /// Nothing may take longer than until `deadline`.
    pub fn new(urls: &[String], deadline: Instant) -> Self {
        let route = Route::new(urls.to_vec());
        let jobs = dial(route.target());
        Self { route, jobs, deadline }
    }

    /// Calls until there is an answer.
    pub async fn call<T, F>(&mut self, call: impl Fn(JobServiceClient<Channel>) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let status = match timeout(CALL, call(self.jobs.clone())).await {
                Ok(Ok(answer)) => {
                    self.route.worked();
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("no answer"),
            };
            // What tonic makes of a broken connection or its own time-out.
            let may_pass = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded];
            if !may_pass.contains(&status.code()) || Instant::now() > self.deadline {
                bail!("{} says {status:?}", self.route.target());
            }
            let next = self.route.failed(Some(&status));
            self.jobs = dial(self.route.target());
            if let Next::After(asked) = next {
                sleep(asked.unwrap_or(WAIT)).await;
            }
        }
    }

    /// All jobs, as some scheduler shows them.
    pub async fn list(&mut self) -> Result<Vec<pb::Job>> {
        let (mut jobs, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListJobsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.call(|mut client| {
                let request = request.clone();
                async move { client.list_jobs(request).await }
            });
            let page = page.await?;
            jobs.extend(page.jobs);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(jobs);
            }
        }
    }

    /// Waits until every job has ended.
    ///
    /// # Errors
    /// One has not by `deadline`.
    pub async fn all_ended(&mut self, deadline: Instant) -> Result<()> {
        use pb::JobState::{Cancelled, Failed, Succeeded};
        let mut beats = interval(LOOK);
        loop {
            beats.tick().await;
            let jobs = self.list().await?;
            let is_open = |job: &&pb::Job| ![Cancelled, Failed, Succeeded].contains(&job.state());
            let open: Vec<&pb::Job> = jobs.iter().filter(is_open).collect();
            let Some(first) = open.first() else { return Ok(()) };
            ensure!(Instant::now() < deadline, "{} jobs do not end, such as {first:#?}", open.len());
        }
    }

    /// Everything that was told of a job.
    pub async fn history(&mut self, job_id: &str) -> Result<Vec<pb::JobEvent>> {
        let request = pb::WatchJobRequest { job_id: job_id.to_owned(), cursor: 0, history_only: true };
        let stream = self.call(|mut client| {
            let request = request.clone();
            async move { client.watch_job(request).await }
        });
        let mut stream = stream.await?;
        let mut events = Vec::new();
        while let Some(event) = stream.message().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// What a scheduler's `/readyz` says, if it says anything soon.
pub async fn readiness(url: &str) -> Option<String> {
    let address = url.strip_prefix("http://")?;
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    };
    timeout(Duration::from_millis(500), ask).await.ok().flatten()
}

/// Which of the schedulers leads, as it says itself.
pub async fn leader(urls: &[String]) -> Option<usize> {
    for (at, url) in urls.iter().enumerate() {
        if readiness(url).await.is_some_and(|answer| answer.contains("leads")) {
            return Some(at);
        }
    }
    None
}
