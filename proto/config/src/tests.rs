use std::fs;
use std::time::Duration;

use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    #[serde(with = "humantime_serde")]
    ttl: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    scheduler: String,
    name: String,
    cpu_slots: u32,
    data_roots: Vec<PathBuf>,
    token: Option<String>,
    lease: Lease,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler: "http://127.0.0.1:7433".into(),
            name: "host".into(),
            cpu_slots: 0,
            data_roots: Vec::new(),
            token: None,
            lease: Lease { ttl: Duration::from_secs(30) },
        }
    }
}

fn sources() -> Sources {
    Sources::new("TRAINYARD_AGENT").secret("token")
}

fn env(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn source_of(effective: &Effective<Config>, key: &str) -> String {
    effective.settings.iter().find(|setting| setting.key == key).unwrap().source.clone()
}

#[test]
fn without_sources_the_defaults_hold() {
    assert_eq!(sources().load::<Config>().unwrap().value, Config::default());
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let (_dir, path) = file("name = 'file'\ncpu_slots = 1\nscheduler = 'http://file'\n[lease]\nttl = '1m'\n");
    let mut environment = env("TRAINYARD_AGENT__NAME", "007");
    environment.extend(env("TRAINYARD_AGENT__CPU_SLOTS", "2"));
    environment.extend(env("TRAINYARD_AGENT__LEASE__TTL", "90s"));
    environment.extend(env("PATH", "/bin"));
    let got = sources()
        .file(Some(&path))
        .environment(environment)
        .flag("cpu_slots", Some(3_u32))
        .flag("name", None::<String>)
        .load::<Config>()
        .unwrap();
    let wanted = Config {
        scheduler: "http://file".into(),
        name: "007".into(),
        cpu_slots: 3,
        lease: Lease { ttl: Duration::from_secs(90) },
        ..Config::default()
    };
    assert_eq!(got.value, wanted);
    assert_eq!(source_of(&got, "scheduler"), format!("file {}", path.display()));
    assert_eq!(source_of(&got, "name"), "environment TRAINYARD_AGENT__NAME");
    assert_eq!(source_of(&got, "cpu_slots"), "flag --cpu-slots");
    assert_eq!(source_of(&got, "lease.ttl"), "environment TRAINYARD_AGENT__LEASE__TTL");
    assert_eq!(source_of(&got, "data_roots"), "default");
}

#[test]
fn a_list_in_the_environment_is_separated_by_commas() {
    let got = sources().environment(env("TRAINYARD_AGENT__DATA_ROOTS", "/data, /more")).load::<Config>();
    assert_eq!(got.unwrap().value.data_roots, [PathBuf::from("/data"), "/more".into()]);
    let got =
        sources().environment(env("TRAINYARD_AGENT__DATA_ROOTS", r#"["/a, b", "/c"]"#)).load::<Config>();
    assert_eq!(got.unwrap().value.data_roots, [PathBuf::from("/a, b"), "/c".into()]);
    for broken in [r#"["/a", "/b"#, r#" ["/a" "token=s3cret"]"#, "[/a, /b]", "[1]"] {
        let got = sources().environment(env("TRAINYARD_AGENT__DATA_ROOTS", broken)).load::<Config>();
        let error = got.unwrap_err().to_string();
        let told = "for key `data_roots` in environment TRAINYARD_AGENT__DATA_ROOTS; write `[\"a\", \"b\"]`";
        assert!(error.contains(told) && error.contains(&broken[..2]) && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    for variable in ["TRAINYARD_AGENT__NAME", "TRAINYARD_AGENT__CPU_SLOTS", "TRAINYARD_AGENT__DATA_ROOTS"] {
        let got = sources().environment(env(variable, "")).load::<Config>().unwrap();
        assert!(got.settings.iter().all(|setting| setting.source == "default"), "{variable}: {got}");
    }
}

#[test]
fn an_unknown_key_in_a_file_names_the_nearest() {
    let (_dir, path) = file("shceduler = 'http://x'\n");
    let error = sources().file(Some(&path)).load::<Config>().unwrap_err().to_string();
    assert!(
        error.contains("unknown key `shceduler`") && error.contains("did you mean `scheduler`?"),
        "{error}"
    );
    assert!(error.contains("agent.toml"), "{error}");
}

#[test]
fn an_unknown_nested_key_names_the_nearest() {
    let (_dir, path) = file("[lease]\ntll = '1s'\n");
    let error = sources().file(Some(&path)).load::<Config>().unwrap_err().to_string();
    assert!(
        error.contains("unknown key `lease.tll`") && error.contains("did you mean `lease.ttl`?"),
        "{error}"
    );
}

#[test]
fn an_unknown_variable_names_the_nearest() {
    let error = sources().environment(env("TRAINYARD_AGENT__CPU_SLOT", "1")).load::<Config>();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("TRAINYARD_AGENT__CPU_SLOT") && error.contains("`cpu_slots`?"), "{error}");
}

#[test]
fn a_value_of_the_wrong_type_names_key_and_source() {
    let error = sources().environment(env("TRAINYARD_AGENT__CPU_SLOTS", "two")).load::<Config>();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("cpu_slots") && error.contains("TRAINYARD_AGENT__CPU_SLOTS"), "{error}");
}

#[test]
fn a_fraction_for_a_whole_number_is_refused_wherever_it_comes_from() {
    let wanted = |text: &str, place: &str| {
        format!(
            "`{text}` is no whole number, and nothing is rounded; write one, such as 20, for key `cpu_slots` in {place}"
        )
    };
    for text in ["0.1", "1.9", "-0.4", "inf"] {
        let (_dir, path) = file(&format!("cpu_slots = {text}\n"));
        let error = sources().file(Some(&path)).load::<Config>().unwrap_err().to_string();
        assert_eq!(error, wanted(text, &format!("file {}", path.display())));
    }
    let error = sources().environment(env("TRAINYARD_AGENT__CPU_SLOTS", "0.1")).load::<Config>();
    assert_eq!(error.unwrap_err().to_string(), wanted("0.1", "environment TRAINYARD_AGENT__CPU_SLOTS"));
    let error = sources().flag("cpu_slots", Some("0.1")).load::<Config>().unwrap_err();
    assert_eq!(error.to_string(), wanted("0.1", "flag --cpu-slots"));
}

#[test]
fn a_number_with_a_point_is_taken_where_one_is_wanted() {
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Shares {
        share: f64,
        shares: Vec<f32>,
        optional: Option<u32>,
        texts: Vec<String>,
    }
    let (_dir, path) = file("share = 0.25\nshares = [0.5, 1.0]\noptional = 2.0\ntexts = ['a', 1.5]\n");
    let got = sources().file(Some(&path)).load::<Shares>().unwrap().value;
    assert_eq!((got.share, got.shares, got.optional), (0.25, vec![0.5, 1.0], Some(2)));
    assert_eq!(got.texts, ["a", "1.5"]);
    let (_dir, path) = file("optional = 0.4\n");
    let error = sources().file(Some(&path)).load::<Shares>().unwrap_err().to_string();
    assert!(error.contains("`0.4` is no whole number") && error.contains("`optional`"), "{error}");
}

#[test]
fn a_value_that_does_not_parse_names_key_and_source_once() {
    let error = sources().environment(env("TRAINYARD_AGENT__LEASE__TTL", "soon")).load::<Config>();
    let wanted = "invalid value: string \"soon\", expected a duration, such as \"30s\", \"90m\" or \"1h 30m\" for key `lease.ttl` in environment \
                  TRAINYARD_AGENT__LEASE__TTL";
    assert_eq!(error.unwrap_err().to_string(), wanted);
}

#[test]
fn a_file_that_is_missing_or_broken_is_named() {
    let (_dir, path) = file("name = \n");
    let error = sources().file(Some(&path)).load::<Config>().unwrap_err();
    assert!(error.to_string().contains("agent.toml"), "{error}");
    // Programs tell causes behind the sentence, which has this one.
    assert!(std::error::Error::source(&error).is_none());
    let missing = sources().file(Some(Path::new("/nowhere/agent.toml"))).load::<Config>();
    assert!(missing.unwrap_err().to_string().contains("/nowhere/agent.toml"));
}

#[test]
fn a_file_is_text_as_users_write_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        sources()
            .file(Some(&path))
            .load::<Config>()
            .map(|got| got.value.token)
            .map_err(|error| error.to_string())
    };
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("\u{feff}# größe{end}token = 'a'{end}{end}[lease]{end}ttl = '90s'{end}");
        assert_eq!(load(text.as_bytes()), Ok(Some("a".to_owned())), "{end:?}");
    }
    let wide: Vec<u8> = "\u{feff}token = 'a'\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(load(&wide).unwrap_err().ends_with("agent.toml: is UTF-16 text; save it as UTF-8"));
    let error = load(b"# fine\r\ntoken = '\xE9'\r\n").unwrap_err();
    assert!(error.contains("agent.toml:2: byte 10 of the line, 0xE9, is not UTF-8"), "{error}");
}

#[test]
fn secrets_are_masked_and_what_is_printed_is_toml() {
    let got = sources()
        .flag("token", Some("s3cret"))
        .flag("scheduler", Some("http://me:hunter2@host:1/x"))
        .load::<Config>()
        .unwrap();
    let printed = got.to_string();
    assert!(!printed.contains("s3cret") && !printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("http://me:********@host:1/x"), "{printed}");
    assert_eq!(got.value.token.as_deref(), Some("s3cret"));
    let (_dir, path) = file(&printed);
    assert!(sources().file(Some(&path)).load::<Config>().is_ok(), "{printed}");
}

#[test]
fn secrets_in_lists_and_queries_are_masked_in_what_is_printed_and_in_errors() {
    let load = |roots: &str| {
        let (_dir, path) = file(&format!("data_roots = {roots}\n"));
        sources().file(Some(&path)).load::<Config>()
    };
    let got = load(r#"["secret_access_key=hunter2", "region=x", "redis://h/0?password=hunter2"]"#).unwrap();
    let printed = got.to_string();
    assert!(
        printed.contains(r#"["secret_access_key=********","region=x","redis://h/0?password=********"]"#),
        "{printed}"
    );
    // A secret that has changed has changed, though both look the same.
    let other = load(r#"["secret_access_key=hunter3", "region=x", "redis://h/0?password=hunter2"]"#).unwrap();
    assert_eq!((got.changed(&other), got.changed(&got.clone())), (vec!["data_roots".to_owned()], Vec::new()));
    for wrong in [r#""secret_access_key=hunter2""#, r#"["secret_access_key=hunter2"#] {
        let error = load(wrong).unwrap_err().to_string();
        assert!(error.contains("agent.toml") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_value_of_a_file_that_cannot_be_is_told_once_and_a_duration_has_an_example() {
    for text in ["cpu_slots = -1\n", "[lease]\nttl = 30\n"] {
        let (_dir, path) = file(text);
        let error = sources().file(Some(&path)).load::<Config>().unwrap_err();
        // Programs tell causes behind the sentence.
        assert!(std::error::Error::source(&error).is_none(), "{error}");
        let error = error.to_string();
        assert_eq!(error.matches("invalid").count(), 1, "{error}");
        assert_eq!(error.matches("agent.toml").count(), 1, "{error}");
        assert!(!error.contains("a duration") || error.contains("such as \"30s\""), "{error}");
    }
}
