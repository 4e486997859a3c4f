//! Settings of the agent's own process.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getpriority_process, getrlimit, set_dumpable_behavior, setrlimit,
};
use tracing::warn;

/// Has freed memory returned to the kernel. Call it before the first thread starts.
///
/// A listing of thousands of SAs and an answer about as many connections need much memory for a moment. By default each
/// thread has an arena of its own, which keeps what it once needed, and large blocks join an arena, too: with 1,000
/// tunnels 102 MiB instead of 80.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_TRIM_THRESHOLD, 1 << 20)]
    {
        // SAFETY: the allocator may be configured at any time. A refusal changes nothing.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Protects secrets in memory from core dumps and debuggers, and raises the limit of open files to the host's
/// maximum: each attachment, tunnel and client takes one. Warns without a raised priority.
///
/// A failure is logged as a warning: the agent works without these settings.
pub fn prepare() {
    // Only root may inspect the process (prctl(2), ptrace(2)), and a crash writes no core dump.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(name: "core_dump_risk", "a crash may leave secrets in a core dump: {error}");
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(name: "core_dump_risk", "core dumps cannot be switched off: {error}");
    }
    if getpriority_process(None).is_ok_and(|niceness| niceness >= 0) {
        warn!(
            name: "normal_priority",
            "the agent has no more than normal priority: while other processes use all CPUs, it handles a failed link \
             late (the unit has Nice=-15; otherwise CAP_SYS_NICE is needed)"
        );
    }
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }) {
        warn!(name: "open_files_limit", "the limit of open files cannot be raised to {:?}: {error}", files.maximum);
    }
}
