//! What each event changes. One file for those who cause it, or for one concern that several events share.
//!
//! Handlers extend [`crate::Core`] and see all of its parts, since the end of one attempt concerns most of them; what
//! belongs to one part alone is a method of that part.

mod attempt_end;
mod fetching;
mod fitness;
mod hand_in;
mod operator;
mod placement;
mod prefetch;
mod quick_ends;
mod report;
mod retention;
mod session;
mod submit;
mod throughput;
mod timers;
