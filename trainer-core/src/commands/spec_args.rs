//! A flag for every field of the training spec, under the field's name.

use std::sync::LazyLock;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value};
use trainyard_types::habit::{self, Beginning, ModelWord};
use trainyard_types::{ModelScale, TrainSpec, Violation};

/// What the user wrote, field by field, as JSON. Fields that were not given are not there.
#[derive(Debug, Clone, Default)]
pub struct SpecArgs(Map<String, Value>);

/// A field of the spec.
struct Field {
    /// `cos_lr`
    name: String,
    /// `cos-lr`
    flag: String,
    default: Value,
}

/// All fields, in the spec's order.
static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(|| {
    let spec = TrainSpec::new(ModelScale::N, "");
    let Ok(Value::Object(fields)) = serde_json::to_value(spec) else { return Vec::new() };
    let field = |(name, default): (String, Value)| Field { flag: name.replace('_', "-"), name, default };
    fields.into_iter().map(field).collect()
});

impl SpecArgs {
    /// Takes YOLOv5's `--weights`: what the model begins with, and what it is if nothing else says so.
    pub fn set_weights(&mut self, weights: &str) {
        let names_model = matches!(habit::model(weights), Ok(ModelWord::Weights(..)));
        let field = if names_model && !self.0.contains_key("model") { "model" } else { "pretrained" };
        self.0.insert(field.to_owned(), weights.into());
    }

    /// Takes the data set that stands without `--data`, as in `yard train DIR`.
    pub fn set_data(&mut self, data: &str) {
        self.0.insert("data".to_owned(), data.into());
    }

    /// `base`, overridden by the flags.
    ///
    /// # Errors
    /// A violation for every field that is wrong, with what would be right.
    pub fn merged_over(&self, base: Map<String, Value>) -> Result<TrainSpec, Vec<Violation>> {
        let mut written = base;
        written.extend(self.0.clone());
        let (all, mut found) = translate_habits(written);
        // One field at a time first, so that an error can name it.
        let wrong = |field: &str, value: &Value| {
            let mut one = Map::from_iter([("model".into(), "yolov8n".into()), ("data".into(), "/".into())]);
            one.insert(field.to_owned(), value.clone());
            let error = serde_json::from_value::<TrainSpec>(Value::Object(one)).err()?.to_string();
            let text = if error.starts_with("is ") { error } else { no_value(field, value, &error) };
            Some(Violation::new(field, text))
        };
        found.extend(all.iter().filter_map(|(field, value)| wrong(field, value)));
        let mut rest = all;
        rest.retain(|field, _| found.iter().all(|violation| &violation.field != field));
        for field in ["model", "data"] {
            if !rest.contains_key(field) {
                if found.iter().all(|violation| violation.field != field) {
                    found.push(Violation::new(field, format!("is missing; give --{field}, or --spec FILE")));
                }
                // So that the others can be looked at.
                rest.insert(field.to_owned(), if field == "model" { "yolov8n" } else { "/" }.into());
            }
        }
        match serde_json::from_value::<TrainSpec>(Value::Object(rest)) {
            Ok(spec) if found.is_empty() => Ok(spec),
            Ok(spec) => {
                let relative = spec.data.is_relative();
                // Paths are made absolute later.
                let is_path = |field: &str| field == "pretrained" || (relative && field == "data");
                let others = spec.violations().into_iter();
                found.extend(others.filter(|violation| !is_path(&violation.field)));
                Err(found)
            }
            Err(error) => {
                found.push(Violation::new("spec", error.to_string()));
                Err(found)
            }
        }
    }
}

/// What is `written`, with other programs' habits turned into what they mean here; and what has no meaning.
fn translate_habits(mut written: Map<String, Value>) -> (Map<String, Value>, Vec<Violation>) {
    let (mut all, mut found) = (Map::new(), Vec::new());
    let model = match written.remove("model") {
        Some(Value::String(model)) => Some(model),
        // Left to the check of types.
        other => {
            all.extend(other.map(|other| ("model".to_owned(), other)));
            None
        }
    };
    let pretrained = written.remove("pretrained");
    match habit::beginning(model.as_deref(), pretrained, |path| path.is_file().then(|| path.to_owned())) {
        Ok(Beginning { model, pretrained }) => {
            all.extend(model.map(|model| ("model".to_owned(), model.name().into())));
            all.extend(pretrained.map(|pretrained| ("pretrained".to_owned(), pretrained)));
        }
        Err(violation) => {
            if violation.field != "model" && model.is_some() {
                // Which one does not matter: it is not missing.
                all.insert("model".to_owned(), ModelScale::N.name().into());
            }
            found.push(violation);
        }
    }
    for (field, value) in written {
        match habit::meaning(&field, value) {
            Ok(value) => drop(all.insert(field, value)),
            Err(text) => found.push(Violation::new(field, text)),
        }
    }
    (all, found)
}

/// A sentence about a value that no field of this type has.
fn no_value(field: &str, value: &Value, error: &str) -> String {
    let default = FIELDS.iter().find(|known| known.name == field).map(|known| &known.default);
    match (value, default) {
        (Value::String(text), Some(Value::Number(_))) => {
            let pointed = text.replace(',', ".");
            let is_comma = pointed != *text && pointed.parse::<f64>().is_ok();
            let meant = if is_comma { format!("a point: `{pointed}`") } else { "a number".to_owned() };
            format!("is `{text}`; write {meant}")
        }
        (Value::String(text), Some(Value::Bool(_))) => format!("is `{text}`; write true or false"),
        _ => format!("is {value}: {error}"),
    }
}

/// Text as the JSON that it looks like: numbers and truth values, or else a text.
fn to_json(text: &str, default: &Value) -> Value {
    let parsed = serde_json::from_str(text).ok();
    match (parsed, default) {
        (Some(value @ (Value::Number(_) | Value::Bool(_))), Value::Number(_) | Value::Bool(_)) => value,
        _ => Value::String(text.to_owned()),
    }
}

impl clap::FromArgMatches for SpecArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for field in FIELDS.iter() {
            if let Some(text) = matches.get_one::<String>(&field.name) {
                self.0.insert(field.name.clone(), to_json(text, &field.default));
            }
        }
        Ok(())
    }
}

impl clap::Args for SpecArgs {
    fn augment_args(command: Command) -> Command {
        FIELDS.iter().fold(command, |command, Field { name, flag, default }| {
            let mut arg = Arg::new(name.as_str())
                .long(flag.as_str())
                .allow_negative_numbers(true)
                .help_heading("Training");
            if flag != name {
                arg = arg.alias(name.as_str());
            }
            arg = match (default, name.as_str()) {
                (_, "model") => arg.value_name("MODEL").help("yolov8n, yolov8s, yolov8m, yolov8l or yolov8x"),
                (_, "data") => arg.value_name("FILE").help("The data set's data.yaml"),
                (_, "pretrained") => {
                    arg.value_name("FILE").help("Weights to begin with, .safetensors or .pt. Default: none")
                }
                (Value::Bool(value), _) => arg
                    .value_name("BOOL")
                    .num_args(0..=1)
                    .default_missing_value("true")
                    .help(format!("Default: {value}")),
                (Value::Number(number), _) => arg.value_name("NUMBER").help(format!("Default: {number}")),
                // YOLOv5's `--cache`.
                (_, "cache") => arg
                    .value_name("NAME")
                    .num_args(0..=1)
                    .default_missing_value("ram")
                    .help("disk, ram or none. Default: disk"),
                (value, _) => {
                    let text = value.as_str().unwrap_or_default().to_owned();
                    arg.value_name("NAME").help(format!("Default: {text}"))
                }
            };
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use trainyard_types::{Batch, Cache, Optimizer};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        spec: SpecArgs,
    }

    fn spec(words: &[&str]) -> Result<TrainSpec, Vec<Violation>> {
        let words = ["trainer", "--data", "/d/data.yaml", "--model", "yolov8s"].iter().chain(words);
        Cli::try_parse_from(words).unwrap().spec.merged_over(Map::new())
    }

    #[test]
    fn words_in_place_of_numbers_say_what_to_write_and_cache_alone_is_memory() {
        let told = |words: &[&str]| spec(words).unwrap_err()[0].to_string();
        assert_eq!(told(&["--lr0", "0,01"]), "lr0: is `0,01`; write a point: `0.01`");
        assert_eq!(told(&["--freeze", "[0]"]), "freeze: is `[0]`; write a number");
        assert_eq!(told(&["--amp", "perhaps"]), "amp: is `perhaps`; write true or false");
        assert_eq!(spec(&["--cache", "--seed", "3"]).unwrap().cache, Cache::Ram);
    }

    #[test]
    fn every_field_has_a_flag_in_both_spellings() {
        let found =
            spec(&["--batch", "-1", "--cos-lr", "false", "--weight_decay", "0", "--box", "5"]).unwrap();
        assert_eq!((found.batch, found.cos_lr, found.weight_decay), (Batch::Auto, false, 0.0));
        assert_eq!((found.box_gain, found.model), (5.0, ModelScale::S));
        assert!(spec(&["--single-cls", "--cache", "ram"]).unwrap().single_cls);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        let found = |words: &[&str]| spec(words).unwrap_err();
        let fields: Vec<String> = found(&["--batch", "-2", "--epochs", "many", "--imgsz", "100"])
            .into_iter()
            .map(|violation| violation.field)
            .collect();
        assert_eq!(fields, ["batch", "epochs", "imgsz"]);
        let batch = found(&["--batch", "-2"]);
        assert!(batch[0].description.starts_with("is -2; use"), "{batch:?}");
        let optimizer = found(&["--optimizer", "Adam"]);
        assert!(optimizer[0].description.contains("SGD"), "{optimizer:?}");
    }

    #[test]
    fn what_other_programs_write_is_taken_where_its_meaning_is_plain() {
        let words = "--batch auto --cache True --imgsz 320,320 --optimizer adamw --amp no --cos_lr False";
        let found = spec(&words.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!((found.batch, found.cache, found.imgsz), (Batch::Auto, Cache::Ram, 320));
        assert_eq!((found.optimizer, found.amp, found.cos_lr), (Optimizer::AdamW, false, false));
        let error = spec(&["--imgsz", "640,480"]).unwrap_err();
        assert_eq!(error.len(), 1, "{error:?}");
        assert!(
            error[0].to_string().starts_with("imgsz: is 640 and 480; training images are square: write 640")
        );
    }

    #[test]
    fn a_model_named_by_its_weights_begins_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("yolov8n.pt");
        let of = |words: &[&str]| {
            let words = ["trainer", "--data", "/d.yaml"].iter().chain(words);
            Cli::try_parse_from(words).unwrap().spec.merged_over(Map::new())
        };
        let path = weights.to_str().unwrap();
        let error = of(&["--model", path]).unwrap_err();
        assert!(error[0].description.contains("no file here, and nothing is downloaded"), "{error:?}");
        std::fs::write(&weights, "").unwrap();
        let found = of(&["--model", path]).unwrap();
        assert_eq!((found.model, found.pretrained.as_path()), (ModelScale::N, weights.as_path()));
        assert_eq!(of(&["--model", path, "--pretrained", "True"]).unwrap(), found);
        let scratch = of(&["--model", path, "--pretrained", "False"]).unwrap();
        assert_eq!((scratch.model, scratch.pretrained.to_str()), (ModelScale::N, Some("")));

        let mut args = SpecArgs::default();
        args.set_weights(path);
        assert_eq!(args.merged_over(Map::from_iter([("data".to_owned(), "/d.yaml".into())])).unwrap(), found);
    }

    #[test]
    fn what_must_be_given_is_asked_for() {
        let found = SpecArgs::default().merged_over(Map::new()).unwrap_err();
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["model", "data"]);
    }

    #[test]
    fn flags_override_a_spec_file() {
        let base =
            Map::from_iter([("epochs".to_owned(), Value::from(3)), ("imgsz".to_owned(), Value::from(320))]);
        let cli =
            Cli::try_parse_from(["trainer", "--data", "/d.yaml", "--model", "yolov8n", "--epochs", "5"]);
        let spec = cli.unwrap().spec.merged_over(base).unwrap();
        assert_eq!((spec.epochs, spec.imgsz), (5, 320));
    }
}
