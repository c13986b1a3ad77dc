//! Logging in, tokens and the audit, against servers that can be trusted and others.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use trainyard_access::Token;
use trainyard_access::testing::TestAuthority;
use trainyard_proto::pb;

use crate::fake::access::Shown;
use crate::fake::{ID, Script, Server, code, command, stderr, stdout};

fn ada() -> pb::Caller {
    let expire_time = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
    pb::Caller { user: "ada".into(), role: pb::AccessRole::User.into(), token_id: "00aa".into(), expire_time }
}

/// `yard` of somebody whose settings are in `home`.
fn yard(home: &Path, arguments: &[&str]) -> Command {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let mut command = command(nowhere, arguments);
    command.env_remove("YARD_SERVER").env("XDG_CONFIG_HOME", home);
    command
}

fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // One that does not want it has gone already.
    let _gone = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Status::with_error_details(code, "no", ErrorDetails::with_error_info(reason, "trainyard", metadata))
}

#[test]
fn a_login_keeps_server_token_and_authority_and_later_commands_use_them() {
    let home = tempfile::tempdir().unwrap();
    let authority = TestAuthority::default();
    let token = Token::make(authority.pin()).unwrap().reveal();
    let server = Server::start(Script { caller: ada(), ..Default::default() });
    let door = server.door(authority.server(&["lab-head"], -1, 1)).address.to_string();
    let output = with_input(yard(home.path(), &["login", &door]), &format!("{token}\n"));
    assert_eq!(code(&output), 0, "{output:?}");
    let wanted =
        format!("logged in: ada (user) at https://{door}, by token 00aa until 2027-01-15T08:00:00Z\n");
    assert_eq!(stdout(&output), wanted);
    let file = home.path().join("trainyard/cli.toml");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("server = \"https://{door}\"\ntoken = \"{token}\"\n")
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(home.path().join("trainyard/ca.pem")).unwrap();
    assert_eq!(
        kept.split_whitespace().collect::<String>(),
        authority.pem().split_whitespace().collect::<String>()
    );

    let output = yard(home.path(), &["whoami", "--as", "bob", "-o", "json"]).output().unwrap();
    assert!(stdout(&output).contains("\"role\": \"USER\""), "{output:?}");
    let bearer = Some(format!("Bearer {token}"));
    let shown =
        |act_as: Option<&str>| Shown { authorization: bearer.clone(), act_as: act_as.map(str::to_owned) };
    assert_eq!(server.script.lock().unwrap().shown, [shown(None), shown(Some("bob"))]);

    // Empty variables count as unset.
    let mut who = yard(home.path(), &["whoami"]);
    let output = who.env("YARD_SERVER", "").env("YARD_TOKEN", "").env("YARD_CA", "").output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");

    // Without a scheme it is the same server; in plaintext the token stays here.
    let output = yard(home.path(), &["whoami", "--server", &door]).output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let plaintext = format!("http://{}", server.address);
    assert_eq!(code(&yard(home.path(), &["whoami", "--server", &plaintext]).output().unwrap()), 0);
    assert_eq!(server.script.lock().unwrap().shown.last().unwrap().authorization, None);

    assert_eq!(code(&yard(home.path(), &["logout"]).output().unwrap()), 0);
    assert!(!fs::read_to_string(&file).unwrap().contains("token"));
    let output = yard(home.path(), &["whoami"]).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains(&format!("`yard login https://{door}`")), "{output:?}");
}

#[test]
fn a_server_that_is_not_the_tokens_gets_no_token() {
    let home = tempfile::tempdir().unwrap();
    let (authority, other) = (TestAuthority::default(), TestAuthority::default());
    let server = Server::start(Script { caller: ada(), ..Default::default() });
    let door = |from, to| server.door(authority.server(&["lab-head"], from, to)).address.to_string();
    let token = Token::make(authority.pin()).unwrap().reveal();
    let another = Token::make(other.pin()).unwrap().reveal();
    let plaintext = server.address.to_string();
    let table = [
        (door(-1, 1), &another, "the server is another cluster's, or somebody sits between"),
        (plaintext.clone(), &token, "does not speak TLS"),
        (door(-3, -1), &token, "the server's certificate ended at"),
        (door(1, 3), &token, "the server's certificate begins at"),
    ];
    for (address, token, wanted) in &table {
        let output = with_input(yard(home.path(), &["login", address]), token);
        assert_eq!(code(&output), 3, "{output:?}");
        let said = stderr(&output);
        assert!(
            said.contains(wanted) && said.contains("hint: ") && said.contains(address.as_str()),
            "{said}"
        );
        assert!(!said.contains(token.rsplit('.').next().unwrap()), "{said}");
    }
    assert!(
        stderr(&with_input(yard(home.path(), &["login", &plaintext]), &token))
            .contains(&format!("`--server http://{plaintext}`"))
    );
    assert_eq!(server.script.lock().unwrap().shown, []);
    assert!(!home.path().join("trainyard/cli.toml").exists());
}

#[test]
fn what_is_no_token_and_no_address_to_log_in_to_is_wrong_usage() {
    let home = tempfile::tempdir().unwrap();
    let whole = Token::make("00112233445566778899aabbccddeeff".parse().unwrap()).unwrap().reveal();
    let damaged = &whole[..whole.len() - 3];
    for (address, token, wanted) in [
        ("lab", "", "no token was given"),
        ("lab", "hunter2", "it is no token"),
        ("lab", damaged, "its part SECRET is damaged"),
        ("http://lab:7433", whole.as_str(), "no token is sent in plaintext"),
    ] {
        let output = with_input(yard(home.path(), &["login", address, "-"]), token);
        assert_eq!(code(&output), 2, "{output:?}");
        assert!(stderr(&output).contains(wanted), "{output:?}");
    }
}

#[test]
fn a_machines_token_is_for_machines() {
    let home = tempfile::tempdir().unwrap();
    let authority = TestAuthority::default();
    let caller = pb::Caller { role: pb::AccessRole::Agent.into(), ..Default::default() };
    let server = Server::start(Script { caller, ..Default::default() });
    let door = server.door(authority.server(&["lab-head"], -1, 1)).address.to_string();
    let token = Token::make(authority.pin()).unwrap().reveal();
    let output = with_input(yard(home.path(), &["login", &door]), &token);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains(&format!("`trainyard-agent join {door}`")), "{output:?}");
    assert!(!home.path().join("trainyard/cli.toml").exists());
}

#[test]
fn a_server_certified_by_another_authority_is_checked_by_its_file_and_its_name() {
    let home = tempfile::tempdir().unwrap();
    let (cluster, university) = (TestAuthority::default(), TestAuthority::default());
    let file = home.path().join("university.pem");
    fs::write(&file, university.pem()).unwrap();
    let server = Server::start(Script { caller: ada(), ..Default::default() });
    let token = Token::make(cluster.pin()).unwrap().reveal();
    let ca = ["--ca", file.to_str().unwrap()];
    let named = server.door(university.server(&["127.0.0.1"], -1, 1)).address.to_string();
    let output = with_input(yard(home.path(), &[&["login", &named][..], &ca].concat()), &token);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(code(&yard(home.path(), &["whoami"]).output().unwrap()), 0);
    let misnamed = server.door(university.server(&["lab-head"], -1, 1)).address.to_string();
    let output = with_input(yard(home.path(), &[&["login", &misnamed][..], &ca].concat()), &token);
    assert_eq!(code(&output), 3);
    let said = stderr(&output);
    assert!(said.contains("not for the name `127.0.0.1`") && said.contains("lab-head"), "{said}");
}

#[test]
fn a_refusal_says_how_to_get_in() {
    let table = [
        (refusal(Code::FailedPrecondition, "TLS_REQUIRED", &[]), "`yard login 127.0.0.1:"),
        (refusal(Code::Unauthenticated, "TOKEN_MISSING", &[]), "run `yard login 127.0.0.1:"),
        (refusal(Code::Unauthenticated, "TOKEN_REVOKED", &[]), "ask an admin for a new token"),
        (
            refusal(Code::PermissionDenied, "ROLE_REQUIRED", &[("needs", "ADMIN")]),
            "this needs the role admin",
        ),
        (refusal(Code::PermissionDenied, "NOT_OWNER", &[("owner", "bob")]), "`--as bob`"),
    ];
    for (status, wanted) in table {
        let server = Server::start(Script { refuse: Some((String::new(), status)), ..Default::default() });
        let output = server.yard(&["whoami"]);
        assert_eq!(code(&output), 4);
        assert!(stderr(&output).contains(wanted), "{output:?}");
    }
}

#[test]
fn an_encrypted_standby_sends_to_an_encrypted_leader() {
    let home = tempfile::tempdir().unwrap();
    let authority = TestAuthority::default();
    let leader = Server::start(Script::default());
    let leaders = leader.door(authority.server(&["a"], -1, 1)).address.to_string();
    let status = refusal(Code::Unavailable, "NOT_LEADER", &[("leader", &format!("https://{leaders}"))]);
    let standby = Server::start(Script { refuse: Some((String::new(), status)), ..Default::default() });
    let standbys = standby.door(authority.server(&["b"], -1, 1)).address.to_string();
    let mut train =
        yard(home.path(), &["train", "/nowhere/data.yaml", "--server", &format!("https://{standbys}")]);
    let token = Token::make(authority.pin()).unwrap().reveal();
    let output = train.env("YARD_TOKEN", &token).output().unwrap();
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")), "{output:?}");
    let script = leader.script.lock().unwrap();
    assert_eq!(script.metadata[0].1, Some(format!("Bearer {token}")));
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let server = Server::start(Script::default());
    let output = server.yard(&["token", "create", "--user", "ada", "--role", "viewer", "--expires", "90d"]);
    assert_eq!((code(&output), stdout(&output)), (0, "ty1.a.b.c\n".to_owned()));
    assert!(stderr(&output).contains("token 00aa for ada, with `yard login"), "{output:?}");
    let output = server.yard(&["token", "create", "--agents", "--uses", "10"]);
    assert!(stderr(&output).contains("for 10 machines, with `sudo trainyard-agent join"), "{output:?}");
    let orders = server.script.lock().unwrap().orders.clone();
    let wanted = pb::CreateTokenRequest {
        user: "ada".into(),
        role: pb::AccessRole::Viewer.into(),
        lifetime: Some(prost_types::Duration { seconds: 90 * 86_400, nanos: 0 }),
        uses: 0,
    };
    let machines =
        pb::CreateTokenRequest { role: pb::AccessRole::Agent.into(), uses: 10, ..Default::default() };
    assert_eq!(orders, [format!("{wanted:?}"), format!("{machines:?}")]);

    let listed = stdout(&server.yard(&["token", "list"]));
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..3], ["00aa", "ada", "user"]);
    assert_eq!((rows[2][..3].to_vec(), rows[2][5]), (vec!["00bb", "-", "agent"], "3"));
    assert!(stdout(&server.yard(&["token", "list", "-o", "json"])).contains("\"usesLeft\": 3"));
    assert_eq!(stdout(&server.yard(&["token", "revoke", "00aa"])), "token 00aa of ada counts no more\n");
    for wrong in [
        &["token", "create"][..],
        &["token", "create", "--user", "a", "--agents"],
        &["token", "create", "--user", "a", "--uses", "2"],
    ] {
        assert_eq!(code(&server.yard(wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn an_agent_is_forgotten_by_name() {
    let server = Server::start(Script::default());
    let output = server.yard(&["agents", "forget", "lab1"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(
        stdout(&output).starts_with(&format!("lab1 ({ID}) is cut off; `trainyard-agent join`")),
        "{output:?}"
    );
}

#[test]
fn the_audit_is_listed_and_followed() {
    let server = Server::start(Script::default());
    let listed = stdout(&server.yard(&["audit", "--limit", "7"]));
    let line = format!("2023-11-14T22:13:21Z ada JobService/CancelJob {ID} OK from 10.0.0.7");
    assert_eq!(listed.lines().collect::<Vec<_>>()[0], line);
    assert_eq!(stdout(&server.yard(&["audit", "--json"])).lines().count(), 2);
    assert!(server.script.lock().unwrap().orders[0].contains("page_size: 7"));

    let mut child = command(server.address, &["audit", "--follow"]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(4).map(Result::unwrap);
    let times: Vec<String> = lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(times, ["21", "22", "23", "24"].map(|seconds| format!("2023-11-14T22:13:{seconds}Z")));
    // Nobody reads any more, and that ends it well.
    assert!(child.wait().unwrap().success());
}
