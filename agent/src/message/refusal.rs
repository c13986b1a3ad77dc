//! How an attempt ends that did not complete.

use trainyard_types::{EndReason, Unfit, UnfitKind};

/// The end of an attempt that did not complete: its reason, a sentence, and what the machine lacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, which says whether it costs a retry.
    pub reason: EndReason,
    /// A sentence for a person.
    pub message: String,
    /// What the machine lacks, if that is why.
    pub unfit: Option<Unfit>,
}

impl Refusal {
    /// An end for another reason than that the machine lacks something.
    pub fn new(reason: EndReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), unfit: None }
    }

    /// An end because the machine lacks something.
    pub fn unfit(unfit: Unfit) -> Self {
        Self { reason: EndReason::AgentUnfit, message: unfit.message.clone(), unfit: Some(unfit) }
    }

    /// An end because the machine lacks something that is no path of the job.
    pub fn of_machine(kind: UnfitKind, message: impl Into<String>) -> Self {
        Self::unfit(Unfit::of_machine(kind, message))
    }

    /// An end because the GPU failed, which its self-test is to look at.
    pub fn failed_gpu(message: String) -> Self {
        let unfit = Some(Unfit::of_machine(UnfitKind::SelfTest, message.clone()));
        Self { reason: EndReason::GpuFault, message, unfit }
    }

    /// The end of a job that this agent does not understand; a newer agent may.
    pub fn too_old(message: String) -> Self {
        Self::of_machine(UnfitKind::SelfTest, message)
    }

    /// What the machine lacks, if that concerns every job on the device.
    pub fn lack(&self) -> Option<&Unfit> {
        self.unfit.as_ref().filter(|unfit| !unfit.kind.is_of_path())
    }
}
