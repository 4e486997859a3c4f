//! Threads of their own, for tasks that must not be delayed by others, or must not delay them.

use std::{io, sync::Arc};

use rustix::process::{getpriority_process, setpriority_process};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

/// Niceness (setpriority(2)) of the agent's threads, except for [`spawn_blocking`]. A link that goes down is handled
/// before the work of other processes, such as an IKE daemon that brings up all tunnels.
const URGENT: i32 = -15;

/// Raises the priority of the calling thread, and of the threads that it starts from then on, unless somebody has set one.
///
/// # Errors
/// Without `CAP_SYS_NICE`.
pub fn be_urgent() -> io::Result<()> {
    if getpriority_process(None)? == 0 {
        setpriority_process(None, URGENT)?;
    }
    Ok(())
}

/// Runs a job that takes long, on a thread of its own with the priority of other processes.
#[expect(clippy::disallowed_methods, reason = "the one call of it")]
pub fn spawn_blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(|| {
        // The thread may run another job later: one of these, too. A priority below normal is the operator's.
        if getpriority_process(None).is_ok_and(|niceness| niceness < 0) {
            // Anybody may lower it.
            _ = setpriority_process(None, 0);
        }
        job()
    })
}

/// One thread with a runtime. It ends when the last copy is dropped; its tasks then end where they wait.
#[derive(Clone)]
pub struct Background(Arc<OwnRuntime>);

struct OwnRuntime(Option<Runtime>);

impl Background {
    /// In the network namespace, and with the capabilities, of the calling thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(name: &'static str) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
        Ok(Self(Arc::new(OwnRuntime(Some(runtime)))))
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0.0 {
            runtime.spawn(task);
        }
    }

    /// The runtime in which its tasks run.
    pub fn handle(&self) -> Option<Handle> {
        self.0.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // A runtime that is dropped within another one would panic: it waits.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// On a thread of its own, which a priority cannot outlive.
    #[test]
    fn jobs_run_at_normal_priority() {
        let niceness = || getpriority_process(None).expect("the thread's own");
        let both = std::thread::spawn(move || {
            be_urgent().expect("tests run as root");
            let runtime = Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
            let of_worker = runtime.block_on(runtime.spawn(async move { niceness() })).expect("it does not panic");
            let of_job = runtime.block_on(async { spawn_blocking(niceness).await }).expect("it does not panic");
            (of_worker, of_job)
        });
        assert_eq!(both.join().expect("it does not panic"), (URGENT, 0));
    }

    /// The thread of the test's runtime never returns to it.
    #[tokio::test]
    async fn task_runs_while_the_callers_runtime_is_busy() {
        let background = Background::start("background").expect("a thread");
        let (sender, received) = mpsc::channel();
        background.spawn(async move { sender.send(7).expect("the test waits") });
        assert_eq!(received.recv(), Ok(7));
        // Not within another runtime's panic.
        drop(background);
    }

    #[tokio::test]
    async fn tasks_end_with_the_last_copy() {
        let background = Background::start("background").expect("a thread");
        let (sender, received) = mpsc::channel::<()>();
        background.spawn(async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(background.clone());
        drop(background);
        assert!(received.recv().is_err(), "the task is gone, and its end of the channel");
    }
}
