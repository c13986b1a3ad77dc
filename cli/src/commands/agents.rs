//! `yard agents` and `yard gpus`: the machines.

use clap::Args;
use serde_json::{Value, json};
use trainyard_proto::pb;

use crate::client::Client;
use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::{render, terminal};

const NO_AGENTS: &str = "no agent has connected yet; `yard up` runs one on this machine";

/// List the machines.
#[derive(Debug, Args)]
pub struct Agents {}

impl Agents {
    /// Prints them, lost ones too.
    ///
    /// # Errors
    /// No server.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let agents = all(&context.client).await?;
        if !context.output.for_people() {
            let agents: Vec<_> = agents.iter().map(|agent| to_json("Agent", agent)).collect();
            return context.output.list(&json!({ "agents": agents }), "agents");
        }
        if agents.is_empty() {
            terminal::message(NO_AGENTS);
            return Ok(());
        }
        context.output.line(&render::cluster::agents(context.output, &agents, &render::now()))
    }
}

/// List the GPUs: what they are, how busy, and for which job
#[derive(Debug, Args)]
pub struct Gpus {}

impl Gpus {
    /// Prints the GPUs of the agents that are not lost.
    ///
    /// # Errors
    /// No server.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let agents = all(&context.client).await?;
        let there = agents.iter().filter(|agent| agent.state() != pb::AgentState::Lost);
        let gpus: Vec<(String, pb::Gpu)> =
            there.flat_map(|agent| agent.gpus.iter().map(|gpu| (agent.name.clone(), gpu.clone()))).collect();
        if !context.output.for_people() {
            let with_agent = |(agent, gpu): &(String, pb::Gpu)| {
                let mut object = to_json("Gpu", gpu);
                object["agent"] = Value::String(agent.clone());
                object
            };
            let gpus: Vec<_> = gpus.iter().map(with_agent).collect();
            return context.output.list(&json!({ "gpus": gpus }), "gpus");
        }
        if gpus.is_empty() {
            let text = if agents.is_empty() {
                NO_AGENTS
            } else {
                "no agent has a GPU; `--device cpu` trains without"
            };
            terminal::message(text);
            return Ok(());
        }
        context.output.line(&render::cluster::gpus(context.output, &gpus))
    }
}

/// Every agent, all pages.
///
/// # Errors
/// No server.
pub async fn all(client: &Client) -> Result<Vec<pb::Agent>, Failure> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListAgentsRequest { page_size: 1000, page_token };
        let call = || async { client.cluster().list_agents(request.clone()).await };
        let answer = client.retrying(call).await?;
        agents.extend(answer.agents);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}
