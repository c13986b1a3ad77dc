//! Orders of an operator to machines: drain, resume, reserve, release, clear, forget.

use clap::{Args, Subcommand};
use prost_types::Duration;
use trainyard_proto::pb;
use trainyard_types::size::counted;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::render;
use crate::terminal::clean;
use crate::values::parse_span;

/// Take a machine out of use: no new jobs, and those that run go elsewhere
///
/// It stays so until `yard resume`, over restarts of everything. Repeating is harmless.
#[derive(Debug, Args)]
pub struct Drain {
    /// The agent's name, or any start of its id that only it has
    agent: String,
    /// Let jobs that run end there
    #[arg(long)]
    keep_running: bool,
}

/// Take a drained machine into use again
#[derive(Debug, Args)]
pub struct Resume {
    /// The agent's name, or any start of its id that only it has
    agent: String,
}

/// What `yard agents` can do beside listing.
#[derive(Debug, Subcommand)]
pub enum GpuOrder {
    Reserve(Reserve),
    Release(Release),
    Clear(Clear),
    Forget(Forget),
}

/// Keep GPUs for their owner: jobs leave them within 20 s, and none come for a while
#[derive(Debug, Args)]
pub struct Reserve {
    /// The agent's name, or any start of its id that only it has
    agent: String,
    /// Only this GPU, by index or UUID; may be repeated
    #[arg(long = "gpu", value_name = "GPU")]
    gpus: Vec<String>,
    /// How long: 45m, 2h, 3d
    #[arg(long = "for", value_name = "SPAN", default_value = "2h", value_parser = parse_span)]
    span: Duration,
}

/// Give reserved GPUs back before their time
#[derive(Debug, Args)]
pub struct Release {
    /// The agent's name, or any start of its id that only it has
    agent: String,
    /// Only this GPU, by index or UUID; may be repeated
    #[arg(long = "gpu", value_name = "GPU")]
    gpus: Vec<String>,
}

/// Have a GPU tried again that was quarantined or closed, or all slots of a machine
#[derive(Debug, Args)]
pub struct Clear {
    /// The agent's name, or any start of its id that only it has
    agent: String,
    /// The GPU, by index or UUID; without it every slot, CPU slots included
    gpu: Option<String>,
}

/// Have a machine's certificate count no more: it must join again before it takes jobs
#[derive(Debug, Args)]
pub struct Forget {
    /// The agent's name, or any start of its id that only it has
    agent: String,
}

/// Prints the agent as the order left it.
fn show(context: &Context, agent: &pb::Agent, sentence: &str) -> Result<(), Failure> {
    if context.output.for_people() {
        return context.output.line(sentence);
    }
    context.output.document(&to_json("Agent", agent))
}

fn jobs(count: usize) -> String {
    counted(count, "job")
}

impl Drain {
    /// Drains the agent.
    ///
    /// # Errors
    /// There is no such agent, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = pb::DrainAgentRequest { agent: self.agent, keep_running: self.keep_running };
        let call = || async { context.client.cluster().drain_agent(request.clone()).await };
        let agent = context.client.retrying(call).await?;
        let on_gpus = agent.gpus.iter().map(|gpu| gpu.job_id.as_str());
        let ids = on_gpus.chain(agent.cpu_slots.iter().map(|slot| slot.job_id.as_str()));
        let running = ids.filter(|job| !job.is_empty()).count();
        let then = match (running, self.keep_running) {
            (0, _) => "nothing runs there".to_owned(),
            (count, true) => format!("{} may end there", jobs(count)),
            (count, false) => format!("{} on the way elsewhere, with a checkpoint", jobs(count)),
        };
        let name = &agent.name;
        show(context, &agent, &format!("{name} takes no new jobs; {then}; `yard resume {name}` ends it"))
    }
}

impl Resume {
    /// Resumes the agent.
    ///
    /// # Errors
    /// There is no such agent, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = pb::ResumeAgentRequest { agent: self.agent };
        let call = || async { context.client.cluster().resume_agent(request.clone()).await };
        let agent = context.client.retrying(call).await?;
        show(context, &agent, &format!("{} takes jobs", agent.name))
    }
}

impl GpuOrder {
    /// Carries out the order.
    ///
    /// # Errors
    /// There is no such agent or GPU, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Reserve(Reserve { agent, gpus, span }) => {
                let request = pb::ReserveGpusRequest { agent, gpus, span: Some(span) };
                let call = || async { context.client.cluster().reserve_gpus(request.clone()).await };
                let agent = context.client.retrying(call).await?;
                let reserved = agent.gpus.iter().filter(|gpu| gpu.reserved_until.is_some());
                let gpus_until: Vec<String> = reserved
                    .map(|gpu| {
                        format!("GPU {} until {}", gpu.index, render::time(gpu.reserved_until.as_ref()))
                    })
                    .collect();
                show(context, &agent, &format!("{}: reserved are {}", agent.name, gpus_until.join(", ")))
            }
            Self::Release(Release { agent, gpus }) => {
                let request = pb::ReleaseGpusRequest { agent, gpus };
                let call = || async { context.client.cluster().release_gpus(request.clone()).await };
                let agent = context.client.retrying(call).await?;
                let left = match agent.gpus.iter().filter(|gpu| gpu.reserved_until.is_some()).count() {
                    0 => "no GPU is reserved any more".to_owned(),
                    1 => "1 GPU is still reserved".to_owned(),
                    count => format!("{count} GPUs are still reserved"),
                };
                show(context, &agent, &format!("{}: {left}", agent.name))
            }
            Self::Forget(Forget { agent }) => {
                let request = pb::ForgetAgentRequest { agent: agent.clone() };
                let call = || async { context.client.access().forget_agent(request.clone()).await };
                let forgotten = context.client.retrying(call).await?;
                if !context.output.for_people() {
                    return context.output.document(&to_json("ForgetAgentResponse", &forgotten));
                }
                let (name, id) = (clean(&agent), clean(&forgotten.agent_id));
                let which = if name == id { id } else { format!("{name} ({id})") };
                context.output.line(&format!(
                    "{which} is cut off; `trainyard-agent join` on the machine takes it in again, with a new token of \
                     `yard token create --agents`"
                ))
            }
            Self::Clear(Clear { agent, gpu }) => {
                let request = pb::ClearGpuRequest { agent, gpu: gpu.unwrap_or_default() };
                let call = || async { context.client.cluster().clear_gpu(request.clone()).await };
                let agent = context.client.retrying(call).await?;
                let what = if request.gpu.is_empty() {
                    "all its slots".to_owned()
                } else {
                    format!("GPU {}", request.gpu)
                };
                let text = format!("{} tries {what} again; `yard agents` and `yard gpus` tell", agent.name);
                show(context, &agent, &text)
            }
        }
    }
}
