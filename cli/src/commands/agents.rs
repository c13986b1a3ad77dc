//! `yard agents` and `yard gpus`: the machines.

use clap::Args;
use serde_json::{Value, json};
use trainyard_proto::pb;

use crate::client::{Client, all_pages};
use crate::commands::Context;
use crate::commands::operator::GpuOrder;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::settings::address::is_here;
use crate::{render, terminal};

/// What to do where there is no agent of this server.
fn no_agents(server: &str) -> String {
    let address = if is_here(server) { "ADDRESS" } else { server.trim_start_matches("https://") };
    if server.starts_with("https://") {
        format!(
            "no agent has connected yet: run `trainyard-agent join {address}` on each machine, with a token of `yard token \
             create --agents`"
        )
    } else {
        format!("no agent has connected yet: run `trainyard-agent --scheduler {server}` on each machine")
    }
}

/// Why there is no GPU to list, and what trains without.
fn no_gpus(agents: &[pb::Agent]) -> &'static str {
    let connected = |agent: &&pb::Agent| agent.state() == pb::AgentState::Connected;
    if agents.iter().filter(connected).any(|agent| !agent.cpu_slots.is_empty()) {
        "no agent has a GPU; `--device cpu` trains without"
    } else {
        "no agent that is connected has a GPU or a CPU slot; `yard agents` says more"
    }
}

/// List the machines, reserve, release and clear their GPUs, or forget a machine
#[derive(Debug, Args)]
pub struct Agents {
    #[command(subcommand)]
    order: Option<GpuOrder>,
}

impl Agents {
    /// Prints the agents, lost ones too.
    ///
    /// # Errors
    /// The scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(order) = self.order {
            return order.run(context).await;
        }
        let agents = list_agents(&context.client).await?;
        if !context.output.for_people() {
            let agents: Vec<_> = agents.iter().map(|agent| to_json("Agent", agent)).collect();
            return context.output.list(&json!({ "agents": agents }), "agents");
        }
        if agents.is_empty() {
            terminal::message(&no_agents(&context.client.server()));
            return Ok(());
        }
        context.output.line(&render::cluster::agents(context.output, &agents, &render::now()))
    }
}

/// List the GPUs: what they are, how busy, and for which job
#[derive(Debug, Args)]
pub struct Gpus {
    /// What training was seen to need of each kind of GPU, instead
    #[arg(long)]
    fit: bool,
    /// How fast each kind of GPU trains each kind of job, instead
    #[arg(long, conflicts_with = "fit")]
    rates: bool,
}

impl Gpus {
    /// Prints the GPUs of the agents that are not lost.
    ///
    /// # Errors
    /// The scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.rates {
            return show_rates(context).await;
        }
        let agents = list_agents(&context.client).await?;
        if self.fit {
            return show_fit_records(context, &agents);
        }
        let gpus = gpus_of(&agents);
        if !context.output.for_people() {
            let gpus: Vec<_> = gpus.iter().map(gpu_json).collect();
            return context.output.list(&json!({ "gpus": gpus }), "gpus");
        }
        if gpus.is_empty() {
            let text = if agents.is_empty() {
                no_agents(&context.client.server())
            } else {
                no_gpus(&agents).to_owned()
            };
            terminal::message(&text);
            return Ok(());
        }
        context.output.line(&render::cluster::gpus(context.output, &gpus, &render::now()))
    }
}

/// Prints the fit records of all agents.
fn show_fit_records(context: &Context, agents: &[pb::Agent]) -> Result<(), Failure> {
    let records: Vec<(String, pb::FitRecord)> = agents
        .iter()
        .flat_map(|agent| agent.fit_records.iter().map(|record| (agent.name.clone(), record.clone())))
        .collect();
    if !context.output.for_people() {
        let json = |(agent, record): &(String, pb::FitRecord)| {
            let mut object = to_json("FitRecord", record);
            object["agent"] = Value::String(agent.clone());
            object
        };
        let records: Vec<_> = records.iter().map(json).collect();
        return context.output.list(&json!({ "fitRecords": records }), "fitRecords");
    }
    if records.is_empty() {
        terminal::message("nothing has been measured yet; the first job on a GPU does");
        return Ok(());
    }
    context.output.line(&render::cluster::fit(context.output, &records))
}

/// Prints what the scheduler has learned of GPUs' speeds.
async fn show_rates(context: &Context) -> Result<(), Failure> {
    let rates = list_rates(&context.client).await?;
    if !context.output.for_people() {
        let rates: Vec<_> = rates.iter().map(|rate| to_json("Rate", rate)).collect();
        return context.output.list(&json!({ "rates": rates }), "rates");
    }
    if rates.is_empty() {
        terminal::message("nothing has been measured yet; the first job on a GPU does");
        return Ok(());
    }
    context.output.line(&render::cluster::rates(context.output, &rates))
}

/// Every rate, all pages.
///
/// # Errors
/// The scheduler cannot be reached.
pub async fn list_rates(client: &Client) -> Result<Vec<pb::Rate>, Failure> {
    all_pages(async |page_token| {
        let request = pb::ListRatesRequest { page_size: 1000, page_token };
        let call = || async { client.cluster().list_rates(request.clone()).await };
        let answer = client.retrying(call).await?;
        Ok((answer.rates, answer.next_page_token))
    })
    .await
}

/// A GPU with what is to be known of its agent.
pub struct AgentGpu {
    /// Name of its agent.
    pub agent: String,
    /// The GPU, as its agent tells of it.
    pub gpu: pb::Gpu,
}

/// The GPUs of the agents that are not lost.
pub fn gpus_of(agents: &[pb::Agent]) -> Vec<AgentGpu> {
    let known = agents.iter().filter(|agent| agent.state() != pb::AgentState::Lost);
    let of_agent = |agent: &pb::Agent| {
        let name = agent.name.clone();
        agent.gpus.clone().into_iter().map(move |gpu| AgentGpu { agent: name.clone(), gpu })
    };
    known.flat_map(of_agent).collect()
}

/// A GPU as proto3 JSON, with its agent's name.
pub fn gpu_json(entry: &AgentGpu) -> Value {
    let mut object = to_json("Gpu", &entry.gpu);
    object["agent"] = Value::String(entry.agent.clone());
    object
}

/// Every agent, all pages.
///
/// # Errors
/// The scheduler cannot be reached.
pub async fn list_agents(client: &Client) -> Result<Vec<pb::Agent>, Failure> {
    all_pages(async |page_token| {
        let request = pb::ListAgentsRequest { page_size: 1000, page_token };
        let call = || async { client.cluster().list_agents(request.clone()).await };
        let answer = client.retrying(call).await?;
        Ok((answer.agents, answer.next_page_token))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_without_agents_is_told_to_have_machines_join_and_not_to_start_another_cluster() {
        assert!(no_agents("https://lab:7433").contains("`trainyard-agent join lab:7433`"));
        assert!(no_agents("https://localhost:7433").contains("`trainyard-agent join ADDRESS`"));
        let open = no_agents("http://127.0.0.1:1");
        assert!(
            open.contains("`trainyard-agent --scheduler http://127.0.0.1:1`") && !open.contains("yard up")
        );
    }

    #[test]
    fn cpu_slots_are_named_only_where_there_are_some() {
        let state = pb::AgentState::Connected.into();
        let without = pb::Agent { state, ..pb::Agent::default() };
        let with = pb::Agent { cpu_slots: vec![pb::CpuSlot::default()], ..without.clone() };
        assert!(no_gpus(&[without.clone(), with]).contains("--device cpu"));
        assert!(no_gpus(&[without]).contains("`yard agents` says more"));
    }
}
