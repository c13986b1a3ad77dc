//! `yard` as a user and a script see it. One program, since each would link everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod artifacts;
mod closed_pipes;
mod commands;
mod data;
mod fake;
mod leader;
mod notify;
mod queue;
mod reference;
mod terminal;
mod up;
mod watch;
