//! `yard token`: who may use the cluster.

use clap::{Args, Subcommand, ValueEnum};
use prost_types::Duration;
use serde_json::json;
use trainyard_proto::pb;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::values::parse_span;
use crate::{render, terminal};

/// Make, list and revoke tokens
#[derive(Debug, Args)]
pub struct TokenCommand {
    #[command(subcommand)]
    order: TokenOrder,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
enum TokenOrder {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a token for a person, or one that machines join with; admins only
///
/// The token is printed once and kept nowhere: hand it over by a way that others do not read.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["user", "agents"]))]
struct Create {
    /// Whose it is: jobs that are submitted with it are this user's
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// For machines: `trainyard-agent join` takes it
    #[arg(long)]
    agents: bool,
    /// What it allows: viewer reads, user submits jobs and changes its own, admin everything
    #[arg(long, value_enum, default_value_t, conflicts_with = "agents", hide_possible_values = true)]
    role: Role,
    /// How long it counts, such as 90d [default: for good; 7d for machines]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    expires: Option<Duration>,
    /// How many machines may join with it [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "user", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Role {
    /// Reads
    Viewer,
    /// Submits, and changes what is its own
    #[default]
    User,
    /// Everything
    Admin,
}

impl From<Role> for pb::AccessRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::User => Self::User,
            Role::Admin => Self::Admin,
        }
    }
}

/// List tokens: your own, or all for an admin
#[derive(Debug, Args)]
struct List {}

/// Have a token count no more, on every scheduler and in streams that are open
#[derive(Debug, Args)]
struct Revoke {
    /// The token's id, as `yard token list` shows it
    id: String,
}

impl TokenCommand {
    /// Carries out the order.
    ///
    /// # Errors
    /// The scheduler refuses, or cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.order {
            TokenOrder::Create(create) => create.run(context).await,
            TokenOrder::List(List {}) => list(context).await,
            TokenOrder::Revoke(Revoke { id }) => revoke(context, id).await,
        }
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let role = if self.agents { pb::AccessRole::Agent } else { self.role.into() };
        let request = pb::CreateTokenRequest {
            user: self.user.unwrap_or_default(),
            role: role.into(),
            lifetime: self.expires,
            uses: self.uses.unwrap_or_default(),
        };
        // A second call would make a second token.
        let call = || async { context.client.access().create_token(request.clone()).await };
        let made = context.client.once(call).await?;
        if !context.output.for_people() {
            return context.output.document(&to_json("CreateTokenResponse", &made));
        }
        context.output.line(&terminal::clean(&made.token))?;
        let server = context.client.server();
        let address = server.trim_start_matches("https://").to_owned();
        let info = made.info.unwrap_or_default();
        let until = match &info.expire_time {
            Some(time) => format!("until {}", render::time(Some(time))),
            None => "until it is revoked".to_owned(),
        };
        let id = terminal::clean(&info.id);
        let to_use = if self.agents {
            let machines = match request.uses.max(1) {
                1 => "one machine".to_owned(),
                count => format!("{count} machines"),
            };
            format!("for {machines}, with `sudo trainyard-agent join {address}`")
        } else {
            format!("for {}, with `yard login {address}`", terminal::clean(&info.user))
        };
        terminal::message(&format!("token {id} {to_use}; it counts {until}, and is not shown again"));
        Ok(())
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let call = || async { context.client.access().list_tokens(pb::ListTokensRequest {}).await };
    let tokens = context.client.retrying(call).await?.tokens;
    if !context.output.for_people() {
        let tokens: Vec<_> = tokens.iter().map(|token| to_json("TokenInfo", token)).collect();
        return context.output.list(&json!({ "tokens": tokens }), "tokens");
    }
    if tokens.is_empty() {
        terminal::message("no tokens; `yard token create --user NAME` makes one");
        return Ok(());
    }
    context.output.line(&render::access::tokens(context.output, &tokens))
}

async fn revoke(context: &Context, id: String) -> Result<(), Failure> {
    let request = pb::RevokeTokenRequest { id };
    let call = || async { context.client.access().revoke_token(request.clone()).await };
    let token = context.client.retrying(call).await?;
    if !context.output.for_people() {
        return context.output.document(&to_json("TokenInfo", &token));
    }
    let whose = if token.user.is_empty() {
        "for machines".to_owned()
    } else {
        format!("of {}", terminal::clean(&token.user))
    };
    context.output.line(&format!("token {} {whose} counts no more", terminal::clean(&token.id)))
}
