// TEMPORARY until the netlink branch is merged.
mod query;
mod state;
pub use state::{HostState, Link};
