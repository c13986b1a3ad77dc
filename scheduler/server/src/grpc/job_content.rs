//! Data sets and weights that submissions name: which versions they mean, kept until the job is there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_stream::StreamExt as _;
use trainyard_content::{Builder, Digest, Kind};
use trainyard_types::train::JOB_WEIGHTS;
use trainyard_types::{Artifact, JobId, JobSpec, ModelScale, Reference, Time};

use super::Context;
use super::datasets::unresolved;
use super::jobs::find_job;
use super::status::ApiError;
use super::weights_model;
use crate::access::Caller;
use crate::blobs::BlobError;
use crate::content::{Held, PushError, Wanted};
use crate::content_records::JOB_WEIGHTS_NAME;
use crate::driver::StateView;

/// The artifact that `job:ID` means.
const BEST: &str = "weights/best.safetensors";
/// Its name as a version's one file.
const BEST_FILE: &str = "best.safetensors";

/// The versions that one call names. They stay while this lives.
pub(super) struct JobContent<'a> {
    context: &'a Context,
    caller: Caller,
    user: &'a str,
    /// By what was named, so that ten thousand jobs of one data set are one look.
    held: HashMap<(Kind, PathBuf), Held>,
    /// The models of weights that were named, where they are known.
    models: HashMap<PathBuf, Option<ModelScale>>,
}

impl<'a> JobContent<'a> {
    pub(super) fn new(context: &'a Context, caller: Caller, user: &'a str) -> Self {
        Self { context, caller, user, held: HashMap::new(), models: HashMap::new() }
    }

    /// Writes exact versions where a spec names some, of weights that its model takes. `field` is where the spec is in
    /// the request.
    pub(super) async fn resolve(&mut self, spec: &mut JobSpec, field: &str) -> Result<(), ApiError> {
        let weights = spec.train.pretrained.clone();
        self.resolve_names(spec, field).await?;
        self.check_model(&weights, spec.train.model, &format!("{field}.train.pretrained")).await
    }

    /// The same, whatever the weights are of: another field of the request may change model or weights.
    pub(super) async fn resolve_names(&mut self, spec: &mut JobSpec, field: &str) -> Result<(), ApiError> {
        if let Some(exact) = self.data(&spec.train.data, &format!("{field}.train.data")).await? {
            spec.train.data = exact;
        }
        let pretrained = self.weights(&spec.train.pretrained, &format!("{field}.train.pretrained")).await?;
        if let Some(exact) = pretrained {
            spec.train.pretrained = exact;
        }
        Ok(())
    }

    /// Whether a spec names data sets or weights of the store.
    pub(super) fn concerns(spec: &JobSpec) -> bool {
        let named = |path: &Path| !path.as_os_str().is_empty() && path.is_relative();
        named(&spec.train.data) || named(&spec.train.pretrained)
    }

    /// The exact version that a job's data names; `None` for a path.
    pub(super) async fn data(&mut self, path: &Path, field: &str) -> Result<Option<PathBuf>, ApiError> {
        self.version(Kind::DataSet, path, field).await
    }

    /// The same for weights to begin from.
    pub(super) async fn weights(&mut self, path: &Path, field: &str) -> Result<Option<PathBuf>, ApiError> {
        let key = (Kind::Weights, path.to_owned());
        let job = path.to_str().and_then(|text| text.strip_prefix(JOB_WEIGHTS));
        if let Some(job) = job
            && !self.held.contains_key(&key)
        {
            let (reference, model) = self.best_of(job, field).await?;
            let held = self.hold(Kind::Weights, &reference, field).await?;
            self.held.insert(key, held);
            self.models.insert(path.to_owned(), Some(model));
        }
        self.version(Kind::Weights, path, field).await
    }

    /// Refuses weights of another model, where it is known of which they are. `path` is as it was named.
    pub(super) async fn check_model(
        &mut self,
        path: &Path,
        model: ModelScale,
        field: &str,
    ) -> Result<(), ApiError> {
        let Some(held) = self.held.get(&(Kind::Weights, path.to_owned())) else { return Ok(()) };
        let found = match self.models.get(path) {
            Some(known) => *known,
            None => {
                let found = weights_model::of_stored(&self.context.content, &held.version).await;
                self.models.insert(path.to_owned(), found);
                found
            }
        };
        match found {
            Some(found) if found != model => {
                let text = format!(
                    "is `{}`, weights of {found}, and `model` is {model}; name weights of {model}, or the model {found}",
                    path.display()
                );
                Err(ApiError::field(field, text))
            }
            _ => Ok(()),
        }
    }

    async fn version(&mut self, kind: Kind, path: &Path, field: &str) -> Result<Option<PathBuf>, ApiError> {
        let key = (kind, path.to_owned());
        if !self.held.contains_key(&key) {
            let Some(reference) = Reference::of_path(path) else { return Ok(None) };
            let held = match self.hold(kind, &reference, field).await {
                Ok(held) => held,
                // Weights that a job left are made again from what it still has.
                Err(error) => {
                    match reference.name().strip_prefix(JOB_WEIGHTS_NAME).filter(|_| kind == Kind::Weights) {
                        Some(job) => {
                            let (again, _) = self.best_of(job, field).await.map_err(|_| error)?;
                            self.hold(kind, &again, field).await?
                        }
                        None => return Err(error),
                    }
                }
            };
            self.held.insert(key.clone(), held);
        }
        Ok(self.held.get(&key).map(|held| held.version.reference().to_string().into()))
    }

    async fn hold(&self, kind: Kind, reference: &Reference, field: &str) -> Result<Held, ApiError> {
        let found = self.context.content.hold(kind, reference, |user| self.caller.sees(user)).await?;
        found.map_err(|why| unresolved(kind, reference, why, Some(field)))
    }

    /// Keeps a job's best weights as a version of their own, so that they outlive it. Returns it, and the job's model.
    async fn best_of(&self, text: &str, field: &str) -> Result<(Reference, ModelScale), ApiError> {
        let (wanted, caller) = (text.to_owned(), self.caller.clone());
        let find = move |state: &mut StateView<'_>| -> Result<_, ApiError> {
            let job = find_job(state, &wanted, &caller)?;
            let record = state.core.job(job).ok_or_else(|| ApiError::no_job(&job))?;
            let best = record.artifacts.iter().find(|artifact| artifact.name == BEST).cloned();
            Ok((job, best, record.state.to_string(), record.full_spec().train.model))
        };
        let (job, best, state, model) = self.context.driver.ask_leader(find).await??;
        let Some(best) = best else {
            let text = format!(
                "is `{JOB_WEIGHTS}{text}`: job {job} has no weights to begin from (it is {state}); name one that has \
                 succeeded"
            );
            return Err(ApiError::field(field, text));
        };
        let digest: Digest = best.sha256.parse().map_err(|_| ApiError::Internal)?;
        let mut builder = Builder::new(Kind::Weights);
        let manifest = builder.add(BEST_FILE, best.size_bytes, digest).and_then(|()| builder.finish());
        let manifest = manifest.map_err(|error| ApiError::field(field, error.to_string()))?;
        let name = format!("{JOB_WEIGHTS_NAME}{job}");
        let reference = Reference::exact(&name, &manifest.id().to_string());
        let wanted = Wanted {
            name,
            user: self.user.to_owned(),
            // The name is the job's, whoever goes on from it first.
            is_admin: true,
            description: format!("best weights of job {job}"),
            manifest: Arc::new(manifest),
            is_of_job: true,
        };
        self.copy(job, &best, wanted).await.map_err(|error| match error {
            CopyError::Disk(BlobError::NotFound { .. }) => {
                let text = format!(
                    "is `{JOB_WEIGHTS}{text}`: the weights of job {job} were removed from the store; name another job, or \
                     weights that were pushed"
                );
                ApiError::field(field, text)
            }
            CopyError::Disk(cause) => ApiError::disk(job, &cause),
            CopyError::Push(PushError::Content(cause)) => cause.into(),
            CopyError::Push(error @ PushError::Quota { .. }) => ApiError::DataQuota(error.to_string()),
            CopyError::Push(error) => ApiError::field(field, error.to_string()),
        })?;
        Ok((reference, model))
    }

    async fn copy(&self, job: JobId, best: &Artifact, wanted: Wanted) -> Result<(), CopyError> {
        let mut pushing = self.context.content.push(wanted).await?;
        if !pushing.missing().is_empty() {
            let mut blob = self.context.blobs.read(job, best, 0).await?;
            while let Some(piece) = blob.next().await {
                pushing.take(piece?).await?;
            }
        }
        pushing.finish(Time::now()).await?;
        Ok(())
    }
}

enum CopyError {
    Disk(BlobError),
    Push(PushError),
}

impl From<BlobError> for CopyError {
    fn from(cause: BlobError) -> Self {
        Self::Disk(cause)
    }
}

impl From<PushError> for CopyError {
    fn from(error: PushError) -> Self {
        Self::Push(error)
    }
}
