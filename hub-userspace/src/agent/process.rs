//! Settings of the agent's own process.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

/// Protects secrets in memory from core dumps and debuggers, and raises the limit of open files to the host's
/// maximum: each attachment, tunnel and client takes one.
///
/// A failure is logged as a warning: the agent works without these settings.
pub fn prepare() {
    // Only root may inspect the process (prctl(2), ptrace(2)), and a crash writes no core dump.
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
