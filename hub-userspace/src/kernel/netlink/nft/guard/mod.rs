//! Reconciles the kernel's table with the ruleset.

mod counters;
mod present;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use hub_common::Mark;
use rustix::io::Errno;
use tracing::debug;

use self::{
    counters::{COUNTER_BYTES, COUNTER_PACKETS, OBJECT_DATA, read_counter, read_strangers},
    present::{COUNTER_TYPE, OBJECT_NAME, OBJECT_TYPE, Present, PresentElements, SET_NAME, are_alike},
};
use super::{
    Counter, GuardCounters, GuardError, Ruleset, TABLE,
    chains::{CHAINS, Frame, counter},
    output::{self, Output},
    requests::NftRequests,
    rules::rules,
    sets::{self, Element, Elements, SELECTORS, SETS, STRANGERS, Set},
    table::{NftTable, Ownership},
    watch::Watch,
    wire::{Messages, NLM_F_CREATE, NftMessage},
};

use crate::background::spawn_blocking;

type Result<T> = std::result::Result<T, GuardError>;

/// Attempts to write a whole table: another process may change it between our read and our write.
const ATTEMPTS: usize = 4;

/// Maintains the table `inet vpnhub` of the network namespace in which it was opened. Dropping the guard leaves the
/// table.
///
/// On Linux 6.9 and later, the guard's socket owns the table from the first [`apply`](Self::apply) on: no other socket
/// can change or remove it. [`Self::is_owner`] reports this.
///
/// All futures may be dropped. An operation already started still runs to its end, and the next one waits for it.
pub struct Guard {
    requests: Arc<Mutex<NftRequests>>,
    watch: Watch,
    ownership: Ownership,
    /// The contents last applied; `None` if uncertain.
    applied: Option<Arc<TableContents>>,
}

/// A ruleset as the kernel's rules and set elements.
#[derive(Debug, PartialEq, Eq)]
struct TableContents {
    frame: Frame,
    elements: Elements,
    output: Output,
}

impl Guard {
    /// Opens the sockets, in the network namespace of the calling thread; changes nothing. Needs `CAP_NET_ADMIN`.
    #[expect(clippy::unused_async, reason = "part of the interface: its caller is in a runtime, as the sockets need")]
    pub async fn open() -> Result<Self> {
        let mut requests = NftRequests::open()?;
        let ownership = requests.ownership()?;
        Self::new(requests, ownership)
    }

    /// As on a kernel before 6.9: the table has no owner.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[expect(clippy::unused_async, reason = "as open")]
    pub async fn open_plain() -> Result<Self> {
        Self::new(NftRequests::open()?, Ownership::Plain)
    }

    /// Opens with the socket of an earlier [`Guard`] that was kept open ([`Self::with_socket`]), so that the table
    /// always has an owner. `None` if the socket belongs to another network namespace.
    ///
    /// # Errors
    /// As [`Self::open`], or when the descriptor is no nfnetlink socket.
    #[expect(clippy::unused_async, reason = "as open")]
    pub async fn resume(socket: OwnedFd) -> Result<Option<Self>> {
        let Some(mut requests) = NftRequests::resume(socket)? else {
            return Ok(None);
        };
        let ownership = requests.ownership()?;
        Self::new(requests, ownership).map(Some)
    }

    /// Lends the socket that owns the table. Waits for running operations.
    pub fn with_socket(&self, show: impl FnOnce(BorrowedFd<'_>)) {
        show(self.requests.lock().unwrap_or_else(PoisonError::into_inner).socket());
    }

    fn new(requests: NftRequests, ownership: Ownership) -> Result<Self> {
        let watch = Watch::open(requests.port()).map_err(GuardError::no_socket)?;
        Ok(Self { requests: Arc::new(Mutex::new(requests)), watch, ownership, applied: None })
    }

    /// Whether this guard owns the table once it is applied, so that no other socket can change it.
    pub fn is_owner(&self) -> bool {
        self.ownership == Ownership::Owned
    }

    /// Replaces the current table by this ruleset in one atomic transaction.
    ///
    /// If the table is as last applied and only sets differ, only their elements are changed. Otherwise all rules are
    /// replaced, and set elements are updated to match. Counters and dynamic elements survive, if their definitions are
    /// unchanged. A table that cannot get the right owner is replaced, with a copy of both. No packet meets a chain
    /// without its rules, unless another process has removed or moved our chains.
    pub async fn apply(&mut self, ruleset: &Ruleset) -> Result<()> {
        let contents = Arc::new(TableContents::new(ruleset)?);
        if self.disturbed_so_far()? {
            debug!("the table inet {TABLE} was changed by another process; all of it is written");
            self.applied = None;
        }
        let applied = self.applied.take();
        if applied.as_ref() == Some(&contents) {
            self.applied = applied;
            return Ok(());
        }
        let (desired, ownership) = (Arc::clone(&contents), self.ownership);
        self.with_requests(move |requests| {
            if let Some(applied) = applied.filter(|applied| applied.frame == desired.frame) {
                match requests
                    .change("changing the sets of the nftables table", |batch| desired.write_changes(batch, &applied))?
                {
                    Ok(()) => return Ok(()),
                    Err(refusal) => {
                        debug!("the table inet {TABLE} has changed: {refusal}; all of it is written");
                    }
                }
            }
            desired.write_all(requests, ownership)
        })
        .await?;
        self.applied = Some(contents);
        Ok(())
    }

    /// Removes the table. A missing table is no error.
    pub async fn remove(&mut self) -> Result<()> {
        const WHAT: &str = "removing the nftables table";
        self.applied = None;
        self.with_requests(|requests| match requests.change_when_free(WHAT, NftTable::delete)? {
            Err(refusal) if !refusal.is(Errno::NOENT) => Err(GuardError::refused(WHAT, refusal)),
            _ => Ok(()),
        })
        .await
    }

    /// # Errors
    /// [`GuardError::Owned`] when a socket of another process owns the table and does not close.
    pub async fn must_be_free(&self) -> Result<()> {
        self.with_requests(NftRequests::must_be_free).await
    }

    /// Whether the table exists, no matter which process created it.
    pub async fn is_there(&self) -> Result<bool> {
        let read =
            |requests: &mut NftRequests| requests.list("reading the nftables table", NftMessage::GetObject, |_| ());
        Ok(!self.with_requests(read).await?.is_empty())
    }

    /// Reads the drop counters.
    pub async fn counters(&mut self) -> Result<GuardCounters> {
        const WHAT: &str = "reading the counters of the nftables table";
        self.with_requests(|requests| {
            let objects = requests.list(WHAT, NftMessage::GetObject, |_| ())?;
            let counters: BTreeMap<_, _> = objects.iter().filter_map(|object| read_counter(object)).collect();
            let counted = |name: &str| counters.get(name).copied().unwrap_or_default();
            let strangers =
                requests.list(WHAT, NftMessage::GetElement, |request| request.string(SET_NAME, STRANGERS.name))?;
            Ok(GuardCounters {
                unmarked: counted(counter::UNMARKED),
                no_route: counted(counter::NO_ROUTE),
                input_not_local: counted(counter::INPUT_NOT_LOCAL),
                input_no_service: counted(counter::INPUT_NO_SERVICE),
                forward_from_site: counted(counter::FORWARD_FROM_SITE),
                forward_to_site: counted(counter::FORWARD_TO_SITE),
                output: counted(counter::OUTPUT),
                strangers: strangers.iter().flat_map(|elements| read_strangers(elements)).collect(),
            })
        })
        .await
    }

    /// Returns when another process has changed or removed the table, or may have done so because events were lost. The
    /// next [`apply`](Self::apply) then writes everything. Cancel-safe.
    ///
    /// A change that `apply` has already detected and repaired is not reported.
    pub async fn disturbed(&mut self) -> Result<()> {
        let heard = self.watch.changed().await;
        self.applied = None;
        heard.map_err(no_watch)?;
        // One change causes many events.
        self.disturbed_so_far().map(|_| ())
    }

    fn disturbed_so_far(&mut self) -> Result<bool> {
        self.watch.changed_so_far().map_err(no_watch)
    }

    /// Runs the job on a blocking thread.
    async fn with_requests<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut NftRequests) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let requests = Arc::clone(&self.requests);
        let job = move || job(&mut requests.lock().unwrap_or_else(PoisonError::into_inner));
        match spawn_blocking(job).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(GuardError::Socket { what: "waiting for it", source: io::Error::other(error) }),
            },
        }
    }
}

fn no_watch(source: io::Error) -> GuardError {
    GuardError::Socket { what: "listening for changes of the nftables table", source }
}

impl TableContents {
    fn new(ruleset: &Ruleset) -> Result<Self> {
        let Mark { flag, mask } = ruleset.mark;
        if flag.count_ones() != 1 || flag & mask == 0 || mask & !flag == 0 {
            return Err(GuardError::Mark { flag, mask });
        }
        let frame = Frame { mark: ruleset.mark, group: ruleset.group };
        Ok(Self { frame, elements: sets::elements(ruleset), output: ruleset.output.clone() })
    }

    /// Writes the difference from `applied`, which has the same rules.
    fn write_changes(&self, batch: &mut Messages, applied: &Self) {
        let none = BTreeSet::new();
        for (set, elements) in &self.elements {
            let before = applied.elements.get(set).unwrap_or(&none);
            sets::change(batch, NftMessage::DeleteElement, set, before.difference(elements));
            sets::change(batch, NftMessage::NewElement, set, elements.difference(before));
        }
        output::write_changes(batch, &applied.output, &self.output);
    }

    /// Writes the whole table over any existing state.
    fn write_all(&self, requests: &mut NftRequests, ownership: Ownership) -> Result<()> {
        const WHAT: &str = "writing the nftables table";
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut present = Present::read(requests)?;
            // Dynamic elements that cannot be copied must not prevent the table.
            if attempt == 1 && !present.can_be_kept(ownership) {
                present.read_dynamic(requests)?;
            }
            let write = |batch: &mut Messages| self.write_over(batch, &present, ownership);
            let Err(refusal) = requests.change_when_free(WHAT, write)? else {
                return Ok(());
            };
            if attempt < ATTEMPTS {
                debug!("the kernel refused the nftables table: {refusal}; trying again");
                continue;
            }
            return Err(match Errno::from_raw_os_error(refusal.errno) {
                Errno::NOENT => GuardError::Incomplete(refusal),
                _ => GuardError::refused(WHAT, refusal),
            });
        }
    }

    fn write_over(&self, batch: &mut Messages, present: &Present, ownership: Ownership) {
        let keep = present.can_be_kept(ownership);
        if keep {
            NftTable::create(batch, ownership);
            present.clear(batch);
        } else {
            NftTable::delete(batch);
            NftTable::create(batch, ownership);
        }
        for chain in &CHAINS {
            chain.create(batch, keep && present.chain(chain).is_some());
        }
        let counted: BTreeMap<_, _> = present.objects.iter().filter_map(|object| read_counter(object)).collect();
        for name in counter::ALL {
            batch.message(NftMessage::NewObject, NLM_F_CREATE, |message| {
                message.string(OBJECT_NAME, name);
                message.u32(OBJECT_TYPE, COUNTER_TYPE);
                message.nest(OBJECT_DATA, |message| {
                    if let Some(Counter { packets, bytes }) = counted.get(name).filter(|_| !keep) {
                        message.u64(COUNTER_BYTES, *bytes);
                        message.u64(COUNTER_PACKETS, *packets);
                    }
                });
            });
        }
        let stays = |set: &Set| keep && present.sets.iter().any(|shown| are_alike(set, shown));
        for (set, id) in SETS.iter().zip(1..) {
            if !stays(set) {
                set.create(batch, id);
            }
        }
        output::write_chains(batch, &self.output);
        let none = PresentElements::default();
        let mut change = |set: &str, elements: &BTreeSet<Element>| {
            // Cheaper than rewriting thousands of elements.
            let PresentElements { plain, odd } = present.elements.get(set).filter(|_| keep).unwrap_or(&none);
            sets::change(batch, NftMessage::DeleteElement, set, odd.iter().chain(plain.difference(elements)));
            sets::change(batch, NftMessage::NewElement, set, elements.difference(plain));
        };
        for (set, elements) in &self.elements {
            change(set, elements);
        }
        change(SELECTORS.name, &output::elements(&self.output));
        if keep {
            present.remove_chains(batch, &output::chains(&self.output));
        }
        for (set, elements) in present.dynamic.iter().filter(|_| !keep) {
            sets::add_raw(batch, set, elements);
        }
        rules(batch, self.frame);
    }
}
