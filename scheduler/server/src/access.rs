//! Who may use the cluster: tokens of people, certificates of agents, what each may do, and who did what.
//!
//! Must not know: jobs, placement. A service asks a [`Caller`] whether it may change what belongs to somebody.

mod audit;
mod audited_body;
mod bootstrap;
mod caller;
mod denials;
mod exposed_token;
mod gate;
mod guarded_body;
mod local_name;
mod permissions;
mod refusals;
mod registry;
mod throttle;
mod web_page;

pub use audit::{Audit, LateTarget, Target};
pub use bootstrap::{BootstrapError, HeldBy, first_login, make_token};
pub use caller::{Caller, NotOwner};
pub use gate::{Admission, Gate, admit};
pub use permissions::{METHODS, Needs, PAGES};
pub use registry::Registry;
