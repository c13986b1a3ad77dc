//! `trainyard-agent`: runs trainers on this machine's GPUs for a scheduler.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tokio::sync::watch;
use tracing::{info, warn};
use trainyard_access::Token;
use trainyard_agent::config::{Config, Options};
use trainyard_agent::enrolment;
use trainyard_agent::gpu::GpuProbe;
use trainyard_agent::gpu::nvml::NvmlGpus;
use trainyard_agent::memory::batch_size::{self, BatchRequest, DeviceMemory, Workload};
use trainyard_agent::message::Reloaded;
use trainyard_agent::reload::{self, Reload};
use trainyard_agent::run::Supervised;
use trainyard_agent::startup;
use trainyard_config::Effective;
use trainyard_console as console;
use trainyard_service::installed::Unit;
use trainyard_service::{LogFilter, Manual, ServiceManager};
use trainyard_types::{Batch, ModelScale};

/// Trains jobs on this machine's GPUs.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (the default).
    Run,
    /// Join a cluster: check its scheduler by a token, and get a certificate for this machine.
    Join(Join),
    /// Print the effective configuration and where each value came from.
    Config,
    /// Print the automatic batch size of each GPU here, by image size.
    BatchTable {
        /// Model to print for.
        #[arg(long, default_value = "yolov8n")]
        model: ModelScale,
    },
    /// Write the manual pages, for packages.
    #[command(hide = true)]
    Manual(Manual),
}

/// What joining needs to know.
#[derive(Debug, Args)]
struct Join {
    /// The scheduler's address, such as lab-head:7433, or several with commas between.
    address: String,
    /// The token, of `yard token create --agents`; when left out or `-`, it is read from standard input.
    #[arg(value_name = "TOKEN", conflicts_with = "token_file")]
    secret: Option<String>,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Leave the installed service as it is; without this, root has it started.
    #[arg(long)]
    no_service: bool,
}

impl Join {
    /// The token, from wherever it is.
    async fn token(&self) -> anyhow::Result<Token> {
        if let Some(file) = &self.token_file {
            return enrolment::read_token(file);
        }
        let text = match self.secret.as_deref().filter(|text| *text != "-") {
            Some(text) => text.to_owned(),
            None => {
                if std::io::stdin().is_terminal() {
                    console::note("token (it is not shown):");
                }
                let line = trainyard_access::secret_line();
                tokio::select! {
                    line = line => line.context("cannot read the token from standard input")?,
                    _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                }
            }
        };
        if text.is_empty() {
            bail!("no token was given");
        }
        text.parse::<Token>().context("the token cannot be used")
    }
}

fn main() -> ExitCode {
    trainyard_access::install_crypto();
    match run(&trainyard_service::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::note(format_args!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if let Some(Command::Manual(manual)) = &cli.command {
        return Ok(manual.write(Cli::command())?);
    }
    let effective = reload::load(&cli.options)?;
    let log = LogFilter::start(&effective.value.log(), || console::LogOutput)?;
    match &cli.command {
        Some(Command::Config) => console::print(&effective)?,
        Some(Command::Join(join)) => {
            let (names_file, is_root) =
                (cli.options.file().is_some(), nix::unistd::Uid::effective().is_root());
            startup::check_who_joins(&effective, names_file, is_root, Path::new(INSTALLED), &join.address)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            let (said, is_new) = runtime.block_on(async {
                let token = join.token().await?;
                startup::join(&effective.value, &join.address, token).await
            })?;
            console::line(said)?;
            if !join.no_service && cli.options.file().is_some_and(|file| file == Path::new(INSTALLED)) {
                start_service(is_new)?;
            }
        }
        Some(Command::BatchTable { model }) => {
            console::print(batch_table(&*probe(&effective.value), *model))?;
        }
        Some(Command::Run | Command::Manual(_)) | None => serve(cli, effective, log)?,
    }
    Ok(())
}

/// The configuration of the installed service.
const INSTALLED: &str = "/etc/trainyard/agent.toml";

/// Has the installed service run from now on, and at each start of the machine.
fn start_service(is_new: bool) -> anyhow::Result<()> {
    let unit = Unit("trainyard-agent.service");
    if !unit.is_known() {
        return Ok(());
    }
    // One that runs takes a renewed certificate by itself; of a cluster that is new to it, it knows nothing.
    let order = if is_new && unit.is_active() { "restart" } else { "start" };
    let done = unit.systemctl(&["--quiet", "enable"]).and_then(|()| unit.systemctl(&[order]));
    done.context(
        "the machine has joined, and its service does not start; see `journalctl -u trainyard-agent`",
    )?;
    console::line("trainyard-agent.service runs, now and at each start of this machine")?;
    Ok(())
}

/// Runs the agent until it is stopped.
fn serve(cli: &Cli, effective: Effective<Config>, log: LogFilter) -> anyhow::Result<()> {
    let probe = probe(&effective.value);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let stop = tokio_util::sync::CancellationToken::new();
    let service = ServiceManager::of_process();
    let config = effective.value.clone();
    let (reloaded, reload) = watch::channel(Reloaded::of(&config));
    let supervised = Supervised { service: service.clone(), reload, stop: stop.clone() };
    let options = cli.options.clone();
    let hangup = Reload { options, config: effective, log, service, reloaded, stop };
    let result = runtime.block_on(async {
        tokio::spawn(hangup.listen()?);
        trainyard_agent::run::run(config, probe, supervised).await
    });
    // A driver that hangs must not keep the agent from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// The machine's GPUs. A missing library or driver is said once, and means that there are none until it is there.
fn probe(config: &Config) -> Arc<dyn GpuProbe> {
    let library = config.nvml_library.as_deref();
    let gpus = NvmlGpus::new(library);
    match gpus.load() {
        Ok(()) => info!(driver = %gpus.driver_version(), gpus = gpus.gpus().len(), "NVML is loaded"),
        Err(error) if library.is_some() => {
            warn!(%error, ?library, "`nvml_library` does not load: no GPUs");
        }
        Err(error) => info!(%error, "NVML does not load: no GPUs"),
    }
    Arc::new(gpus)
}

fn batch_table(probe: &dyn GpuProbe, model: ModelScale) -> String {
    const SIZES: [u32; 6] = [320, 416, 512, 640, 1024, 1280];
    let heads = SIZES.map(|size| format!("{size:>5}")).concat();
    let mut table = format!("{:32} {:>8} {:>9} {heads}\n", "GPU", "size", "free");
    let gpus = probe.gpus();
    for gpu in &gpus {
        let free_mib = probe.memory_free_mib(&gpu.uuid);
        let total_mib = gpu.memory_total_mib;
        let memory = DeviceMemory::Gpu { total_mib, free_mib, reserved_mib: None, others_mib: None };
        let sizes = SIZES.map(|imgsz| {
            let workload = Workload { model, imgsz, multi_scale: false, amp: true };
            let (batch, nominal) = (Batch::Auto, 64);
            let (record, cuda_state_mib, former_limit) = (None, None, None);
            let request =
                BatchRequest { memory, workload, batch, nominal, record, cuda_state_mib, former_limit };
            format!("{:>5}", batch_size::choose(&request).batch_size)
        });
        let free = free_mib.map_or_else(|| "?".into(), |mib| format!("{mib} MiB"));
        let (model, size, sizes) = (&gpu.model, gpu.nominal_gib(), sizes.concat());
        table.push_str(&format!("{model:32} {size:>5.1} GB {free:>9} {sizes}\n"));
    }
    if gpus.is_empty() {
        table.push_str("no GPUs\n");
    }
    table
}
