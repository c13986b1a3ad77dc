//! `yard sweep`: how far a sweep is; and sweeps from flags of `yard train`.

use clap::Args;
use serde_json::Value;
use trainyard_proto::pb;
use trainyard_types::habit;
use trainyard_types::size::counted;

use crate::commands::Context;
use crate::commands::submit::draw_request_id;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::terminal::{self, clean};

/// Show a sweep: its parameters, and how many of its jobs are in each state
#[derive(Debug, Args)]
pub struct ShowSweep {
    /// The sweep's id, or the beginning of it
    id: String,
}

impl ShowSweep {
    /// Prints the sweep.
    ///
    /// # Errors
    /// There is no such sweep, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = pb::GetSweepRequest { sweep_id: self.id };
        let call = || async { context.client.jobs().get_sweep(request.clone()).await };
        show(context, &context.client.retrying(call).await?)
    }
}

/// Prints a sweep.
///
/// # Errors
/// Standard output is closed.
pub fn show(context: &Context, sweep: &pb::Sweep) -> Result<(), Failure> {
    if !context.output.for_people() {
        return context.output.document(&to_json("Sweep", sweep));
    }
    let mut lines = vec![format!("{:<10}{}", "ID", sweep.id)];
    lines.extend(sweep.axes.iter().map(|axis| {
        let values: Vec<String> = axis.values.iter().map(|value| clean(value)).collect();
        format!("{:<10}{} = {}", "Parameter", clean(&axis.parameter), values.join(", "))
    }));
    lines.extend(sweep.counts.iter().map(|count| {
        let state = count.state().as_str_name();
        format!("{state:<10}{}", count.jobs)
    }));
    context.output.line(&lines.join("\n"))
}

/// Reads `lr0=0.01,0.02`.
///
/// # Errors
/// A sentence, when it is none such.
pub fn parse_axis(text: &str) -> Result<pb::SweepAxis, String> {
    let shape = "write a parameter and its values, such as `lr0=0.01,0.02`";
    let (parameter, values) = text.split_once('=').ok_or(shape)?;
    let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
    if parameter.trim().is_empty() || values.iter().any(String::is_empty) {
        return Err(shape.to_owned());
    }
    let parameter = parameter.trim().replace('-', "_");
    let meant = |value: String| match habit::meaning(&parameter, value.into())? {
        Value::String(text) => Ok(text),
        other => Ok(other.to_string()),
    };
    let values: Vec<String> = values.into_iter().map(meant).collect::<Result<_, String>>()?;
    Ok(pb::SweepAxis { parameter, values })
}

/// Submits a sweep, or has it checked.
///
/// # Errors
/// The scheduler refuses it or cannot be reached.
pub async fn ask(
    context: &Context,
    spec: pb::JobSpec,
    axes: Vec<pb::SweepAxis>,
    validate_only: bool,
) -> Result<pb::SubmitSweepResponse, Failure> {
    let request =
        pb::SubmitSweepRequest { request_id: draw_request_id(), spec: Some(spec), axes, validate_only };
    context.client.retrying(|| async { context.client.jobs().submit_sweep(request.clone()).await }).await
}

/// Queues a sweep, and prints its id.
///
/// # Errors
/// The scheduler refuses it or cannot be reached.
pub async fn submit(
    context: &Context,
    spec: pb::JobSpec,
    axes: Vec<pb::SweepAxis>,
    dry_run: bool,
) -> Result<(), Failure> {
    let answer = ask(context, spec, axes, dry_run).await?;
    terminal::warn(&answer.warnings);
    let (id, are) = (&answer.sweep_id, if answer.jobs == 1 { "is" } else { "are" });
    let jobs = counted(usize::try_from(answer.jobs).unwrap_or(usize::MAX), "job");
    if dry_run {
        terminal::message(&format!("the sweep is valid and has {jobs}; nothing was queued"));
    } else {
        if context.output.for_people() {
            context.output.line(id)?;
        }
        terminal::message(&format!("{jobs} {are} queued; `yard sweep {id}` shows its progress"));
    }
    context.output.document(&to_json("SubmitSweepResponse", &answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_a_parameter_with_values() {
        let axis = parse_axis("weight-decay=0.1, 0.2").unwrap();
        assert_eq!(
            (axis.parameter.as_str(), axis.values),
            ("weight_decay", vec!["0.1".into(), "0.2".into()])
        );
        let values = |text: &str| parse_axis(text).unwrap().values;
        assert_eq!(values("optimizer=adamw,sgd"), ["AdamW", "SGD"]);
        assert_eq!(values("batch=auto,16,0.7"), ["-1", "16", "0.7"]);
        assert_eq!(values("amp=True,off"), ["true", "false"]);
        assert_eq!(values("lr0=0.010,1e-3"), ["0.010", "1e-3"]);
        for wrong in ["lr0", "lr0=", "=1", "lr0=1,,2"] {
            assert!(parse_axis(wrong).is_err(), "{wrong}");
        }
    }
}
