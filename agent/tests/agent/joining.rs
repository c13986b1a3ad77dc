//! A machine joins a cluster, shows its certificate, and keeps it fresh.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use trainyard_access::Token;
use trainyard_access::testing::TestAuthority;
use trainyard_types::Slot;

use crate::stub::access::Life;
use crate::stub::{Stub, World, attempt};

/// The agent's program on the world's data directory.
fn program(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-agent"));
    command.args(arguments).arg("--data-dir").arg(world.path("agent")).args(["--name", "lab-1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it with `input`, while the stub answers.
async fn run(mut command: Command, input: &str) -> Output {
    let input = input.to_owned();
    let run = move || {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // One that does not want it has gone already.
        let _gone = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

async fn join(world: &World, stub: &Stub) -> Output {
    let address = stub.url.trim_start_matches("https://").to_owned();
    let output = run(program(world, &["join", &address]), &format!("{}\n", stub.token())).await;
    assert!(output.status.success(), "{output:?}");
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn refusal(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, "no", ErrorDetails::with_error_info(reason, "trainyard", HashMap::new()))
}

#[tokio::test]
async fn a_machine_joins_with_a_token_and_then_shows_its_certificate() {
    let world = World::new("");
    let (mut stub, door) = Stub::encrypted().await;
    let output = join(&world, &stub).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(&format!("lab-1 has joined: {}, as agent ", stub.url)), "{said}");
    let (shown, asked) = stub.enrolled().remove(0);
    assert!(shown.starts_with("Bearer ty1.") && asked.name == "lab-1" && said.contains(&asked.agent_id));
    for (name, mode) in [("", 0o700), ("key.pem", 0o600), ("cert.pem", 0o600), ("joined.json", 0o600)] {
        let known = fs::metadata(world.path("agent/tls").join(name)).unwrap();
        assert_eq!(known.permissions().mode() & 0o777, mode, "{name}");
    }
    // Whoever names no scheduler gets the joined one, and `config` says so and shows no secret.
    let config = run(program(&world, &["config"]), "").await;
    let config = String::from_utf8(config.stdout).unwrap();
    let line = config.lines().find(|line| line.starts_with("scheduler ")).unwrap();
    assert!(line.contains(&stub.url) && line.contains("joined.json"), "{line}");

    let _agent = world.agent(&stub, &["--owner", "ada", "--owner", "bob"]);
    let hello = stub.hello().await;
    assert_eq!(hello.agent.to_string(), asked.agent_id);
    assert_eq!(hello.owners, ["ada", "bob"]);
    assert_eq!(door.seen().last().unwrap().as_deref(), Some(asked.agent_id.as_str()));
}

#[tokio::test]
async fn joining_again_is_harmless_and_a_running_agent_goes_on_with_the_new_certificate() {
    let world = World::new("log ready\nhold\n");
    let (mut stub, _door) = Stub::encrypted().await;
    join(&world, &stub).await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    stub.log_line("ready").await;
    let output = join(&world, &stub).await;
    assert!(String::from_utf8(output.stdout).unwrap().contains("had joined before"));
    assert_eq!((stub.enrolled().len(), stub.renewed()), (1, 1));
    // The same session's work under a new connection.
    assert_eq!(stub.hello().await.attempts, [attempt(1)]);
    assert!(world.log().contains("a new certificate is there, and is used"), "{}", world.log());
}

#[tokio::test]
async fn a_certificate_is_renewed_when_it_is_time() {
    let world = World::new("");
    let (mut stub, _door) = Stub::encrypted().await;
    stub.set_life(Life { renew_after_secs: -1, ..Life::default() });
    join(&world, &stub).await;
    stub.set_life(Life::default());
    let before = fs::read(world.path("agent/tls/key.pem")).unwrap();
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.until_logged(&world, "the certificate was renewed").await;
    assert_eq!(stub.renewed(), 1);
    assert_eq!(fs::read(world.path("agent/tls/key.pem")).unwrap(), before);
}

#[tokio::test]
async fn a_revoked_certificate_is_told_once_with_the_way_out() {
    let world = World::new("");
    let (mut stub, _door) = Stub::encrypted().await;
    join(&world, &stub).await;
    stub.refuse_sessions(Some(refusal(Code::Unauthenticated, "CERTIFICATE_REVOKED")));
    let _agent = world.agent(&stub, &[]);
    stub.until(|| stub.refused() >= 3).await;
    stub.refuse_sessions(None);
    stub.hello().await;
    let log = world.log();
    assert_eq!(log.matches("run `trainyard-agent join 127.0.0.1:").count(), 1, "{log}");
    assert!(log.contains("does not take this machine's certificate any more"), "{log}");
}

#[tokio::test]
async fn a_plaintext_agent_at_an_encrypted_scheduler_is_told_to_join() {
    let world = World::new("");
    let mut stub = Stub::start().await;
    stub.refuse_sessions(Some(refusal(Code::FailedPrecondition, "TLS_REQUIRED")));
    let _agent = world.agent(&stub, &[]);
    stub.until(|| stub.refused() >= 2).await;
    stub.refuse_sessions(None);
    stub.hello().await;
    let log = world.log();
    assert!(log.contains("takes encrypted connections only: run `trainyard-agent join 127.0.0.1:"), "{log}");
}

#[tokio::test]
async fn who_cannot_join_is_told_why_and_no_secret_is_shown() {
    let world = World::new("");
    let (stub, door) = Stub::encrypted().await;
    let plaintext = Stub::start().await.url.trim_start_matches("http://").to_owned();
    let address = door.address.to_string();
    let token = stub.token();
    let another = Token::make(TestAuthority::default().pin()).unwrap().reveal();
    let damaged = token[..token.len() - 4].to_owned();
    let http = format!("http://{address}");
    let table = [
        (address.as_str(), another.as_str(), "the server is another cluster's"),
        (&plaintext, &token, "does not speak TLS"),
        (&address, &damaged, "its part SECRET is damaged"),
        (&address, "hunter2", "it is no token"),
        (&address, "", "no token was given"),
        (&http, &token, "no token is sent in plaintext"),
        ("a b", &token, "is not an address"),
    ];
    for (address, token, wanted) in table {
        let output = run(program(&world, &["join", address, "-"]), token).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "{wanted} in {said}");
        let secret = token.rsplit('.').next().filter(|secret| secret.len() > 20);
        assert!(secret.is_none_or(|secret| !said.contains(secret)), "{said}");
    }
    assert_eq!(stub.enrolled(), []);
    assert!(!world.path("agent/tls").exists());
}

#[tokio::test]
async fn an_agent_without_its_certificate_says_how_to_get_one_and_waits_for_it() {
    let world = World::new("");
    let (mut stub, _door) = Stub::encrypted().await;
    let id = world.path("machine-id");
    fs::write(&id, "m1\n").unwrap();
    let variables = [("TRAINYARD_AGENT__MACHINE_ID_FILE", id.to_str().unwrap())];
    let says = async |stub: &Stub, wanted: &str| stub.until(|| world.log().contains(wanted)).await;
    let agent = world.agent_with(&stub, &[], &variables);
    says(&stub, "has not joined its cluster: run `trainyard-agent join 127.0.0.1:").await;
    // The same process goes on as soon as the machine has joined.
    let address = stub.url.trim_start_matches("https://").to_owned();
    let mut command = program(&world, &["join", &address]);
    command.envs(variables);
    assert!(run(command, &stub.token()).await.status.success());
    let first = stub.hello().await.agent;
    drop(agent);

    let key = world.path("agent/tls/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let agent = world.agent_with(&stub, &[], &variables);
    says(&stub, &format!("run `chmod 600 {}`", key.display())).await;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(stub.hello().await.agent, first);
    drop(agent);

    fs::write(&id, "m2\n").unwrap();
    let _agent = world.agent_with(&stub, &[], &variables);
    says(&stub, "its data directory comes from another machine; run `trainyard-agent join").await;
}

#[tokio::test]
async fn a_running_agent_goes_to_the_scheduler_that_its_machine_joins_next() {
    let world = World::new("");
    let (mut first, _door) = Stub::encrypted().await;
    let (mut second, _other_door) = Stub::encrypted().await;
    join(&world, &first).await;
    let agent = world.agent_that_joined();
    first.hello().await;
    join(&world, &second).await;
    agent.signal(Signal::SIGHUP);
    second.hello().await;
    assert!(world.log().contains("this machine has joined another scheduler, and goes there"));
    assert!(!world.log().contains("count after a restart"), "{}", world.log());
}

#[tokio::test]
async fn who_joins_is_told_where_the_configuration_names_another_scheduler() {
    let world = World::new("");
    let (stub, _door) = Stub::encrypted().await;
    let address = stub.url.trim_start_matches("https://").to_owned();
    let mut command = program(&world, &["join", &address]);
    command.env("TRAINYARD_AGENT__SCHEDULER", "https://old:7433");
    let output = run(command, &stub.token()).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("`scheduler` is set to `https://old:7433`, and counts before"), "{said}");
}

#[tokio::test]
async fn a_token_of_a_file_that_is_refused_is_tried_again() {
    let world = World::new("");
    let (mut stub, _door) = Stub::encrypted().await;
    let file = world.path("token");
    fs::write(&file, "hunter2").unwrap();
    let _agent = world.agent(&stub, &["--join-token-file", file.to_str().unwrap()]);
    stub.until(|| world.log().contains("it is no token")).await;
    fs::write(&file, stub.token()).unwrap();
    stub.hello().await;
}

#[tokio::test]
async fn an_agent_with_a_file_of_a_token_joins_by_itself() {
    let world = World::new("");
    let (mut stub, _door) = Stub::encrypted().await;
    let file = world.path("token");
    fs::write(&file, stub.token()).unwrap();
    let arguments = ["--join-token-file", file.to_str().unwrap()];
    let mut agent = world.agent(&stub, &arguments);
    let first = stub.hello().await.agent;
    agent.kill();
    let _agent = world.agent(&stub, &arguments);
    assert_eq!(stub.hello().await.agent, first);
    assert_eq!(stub.enrolled().len(), 1);
}

#[tokio::test]
async fn a_credential_of_systemd_is_a_file_of_a_token() {
    let world = World::new("");
    let (mut stub, _door) = Stub::encrypted().await;
    let folder = world.path("credentials");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("join-token"), stub.token()).unwrap();
    let variables = [("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())];
    let _agent = world.agent_with(&stub, &[], &variables);
    stub.hello().await;
    assert_eq!(stub.enrolled().len(), 1);
}

#[tokio::test]
async fn other_owners_are_told_to_the_scheduler_when_the_configuration_is_read_again() {
    let world = World::new("");
    let mut stub = Stub::start().await;
    let config = world.path("agent.toml");
    fs::write(&config, "owners = [\"ada\"]\n").unwrap();
    let agent = world.agent(&stub, &["--config", config.to_str().unwrap()]);
    assert_eq!(stub.hello().await.owners, ["ada"]);
    fs::write(&config, "owners = [\"ada\", \"bob\"]\n").unwrap();
    agent.signal(Signal::SIGHUP);
    assert_eq!(stub.hello().await.owners, ["ada", "bob"]);
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_told() {
    let world = World::new("");
    let (stub, _door) = Stub::encrypted().await;
    stub.set_life(Life { from_days: -3, to_days: -1, renew_after_secs: -90_000 });
    join(&world, &stub).await;
    let _agent = world.agent(&stub, &[]);
    stub.until(|| world.log().contains("this machine's certificate ended at")).await;
}
