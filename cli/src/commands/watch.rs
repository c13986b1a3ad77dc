//! `yard watch`: a job, live.

use clap::Args;

use crate::commands::Context;
use crate::failure::Failure;
use crate::follow::{self, FollowOptions};

/// Follow a job until it ends
///
/// Its past comes first, then what happens. The exit code is 0 when it succeeds, 1 when it fails or is
/// cancelled. Ctrl-C leaves the job running.
#[derive(Debug, Args)]
pub struct Watch {
    /// The job's id, or the beginning of it
    id: String,
    /// Print every line of the log, not only warnings and errors
    #[arg(long)]
    logs: bool,
    /// The cursor of the last event that you have seen; only later ones are printed
    #[arg(long, default_value_t = 0)]
    cursor: u64,
}

impl Watch {
    /// Follows the job.
    ///
    /// # Errors
    /// The job does not succeed; there is none; the server stays away.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let id = context.client.job_id(&self.id).await?;
        follow::run(context, &id, &FollowOptions { all_logs: self.logs, cursor: self.cursor }).await
    }
}
