//! What each event changes. One file for those who cause it, or for one concern that several events share.

mod attempt_end;
mod duplicates;
mod fitness;
mod handing_in;
mod learn;
mod offers;
mod operator;
mod placement;
mod quick_ends;
mod report;
mod retention;
mod session;
mod submit;
mod timers;
