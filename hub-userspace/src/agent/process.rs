//! What the agent sets for its own process.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

/// Keeps secrets in memory from core dumps and debuggers, and makes room for as many open files as the host allows: an
/// attachment, a tunnel and a client take one each.
///
/// A host that refuses any of it is warned of: the agent works all the same.
pub fn prepare() {
    // Nobody but root may look into the process (prctl(2), ptrace(2)); a crash leaves no image of it.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!("a crash may leave secrets in a core dump: {error}");
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!("core dumps cannot be switched off: {error}");
    }
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }) {
        warn!("the limit of open files cannot be raised to {:?}: {error}", files.maximum);
    }
}
