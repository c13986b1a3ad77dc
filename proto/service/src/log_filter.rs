//! What is logged, which can change while the program runs.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The filter of the process' log.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

impl LogFilter {
    /// Starts the log of the process on `output`, with colours where standard error is a terminal.
    ///
    /// # Errors
    /// `directives` are none.
    pub fn start<W>(directives: &str, output: W) -> io::Result<Self>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let (filter, handle) = reload::Layer::new(parse(directives)?);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(output)
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        tracing_subscriber::registry().with(filter).with(lines).init();
        Ok(Self(handle))
    }

    /// Logs by other directives from now on.
    ///
    /// # Errors
    /// They are none; the former ones stay.
    pub fn set(&self, directives: &str) -> io::Result<()> {
        let filter = parse(directives)?;
        self.0.reload(filter).map_err(io::Error::other)
    }
}

/// The filter that directives such as `info` or `warn,trainyard_agent=debug` mean.
///
/// # Errors
/// They are none, with an example.
fn parse(directives: &str) -> io::Result<EnvFilter> {
    EnvFilter::try_new(directives).map_err(|_| {
        let text = format!("log: `{directives}` is no level or list of directives; use `info`");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}
