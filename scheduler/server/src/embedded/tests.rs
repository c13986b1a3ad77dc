//! A private Redis: how it is started, found broken and stopped.

use super::*;

fn redis_server() -> &'static Path {
    Path::new("redis-server")
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_server_serves_until_it_is_dropped() {
    let dir = dir();
    let redis = EmbeddedRedis::start(redis_server(), dir.path()).unwrap();
    let socket = dir.path().join("redis.sock");
    assert!(answers(&socket));
    drop(redis);
    assert!(!answers(&socket));
}

#[test]
fn a_killed_server_is_started_again_with_what_it_had() {
    let dir = dir();
    let redis = EmbeddedRedis::start(redis_server(), dir.path()).unwrap();
    let socket = dir.path().join("redis.sock");
    assert_eq!(talk(&socket, "SET key value\r\n").unwrap(), b"+OK\r\n");
    let first = redis.pid();
    signal::kill(Pid::from_raw(first.try_into().unwrap()), Signal::SIGKILL).unwrap();
    while redis.pid() == first || redis.pid() == 0 {
        thread::yield_now();
    }
    assert_eq!(talk(&socket, "GET key\r\n").unwrap(), b"$5\r\nvalue\r\n");
}

#[test]
fn a_server_that_was_left_behind_is_ended_first() {
    let dir = dir();
    let server = Server { program: redis_server().into(), dir: dir.path().into() };
    let (_stop, stopped) = mpsc::channel();
    let mut leftover = server.spawn(&stopped).unwrap().unwrap();
    let redis = EmbeddedRedis::start(redis_server(), dir.path()).unwrap();
    assert!(leftover.wait().is_ok());
    assert!(redis.pid() != leftover.id() && answers(&dir.path().join("redis.sock")));
}

#[test]
fn a_stale_socket_is_no_obstacle() {
    let dir = dir();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("redis.sock")).unwrap());
    assert!(EmbeddedRedis::start(redis_server(), dir.path()).is_ok());
}

#[test]
fn a_missing_program_is_named_with_the_ways_out() {
    let error = EmbeddedRedis::start(Path::new("/nowhere/redis-server"), dir().path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/nowhere/redis-server") && text.contains("redis_url"), "{text}");
}

#[test]
fn a_program_that_ends_at_once_is_reported() {
    let error = EmbeddedRedis::start(Path::new("/bin/false"), dir().path()).unwrap_err();
    assert!(matches!(error, EmbeddedError::Ended { .. }), "{error}");
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let dir = dir().path().join("d".repeat(120));
    let error = EmbeddedRedis::start(redis_server(), &dir).unwrap_err();
    assert!(matches!(error, EmbeddedError::PathTooLong { .. }), "{error}");
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    let dir = dir();
    assert_eq!(full(dir.path(), LEAST_FREE), None);
    let problem = full(dir.path(), 8 << 10).unwrap();
    assert!(problem.contains(&format!("the disk of `{}` is full (8 KiB", dir.path().display())), "{problem}");
}
