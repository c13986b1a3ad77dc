//! `yard why-slow`: what bounds a job's speed.

use clap::Args;
use trainyard_proto::pb;
use trainyard_proto::pb::diagnosis::Bound;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::terminal::clean;

/// Tell what holds a job up, and what to change
#[derive(Debug, Args)]
pub struct WhySlow {
    /// The job's id, or the beginning of it
    id: String,
}

impl WhySlow {
    /// Prints the diagnosis.
    ///
    /// # Errors
    /// There is no such job, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = pb::DiagnoseJobRequest { job_id: context.client.job_id(&self.id).await? };
        let call = || async { context.client.jobs().diagnose_job(request.clone()).await };
        let diagnosis = context.client.retrying(call).await?;
        if context.output.for_people() {
            return context.output.line(&text(&diagnosis));
        }
        context.output.document(&to_json("Diagnosis", &diagnosis))
    }
}

fn headline(bound: Bound) -> &'static str {
    match bound {
        Bound::Unknown | Bound::Unspecified => "Not known yet.",
        Bound::Card => "It computes all the time: nothing holds it up.",
        Bound::Loader => "It waits for images: decoding and augmentation are too slow.",
        Bound::Disk => "It waits for images: they are read and decoded anew each time.",
        Bound::BatchTooSmall => "Its batches are too small for the GPU.",
        Bound::DataTooSmall => "Its epochs are too short: little of them is training.",
        Bound::Throttled => "The GPU is held down.",
    }
}

fn text(diagnosis: &pb::Diagnosis) -> String {
    let mut lines = vec![headline(diagnosis.bound()).to_owned(), String::new(), "What was seen:".to_owned()];
    lines.extend(diagnosis.findings.iter().map(|finding| format!("- {}", clean(finding))));
    if !diagnosis.advice.is_empty() {
        lines.extend([String::new(), "What to change:".to_owned()]);
        lines.extend(diagnosis.advice.iter().map(|advice| format!("- {}", clean(advice))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_and_advice_are_lists_under_one_sentence() {
        let diagnosis = pb::Diagnosis {
            bound: Bound::Loader.into(),
            findings: vec!["It trains 12 images a second.".into()],
            advice: vec!["Set `workers: 16` (it has 8).".into(), "Set `cache: ram`.".into()],
            ..Default::default()
        };
        let wanted = "\
It waits for images: decoding and augmentation are too slow.

What was seen:
- It trains 12 images a second.

What to change:
- Set `workers: 16` (it has 8).
- Set `cache: ram`.";
        assert_eq!(text(&diagnosis), wanted);
    }
}
