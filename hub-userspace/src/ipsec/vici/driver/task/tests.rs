//! Lists SAs from a scripted charon.

use std::iter;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use super::{
    super::super::{
        event::listed,
        message::{Message, read_name, write_name},
        session::{CMD_REQUEST, CMD_RESPONSE, EVENT, EVENT_CONFIRM},
    },
    load::BATCH,
    *,
};

const OURS: [&str; 2] = ["vpnhub-a", "vpnhub-b"];
const THEIRS: &str = "roadwarrior";

/// An IKE SA with a child that carries traffic, as in `list-sa`.
fn sa(connection: &str) -> Message {
    // Differs by name.
    let id = connection.bytes().fold(0, |id, byte| (id * 31 + u64::from(byte)) % 1_000_003);
    let child = Message::default().with("uniqueid", id.to_string()).with("state", "INSTALLED");
    let children = Message::default().with_section("child", child);
    let ike = Message::default().with("uniqueid", id.to_string()).with("state", "ESTABLISHED");
    Message::default().with_section(connection, ike.with_section("child-sas", children))
}

/// Answers each `list-sas` with the next of these lists; returns the requests.
async fn answer(mut stream: UnixStream, lists: Vec<Vec<&'static str>>) -> Vec<String> {
    let (mut lists, mut asked) = (lists.into_iter(), Vec::new());
    while let Some((kind, name, message)) = receive(&mut stream).await {
        if kind != CMD_REQUEST {
            send(&mut stream, &[EVENT_CONFIRM]).await;
            continue;
        }
        assert_eq!(name, "list-sas");
        asked.push(message.value("ike").unwrap_or("all").to_owned());
        for connection in lists.next().unwrap_or_default() {
            send(&mut stream, &event("list-sa", &sa(connection))).await;
        }
        send(&mut stream, &[CMD_RESPONSE]).await;
    }
    asked
}

/// The next packet: kind, name and message.
async fn receive(stream: &mut UnixStream) -> Option<(u8, String, Message)> {
    let length = stream.read_u32().await.ok()?;
    let mut packet = vec![0; length as usize];
    stream.read_exact(&mut packet).await.expect("a packet");
    let (kind, mut rest) = packet.split_first().expect("a kind");
    let name = read_name(&mut rest).expect("a name");
    Some((*kind, name, Message::decode(rest).expect("a message")))
}

async fn send(stream: &mut UnixStream, packet: &[u8]) {
    stream.write_u32(packet.len() as u32).await.expect("the client reads");
    stream.write_all(packet).await.expect("the client reads");
}

fn event(name: &str, message: &Message) -> Vec<u8> {
    let mut event = vec![EVENT];
    write_name(name, &mut event).expect("it fits");
    event.extend(message.encode().expect("it fits"));
    event
}

/// A task whose table has all connections from a charon process `process` lists the SAs of a charon in this process.
/// Returns the requests, and our connections that are up afterwards.
async fn look(process: i32, lists: Vec<Vec<&'static str>>) -> (Vec<String>, Vec<&'static str>) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("vici");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut session = Session::connect(&socket).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("a client");
    let charon = tokio::spawn(answer(stream, lists));

    let config = crate::config::parse("[gateway]\nname = \"hub\"\n").expect("a configuration").0;
    let (_config, configs) = watch::channel(Arc::new(config));
    let (publisher, _views) = watch::channel(Arc::default());
    let (_requests, queue) = mpsc::channel(1);
    let mut task = DriverTask::new(configs, queue, publisher);
    task.process = Some(process);
    task.table.replace(OURS.iter().chain([&THEIRS]).flat_map(|connection| listed(&sa(connection))).collect());
    task.meet(&session);
    task.look(&mut session).await.expect("a look");
    drop(session);
    let up = OURS.into_iter().filter(|connection| task.table.tunnel(connection).is_up()).collect();
    (charon.await.expect("it answers"), up)
}

#[tokio::test]
async fn missing_sa_is_queried_unless_charon_restarted() {
    let same = std::process::id().cast_signed();
    let all = vec![OURS[0], OURS[1], THEIRS];
    let gone = || vec![vec![OURS[1]], vec![], vec![], vec![], vec![], vec![]];
    for (what, process, lists, asked, up) in [
        ("all are there", same, vec![all.clone()], vec!["all"], OURS.to_vec()),
        ("one was overlooked", same, vec![vec![OURS[1], THEIRS], vec![OURS[0]]], vec!["all", OURS[0]], OURS.to_vec()),
        (
            "both were, one of them twice",
            same,
            vec![vec![THEIRS], vec![], vec![OURS[1]], vec![OURS[0]]],
            vec!["all", OURS[0], OURS[1], OURS[0]],
            OURS.to_vec(),
        ),
        ("one is gone", same, gone(), [vec!["all"], vec![OURS[0]; 5]].concat(), vec![OURS[1]]),
        ("somebody else's is", same, vec![OURS.to_vec()], vec!["all"], OURS.to_vec()),
        ("another charon has one", same + 1, gone(), vec!["all"], vec![OURS[1]]),
        ("another charon has none", same + 1, vec![vec![]], vec!["all"], vec![]),
    ] {
        let seen = look(process, lists).await;
        assert_eq!(seen, (asked.into_iter().map(str::to_owned).collect(), up), "{what}");
    }
}

fn up(tunnels: &Tunnels) -> Vec<String> {
    tunnels.tunnels.iter().filter(|(_, tunnel)| tunnel.is_up()).map(|(name, _)| name.clone()).collect()
}

/// Brings up each connection that is loaded. Returns the connections that were published as up before each of them.
async fn bring_up(mut stream: UnixStream, views: watch::Receiver<Arc<Tunnels>>) -> Vec<Vec<String>> {
    let mut seen = Vec::new();
    while let Some((_, name, message)) = receive(&mut stream).await {
        if name == "load-conn" {
            seen.push(up(&views.borrow()));
            let (connection, _) = message.sections().next().expect("a connection");
            send(&mut stream, &event("child-updown", &sa(connection).with("up", "yes"))).await;
        }
        send(&mut stream, &[CMD_RESPONSE]).await;
    }
    seen
}

#[tokio::test]
async fn tunnel_that_comes_up_is_published_while_others_are_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, secret) = (folder.path().join("vici"), tempfile::NamedTempFile::new().expect("a file"));
    std::fs::write(secret.path(), "a-secret-of-the-test").expect("it can be written");
    let site = |name: &str, number: u8| {
        format!(
            "[customer_gateway.{name}]\naddress = \"198.51.100.{number}\"\n\
             [connection.{name}]\ncustomer_gateway = \"{name}\"\ninterface = \"xfrm-{name}\"\n\
             local_cidrs = [\"192.168.0.0/24\"]\nremote_cidrs = [\"10.{number}.0.0/24\"]\n\
             [connection.{name}.ipsec]\npsk_file = \"{}\"\n",
            secret.path().display()
        )
    };
    let names: Vec<String> = (0..2 * BATCH).map(|number| format!("c{number:02}")).collect();
    let sites = names.iter().zip(1..).map(|(name, number)| site(name, number));
    let gateway = "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\nmax_connections = 100\n".to_owned();
    let text: String = iter::once(gateway).chain(sites).collect();
    let config = crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;

    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut session = Session::connect(&socket).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("a client");
    let (_config, configs) = watch::channel(Arc::new(config));
    let (publisher, views) = watch::channel(Arc::default());
    let (_requests, queue) = mpsc::channel(1);
    let charon = tokio::spawn(bring_up(stream, views.clone()));
    let mut task = DriverTask::new(configs, queue, publisher);
    task.load(&mut session).await.expect("a charon");
    drop(session);
    let expected = [vec![Vec::new(); BATCH], vec![names[..BATCH].to_vec(); BATCH]].concat();
    assert_eq!(charon.await.expect("it answers"), expected);
    assert_eq!(up(&views.borrow()), names);
}

/// Answers `version`, and everything else with success. Returns the loaded children, and the number of questions for the
/// version.
async fn load_into(mut stream: UnixStream, version: &str) -> (Vec<Message>, usize) {
    let (mut children, mut asked) = (Vec::new(), 0);
    while let Some((_, name, message)) = receive(&mut stream).await {
        let mut answer = vec![CMD_RESPONSE];
        match name.as_str() {
            "version" => {
                asked += 1;
                answer.extend(Message::default().with("version", version).encode().expect("it fits"));
            }
            "load-conn" => {
                let (_, connection) = message.sections().next().expect("a connection");
                let (_, child) = connection.section("children").and_then(|all| all.sections().next()).expect("a child");
                children.push(child.clone());
            }
            _ => {}
        }
        send(&mut stream, &answer).await;
    }
    (children, asked)
}

#[tokio::test]
async fn sas_for_each_cpu_are_loaded_if_the_version_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "a-secret-of-the-test").expect("it can be written");
    for (version, per_cpu, loaded, asked, lacks) in [
        ("5.9.8", true, None, 1, Some("5.9.8")),
        ("6.0.1", true, None, 1, Some("6.0.1")),
        ("6.0.2", true, Some("yes"), 1, None),
        ("5.9.8", false, None, 0, None),
    ] {
        let text = format!(
            "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\n[customer_gateway.a]\naddress = \"198.51.100.1\"\n\
             [connection.a]\ncustomer_gateway = \"a\"\ninterface = \"xfrm-a\"\nlocal_cidrs = [\"192.168.0.0/24\"]\n\
             remote_cidrs = [\"10.0.0.0/24\"]\n[connection.a.ipsec]\npsk_file = \"{}\"\nesp.per_cpu_sas = {per_cpu}\n",
            secret.path().display()
        );
        let config = crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
        let socket = folder.path().join(format!("vici-{version}-{per_cpu}"));
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut session = Session::connect(&socket).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("a client");
        let charon = tokio::spawn(load_into(stream, version));
        let (_config, configs) = watch::channel(Arc::new(config));
        let (publisher, views) = watch::channel(Arc::default());
        let (_requests, queue) = mpsc::channel(1);
        let mut task = DriverTask::new(configs, queue, publisher);
        // A second load changes nothing, and neither does reading the files again.
        task.load(&mut session).await.expect("a charon");
        task.load(&mut session).await.expect("a charon");
        task.read_files();
        task.load(&mut session).await.expect("a charon");
        task.publish();
        drop(session);
        let (children, count) = charon.await.expect("it answers");
        let values: Vec<_> = children.iter().map(|child| child.value("per_cpu_sas")).collect();
        assert_eq!((values, count), (vec![loaded], asked), "{version} {per_cpu}");
        assert_eq!(views.borrow().lacks_per_cpu_sas.as_deref(), lacks, "{version} {per_cpu}");
    }
}
