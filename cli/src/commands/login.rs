//! `yard login`, `yard logout`, `yard whoami`: who the user is to the cluster.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use trainyard_access::{SeenAuthority, Token};
use trainyard_proto::pb;

use crate::args::Global;
use crate::client::Client;
use crate::commands::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::proto_json::to_json;
use crate::render;
use crate::secret;
use crate::settings::credential::Credential;
use crate::settings::{Settings, address, stored};
use crate::terminal::{self, clean};
use crate::values::absolute_path;

const NO_HOME: &str = "there is no home directory to keep the token in";

/// Log in to a cluster: check it by the token, and keep both for later commands
///
/// The server is checked before the token is sent. Address and token go into
/// ~/.config/trainyard/cli.toml, which only you may read. An admin makes tokens with `yard token
/// create`.
#[derive(Debug, Args)]
pub struct Login {
    /// The scheduler's address, such as lab-head:7433, or several with commas between
    address: String,
    /// The token; when left out or `-`, it is read from standard input, without echo
    #[arg(value_name = "TOKEN")]
    secret: Option<String>,
}

impl Login {
    /// Checks server and token, and keeps them.
    ///
    /// # Errors
    /// The server is not the token's, does not know it, or cannot be reached; the file cannot be written.
    pub async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let servers = address::login_urls(&self.address)?;
        let file = stored::path().ok_or_else(|| Failure::local(NO_HOME))?;
        let text = match self.secret.filter(|text| text != "-") {
            Some(text) => text,
            None => secret::read("token (it is not shown):").await?,
        };
        let token: Token = text.parse().map_err(|error| {
            Failure::usage(format!("the token cannot be used: {error}"))
                .hint("an admin makes one with `yard token create --user NAME`; copy all of it")
        })?;
        let ca = global.ca.as_ref().map(|path| absolute_path(path));
        let credential = Some(Credential::Token(token));
        let settings = Settings { servers, credential, ca, user: String::new(), act_as: None };
        let seen = SeenAuthority::default();
        let client = Client::remembering(&settings, &seen)?;
        let caller = who_am_i(&client).await?;
        if caller.role() == pb::AccessRole::Agent {
            return Err(Failure::usage("this token is for machines").hint(format!(
                "run `trainyard-agent join {}` on the machine; people get a token by `yard token create --user NAME`",
                self.address
            )));
        }
        let ca = settings.ca.as_ref().map(|path| path.to_string_lossy().into_owned());
        let values = [
            ("server", Some(settings.servers.join(","))),
            ("token", Some(text.trim().to_owned())),
            ("ca", ca),
        ];
        stored::set(&file, &values)?;
        if let Some(pem) = seen.pem()
            && let Err(error) = stored::keep_authority(&file, &pem)
        {
            terminal::message(&format!("warning: {}: {error}", stored::authority_path(&file).display()));
        }
        for (variable, given) in [("YARD_SERVER", &global.server), ("YARD_TOKEN", &global.token)] {
            if given.is_some() && is_set(variable) {
                terminal::message(&format!("warning: {variable} is set, and counts before what was kept"));
            }
        }
        if output.for_people() {
            return output.line(&format!("logged in: {}", said_of(&caller, &client.server())));
        }
        output.document(&to_json("Caller", &caller))
    }
}

/// Forget the token on this machine; it counts until it expires or is revoked
#[derive(Debug, Args)]
pub struct Logout {}

impl Logout {
    /// Removes the token from the settings, and the authority's certificate.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let file: PathBuf = stored::path().ok_or_else(|| Failure::local(NO_HOME))?;
        let settings = fs::read_to_string(&file).unwrap_or_default();
        let had_one = settings.lines().any(|line| line.trim_start().starts_with("token"));
        if had_one {
            stored::set(&file, &[("token", None)])?;
        }
        if let Err(error) = fs::remove_file(stored::authority_path(&file))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Failure::new(
                Exit::Failed,
                format!("{}: {error}", stored::authority_path(&file).display()),
            ));
        }
        if is_set("YARD_TOKEN") {
            terminal::message("warning: YARD_TOKEN is set, and still counts");
        }
        if output.for_people() {
            let text = if had_one { "logged out; `yard login` logs in again" } else { "no token was kept" };
            terminal::message(text);
        }
        Ok(())
    }
}

/// Show who you are to the scheduler, and what you may do
#[derive(Debug, Args)]
pub struct WhoAmI {}

impl WhoAmI {
    /// Asks the scheduler.
    ///
    /// # Errors
    /// It cannot be reached, or does not know the caller.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let caller = who_am_i(&context.client).await?;
        if context.output.for_people() {
            return context.output.line(&said_of(&caller, &context.client.server()));
        }
        context.output.document(&to_json("Caller", &caller))
    }
}

/// Whether a variable has a value; an empty one counts as unset.
fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

async fn who_am_i(client: &Client) -> Result<pb::Caller, Failure> {
    client.retrying(|| async { client.access().who_am_i(pb::WhoAmIRequest {}).await }).await
}

/// `ada (user) at https://lab:7433, by token 0123… until …`
fn said_of(caller: &pb::Caller, server: &str) -> String {
    if caller.role() == pb::AccessRole::Unspecified {
        return format!("{server} asks nobody who they are");
    }
    let until = match &caller.expire_time {
        Some(time) => format!(" until {}", render::time(Some(time))),
        None => String::new(),
    };
    let (user, role) = (clean(&caller.user), render::access::role(caller.role()));
    let by = if caller.token_id.is_empty() {
        String::new()
    } else {
        format!(", by token {}", clean(&caller.token_id))
    };
    format!("{user} ({role}) at {server}{by}{until}")
}
