//! A scripted daemon, in any pieces.

use tokio::net::UnixListener;

use super::*;

fn packet(kind: u8, name: Option<&str>, message: &Message) -> Vec<u8> {
    let mut body = vec![kind];
    if let Some(name) = name {
        write_name(name, &mut body).expect("it fits");
    }
    body.extend(message.encode().expect("it fits"));
    [(body.len() as u32).to_be_bytes().to_vec(), body].concat()
}

/// A session with a daemon that sends `script` byte by byte, and then closes the connection.
async fn session_with(script: Vec<u8>) -> Session {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("vici");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let session = Session::connect(&socket).await.expect("it listens");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        // Long scripts in pieces: a byte at a time takes a system call each.
        for bytes in script.chunks(1 + script.len() / 100_000) {
            stream.write_all(bytes).await.expect("the client reads");
            tokio::task::yield_now().await;
        }
        drop(stream.shutdown().await);
        // Read and ignore the client's data, so that its writes succeed.
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    session
}

#[tokio::test]
async fn events_between_commands_are_queued_in_order() {
    let note = |number: &str| Message::default().with("number", number);
    let script = [
        packet(EVENT, Some("ike-updown"), &note("1")),
        packet(CMD_RESPONSE, None, &Message::default().with("version", "5.9.8")),
        packet(EVENT, Some("ike-updown"), &note("2")),
        packet(CMD_RESPONSE, None, &Message::default().with("success", "no").with("errmsg", "not found")),
        packet(CMD_UNKNOWN, None, &Message::default()),
    ];
    let mut session = session_with(script.concat()).await;
    let version = session.request("version", &Message::default()).await.expect("an answer");
    assert_eq!(version.value("version"), Some("5.9.8"));
    let error = session.request("unload-conn", &Message::default()).await.expect_err("refused");
    assert!(error.is_refusal() && error.to_string().ends_with("`unload-conn`: not found"), "{error}");
    let error = session.request("nonsense", &Message::default()).await.expect_err("unknown");
    assert!(error.is_refusal(), "{error}");
    for number in ["1", "2"] {
        assert_eq!(session.event().await.expect("an event").message, note(number));
    }
    assert!(!session.event().await.expect_err("the daemon hung up").is_refusal());
}

#[tokio::test]
async fn answers_to_several_requests_are_those_of_each() {
    let refusal = Message::default().with("success", "no").with("errmsg", "not found");
    let script = [
        packet(CMD_RESPONSE, None, &Message::default().with("success", "yes")),
        packet(EVENT, Some("ike-updown"), &Message::default()),
        packet(CMD_RESPONSE, None, &refusal),
        packet(CMD_UNKNOWN, None, &Message::default()),
        packet(CMD_RESPONSE, None, &Message::default()),
    ];
    let mut session = session_with(script.concat()).await;
    let empty = Message::default();
    let refusals = session.request_all(&[("load-conn", &empty); 4]).await.expect("answers");
    assert_eq!(refusals, [None, Some("not found".to_owned()), Some("unknown command".to_owned()), None]);
    assert_eq!(session.event().await.expect("an event").name, "ike-updown");
    // The daemon hung up: no command counts as done.
    assert!(!session.request_all(&[("load-conn", &empty)]).await.expect_err("no answer").is_refusal());
}

#[tokio::test]
async fn list_answer_excludes_other_events() {
    let empty = Message::default();
    let sa = Message::default().with("name", "a");
    let script = [
        packet(EVENT_CONFIRM, None, &empty),
        packet(EVENT, Some("list-sa"), &sa),
        packet(EVENT, Some("ike-updown"), &empty),
        packet(EVENT, Some("list-sa"), &sa),
        packet(CMD_RESPONSE, None, &empty),
        packet(EVENT_CONFIRM, None, &empty),
    ];
    let mut session = session_with(script.concat()).await;
    let listed = session.list("list-sas", "list-sa", &empty).await.expect("a list");
    assert_eq!(listed, [sa.clone(), sa]);
    assert_eq!(session.event().await.expect("an event").name, "ike-updown");
}

#[tokio::test]
async fn events_while_waiting_for_an_answer_are_bounded_and_their_loss_is_reported() {
    let empty = Message::default();
    let line = |text: &str| {
        let message = Message::default().with("ikesa-name", "vpnhub-a").with("msg", text);
        packet(EVENT, Some("log"), &message)
    };
    let answer = packet(CMD_RESPONSE, None, &empty);
    let events = packet(EVENT, Some("child-updown"), &empty).repeat(MOST_EVENTS + 1);
    for (script, queued, lost) in [
        (line("sending packet: from 203.0.113.1[500]").repeat(MOST_EVENTS + 1), 0, false),
        (line("received TS_UNACCEPTABLE notify, no CHILD_SA built"), 1, false),
        (events, MOST_EVENTS, true),
    ] {
        let mut session = session_with([script, answer.clone()].concat()).await;
        session.request("version", &empty).await.expect("an answer");
        let mut count = 0;
        while session.received_event().expect("well-formed").is_some() {
            count += 1;
        }
        assert_eq!((count, session.take_lost_events()), (queued, lost));
        assert!(!session.take_lost_events());
    }
}

/// Each packet is parsed in place. The buffer is moved only when no whole packet is left.
#[tokio::test]
async fn received_packets_are_taken_without_moving_the_buffer() {
    let events = packet(EVENT, Some("ike-updown"), &Message::default()).repeat(1000);
    let length = events.len();
    let mut session = session_with(Vec::new()).await;
    session.buffer = events;
    for taken in 1..=1000 {
        assert!(session.received_event().expect("well-formed").is_some());
        assert_eq!((session.buffer.len(), session.parsed), (length, length / 1000 * taken));
    }
    assert!(session.received_event().expect("well-formed").is_none());
}

#[tokio::test]
async fn cancelled_event_wait_loses_no_byte() {
    let message = Message::default().with("long", "x".repeat(3000));
    let events = packet(EVENT, Some("a"), &message).repeat(20);
    let mut session = session_with(events).await;
    let mut count = 0;
    while count < 20 {
        let event = tokio::select! {
            biased;
            event = session.event() => Some(event),
            () = tokio::task::yield_now() => None,
        };
        if let Some(event) = event {
            assert_eq!(event.expect("whole").message, message);
            count += 1;
        }
    }
}

#[tokio::test]
async fn malformed_packet_ends_session() {
    for script in [b"\xff\xff\xff\xff".to_vec(), b"\x00\x00\x00\x01\x09".to_vec(), b"\x00\x00\x00\x00".to_vec()] {
        let mut session = session_with(script).await;
        assert!(!session.event().await.expect_err("nonsense").is_refusal());
    }
}
