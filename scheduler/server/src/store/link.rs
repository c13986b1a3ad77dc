//! One connection to the Redis server that is the master now, made again after every error.
//!
//! Nothing is tried twice here: the caller decides how to wait, and others learn quickly that it failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    RedisError, RedisResult, ScriptInvocation, TlsCertificates, TlsMode,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long one call may take; a busy server needs more than the client's own half second.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// For asking a sentinel and then connecting; the first sentinels of the list may be away.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(6);
const SENTINEL_SCHEMES: [(&str, Option<TlsMode>); 2] =
    [("redis+sentinel://", None), ("rediss+sentinel://", Some(TlsMode::Secure))];
const SENTINEL_PORT: u16 = 26379;

/// Where the server is.
#[derive(Clone)]
pub enum Source {
    /// One server, always at that address.
    Server(Arc<Client>),
    /// The server that the sentinels name.
    Sentinel(Arc<Mutex<SentinelClient>>),
}

/// A server's URL, and what does not belong into one. `Debug` is left out: it would print the password.
#[derive(Clone, Default)]
pub struct RedisAddress {
    /// `redis[s]://[user[:password]@]host[:port]/[db]`, `unix:///path`, or
    /// `redis[s]+sentinel://[user[:password]@]host[:port],…/MASTER[/db]`; with the `s` connections are encrypted.
    pub url: String,
    /// Takes the place of the URL's password.
    pub password: Option<String>,
    /// Authorities that certify the server, PEM; the system's where there are none.
    pub authorities: Option<Vec<u8>>,
}

impl Source {
    /// The server of an address.
    ///
    /// # Errors
    /// The URL is none of [`RedisAddress::url`], or the authorities are no PEM.
    pub fn parse(address: &RedisAddress) -> RedisResult<Self> {
        let certificates = TlsCertificates { client_tls: None, root_cert: address.authorities.clone() };
        for (scheme, mode) in SENTINEL_SCHEMES {
            if let Some(rest) = address.url.strip_prefix(scheme) {
                let mut builder = parse_sentinels(rest, mode)?;
                if let Some(password) = &address.password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if mode.is_some() {
                    let sentinels = certificates.clone();
                    builder = builder.set_client_to_redis_certificates(certificates);
                    builder = builder.set_client_to_sentinel_certificates(sentinels);
                }
                return Ok(Self::Sentinel(Arc::new(Mutex::new(builder.build()?))));
            }
        }
        let mut server = address.url.as_str().into_connection_info()?;
        if let Some(password) = &address.password {
            let settings = server.redis_settings().clone().set_password(password);
            server = server.set_redis_settings(settings);
        }
        let client = match server.addr() {
            ConnectionAddr::TcpTls { .. } => Client::build_with_tls(server, certificates),
            _ => Client::open(server),
        };
        client.map(|client| Self::Server(Arc::new(client)))
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT));
        match self {
            Self::Server(client) => client.get_multiplexed_async_connection_with_config(&config).await,
            Self::Sentinel(client) => {
                let ask = async { client.lock().await.get_async_connection_with_config(&config).await };
                timeout(SENTINEL_TIMEOUT, ask).await.unwrap_or_else(|_| Err(wrong("no sentinel answers")))
            }
        }
    }
}

fn wrong(text: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::InvalidClientConfig, text))
}

fn parse_sentinels(rest: &str, mode: Option<TlsMode>) -> RedisResult<SentinelClientBuilder> {
    let shape = "a sentinel URL is redis[s]+sentinel://[user[:password]@]host[:port],host[:port]/MASTER[/db]";
    let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
    let mut parts = rest.split('/');
    let (hosts, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() { Ok(SENTINEL_PORT) } else { port.parse() };
        let port = port.ok().filter(|_| !host.is_empty()).ok_or_else(|| wrong(shape))?;
        let host = host.to_owned();
        Ok(match mode {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        })
    };
    let addresses: Vec<ConnectionAddr> = hosts.split(',').map(address).collect::<RedisResult<_>>()?;
    if name.is_empty() {
        return Err(wrong(shape));
    }
    let mut builder = SentinelClientBuilder::new(addresses, name, SentinelServerType::Master)?;
    if let Some(mode) = mode {
        builder = builder.set_client_to_redis_tls_mode(mode);
    }
    if let Some(db) = parts.next().filter(|db| !db.is_empty()) {
        builder = builder.set_client_to_redis_db(db.parse().map_err(|_| wrong(shape))?);
    }
    if let Some((user, password)) = login.map(|login| login.split_once(':').unwrap_or(("", login))) {
        builder = builder.set_client_to_redis_password(password);
        if !user.is_empty() {
            builder = builder.set_client_to_redis_username(user);
        }
    }
    Ok(builder)
}

/// The connection, shared by all clones.
#[derive(Clone)]
pub struct Link {
    source: Source,
    current: Arc<Mutex<Current>>,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a late error does not drop a newer one.
    generation: u64,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Link")
    }
}

impl Link {
    /// Connects when it is first used.
    pub fn new(source: Source) -> Self {
        Self { source, current: Arc::default() }
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((connection.clone(), current.generation));
        }
        let connection = self.source.connect().await?;
        current.generation += 1;
        current.connection = Some(connection.clone());
        Ok((connection, current.generation))
    }

    /// After an error the connection is made anew: a former master answers too, and refuses writes.
    async fn settle<T>(&self, generation: u64, result: RedisResult<T>) -> RedisResult<T> {
        if result.is_err() {
            let mut current = self.current.lock().await;
            if current.generation == generation {
                current.connection = None;
            }
        }
        result
    }

    /// Runs a command.
    ///
    /// # Errors
    /// The server is away or refuses.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let (mut connection, generation) = self.connection().await?;
        let result = command.query_async(&mut connection).await;
        self.settle(generation, result).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// The server is away or refuses.
    pub async fn invoke<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> RedisResult<T> {
        let (mut connection, generation) = self.connection().await?;
        let result = call.invoke_async(&mut connection).await;
        self.settle(generation, result).await
    }

    /// Runs several commands on one and the same connection.
    ///
    /// # Errors
    /// The server is away or refuses.
    pub async fn pipe<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let (mut connection, generation) = self.connection().await?;
        let result = commands.query_async(&mut connection).await;
        self.settle(generation, result).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_url_names_its_sentinels_and_the_master() {
        for good in [
            "redis+sentinel://a:26379,b:26380/mymaster",
            "redis+sentinel://a/mymaster",
            "redis+sentinel://ada:secret@a,b/mymaster/2",
            "redis+sentinel://secret@a/mymaster/",
            "rediss+sentinel://ada@a/mymaster",
        ] {
            let address = RedisAddress { url: good.into(), ..RedisAddress::default() };
            assert!(matches!(Source::parse(&address), Ok(Source::Sentinel(_))), "{good}");
        }
        for bad in [
            "redis+sentinel://",
            "redis+sentinel://a:1",
            "redis+sentinel://a:x/m",
            "redis+sentinel://a,/m",
            "redis+sentinel://a/m/x",
        ] {
            let address = RedisAddress { url: bad.into(), ..RedisAddress::default() };
            assert!(Source::parse(&address).is_err(), "{bad}");
        }
    }
}
