//! Threads of their own, for tasks that must not be delayed by others, or must not delay them.

use std::{io, sync::Arc};

use tokio::runtime::{Builder, Handle, Runtime};

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
