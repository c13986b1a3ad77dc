//! Which server to talk to and as whom: flags and environment first, then `cli.toml`.

pub mod address;
pub mod credential;
pub mod stored;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trainyard_access::{Connector, SeenAuthority, Trust};
use trainyard_config::Sources;
use trainyard_proto::route::parse_list;

use crate::args::Global;
use crate::failure::Failure;
use address::Habit;
use credential::Credential;

/// Where a server is expected when nobody says.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7433";

/// What `~/.config/trainyard/cli.toml` may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    server: String,
    token: Option<String>,
    ca: Option<PathBuf>,
}

impl Default for SettingsFile {
    fn default() -> Self {
        Self { server: DEFAULT_SERVER.to_owned(), token: None, ca: None }
    }
}

/// A server and how to be known there. `Debug` is left out: it would print the token.
#[derive(Clone)]
pub struct Settings {
    /// URLs, with their scheme; at least one.
    pub servers: Vec<String>,
    /// What is sent with every call that may have it.
    pub credential: Option<Credential>,
    /// Authorities that certify the servers, where it is not the cluster's own.
    pub ca: Option<PathBuf>,
    /// Name of the user at this machine.
    pub user: String,
    /// For whom an admin acts.
    pub act_as: Option<String>,
}

impl Settings {
    /// Puts flags, environment (which clap has read) and the file together.
    ///
    /// # Errors
    /// A file with an unknown key or a wrong value, a server that is no URL, a token that is damaged.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        Self::load_from(global, stored::path())
    }

    fn load_from(global: &Global, file: Option<PathBuf>) -> Result<Self, Failure> {
        let file = file.filter(|path| path.exists());
        let ca = global.ca.as_ref().map(|path| path.to_string_lossy().into_owned());
        let loaded = Sources::new("YARD")
            .file(file.as_deref())
            .flag("server", global.server.clone())
            .flag("token", global.token.clone())
            .flag("ca", ca)
            .secret("token")
            .load::<SettingsFile>()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let from =
            |key: &str| loaded.settings.iter().find(|one| one.key == key).map(|one| one.source.clone());
        let SettingsFile { server, token, ca } = loaded.value;
        let credential = match token.as_deref().map(str::trim).filter(|token| !token.is_empty()) {
            Some(text) => {
                let source = from("token").unwrap_or_default();
                let credential = Credential::parse(text, &source)?;
                if let Some(file) = file.as_deref().filter(|_| source.starts_with("file ")) {
                    credential.check_kept_secret(file)?;
                }
                Some(credential)
            }
            None => None,
        };
        let habit = Habit {
            stored: file.as_deref().map(stored_servers).unwrap_or_default(),
            encrypts: ca.is_some() || credential.is_some(),
        };
        let url = |text| address::server_url(text, &habit);
        let servers: Vec<String> = parse_list(&server).map(url).collect::<Result<_, _>>()?;
        // An empty list is wrong usage, as an empty address is.
        let servers = if servers.is_empty() { vec![url(&server)?] } else { servers };
        let is_open = |server: &&String| server.starts_with("http://") && !address::is_here(server);
        if let (Some(Credential::Opaque(_)), Some(open)) = (&credential, servers.iter().find(is_open)) {
            let text = format!("server `{open}` is not encrypted, and no token is sent in plaintext");
            return Err(Failure::usage(text).hint(
                "write `https://`, with `--ca FILE` of the authority that certifies it; a scheduler without encryption \
                 asks for no token: unset YARD_TOKEN, or run `yard logout`",
            ));
        }
        Ok(Self { servers, credential, ca, user: user_name(), act_as: global.act_as.clone() })
    }

    /// What opens connections. The authority that a server shows is kept in `seen`.
    ///
    /// # Errors
    /// The file of authorities cannot be used, or an encrypted server cannot be checked by anything.
    pub fn connector(&self, seen: &SeenAuthority) -> Result<Connector, Failure> {
        let trust = match (&self.ca, &self.credential) {
            (Some(file), _) => Trust::none().authorities(file).map_err(|error| {
                Failure::usage(format!("ca: {error}"))
                    .hint("give a PEM file of the authorities that certify the server")
            })?,
            (None, Some(Credential::Token(token))) => Trust::none().pin(token.pin).remember(seen),
            (None, other) => {
                if let Some(server) = self.servers.iter().find(|server| server.starts_with("https://")) {
                    let why = if other.is_some() { ": the token is not one of Trainyard's" } else { "" };
                    let text = format!("server `{server}`: nothing says which server to trust{why}");
                    return Err(Failure::usage(text).hint(format!(
                        "log in with `yard login {server}`; for a server that another authority certifies, name its \
                         file with `--ca`"
                    )));
                }
                Trust::none()
            }
        };
        trust.connector().map_err(|error| Failure::usage(format!("ca: {error}")))
    }
}

/// The servers that the file itself names, whatever flags say.
fn stored_servers(file: &Path) -> Vec<String> {
    let stored = Sources::new("YARD").file(Some(file)).load::<SettingsFile>().ok();
    let text = stored.map(|stored| stored.value.server).unwrap_or_default();
    parse_list(&text).map(str::to_owned).collect()
}

/// The name behind this process's user id, or the id itself where there is none (in containers).
fn user_name() -> String {
    let id = nix::unistd::Uid::current();
    let known = nix::unistd::User::from_uid(id).ok().flatten().map(|user| user.name);
    known.unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use trainyard_access::Token;

    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cli.toml");
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        (dir, path)
    }

    fn token() -> String {
        Token::make("00112233445566778899aabbccddeeff".parse().unwrap()).unwrap().reveal()
    }

    #[test]
    fn a_flag_wins_over_the_file_over_the_default() {
        let (_dir, path) = write("server = 'lab:7433'\ntoken = 'from file'\n");
        let got = Settings::load_from(&Global::default(), Some(path.clone())).unwrap();
        assert_eq!(got.servers, ["https://lab:7433"]);
        assert!(matches!(got.credential, Some(Credential::Opaque(text)) if text == "from file"));
        let global = Global { server: Some("https://other:1, third:2".into()), ..Global::default() };
        let servers = Settings::load_from(&global, Some(path)).unwrap().servers;
        assert_eq!(servers, ["https://other:1", "https://third:2"]);
        assert_eq!(Settings::load_from(&Global::default(), None).unwrap().servers, [DEFAULT_SERVER]);
    }

    #[test]
    fn who_has_logged_in_stays_encrypted_and_loopback_stays_as_it_is() {
        let (_dir, path) = write(&format!("server = 'https://lab:7433'\ntoken = '{}'\n", token()));
        let servers = |server: &str| {
            let global = Global { server: Some(server.into()), ..Global::default() };
            Settings::load_from(&global, Some(path.clone())).unwrap().servers
        };
        assert_eq!(servers("lab:7433,other:1"), ["https://lab:7433", "https://other:1"]);
        assert_eq!(servers("localhost:7433,[::1]:1"), ["http://localhost:7433", "http://[::1]:1"]);
        let (_dir, path) = write(&format!("server = 'https://localhost:7433'\ntoken = '{}'\n", token()));
        let global = Global { server: Some("localhost:7433".into()), ..Global::default() };
        assert_eq!(Settings::load_from(&global, Some(path)).unwrap().servers, ["https://localhost:7433"]);
        let global = Global { token: Some(token()), ..Global::default() };
        assert_eq!(Settings::load_from(&global, None).unwrap().servers, [DEFAULT_SERVER]);
    }

    #[test]
    fn no_token_of_whatever_kind_goes_elsewhere_in_plaintext() {
        let servers = |server: &str| {
            let global =
                Global { server: Some(server.into()), token: Some("of a proxy".into()), ..Global::default() };
            Settings::load_from(&global, None).map(|settings| settings.servers)
        };
        assert_eq!(servers("lab").unwrap(), ["https://lab:7433"]);
        assert_eq!(servers("http://localhost:1").unwrap(), ["http://localhost:1"]);
        let failure = servers("https://a:1,http://lab:1").unwrap_err();
        assert!(failure.message.contains("server `http://lab:1` is not encrypted"), "{failure:?}");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let (_dir, path) = write("sever = 'lab:7433'\n");
        let failure = Settings::load_from(&Global::default(), Some(path)).err().unwrap();
        assert!(failure.message.contains("did you mean `server`?"), "{failure:?}");
        assert_eq!(failure.exit.code(), 2);
    }

    #[test]
    fn a_token_that_others_can_read_or_that_is_damaged_is_refused_and_not_shown() {
        let token = token();
        let (_dir, path) = write(&format!("token = '{token}'\n"));
        set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let failure = Settings::load_from(&Global::default(), Some(path.clone())).err().unwrap();
        assert_eq!(failure.hint.as_deref(), Some(&*format!("`chmod 600 {}`", path.display())));
        let damaged = Global { token: Some(token[..token.len() - 2].into()), ..Global::default() };
        let failure = Settings::load_from(&damaged, None).err().unwrap();
        assert!(failure.message.contains("`--token` or YARD_TOKEN"), "{failure:?}");
        assert!(failure.message.contains("its part SECRET is damaged"), "{failure:?}");
        assert!(!format!("{failure:?}").contains(token.rsplit('.').next().unwrap().split_at(60).0));
    }

    #[test]
    fn an_encrypted_server_that_nothing_can_check_is_refused_before_a_call() {
        for token in [None, Some("opaque".to_owned())] {
            let global = Global { server: Some("https://lab:7433".into()), token, ..Global::default() };
            let settings = Settings::load_from(&global, None).unwrap();
            let failure = settings.connector(&SeenAuthority::default()).err().unwrap();
            assert!(failure.message.contains("nothing says which server to trust"), "{failure:?}");
            assert!(failure.hint.unwrap().contains("`yard login https://lab:7433`"));
        }
    }
}
