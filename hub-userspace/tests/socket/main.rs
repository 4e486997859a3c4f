//! The control socket against any client that may open it. Needs root, to become other users.

mod client;

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use hub_userspace::{
    agent::Request,
    api::{AppState, Client, MetricsListener, PacketQuery, ScrapeLock, Socket, TraceLoad, router},
    api_types::event::ConnectionEvent,
    config::{
        self,
        in_force::{Admin, ObjectChange},
    },
    config_manager::ReloadState,
    observe::packets::PacketListeners,
    peer_config::Format,
    store::WriteState,
};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::{broadcast, mpsc, oneshot},
};

const NOBODY: u32 = 65_534;
/// A group without members.
const GROUP: u32 = 61_001;
const READ: &str = "GET /v1/peer-config/nowhere/swanctl HTTP/1.1\r\nhost: vpnhub\r\n\r\n";
const STATUS: &str = "GET /v1/status HTTP/1.1\r\nhost: vpnhub\r\n\r\n";
/// The full time passes only on failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket with an agent that knows its configuration, and never answers a status request.
struct Served {
    socket: Option<Socket>,
    path: PathBuf,
    /// A message for each status request.
    asked: std::sync::mpsc::Receiver<()>,
    runtime: Runtime,
    _events: broadcast::Sender<ConnectionEvent>,
    _folder: TempDir,
}

impl Served {
    fn start(group: Option<u32>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        // The maximum length of a socket's path.
        let name = "s".repeat(107 - folder.path().as_os_str().len() - 1);
        let path = folder.path().join(name);
        let runtime = Runtime::new().expect("a runtime");
        let entered = runtime.enter();
        let mut socket = Socket::open_for(&path, group).expect("it can be made");
        let (agent, mut requests) = mpsc::channel(16);
        let (changes, mut orders) = mpsc::channel(16);
        let (asks, asked) = std::sync::mpsc::channel();
        let events = broadcast::Sender::new(16);
        let store = WriteState::new(folder.path().join("store.redb"), None);
        socket.serve(router(AppState {
            agent,
            changes,
            events: events.downgrade(),
            packets: PacketListeners::default(),
            store,
            reloads: ReloadState::default(),
            scrapes: ScrapeLock::default(),
            metrics: MetricsListener::default(),
            trace: TraceLoad::default(),
        }));
        let (config, _) = config::parse("[gateway]\nname = \"hub\"\n").expect("it is right");
        let config = Arc::new(config);
        runtime.spawn(async move {
            let mut unanswered = Vec::<oneshot::Sender<_>>::new();
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Config(answer) => drop(answer.send(Arc::clone(&config))),
                    Request::Status(answer) => {
                        unanswered.push(answer);
                        // Only a test that counts them listens.
                        let _ = asks.send(());
                    }
                    _ => {}
                }
            }
        });
        // A dropped request is answered with 500.
        runtime.spawn(async move { while orders.recv().await.is_some() {} });
        drop(entered);
        Self { socket: Some(socket), path, asked, runtime, _events: events, _folder: folder }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.parent().expect("a folder")).expect("it can be read");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a text")).collect()
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the socket is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream
}

/// The complete answer until the end of the connection.
fn answer(mut stream: &UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // The rest of the request was not read any more.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        result => _ = result.expect("an answer, or the end"),
    }
    String::from_utf8(bytes).expect("a text")
}

fn ask(path: &Path, request: &str) -> String {
    let mut stream = connect(path);
    stream.write_all(request.as_bytes()).expect("it is read");
    answer(&stream)
}

fn code(answer: &str) -> u32 {
    let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// Runs `closure` as the user with this number, in this group only.
fn become_user<T: Send>(user: u32, group: u32, closure: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // For this thread only: these are the bare system calls.
            set_thread_groups(&[]).expect("run as root");
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            set_thread_res_gid(group, group, group).expect("run as root");
            set_thread_res_uid(user, user, user).expect("run as root");
            closure()
        });
        thread.join().expect("it does not panic")
    })
}

/// Bodies of all requests that change something.
fn changes() -> Vec<String> {
    let with = |method: &str, path: &str, body: &str| {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: vpnhub\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    };
    let route = r#"{"destination":"10.0.0.0/24","next_hop":"nowhere","weight":1}"#;
    let key = r#"{"destination":"10.0.0.0/24"}"#;
    vec![
        with("POST", "/v1/routes", route),
        with("PATCH", "/v1/routes", route),
        with("DELETE", "/v1/routes", key),
        with("POST", "/v1/connections/nowhere/up", ""),
        with("POST", "/v1/connections/nowhere/down", ""),
        with("POST", "/v1/reload", ""),
    ]
}

#[test]
fn socket_file_belongs_to_root_and_group() {
    for (group, mode) in [(Some(GROUP), 0o660), (None, 0o600)] {
        let served = Served::start(group);
        let metadata = fs::symlink_metadata(&served.path).expect("it is there");
        assert!(metadata.file_type().is_socket());
        assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (mode, 0));
        assert_eq!(metadata.gid(), group.unwrap_or(0));
        assert_eq!(served.names().len(), 1, "{:?}", served.names());
    }
}

#[test]
fn group_may_read_root_may_change_others_neither() {
    let served = Served::start(Some(GROUP));
    let path = served.path.as_path();
    let denied = become_user(NOBODY, NOBODY, || UnixStream::connect(path).map_err(|error| error.kind()));
    assert_eq!(denied.map(drop), Err(ErrorKind::PermissionDenied));
    let secret = READ.replace("swanctl", "swanctl?secret=true");
    become_user(NOBODY, GROUP, || {
        // It was looked up.
        assert_eq!(code(&ask(path, READ)), 404);
        assert_eq!(code(&ask(path, &secret)), 403);
        for change in changes() {
            let told = ask(path, &change);
            assert_eq!(code(&told), 403, "{change}");
            assert!(told.contains("run as root") && told.contains("urn:vpnhub:problem:forbidden"), "{told}");
        }
    });
    assert_eq!(code(&ask(path, READ)), 404);
    assert_eq!(code(&ask(path, &secret)), 404);
    for change in changes() {
        // The configuration manager was asked, and has not answered.
        assert_eq!(code(&ask(path, &change)), 500, "{change}");
    }
}

#[test]
fn thousand_idle_connections_take_few_descriptors() {
    const IDLE: usize = 1000;
    let open = || fs::read_dir("/proc/self/fd").expect("it can be read").count();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("up to the hard limit");
    let served = Served::start(None);
    let before = open();
    let mut idle = Vec::new();
    for number in 0..IDLE {
        idle.push(connect(&served.path));
        if number % 50 == 0 {
            assert_eq!(code(&ask(&served.path, READ)), 404, "beside {number}");
        }
    }
    assert_eq!(code(&ask(&served.path, READ)), 404);
    // The other tests have some, too.
    let of_server = open() - before - IDLE;
    assert!(of_server < 300, "{of_server}");
    // The oldest were closed.
    assert_eq!(answer(&idle[0]), "");
}

#[test]
fn request_over_limit_is_answered_with_503() {
    let served = Served::start(None);
    let asking: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = connect(&served.path);
            stream.write_all(STATUS.as_bytes()).expect("it is read");
            served.asked.recv_timeout(PATIENCE).expect("it has come");
            stream
        })
        .collect();
    let told = answer(&connect(&served.path));
    assert_eq!(code(&told), 503);
    assert!(told.contains("too many") && told.contains("\r\ncontent-type: application/problem+json\r\n"), "{told}");
    let (head, body) = told.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{told}");
    let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&problem["type"], &problem["status"]),
        (&json!("urn:vpnhub:problem:too-many-connections"), &json!(503))
    );
    for _ in 0..200 {
        assert_eq!(client::peer_config(&served.path), "too many open connections to the agent: try again later");
    }
    // A closed connection makes room.
    asking[7].shutdown(Shutdown::Both).expect("it is open");
    let answered = (0..1000).any(|_| code(&ask(&served.path, READ)) == 404);
    assert!(answered);
}

#[test]
fn incomplete_request_times_out() {
    let served = Served::start(None);
    let whole = changes().remove(0);
    let (head, body) = whole.split_once("\r\n\r\n").expect("a head and a body");
    let pieces = [String::new(), "GET /v1/sta".to_owned(), format!("{head}\r\n\r\n{}", &body[..7])];
    let streams: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let mut stream = connect(&served.path);
            stream.write_all(piece.as_bytes()).expect("it is read");
            stream
        })
        .collect();
    assert_eq!(answer(&streams[0]), "");
    let told = answer(&streams[1]);
    assert!(told.is_empty() || code(&told) == 408, "{told}");
    assert_eq!(code(&answer(&streams[2])), 408);
}

#[test]
fn oversized_request_is_rejected() {
    let served = Served::start(None);
    let body = format!("{{\"destination\":\"{}\"}}", "1".repeat(9000));
    let long = format!(
        "POST /v1/routes HTTP/1.1\r\nhost: vpnhub\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(code(&ask(&served.path, &long)), 413);
    let mut stream = connect(&served.path);
    let head = format!("GET /v1/status HTTP/1.1\r\nhost: vpnhub\r\nx: {}\r\n\r\n", "1".repeat(100_000));
    // The connection may be closed before everything is written.
    drop(stream.write_all(head.as_bytes()));
    let told = answer(&stream);
    assert!(told.is_empty() || code(&told) == 431, "{told}");
    assert_eq!(code(&ask(&served.path, READ)), 404);
}

#[test]
fn connection_closes_after_one_answer() {
    let served = Served::start(None);
    let told = ask(&served.path, &READ.repeat(2));
    assert_eq!(told.matches("HTTP/1.1").count(), 1, "{told}");
}

/// Waits for the file.
fn wait_for(path: &Path) {
    let folder = path.parent().expect("a folder");
    for _ in 0..6000 {
        if UnixStream::connect(path).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} is not there: {:?}", path.display(), fs::read_dir(folder).map(Iterator::count));
}

#[test]
fn removed_socket_file_is_recreated_with_same_permissions() {
    let served = Served::start(Some(GROUP));
    for _ in 0..2 {
        fs::remove_file(&served.path).expect("it is there");
        wait_for(&served.path);
        let metadata = fs::symlink_metadata(&served.path).expect("it is there");
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o660, 0, GROUP));
        assert_eq!(code(&ask(&served.path, READ)), 404);
    }
    let folder = served.path.parent().expect("a folder");
    fs::remove_dir_all(folder).expect("it is ours");
    wait_for(&served.path);
    assert_eq!(code(&ask(&served.path, READ)), 404);
}

#[test]
fn socket_drop_removes_own_file_only() {
    let mut served = Served::start(None);
    drop(served.socket.take());
    assert!(served.names().is_empty());
    let mut served = Served::start(None);
    // Atomically: a missing file may be recreated at any moment.
    let beside = served.path.with_file_name("others");
    let others = UnixListener::bind(&beside).expect("there is room");
    fs::rename(&beside, &served.path).expect("it is ours");
    drop(served.socket.take());
    assert_eq!(served.names().len(), 1);
    drop(others);
    // Nothing listens on it any more: the next agent takes its place.
    let _entered = served.runtime.enter();
    drop(Socket::open_for(&served.path, None).expect("nobody listens"));
    // A file that is not a socket stays.
    fs::write(&served.path, "kept").expect("it is ours");
    assert!(Socket::open_for(&served.path, None).is_err());
    assert_eq!(fs::read_to_string(&served.path).expect("it is there"), "kept");
}
