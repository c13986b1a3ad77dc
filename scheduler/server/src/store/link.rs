//! One connection to the Redis server that is the master now, made again after every error.
//!
//! Nothing is tried twice here: the caller decides how to wait, and others learn quickly that it failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, FromRedisValue, RedisError, RedisResult};
use redis::{Client, Pipeline, ScriptInvocation};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long one call may take; a busy server needs more than the client's own half second.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// For asking a sentinel and then connecting; the first sentinels of the list may be away.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(6);
const SENTINEL_SCHEME: &str = "redis+sentinel://";
const SENTINEL_PORT: u16 = 26379;

/// Where the server is.
#[derive(Clone)]
pub enum Source {
    /// One server, always at that address.
    Server(Client),
    /// The server that the sentinels name.
    Sentinel(Arc<Mutex<SentinelClient>>),
}

impl Source {
    /// `redis://…`, `unix://…`, or
    /// `redis+sentinel://[user:password@]host[:port],host[:port]…/MASTER[/db]`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(url: &str) -> RedisResult<Self> {
        match url.strip_prefix(SENTINEL_SCHEME) {
            Some(rest) => parse_sentinels(rest).map(|client| Self::Sentinel(Arc::new(Mutex::new(client)))),
            None => Client::open(url).map(Self::Server),
        }
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

fn parse_sentinels(rest: &str) -> RedisResult<SentinelClient> {
    let shape = "a sentinel URL is redis+sentinel://[user:password@]host[:port],host[:port]/MASTER[/db]";
    let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
    let mut parts = rest.split('/');
    let (hosts, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() { Ok(SENTINEL_PORT) } else { port.parse() };
        let port = port.ok().filter(|_| !host.is_empty()).ok_or_else(|| wrong(shape))?;
        Ok(ConnectionAddr::Tcp(host.to_owned(), port))
    };
    let addresses: Vec<ConnectionAddr> = hosts.split(',').map(address).collect::<RedisResult<_>>()?;
    if name.is_empty() {
        return Err(wrong(shape));
    }
    let mut builder = SentinelClientBuilder::new(addresses, name, SentinelServerType::Master)?;
    if let Some(db) = parts.next().filter(|db| !db.is_empty()) {
        builder = builder.set_client_to_redis_db(db.parse().map_err(|_| wrong(shape))?);
    }
    if let Some((user, password)) = login.map(|login| login.split_once(':').unwrap_or(("", login))) {
        builder = builder.set_client_to_redis_password(password);
        if !user.is_empty() {
            builder = builder.set_client_to_redis_username(user);
        }
    }
    builder.build()
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
        ] {
            assert!(matches!(Source::parse(good), Ok(Source::Sentinel(_))), "{good}");
        }
        for bad in [
            "redis+sentinel://",
            "redis+sentinel://a:1",
            "redis+sentinel://a:x/m",
            "redis+sentinel://a,/m",
            "redis+sentinel://a/m/x",
        ] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }
}
