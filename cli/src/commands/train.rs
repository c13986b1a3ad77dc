//! `yard train`: a job from flags.

mod flags;
mod sources;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use trainyard_proto::pb;
use trainyard_types::habit::{self, Beginning, ModelWord};
use trainyard_types::{ModelScale, Violation};

use self::flags::{AugmentationFlags, OptimizerFlags, PlacementFlags, TrainingFlags};
use crate::commands::Context;
use crate::commands::submit::{draw_request_id, submit_job};
use crate::commands::sweep;
use crate::failure::Failure;
use crate::follow::{self, FollowOptions};
use crate::proto_json::to_json;
use crate::values::{absolute_path, labels_by_key};
use crate::{render, terminal};

/// Queue a training job from flags and print its id.
#[derive(Debug, Args)]
pub struct Train {
    /// The name of a pushed data set, NAME or NAME@VERSION; or a data.yaml as the agents see it, or the folder that it
    /// lies in, if that is on this machine, too (`./NAME` where it could be a name)
    #[arg(required_unless_present = "named_data")]
    data: Option<PathBuf>,
    /// The same, as other programs take it
    #[arg(long = "data", value_name = "DATA", hide = true, conflicts_with = "data")]
    named_data: Option<PathBuf>,
    /// yolov8n, yolov8s, yolov8m, yolov8l or yolov8x; a weights file of that name is what it begins with [default:
    /// yolov8n]
    #[arg(long)]
    model: Option<String>,
    /// As YOLOv5 has it: weights to begin with, and the model if they are named after it
    #[arg(long, value_name = "FILE", hide = true)]
    weights: Option<String>,
    /// Results come by `yard artifacts`, and jobs are kept together by labels
    #[arg(long, hide = true, value_parser = no_project)]
    project: Option<String>,
    /// Each job has a folder of its own
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    exist_ok: Option<String>,
    /// For people; need not be unique [default: the data set's folder]
    #[arg(long)]
    name: Option<String>,
    /// Stay and show the training until it ends; Ctrl-C leaves the job running
    #[arg(short, long)]
    follow: bool,
    /// Push the data set of this machine first, as `yard data push` does, and train on that version
    #[arg(long)]
    push: bool,
    /// Have the job checked, and queue nothing
    #[arg(long, conflicts_with = "follow")]
    dry_run: bool,
    /// Queue a job for every combination, such as --sweep lr0=0.01,0.02 --sweep seed=1,2,3
    #[arg(long, value_name = "PARAMETER=VALUE,…", value_parser = sweep::parse_axis, conflicts_with = "follow")]
    sweep: Vec<pb::SweepAxis>,
    #[command(flatten)]
    placement: PlacementFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    optimizer: OptimizerFlags,
    #[command(flatten)]
    augmentation: AugmentationFlags,
}

impl Train {
    /// Submits the job, and follows it if that was asked for.
    ///
    /// # Errors
    /// The scheduler refuses the job or cannot be reached; with `--follow`, the job does not succeed.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut spec = self.job_spec()?;
        if let Some(pretrained) = &mut spec.train.get_or_insert_default().pretrained {
            *pretrained = sources::with_whole_job_id(context, pretrained).await?;
        }
        if self.push {
            let checked = sources::check_before_push(context, spec.clone(), &self.sweep);
            let Some(version) = sources::push_data(context, self.data_word(), checked, self.dry_run).await?
            else {
                return Ok(());
            };
            spec.train.get_or_insert_default().data = version.to_string();
        }
        let train = spec.train.get_or_insert_default();
        for path in [Some(&train.data), train.pretrained.as_ref()].into_iter().flatten() {
            if Path::new(path).is_absolute() && !Path::new(path).is_file() {
                terminal::message(&format!(
                    "warning: `{}` is no file on this machine; that is right only if the agents have it there",
                    terminal::clean(path)
                ));
            }
        }
        if !self.sweep.is_empty() {
            return sweep::submit(context, spec, self.sweep, self.dry_run).await;
        }
        let answer = submit_job(&context.client, &draw_request_id(), spec, self.dry_run).await?;
        let id = answer.job_id.clone();
        terminal::warn(&answer.warnings);
        if self.dry_run {
            terminal::message("the job is valid; nothing was queued");
            let plan = answer.plan.as_ref().map(|plan| render::queue::plan(context.output, plan));
            if let Some(plan) = plan.filter(|plan| !plan.is_empty() && context.output.for_people()) {
                return context.output.line(&plan);
            }
            return context.output.document(&to_json("SubmitJobResponse", &answer));
        }
        if self.follow {
            if context.output.for_people() {
                context.output.line(&id)?;
            }
            return follow::run(context, &id, &FollowOptions::default()).await;
        }
        if context.output.for_people() {
            context.output.line(&id)?;
        }
        context.output.document(&to_json("SubmitJobResponse", &answer))?;
        terminal::message(&format!("queued; `yard watch {id}` shows the training"));
        Ok(())
    }

    /// The job that the flags describe. Fields without a flag stay unset: the scheduler knows defaults.
    ///
    /// # Errors
    /// A model that is none, a folder that holds no data set.
    fn job_spec(&self) -> Result<pb::JobSpec, Failure> {
        let (data, name) = sources::data_and_name(self.data_word(), self.push)?;
        let name = self.name.clone().unwrap_or(name);
        let placement = &self.placement;
        let device = placement.device.map(str::to_owned);
        Ok(pb::JobSpec {
            name,
            train: Some(self.train_spec(data)?),
            resources: Some(pb::Resources {
                gpus: placement.gpus,
                gpu_models: placement.gpu_model.clone(),
                min_vram_mib: placement.min_vram.unwrap_or_default(),
                device,
            }),
            priority: placement.priority.unwrap_or_default(),
            max_retries: placement.max_retries,
            time_limit: placement.time_limit,
            labels: labels_by_key(&placement.label)?,
        })
    }

    /// What was given as the data set. Clap demands one of both.
    fn data_word(&self) -> &Path {
        self.data.as_deref().or(self.named_data.as_deref()).unwrap_or(Path::new(""))
    }

    /// The model, and the weights that it begins with.
    fn model_and_weights(&self) -> Result<(String, Option<String>), Failure> {
        // What other programs call weights is the model where nothing else says what it is.
        let is_model = |text: &&String| matches!(habit::model(text), Ok(ModelWord::Weights(..)));
        let weights = self.weights.as_ref();
        let model = self.model.as_ref().or(weights.filter(is_model));
        let given =
            self.training.pretrained.as_deref().and_then(Path::to_str).or(weights.map(String::as_str));
        // A relative path is meant from this folder, where agents are not.
        let usable = |path: &Path| (path.is_absolute() || path.is_file()).then(|| absolute_path(path));
        let wrong = |violation: Violation| Failure::usage(terminal::clean(&violation.to_string()));
        let Beginning { model, pretrained } =
            habit::beginning(model.map(String::as_str), given.map(Value::from), usable).map_err(wrong)?;
        let pretrained =
            pretrained.as_ref().and_then(Value::as_str).map(sources::weights_in_full).transpose()?;
        Ok((model.unwrap_or(ModelScale::N).to_string(), pretrained))
    }

    /// The training that the flags describe. Fields without a flag stay unset: the scheduler knows defaults.
    fn train_spec(&self, data: String) -> Result<pb::TrainSpec, Failure> {
        let Self { training, optimizer, augmentation, .. } = self;
        let (model, pretrained) = self.model_and_weights()?;
        Ok(pb::TrainSpec {
            model,
            data,
            epochs: training.epochs,
            imgsz: training.imgsz,
            batch: training.batch,
            workers: training.workers,
            cache: training.cache.clone(),
            amp: training.amp,
            cos_lr: optimizer.cos_lr,
            multi_scale: training.multi_scale,
            optimizer: optimizer.optimizer.clone(),
            lr0: optimizer.lr0,
            lrf: optimizer.lrf,
            momentum: optimizer.momentum,
            weight_decay: optimizer.weight_decay,
            warmup_epochs: optimizer.warmup_epochs,
            close_mosaic: augmentation.close_mosaic,
            patience: training.patience,
            seed: training.seed,
            fraction: training.fraction,
            single_cls: training.single_cls,
            freeze: training.freeze,
            r#box: optimizer.box_gain,
            cls: optimizer.cls,
            dfl: optimizer.dfl,
            hsv_h: augmentation.hsv_h,
            hsv_s: augmentation.hsv_s,
            hsv_v: augmentation.hsv_v,
            degrees: augmentation.degrees,
            translate: augmentation.translate,
            scale: augmentation.scale,
            shear: augmentation.shear,
            perspective: augmentation.perspective,
            flipud: augmentation.flipud,
            fliplr: augmentation.fliplr,
            mosaic: augmentation.mosaic,
            mixup: augmentation.mixup,
            warmup_momentum: optimizer.warmup_momentum,
            warmup_bias_lr: optimizer.warmup_bias_lr,
            nbs: optimizer.nbs,
            time: training.time,
            pretrained,
            bn_group: training.bn_group,
            deterministic: training.deterministic,
            checkpoint_minutes: training.checkpoint_minutes,
        })
    }
}

fn no_project(name: &str) -> Result<String, String> {
    Err(format!(
        "jobs have no project folder: `--label project={name}` keeps them together, and `yard artifacts` fetches results"
    ))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Cli, Command, Remote};

    fn spec(line: &str) -> pb::JobSpec {
        let words = ["yard", "train"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Remote(Remote::Train(train)) => train.job_spec().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_fill_the_fields_and_what_is_left_out_stays_unset() {
        let got = spec(
            "/data/cells/data.yaml --epochs 3 --lr0 0 --batch -1 --amp off --gpu-model 4090 --gpu-model 5070 \
             --min-vram 10G --priority -5 --label a=b --device gpu --time-limit 90m",
        );
        let train = got.train.unwrap();
        assert_eq!(
            (train.epochs, train.lr0, train.batch, train.amp),
            (Some(3), Some(0.0), Some(-1.0), Some(false))
        );
        assert_eq!((train.imgsz, train.mosaic, got.name.as_str()), (None, None, "cells"));
        let resources = got.resources.unwrap();
        assert_eq!((resources.min_vram_mib, resources.gpu_models.len()), (10240, 2));
        assert_eq!((got.priority, got.labels["a"].as_str()), (-5, "b"));
        assert_eq!(got.time_limit.map(|limit| limit.seconds), Some(5400));
    }

    fn words(line: &str) -> Result<pb::JobSpec, String> {
        let words = ["yard", "train"].into_iter().chain(line.split_whitespace());
        let yard = Cli::command();
        let takes_value = |option: &str| crate::args::takes_value(&yard, option);
        let words = habit::words(words.map(std::ffi::OsString::from), &["train"], |_| false, takes_value);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Remote(Remote::Train(train)) => train.job_spec().map_err(|failure| failure.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_users_of_other_programs_write_is_taken() {
        let got =
            words("data=/d/cells/data.yaml model=/w/yolov8s.pt batch=auto imgsz=640,640 cache=True device=0")
                .unwrap();
        let train = got.train.clone().unwrap();
        assert_eq!((train.data.as_str(), train.model.as_str()), ("/d/cells/data.yaml", "yolov8s"));
        assert_eq!((train.pretrained.as_deref(), train.batch), (Some("/w/yolov8s.pt"), Some(-1.0)));
        assert_eq!((train.imgsz, train.cache.as_deref()), (Some(640), Some("ram")));
        assert_eq!((got.resources.unwrap().device.as_deref(), got.name.as_str()), (Some("gpu"), "cells"));
        let with_switches =
            words("--dry-run data=/d/cells/data.yaml --amp false model=yolov8m epochs=3").unwrap();
        assert_eq!(with_switches.train.unwrap().data, "/d/cells/data.yaml");
        let same = words(
            "/d/cells/data.yaml --weights /w/yolov8s.pt --batch -1 --imgsz 640 --cache ram --device cuda:0",
        );
        assert_eq!(same.unwrap().train, got.train);
        let train = |line: &str| words(line).unwrap().train.unwrap();
        let scratch =
            train("/d --model /w/yolov8n.pt --pretrained False --optimizer adamw --exist-ok --amp False");
        assert_eq!((scratch.model.as_str(), scratch.pretrained.as_deref()), ("yolov8n", Some("")));
        assert_eq!((scratch.optimizer.as_deref(), scratch.amp), (Some("AdamW"), Some(false)));
        let other = train("/d --model yolov8m --weights /w/best.pt");
        assert_eq!((other.model.as_str(), other.pretrained.as_deref()), ("yolov8m", Some("/w/best.pt")));
        assert_eq!(
            train("/d --model /w/yolov8n.pt --pretrained True").pretrained.as_deref(),
            Some("/w/yolov8n.pt")
        );
    }

    #[test]
    fn what_has_no_plain_meaning_is_answered_with_the_way_out() {
        for (line, wanted) in [
            ("/d --imgsz 640,480", "training images are square: write 640"),
            ("/d --device 0,1", "how many in `gpus`"),
            ("/d --device 1", "`gpu_models` says of what kind"),
            ("/d --project runs", "`--label project=runs`"),
            (
                "/d --model yolov8n.pt",
                "nothing is downloaded; `yolov8n` begins from scratch, `pretrained` names",
            ),
            ("/d --model best.pt", "use `pretrained` for it"),
            ("/d --pretrained True", "give the path of a weights file"),
            ("/d --label a=b --label c=d --label a=e", "--label `a` is given twice, as `b` and as `e`"),
            ("/d --batch many", "write auto, a whole number, or a share"),
            ("/d plots=True", "unexpected argument '--plots' found"),
        ] {
            let error = words(line).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn a_folder_stands_for_its_only_description() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(words(path).unwrap_err().contains("is a folder without a data.yaml: it is empty"));
        std::fs::write(dir.path().join("cells.yaml"), "").unwrap();
        assert_eq!(words(path).unwrap().train.unwrap().data, format!("{path}/cells.yaml"));
    }

    #[test]
    fn names_of_the_store_stay_names_and_paths_become_absolute() {
        let train = |line: &str| words(line).map(|spec| (spec.name.clone(), spec.train.unwrap()));
        let (name, got) = train("bloodcells@3f9a --pretrained base-weights@0123").unwrap();
        assert_eq!((name.as_str(), got.data.as_str()), ("bloodcells", "bloodcells@3f9a"));
        assert_eq!(got.pretrained.as_deref(), Some("base-weights@0123"));
        let (_, got) = train("data=bloodcells pretrained=job:019ab3c4").unwrap();
        assert_eq!((got.data.as_str(), got.pretrained.as_deref()), ("bloodcells", Some("job:019ab3c4")));
        // A folder of that name is written with a slash.
        let (_, got) = train("src").unwrap();
        assert_eq!(got.data, "src");
        assert!(train("./src").unwrap_err().contains("is a folder without a data.yaml"));
        let here = std::env::current_dir().unwrap();
        let (name, got) = train("cells/data.yaml --pretrained w/best.pt").unwrap();
        assert_eq!((name.as_str(), got.data), ("cells", here.join("cells/data.yaml").display().to_string()));
        assert_eq!(got.pretrained, Some(here.join("w/best.pt").display().to_string()));
        assert!(train("cells@newest").unwrap_err().contains("has the version `newest`"));
        assert!(train("bloodcells --pretrained w@x").unwrap_err().contains("has the version `x`"));
    }

    #[test]
    fn every_field_of_a_train_spec_has_a_flag() {
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let descriptor = crate::proto_json::descriptor("TrainSpec").unwrap();
        for field in descriptor.fields().filter(|field| field.name() != "data") {
            let flag = field.name().replace('_', "-");
            let there = train.get_arguments().any(|argument| argument.get_long() == Some(&flag));
            assert!(there, "--{flag} is missing");
        }
    }
}
