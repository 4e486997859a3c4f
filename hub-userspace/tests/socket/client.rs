//! The client of the control socket, and its errors.

use super::*;

/// The result of `ask`, run in a runtime of this thread.
fn client<T, F: Future<Output = anyhow::Result<T>>>(path: &Path, ask: impl FnOnce(Client) -> F) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(ask(Client::new(path))).map_err(|error| format!("{error:#}"))
}

pub fn peer_config(path: &Path) -> String {
    client(path, async |client| client.peer_config("nowhere", Format::Swanctl, false).await).expect_err("no connection")
}

#[test]
fn client_without_socket_or_access_reports_remedy() {
    let mut served = Served::start(Some(GROUP));
    let denied = become_user(NOBODY, NOBODY, || peer_config(&served.path));
    assert_eq!(denied, format!("no access to {}: run as root, or as a member of its group", served.path.display()));
    let no_agent = format!(
        "no agent answers on {}: start one with `vpnhub run`, or name its socket with --socket",
        served.path.display()
    );
    drop(served.socket.take());
    assert_eq!(peer_config(&served.path), no_agent);
    drop(UnixListener::bind(&served.path).expect("there is room"));
    assert_eq!(peer_config(&served.path), no_agent);
}

#[test]
fn client_reports_server_rejection() {
    let served = Served::start(Some(GROUP));
    let unknown = peer_config(&served.path);
    assert!(unknown.contains("nowhere") && unknown.lines().count() == 1, "{unknown}");
    let down = || ObjectChange::Admin(Admin { connection: "a/b".to_owned(), up: false });
    let forbidden = become_user(NOBODY, GROUP, || client(&served.path, async |client| client.change(&down()).await));
    assert_eq!(forbidden, Err("only root can make changes: run as root".to_owned()));
    // The configuration manager has dropped it.
    let failed = client(&served.path, async |client| client.change(&down()).await);
    assert_eq!(failed, Err("the agent is stopping".to_owned()));
}

#[test]
fn packets_are_for_root_only() {
    let served = Served::start(Some(GROUP));
    let packets = || {
        client(&served.path, async |client| {
            client.packets(&PacketQuery::default(), || panic!("it must not start"), |_| Ok(true)).await
        })
    };
    let forbidden = become_user(NOBODY, GROUP, packets);
    assert_eq!(forbidden, Err("only root can see the sites' packets: run as root".to_owned()));
    // This agent has no kernel program.
    assert_eq!(packets(), Err("the agent is stopping".to_owned()));
}

/// Answers one connection with these bytes, and keeps it open if more follow.
fn answers_with(listener: &UnixListener, bytes: &[u8]) -> UnixStream {
    let (mut stream, _) = listener.accept().expect("it asks");
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).expect("a request") > 0);
    stream.write_all(bytes).expect("it reads");
    stream
}

#[test]
fn client_reports_truncated_unknown_or_missing_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("there is room");
    let socket = path.display();
    let unknown = format!("the agent on {socket} does not know /v1/status: it may be of another version");
    let with_body = |body: &str| format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let no_such_path = with_body(r#"{"type":"urn:vpnhub:problem:no-such-path","error":"a sentence"}"#);
    let of_earlier_version = with_body(r#"{"error":"a sentence"}"#);
    for (answer, expected) in [
        (no_such_path.as_str(), unknown.clone()),
        (of_earlier_version.as_str(), "a sentence".to_owned()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"gat", "the agent's answer is truncated: ".to_owned()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "unexpected answer from the agent: ".to_owned()),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", unknown),
        ("", format!("the agent on {socket} does not answer: ")),
    ] {
        let told = thread::scope(|scope| {
            scope.spawn(|| drop(answers_with(&listener, answer.as_bytes())));
            client(&path, async |client| client.status().await).expect_err("no status")
        });
        assert!(told.starts_with(&expected), "{told}");
    }
    let late = thread::scope(|scope| {
        let (told, is_told) = std::sync::mpsc::channel::<()>();
        let listener = &listener;
        scope.spawn(move || {
            let open = answers_with(listener, b"");
            let _ = is_told.recv();
            drop(open);
        });
        let late = client(&path, async |client| client.status().await).expect_err("no status");
        drop(told);
        late
    });
    assert_eq!(late, format!("the agent on {socket} does not answer: timed out"));
}

#[test]
fn client_receives_events_until_agent_exits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("there is room");
    let event = |name: &str| {
        json!({ "time": 1.5, "connection": name, "state": "up", "was": null, "reason": null }).to_string() + "\n"
    };
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let (seen, is_seen) = std::sync::mpsc::channel::<()>();
    let names = thread::scope(|scope| {
        let listener = &listener;
        scope.spawn(move || {
            let (first, second) = (event("a"), event("b") + &event("c"));
            let (begin, rest) = second.split_at(20);
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
            let mut stream = answers_with(listener, (head + &chunk(&first)).as_bytes());
            // The first is delivered before the next exists.
            is_seen.recv().expect("it is seen");
            // Chunks may split lines anywhere.
            stream.write_all(chunk(begin).as_bytes()).expect("it reads");
            stream.write_all((chunk(rest) + "0\r\n\r\n").as_bytes()).expect("it reads");
        });
        let mut names = String::new();
        let ended = client(&path, async |client| {
            let tell = |event: &ConnectionEvent| {
                names += &event.connection;
                // Nothing waits for the others.
                let _ = seen.send(());
                Ok(())
            };
            client.follow(tell).await
        });
        assert_eq!(ended, Err("the agent has stopped".to_owned()));
        names
    });
    assert_eq!(names, "abc");
}
