//! Makes the kernel hold what a plan says, and nothing else of ours.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{AddressFamily, RouteNetlinkMessage},
};
use rustix::io::Errno;

use super::{
    plan::{self, Difference, Existing, HostPlan},
    socket::{Refusal, Requests},
    wire,
};

/// On a delete: it is gone already, by itself or with its interface.
const GONE: &[Errno] = &[Errno::NOENT, Errno::SRCH, Errno::NODEV];

/// Writes routes, rules and neighbours. There must be one at a time in a network namespace.
#[derive(Debug)]
pub struct Syncer {
    requests: Requests,
}

/// What [`Syncer::apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Routes, rules and neighbours that were not there before.
    pub added: usize,
    /// Routes that were there and did something else.
    pub replaced: usize,
    /// What was ours and is no longer wanted.
    pub deleted: usize,
    /// What the kernel refused. The next apply tries again.
    pub failures: Vec<Failure>,
}

/// Something that could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The route, rule or neighbour.
    pub object: String,
    /// Why, and what can be done, in one sentence.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

impl Report {
    /// Whether there was nothing to do and nothing failed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change on its way to the kernel: its name, the message, its `NLM_F_*` flags.
type Change = (String, RouteNetlinkMessage, u16);

impl Syncer {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket. Missing rights show at the first change only.
    pub fn open() -> Result<Self> {
        Ok(Self { requests: Requests::open()? })
    }

    /// Reads what of ours the kernel holds, and changes what differs from `plan`: neighbours, routes
    /// and rules are added or replaced first, deletes come last. A route that is there before and
    /// after is there at all times in between.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or forbids all changes. A single refused change is in the
    /// report.
    pub async fn apply(&mut self, plan: &HostPlan) -> Result<Report> {
        let existing = self.existing().await.context("cannot read what the kernel holds of ours")?;
        let difference = plan::difference(&existing, plan);
        let mut report = Report::default();
        report.failures.extend(difference.neighbours_taken.iter().map(|neighbour| Failure {
            object: neighbour.to_string(),
            reason: "somebody else fixed another link address; remove that entry".to_owned(),
        }));
        let changes = ChangeLists::from(difference);
        // Before the routes: a route in use has its neighbour then.
        report.added += self.make(changes.neighbours_to_set, &[], &mut report.failures).await?;
        report.added += self.make(changes.routes_to_add, &[], &mut report.failures).await?;
        report.replaced += self.make(changes.routes_to_replace, &[], &mut report.failures).await?;
        // After the routes: no rule leads to a table that is not filled yet. One that is there
        // already, whoever made it, will do.
        report.added += self.make(changes.rules_to_add, &[Errno::EXIST], &mut report.failures).await?;
        for deletions in changes.deletions {
            report.deleted += self.make(deletions, GONE, &mut report.failures).await?;
        }
        Ok(report)
    }

    /// Removes everything of ours: rules first, then routes, then neighbours.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn clear(&mut self) -> Result<Report> {
        self.apply(&HostPlan::default()).await
    }

    /// Has the kernel confirm a neighbour that went stale, or resolve one that it does not know: it
    /// does so by itself only for what its own packets need, and the fast path's do not count.
    /// Any other state is left alone.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or refuses.
    pub async fn probe_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<()> {
        let what = "looking up a neighbour";
        let request = RouteNetlinkMessage::GetNeighbour(wire::bare_neighbour((ifindex, address)));
        let message = match self.requests.get(what, request).await? {
            Ok(RouteNetlinkMessage::NewNeighbour(shown)) => wire::neighbour_use(&shown),
            Ok(_) => None,
            Err(refusal) if GONE.iter().any(|errno| refusal.is(*errno)) => {
                wire::neighbour_use(&wire::bare_neighbour((ifindex, address)))
            }
            Err(refusal) => bail!("neighbour {address} on interface {ifindex}: {refusal}"),
        };
        let Some(message) = message else { return Ok(()) };
        let name = format!("neighbour {address} on interface {ifindex}");
        let change = (name, RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE | NLM_F_CREATE);
        let mut failures = Vec::new();
        self.make(vec![change], GONE, &mut failures).await?;
        failures.first().map_or(Ok(()), |failure| bail!("{failure}"))
    }

    async fn existing(&self) -> Result<Existing> {
        use RouteNetlinkMessage::{GetNeighbour, GetRoute, GetRule, NewNeighbour, NewRoute, NewRule};
        let mut requests = vec![("reading the neighbours", GetNeighbour(wire::all::neighbours()))];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            requests.push(("reading our routes", GetRoute(wire::all::our_routes(family))));
            requests.push(("reading the rules", GetRule(wire::all::rules(family))));
        }
        let mut existing = Existing::default();
        for (what, request) in requests {
            for object in self.requests.dump(what, request).await? {
                match object {
                    NewRoute(route) => existing.note_route(&route),
                    NewRule(rule) => existing.note_rule(&rule),
                    NewNeighbour(neighbour) => existing.note_neighbour(&neighbour),
                    _ => {}
                }
            }
        }
        Ok(existing)
    }

    /// Makes changes, and counts those that succeed. Errors in `harmless` count as nothing at all.
    async fn make(&self, changes: Vec<Change>, harmless: &[Errno], failures: &mut Vec<Failure>) -> Result<usize> {
        let (names, messages): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|(name, message, flags)| (name, (message, flags))).unzip();
        let answers = self.requests.change("changing routes, rules or neighbours", messages).await?;
        let mut made = 0;
        for (object, answer) in names.into_iter().zip(answers) {
            match answer {
                Ok(()) => made += 1,
                Err(refusal) if harmless.iter().any(|errno| refusal.is(*errno)) => {}
                Err(refusal) if refusal.is(Errno::PERM) => bail!("{object}: {refusal}"),
                Err(refusal) => failures.push(failure(object, &refusal)),
            }
        }
        Ok(made)
    }
}

fn failure(object: String, refusal: &Refusal) -> Failure {
    Failure { object, reason: refusal.to_string() }
}

/// A difference as messages, in the order in which they are to be sent.
struct ChangeLists {
    neighbours_to_set: Vec<Change>,
    routes_to_add: Vec<Change>,
    routes_to_replace: Vec<Change>,
    rules_to_add: Vec<Change>,
    deletions: [Vec<Change>; 3],
}

impl From<Difference> for ChangeLists {
    fn from(difference: Difference) -> Self {
        use RouteNetlinkMessage::{DelNeighbour, DelRoute, DelRule, NewNeighbour, NewRoute, NewRule};
        const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
        const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
        const DELETE: u16 = 0;
        Self {
            neighbours_to_set: list(&difference.neighbours_to_set, |neighbour| {
                (neighbour.to_string(), NewNeighbour(wire::neighbour(neighbour)), SET)
            }),
            routes_to_add: list(&difference.routes_to_add, |route| {
                (route.to_string(), NewRoute(wire::route(route)), ADD)
            }),
            routes_to_replace: list(&difference.routes_to_replace, |route| {
                (route.to_string(), NewRoute(wire::route(route)), SET)
            }),
            rules_to_add: list(&difference.rules_to_add, |rule| (rule.to_string(), NewRule(wire::rule(rule)), ADD)),
            deletions: [
                list(&difference.rules_to_delete, |rule| {
                    ("rule no longer wanted".to_owned(), DelRule(wire::rule_deletion(rule)), DELETE)
                }),
                list(&difference.routes_to_delete, |key| {
                    (key.to_string(), DelRoute(wire::route_deletion(key)), DELETE)
                }),
                list(&difference.neighbours_to_delete, |key| {
                    let name = format!("neighbour {} on interface {}", key.1, key.0);
                    (name, DelNeighbour(wire::bare_neighbour(*key)), DELETE)
                }),
            ],
        }
    }
}

fn list<T>(items: &[T], change: impl Fn(&T) -> Change) -> Vec<Change> {
    items.iter().map(change).collect()
}
