//! A network namespace per test, on a thread of its own, with helpers to build in it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::IpAddr,
    ops::Deref,
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use hub_userspace::kernel::netlink::{
    BACKSTOP_METRIC, KernelNeighbour, KernelNextHop, METRIC, ReconcileReport, Reconciler, RouteAction, RouteKey,
};

/// Any table that nothing else uses.
pub const TABLE: u32 = 1180;
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, packet_route::link::LinkMessage};
use serde_json::Value;

/// A namespace, seen from a thread inside it.
pub struct Lab {
    pub handle: Handle,
}

/// A second namespace, which lives as long as the file.
pub struct Peer(File);

/// Runs a test in a new network namespace, and propagates its failure.
pub fn in_namespace<F>(test: impl FnOnce(Lab) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces and needs root: run it with sudo"
    );
    on_thread(move || {
        new_namespace();
        run(async {
            let lab = Lab::here();
            lab.up(1).await;
            test(lab).await;
        });
    });
}

fn on_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(job).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN: run the test as root");
}

/// Runs a future on this thread: others are in other namespaces.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Peer {
    pub fn new() -> Self {
        Self(on_thread(|| {
            new_namespace();
            File::open("/proc/thread-self/ns/net").unwrap()
        }))
    }

    /// Runs a job inside it.
    pub fn inside<F>(&self, job: impl FnOnce(Lab) -> F + Send + 'static)
    where
        F: Future<Output = ()>,
    {
        let namespace = self.0.try_clone().unwrap();
        on_thread(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            run(async { job(Lab::here()).await });
        });
    }
}

impl Lab {
    fn here() -> Self {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        Self { handle }
    }

    /// Creates a veth pair, both ends up, and returns the index of the first end.
    pub async fn veth(&self, name: &str, peer: &str) -> u32 {
        self.handle.link().add(LinkVeth::new(name, peer).build()).execute().await.unwrap();
        self.up(index(peer)).await;
        let index = index(name);
        self.up(index).await;
        index
    }

    pub async fn up(&self, index: u32) {
        self.set(LinkUnspec::new_with_index(index).up().build()).await;
    }

    pub async fn down(&self, index: u32) {
        self.set(LinkUnspec::new_with_index(index).down().build()).await;
    }

    pub async fn set(&self, message: LinkMessage) {
        self.handle.link().set(message).execute().await.unwrap();
    }

    pub async fn delete(&self, index: u32) {
        self.handle.link().del(index).execute().await.unwrap();
    }

    /// Moves an interface to the other namespace.
    pub async fn give(&self, index: u32, peer: &Peer) {
        self.set(LinkUnspec::new_with_index(index).setns_by_fd(peer.0.as_raw_fd()).build()).await;
    }

    pub async fn address(&self, index: u32, net: &str) {
        let net: IpNet = net.parse().unwrap();
        let request = self.handle.address().add(index, net.addr(), net.prefix_len());
        request.execute().await.unwrap();
    }
}

/// The index of an interface.
pub fn index(name: &str) -> u32 {
    let shown = ip(&format!("link show dev {name}"));
    u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// The output of `ip -j ARGUMENTS` in this thread's namespace.
pub fn ip(arguments: &str) -> Value {
    let output = Command::new("ip").arg("-j").args(arguments.split(' ')).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    if output.stdout.is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs all commands in one `ip` process.
pub fn ip_batch(commands: &[String]) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    io::Write::write_all(&mut ip.stdin.take().unwrap(), commands.join("\n").as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

/// The entry of a listing with `key` equal to `value`; panics unless there is exactly one.
pub fn only<'a>(shown: &'a Value, key: &str, value: &str) -> &'a Value {
    let found: Vec<_> = shown.as_array().unwrap().iter().filter(|entry| entry[key] == value).collect();
    assert_eq!(found.len(), 1, "{key} {value} in {shown:#}");
    found[0]
}

pub fn count(shown: &Value) -> usize {
    shown.as_array().unwrap().len()
}

pub fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A next hop of weight 1.
pub fn hop(ifindex: u32, via: Option<&str>) -> KernelNextHop {
    KernelNextHop { ifindex, via: via.map(addr), onlink: false, weight: 1 }
}

pub fn unicast(next_hops: &[KernelNextHop]) -> RouteAction {
    RouteAction::Unicast { next_hops: next_hops.to_vec(), source: None }
}

pub fn route(table: u32, destination: &str, action: RouteAction) -> (RouteKey, RouteAction) {
    (RouteKey { table, destination: net(destination), metric: metric_of(&action) }, action)
}

/// The metric of a route with this action.
pub fn metric_of(action: &RouteAction) -> u32 {
    if *action == RouteAction::Unreachable { BACKSTOP_METRIC } else { METRIC }
}

/// The desired state of a reconciler.
#[derive(Clone, Default)]
pub struct Plan {
    pub routes: BTreeMap<RouteKey, Arc<RouteAction>>,
    pub neighbours: BTreeSet<KernelNeighbour>,
}

pub fn routes(routes: impl IntoIterator<Item = (RouteKey, RouteAction)>) -> Plan {
    let routes = routes.into_iter().map(|(key, action)| (key, Arc::new(action)));
    Plan { routes: routes.collect(), ..Plan::default() }
}

/// A reconciler that gets successive plans, each replacing the one before.
pub struct Planned {
    reconciler: Reconciler,
    /// The routes of the last plan.
    routes: RefCell<BTreeSet<RouteKey>>,
}

impl Deref for Planned {
    type Target = Reconciler;

    fn deref(&self) -> &Reconciler {
        &self.reconciler
    }
}

impl Planned {
    pub fn start() -> Self {
        Self { reconciler: Reconciler::start().unwrap(), routes: RefCell::default() }
    }

    /// Makes the kernel hold this and nothing else of ours.
    pub fn replace(&self, plan: &Plan) {
        let before = self.routes.replace(plan.routes.keys().copied().collect());
        let obsolete = before.into_iter().filter(|key| !plan.routes.contains_key(key)).map(|key| (key, None));
        let desired = plan.routes.iter().map(|(key, action)| (*key, Some(Arc::clone(action))));
        self.reconciler.routes(obsolete.chain(desired).collect());
        self.reconciler.neighbours(plan.neighbours.clone());
    }

    /// Like [`replace`](Self::replace), with a full comparison with the kernel's state.
    pub async fn keep(&self, plan: &Plan) -> ReconcileReport {
        self.replace(plan);
        self.reconciler.audit();
        self.reconciler.settled().await.unwrap()
    }

    pub async fn clear(self) -> anyhow::Result<ReconcileReport> {
        self.reconciler.clear().await
    }
}

/// The log of this thread, and of the tasks that run on it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Captures the log until the guard is dropped.
pub fn log_here() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}
