//! One module a command.

pub mod agents;
pub mod artifacts;
pub mod audit;
pub mod cancel;
pub mod completions;
pub mod data;
pub mod demo_data;
pub mod job;
pub mod jobs;
pub mod login;
pub mod logs;
pub mod metrics;
pub mod notify;
pub mod open;
pub mod operator;
pub mod priority;
pub mod queue;
pub mod record;
pub mod retry;
pub mod setup;
pub mod submit;
pub mod sweep;
pub mod token;
pub mod top;
pub mod train;
pub mod up;
pub mod watch;
pub mod why_slow;

use std::cell::RefCell;

use clap::CommandFactory as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Command, Remote};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal;

/// What a command that talks to the scheduler gets.
pub struct Context {
    /// The connection to the scheduler.
    pub client: Client,
    /// How results are printed.
    pub output: Output,
    /// What to say when Ctrl-C ends the command.
    pub on_interrupt: RefCell<String>,
}

/// Carries out what the command line says.
///
/// # Errors
/// What the user must be told, with the exit code.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let output = Output::new(&global);
    match command {
        Command::Up(up) => up.run().await,
        Command::Login(login) => until_interrupted(login.run(&global, output)).await,
        Command::Logout(logout) => logout.run(output),
        Command::DemoData(demo) => demo.run(output),
        Command::Completions(completions) => completions.run(output),
        Command::Setup(setup) => setup.run(output),
        Command::Manual(manual) => Ok(manual.write(Cli::command())?),
        Command::Remote(remote) => {
            let client = Client::new(&Settings::load(&global)?)?;
            let context = Context { client, output, on_interrupt: RefCell::default() };
            let result = until_interrupted(dispatch(remote, &context)).await;
            if result.as_ref().is_err_and(|failure| failure.exit == Exit::Interrupted) {
                terminal::message(&context.on_interrupt.borrow());
            }
            result
        }
    }
}

async fn dispatch(command: Remote, context: &Context) -> Result<(), Failure> {
    match command {
        Remote::Train(train) => train.run(context).await,
        Remote::Submit(submit) => submit.run(context).await,
        Remote::Jobs(jobs) => jobs.run(context).await,
        Remote::Job(job) => job.run(context).await,
        Remote::Sweep(sweep) => sweep.run(context).await,
        Remote::Watch(watch) => watch.run(context).await,
        Remote::Logs(logs) => logs.run(context).await,
        Remote::Metrics(metrics) => metrics.run(context).await,
        Remote::Cancel(cancel) => cancel.run(context).await,
        Remote::Retry(retry) => retry.run(context).await,
        Remote::Priority(priority) => priority.run(context).await,
        Remote::Queue(queue) => queue.run(context).await,
        Remote::Record(record) => record.run(context).await,
        Remote::Agents(agents) => agents.run(context).await,
        Remote::Gpus(gpus) => gpus.run(context).await,
        Remote::Drain(drain) => drain.run(context).await,
        Remote::Resume(resume) => resume.run(context).await,
        Remote::Top(top) => top.run(context).await,
        Remote::WhySlow(why_slow) => why_slow.run(context).await,
        Remote::Artifacts(artifacts) => artifacts.run(context).await,
        Remote::Data(data) => data.run(context).await,
        Remote::Weights(weights) => weights.run(context).await,
        Remote::WhoAmI(who_am_i) => who_am_i.run(context).await,
        Remote::Token(token) => token.run(context).await,
        Remote::Notify(notify) => notify.run(context).await,
        Remote::Open(open) => open.run(context).await,
        Remote::Audit(audit) => audit.run(context).await,
    }
}

/// Runs `command` until it is done or the user has had enough.
async fn until_interrupted(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        result = command => result,
        _ = interrupt.recv() => Err(Failure::quiet(Exit::Interrupted)),
    }
}
