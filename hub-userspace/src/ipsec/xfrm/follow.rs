//! Follows the kernel's policies and SAs. Events only signal a change, after which everything is read again. So lost
//! events cannot cause a lasting difference.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_XFRM};
use rustix::io::Errno;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;

use super::{
    table::{XfrmLists, XfrmTable},
    wire::{Dump, XfrmMessage, answers},
};

/// `XFRMNLGRP_EXPIRE`, `XFRMNLGRP_SA`, `XFRMNLGRP_POLICY` (linux/xfrm.h).
const GROUPS: [u32; 3] = [2, 3, 4];
/// Interval of reading everything, for the counters.
const LOOK: Duration = Duration::from_secs(10);
/// More events follow the first: a child SA is two SAs and three policies.
const SETTLE: Duration = Duration::from_millis(5);
/// Delay after a failure.
const RETRY: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts for a listing that changed while it was read.
const ATTEMPTS: usize = 5;
/// The kernel fills its answers up to this size.
const LONGEST_ANSWER: usize = 32 << 10;

/// The last result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// `None`: not read yet.
    pub table: Option<Arc<XfrmTable>>,
    /// Why the table is outdated.
    pub problem: Option<String>,
}

/// The task; it ends when this is dropped.
pub struct PolicyFollower {
    desired: watch::Sender<bool>,
    views: watch::Receiver<Arc<Policies>>,
    task: JoinHandle<()>,
}

impl Drop for PolicyFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PolicyFollower {
    /// Starts in the network namespace of the calling thread. Reads nothing before [`want`](Self::want) enables it.
    pub fn start() -> Self {
        let (desired, wants) = watch::channel(false);
        let (publisher, views) = watch::channel(Arc::default());
        Self { desired, views, task: tokio::spawn(run(wants, publisher)) }
    }

    /// Enables or disables reading.
    pub fn want(&self, desired: bool) {
        self.desired.send_if_modified(|known| std::mem::replace(known, desired) != desired);
    }

    pub fn view(&self) -> Arc<Policies> {
        Arc::clone(&self.views.borrow())
    }

    /// Returns when the result has changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn run(mut wants: watch::Receiver<bool>, publisher: watch::Sender<Arc<Policies>>) {
    loop {
        if wants.wait_for(|desired| *desired).await.is_err() {
            return;
        }
        let error = tokio::select! {
            error = follow(&publisher) => error,
            _ = wants.wait_for(|desired| !*desired) => {
                publisher.send_replace(Arc::default());
                continue;
            }
        };
        let problem = problem(&error);
        if publisher.borrow().problem.as_ref() != Some(&problem) {
            warn!(name: "ipsec_policies_unreadable", "{problem}; trying again");
        }
        let table = publisher.borrow().table.clone();
        publish(&publisher, Policies { table, problem: Some(problem) });
        sleep(RETRY).await;
    }
}

fn problem(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PROTONOSUPPORT) => "this kernel does not report its IPsec policies (CONFIG_XFRM_USER)".to_owned(),
        Some(Errno::PERM | Errno::ACCESS) => {
            "the kernel's IPsec policies cannot be read: needs CAP_NET_ADMIN, run as root".to_owned()
        }
        _ => format!("the kernel's IPsec policies cannot be read: {error}"),
    }
}

/// Runs until an error.
async fn follow(publisher: &watch::Sender<Arc<Policies>>) -> io::Error {
    let followed = async {
        // First, so that no later event is missed.
        let mut events = socket(&GROUPS)?;
        let mut requests = XfrmRequests { socket: socket(&[])?, sequence: 0 };
        loop {
            let table = requests.table().await?;
            publish(publisher, Policies { table: Some(Arc::new(table)), problem: None });
            if let Ok(came) = timeout(LOOK, event(&mut events)).await {
                came?;
                sleep(SETTLE).await;
                while let Ok(another) = timeout(Duration::ZERO, event(&mut events)).await {
                    another?;
                }
            }
        }
    };
    let ended: Result<std::convert::Infallible, io::Error> = followed.await;
    match ended {
        Err(error) => error,
    }
}

fn publish(publisher: &watch::Sender<Arc<Policies>>, view: Policies) {
    publisher.send_if_modified(|published| {
        let differs = **published != view;
        if differs {
            *published = Arc::new(view);
        }
        differs
    });
}

fn socket(groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_XFRM)?;
    socket.socket_mut().bind_auto()?;
    groups.iter().try_for_each(|group| socket.socket_mut().add_membership(*group))?;
    Ok(socket)
}

/// Waits for any event. Lost events (`ENOBUFS`) count as one, too.
async fn event(socket: &mut TokioSocket) -> io::Result<()> {
    match receive(socket).await {
        Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(()),
        received => received.map(drop),
    }
}

async fn receive(socket: &mut TokioSocket) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LONGEST_ANSWER);
    loop {
        bytes.clear();
        let from = poll_fn(|context| socket.poll_recv_from(context, &mut bytes)).await?;
        // Other processes may send to this port.
        if from.port_number() == 0 {
            return Ok(bytes);
        }
    }
}

struct XfrmRequests {
    socket: TokioSocket,
    sequence: u32,
}

impl XfrmRequests {
    async fn table(&mut self) -> io::Result<XfrmTable> {
        let mut lists = XfrmLists::default();
        for _ in 0..ATTEMPTS {
            lists = XfrmLists::default();
            // SAs last, so that the SA of each policy already read is included.
            let policies = self.list(Dump::Policies, &mut lists).await?;
            if self.list(Dump::Sas, &mut lists).await? && policies {
                break;
            }
        }
        Ok(lists.into())
    }

    /// Returns whether the listing is complete.
    async fn list(&mut self, dump: Dump, lists: &mut XfrmLists) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let (request, kernel) = (dump.request(self.sequence), SocketAddr::new(0, 0));
        poll_fn(|context| self.socket.poll_send_to(context, &request, &kernel)).await?;
        let mut whole = true;
        loop {
            let received = timeout(ANSWER_TIMEOUT, receive(&mut self.socket)).await;
            let datagram = received.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            for (answer, interrupted) in answers(&datagram, self.sequence) {
                whole &= !interrupted;
                match answer {
                    XfrmMessage::Policy(policy) => lists.policies.push(policy),
                    XfrmMessage::Sa(sa) => lists.sas.push(sa),
                    // The kernel has no policies at all (net/xfrm/xfrm_user.c).
                    XfrmMessage::Error(errno) if errno != Errno::NOENT.raw_os_error() => {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    XfrmMessage::Done | XfrmMessage::Error(_) => return Ok(whole),
                    XfrmMessage::Own(_) | XfrmMessage::Other => {}
                }
            }
        }
    }
}
