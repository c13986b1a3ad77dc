//! Which server to talk to and as whom: flags and environment first, then `cli.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trainyard_config::Sources;
use trainyard_proto::route::parse_list;

use crate::args::Global;
use crate::failure::Failure;

/// Where a server is expected when nobody says.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7433";

/// What `~/.config/trainyard/cli.toml` may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    server: String,
    token: Option<String>,
}

impl Default for SettingsFile {
    fn default() -> Self {
        Self { server: DEFAULT_SERVER.to_owned(), token: None }
    }
}

/// A server and how to be known there. `Debug` is left out: it would print the token.
#[derive(Clone)]
pub struct Settings {
    /// URLs, with their scheme; at least one.
    pub servers: Vec<String>,
    /// The bearer token that is sent with every call.
    pub token: Option<String>,
    /// Name of the user at this machine.
    pub user: String,
}

impl Settings {
    /// Puts flags, environment (which clap has read) and the file together.
    ///
    /// # Errors
    /// A file with an unknown key or a wrong value, a server that is no URL.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        Self::load_from(global, config_path())
    }

    fn load_from(global: &Global, file: Option<PathBuf>) -> Result<Self, Failure> {
        let file = file.filter(|path| path.exists());
        let loaded = Sources::new("YARD")
            .file(file.as_deref())
            .flag("server", global.server.clone())
            .flag("token", global.token.clone())
            .secret("token")
            .load::<SettingsFile>()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let SettingsFile { server, token } = loaded.value;
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let servers: Vec<String> = parse_list(&server).map(server_url).collect::<Result<_, _>>()?;
        // An empty list is wrong usage, as an empty address is.
        let servers = if servers.is_empty() { vec![server_url(&server)?] } else { servers };
        Ok(Self { servers, token, user: user_name() })
    }
}

/// `host:7433` means `http://host:7433`.
fn server_url(text: &str) -> Result<String, Failure> {
    let text = text.trim().trim_end_matches('/');
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    if url.starts_with("https://") {
        return Err(Failure::usage(format!("server `{text}`: TLS is not supported yet"))
            .hint("use a http:// address, through a tunnel if the network is not yours"));
    }
    let parsed = url.parse::<tonic::transport::Uri>().ok();
    let usable = |uri: &tonic::transport::Uri| {
        uri.scheme_str() == Some("http") && uri.authority().is_some_and(|host| !host.as_str().ends_with(':'))
    };
    if !parsed.as_ref().is_some_and(usable) {
        return Err(Failure::usage(format!("server `{text}` is not an address"))
            .hint(format!("write host and port, such as {DEFAULT_SERVER}")));
    }
    Ok(url)
}

fn config_path() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(folder.join("trainyard").join("cli.toml"))
}

/// The name behind this process's user id, or the id itself where there is none (in containers).
fn user_name() -> String {
    let id = nix::unistd::Uid::current();
    let known = nix::unistd::User::from_uid(id).ok().flatten().map(|user| user.name);
    known.unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cli.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_flag_wins_over_the_file_over_the_default() {
        let (_dir, path) = write("server = 'lab:7433'\ntoken = 'from file'\n");
        let got = Settings::load_from(&Global::default(), Some(path.clone())).unwrap();
        assert_eq!((got.servers, got.token.as_deref()), (vec!["http://lab:7433".into()], Some("from file")));
        let global = Global { server: Some("http://other:1, third:2".into()), ..Global::default() };
        let servers = Settings::load_from(&global, Some(path)).unwrap().servers;
        assert_eq!(servers, ["http://other:1", "http://third:2"]);
        assert_eq!(Settings::load_from(&Global::default(), None).unwrap().servers, [DEFAULT_SERVER]);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let (_dir, path) = write("sever = 'lab:7433'\n");
        let failure = Settings::load_from(&Global::default(), Some(path)).err().unwrap();
        assert!(failure.message.contains("did you mean `server`?"), "{failure:?}");
        assert_eq!(failure.exit.code(), 2);
    }

    #[test]
    fn what_is_no_address_is_wrong_usage() {
        for wrong in ["", "ftp://x", "https://x:1", "http://", "a b"] {
            assert_eq!(server_url(wrong).unwrap_err().exit.code(), 2, "{wrong}");
        }
        assert_eq!(server_url("localhost:7433/").unwrap(), "http://localhost:7433");
    }
}
