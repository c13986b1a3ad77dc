//! `yard open`: the scheduler's page in a browser.

use std::process::{Command, Stdio};

use clap::Args;
use serde_json::json;

use crate::commands::Context;
use crate::failure::Failure;
use crate::terminal;

/// Open the scheduler's page, or that of a job, in the browser; or print its address
///
/// Of several servers it is the leader's. The address is printed in any case. The browser is opened where there is a
/// display.
#[derive(Debug, Args)]
pub struct Open {
    /// The job's id, or the beginning of it [default: the page of the cluster]
    id: Option<String>,
    /// Only print the address
    #[arg(long)]
    print: bool,
}

impl Open {
    /// Finds the page, prints its address, and opens it.
    ///
    /// # Errors
    /// There is no such job, or no server to ask.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let job = match &self.id {
            // Asked for even where the id is whole: a page of a job that is not there helps nobody.
            Some(id) => Some(context.client.job(id).await?.id),
            None => {
                context.client.find_leader().await?;
                None
            }
        };
        // After the call: of several servers, the leader's page is the whole one.
        let server = context.client.server();
        let server = server.trim_end_matches('/');
        let url = match job {
            Some(id) => format!("{server}/jobs/{}", terminal::clean(&id)),
            None => format!("{server}/"),
        };
        if !context.output.for_people() {
            return context.output.document(&json!({ "url": url }));
        }
        context.output.line(&url)?;
        if !self.print && has_display() && !opened(&url) {
            terminal::message("no program here opens addresses; open it yourself");
        }
        Ok(())
    }
}

/// Whether a browser would be seen.
fn has_display() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(not(target_os = "linux")) || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
}

/// Has the desktop open an address, and does not wait for the browser's end.
fn opened(url: &str) -> bool {
    let (program, arguments): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().is_ok()
}
