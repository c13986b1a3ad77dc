//! `yard why-slow`: what bounds a job's speed.

use clap::Args;
use trainyard_proto::pb;

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

fn text(diagnosis: &pb::Diagnosis) -> String {
    let mut lines = vec![clean(&diagnosis.headline), String::new(), "What was seen:".to_owned()];
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
            headline: "It waits for images: decoding and augmentation are too slow.".into(),
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
