//! Where jobs are shown to their users alone, nothing names a job to whoever may not see it.

use serde_json::Value;
use tonic::Code;
use trainyard_proto::pb;
use trainyard_scheduler::config::Visibility;

use crate::support::secure::{SecureScheduler, hello};
use crate::support::web::Browser;
use crate::support::{Agent, submission};

fn jobs_of(agent: &pb::Agent) -> Vec<&str> {
    let gpus = agent.gpus.iter().map(|gpu| gpu.job_id.as_str());
    gpus.chain(agent.cpu_slots.iter().map(|slot| slot.job_id.as_str())).filter(|id| !id.is_empty()).collect()
}

#[tokio::test]
async fn machines_name_a_job_to_whoever_sees_it_and_to_nobody_else() {
    let scheduler = SecureScheduler::start(|config| config.visibility = Visibility::Own).await;
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    let channel = scheduler.dial(None, Some(scheduler.enrol(&joining, 7).await.unwrap())).await.unwrap();
    let mut agent = Agent::connect_as(channel, hello(7)).await.unwrap();
    let (ada, bob) = (
        scheduler.token("ada", pb::AccessRole::User).await,
        scheduler.token("bob", pb::AccessRole::User).await,
    );
    let job = scheduler.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    agent.assigned().await;
    for (token, expected) in
        [(&ada, vec![job.as_str()]), (&bob, vec![]), (&scheduler.admin().reveal(), vec![job.as_str()])]
    {
        let mut cluster = scheduler.cluster(token);
        let listed = cluster.list_agents(pb::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
        assert_eq!(jobs_of(&listed[0]), expected);
        assert!(listed[0].cpu_slots.iter().any(|slot| slot.status == "busy"), "that it is busy is no secret");
        let asked = pb::GetAgentRequest { agent: listed[0].id.clone() };
        assert_eq!(jobs_of(&cluster.get_agent(asked).await.unwrap().into_inner()), expected);
        let mut watched =
            cluster.watch_cluster(pb::WatchClusterRequest::default()).await.unwrap().into_inner();
        let first = watched.message().await.unwrap().unwrap();
        assert_eq!(jobs_of(&first.agents[0]), expected);
    }
    let browser = Browser::of_secure(&scheduler);
    let bearer = format!("Bearer {bob}");
    let mut page = browser.events("/live", &[("authorization", bearer.as_str())]).await;
    assert!(!page.next().await.data.contains(&job));
    // What changes from now on, too.
    scheduler.jobs(&ada).cancel_job(pb::CancelJobRequest { job_id: job.clone() }).await.unwrap();
    let own = scheduler.jobs(&bob).submit_job(submission("")).await.unwrap().into_inner().job_id;
    loop {
        let event = page.next().await;
        assert!(!event.data.contains(&job), "{}", event.data);
        let jobs = event.json()["jobs"].as_array().cloned().unwrap_or_default();
        if jobs.iter().any(|one: &Value| one["id"] == *own) {
            break;
        }
    }
}

#[tokio::test]
async fn a_priority_and_a_share_are_ones_own_and_a_change_is_in_the_audit() {
    let scheduler = SecureScheduler::start(|config| config.visibility = Visibility::Own).await;
    let (ada, bob) = (
        scheduler.token("ada", pb::AccessRole::User).await,
        scheduler.token("bob", pb::AccessRole::User).await,
    );
    let job_id = scheduler.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let wish = pb::SetJobPriorityRequest { job_id: job_id.clone(), priority: 9 };
    let refused = scheduler.jobs(&bob).set_job_priority(wish.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    scheduler.jobs(&ada).set_job_priority(wish).await.unwrap();
    let told = scheduler.audit_of("JobService/SetJobPriority", 2).await;
    assert!(told.iter().any(|event| event.target == job_id && event.caller == "ada"), "{told:?}");
    for (token, users) in [(&ada, vec!["ada"]), (&bob, vec![])] {
        let request = pb::ListUserSharesRequest {};
        let shares = scheduler.jobs(token).list_user_shares(request).await.unwrap().into_inner();
        assert_eq!(shares.users.iter().map(|share| share.user.as_str()).collect::<Vec<_>>(), users);
    }
}

#[tokio::test]
async fn a_request_id_of_somebody_else_tells_nothing_of_their_job() {
    let scheduler = SecureScheduler::start(|config| config.visibility = Visibility::Own).await;
    let (ada, bob) = (
        scheduler.token("ada", pb::AccessRole::User).await,
        scheduler.token("bob", pb::AccessRole::User).await,
    );
    let job = scheduler.jobs(&ada).submit_job(submission("nightly")).await.unwrap().into_inner().job_id;
    let refused = scheduler.jobs(&bob).submit_job(submission("nightly")).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(!format!("{refused:?}").contains(&job), "{refused:?}");
    assert!(!String::from_utf8_lossy(refused.details()).contains(&job));
}
