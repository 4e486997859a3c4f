//! A session with charon over its Unix socket: one command at a time, with events in between.
//!
//! Cancellation never splits a packet: bytes are read into the session's buffer and taken from it as whole packets. So
//! waiting for an event is cancel-safe, as in `select!`.

use std::{collections::VecDeque, io, mem, path::Path, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::consume_budget,
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    event::ViciEvent,
    message::{Malformed, Message, read_name, write_name},
};

/// charon answers at once: long operations are requested without waiting for their end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum packet length (charon's own limit).
const LONGEST: usize = 512 * 1024;
/// Initial size of the receive buffer.
const BUFFER: usize = 64 * 1024;
/// Maximum number of queued events. The next listing of all SAs replaces those that do not fit.
const MOST_EVENTS: usize = 4096;

pub(super) const CMD_REQUEST: u8 = 0;
pub(super) const CMD_RESPONSE: u8 = 1;
const CMD_UNKNOWN: u8 = 2;
const EVENT_REGISTER: u8 = 3;
const EVENT_UNREGISTER: u8 = 4;
pub(super) const EVENT_CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
pub(super) const EVENT: u8 = 7;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error("the connection to strongSwan is lost: {0}")]
    Io(#[from] io::Error),
    #[error("strongSwan answers something that is not understood: {0}")]
    Malformed(#[from] Malformed),
    #[error("strongSwan does not answer `{0}`")]
    Silent(String),
    /// The session remains usable.
    #[error("strongSwan refuses `{command}`: {why}")]
    Refused { command: String, why: String },
}

impl SessionError {
    /// Whether only this command failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

pub struct Session {
    stream: UnixStream,
    /// Received bytes.
    buffer: Vec<u8>,
    /// Number of bytes at the front of the buffer that have been parsed.
    parsed: usize,
    /// Events received while waiting for an answer.
    events: VecDeque<ViciEvent>,
    /// Events did not fit into the queue.
    has_lost_events: bool,
}

enum Packet {
    Response(Message),
    UnknownCommand,
    Confirm,
    UnknownEvent,
    Event(ViciEvent),
}

impl Session {
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let buffer = Vec::with_capacity(BUFFER);
        Ok(Self { stream, buffer, parsed: 0, events: VecDeque::new(), has_lost_events: false })
    }

    /// The process id of the listener, if the kernel reports it. The same id means the same charon, or one in another
    /// PID namespace.
    pub fn process(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    /// Sends a command; returns charon's answer if the command succeeded.
    pub async fn request(&mut self, command: &str, message: &Message) -> Result<Message, SessionError> {
        self.request_listing(command, message, None).await
    }

    /// As [`Self::request`], for a command that answers with events of this name.
    pub async fn list(&mut self, command: &str, event: &str, message: &Message) -> Result<Vec<Message>, SessionError> {
        self.register(EVENT_REGISTER, event).await?;
        let mut listed = Vec::new();
        let result = self.request_listing(command, message, Some((event, &mut listed))).await;
        if result.as_ref().is_err_and(|error| !error.is_refusal()) {
            return result.map(|_| Vec::new());
        }
        self.register(EVENT_UNREGISTER, event).await?;
        result.map(|_| listed)
    }

    async fn request_listing(
        &mut self,
        command: &str,
        message: &Message,
        listed: Option<(&str, &mut Vec<Message>)>,
    ) -> Result<Message, SessionError> {
        self.send(CMD_REQUEST, command, Some(message)).await?;
        let refused = |why: &str| SessionError::Refused { command: command.to_owned(), why: why.to_owned() };
        match self.answer(command, listed).await? {
            Packet::Response(answer) if answer.value("success") == Some("no") => {
                Err(refused(answer.value("errmsg").unwrap_or("it does not say why")))
            }
            Packet::Response(answer) => Ok(answer),
            Packet::UnknownCommand => Err(refused("it does not know this command")),
            _ => Err(Malformed::Unexpected.into()),
        }
    }

    /// Subscribes to events.
    pub async fn subscribe(&mut self, events: &[&str]) -> Result<(), SessionError> {
        for event in events {
            self.register(EVENT_REGISTER, event).await?;
        }
        Ok(())
    }

    /// The next relevant event. Cancel-safe: nothing is lost.
    pub async fn event(&mut self) -> Result<ViciEvent, SessionError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.receive().await? {
                Packet::Event(event) if event.is_relevant() => return Ok(event),
                Packet::Event(_) => {}
                _ => return Err(Malformed::Unexpected.into()),
            }
        }
    }

    /// The next relevant event that has already been received.
    pub fn received_event(&mut self) -> Result<Option<ViciEvent>, SessionError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.take_packet()? {
                Some(Packet::Event(event)) if event.is_relevant() => return Ok(Some(event)),
                Some(Packet::Event(_)) => {}
                Some(_) => return Err(Malformed::Unexpected.into()),
                None => return Ok(None),
            }
        }
    }

    /// Whether events were lost since the last call: all SAs must be listed.
    pub fn take_lost_events(&mut self) -> bool {
        mem::take(&mut self.has_lost_events)
    }

    async fn register(&mut self, kind: u8, event: &str) -> Result<(), SessionError> {
        self.send(kind, event, None).await?;
        match self.answer(event, None).await? {
            Packet::Confirm => Ok(()),
            Packet::UnknownEvent => {
                Err(SessionError::Refused { command: event.to_owned(), why: "it does not know this event".to_owned() })
            }
            _ => Err(Malformed::Unexpected.into()),
        }
    }

    async fn send(&mut self, kind: u8, name: &str, message: Option<&Message>) -> Result<(), SessionError> {
        // The message may contain secrets.
        let size = 6 + name.len() + message.map_or(0, Message::size);
        let mut packet = Zeroizing::new(Vec::with_capacity(size));
        packet.extend([0; 4]);
        packet.push(kind);
        write_name(name, &mut packet)?;
        if let Some(message) = message {
            message.write(&mut packet)?;
        }
        let length = packet.len() - 4;
        if length > LONGEST {
            return Err(Malformed::TooLong.into());
        }
        packet[..4].copy_from_slice(&(length as u32).to_be_bytes());
        self.stream.write_all(&packet).await?;
        Ok(())
    }

    /// The answer to the last request. Events that arrive before it are queued, except those that `listed` collects.
    async fn answer(
        &mut self,
        to: &str,
        mut listed: Option<(&str, &mut Vec<Message>)>,
    ) -> Result<Packet, SessionError> {
        let answer = async {
            loop {
                match (self.receive().await?, &mut listed) {
                    (Packet::Event(event), Some((name, listed))) if event.name == *name => listed.push(event.message),
                    (Packet::Event(event), _) => self.queue(event),
                    (answer, _) => return Ok(answer),
                }
            }
        };
        timeout(PATIENCE, answer).await.map_err(|_| SessionError::Silent(to.to_owned()))?
    }

    fn queue(&mut self, event: ViciEvent) {
        if !event.is_relevant() {
            return;
        }
        if self.events.len() < MOST_EVENTS {
            self.events.push_back(event);
        } else {
            self.has_lost_events = true;
        }
    }

    async fn receive(&mut self) -> Result<Packet, SessionError> {
        loop {
            // A full buffer must not keep other tasks of the thread from running.
            consume_budget().await;
            if let Some(packet) = self.take_packet()? {
                return Ok(packet);
            }
            self.buffer.drain(..mem::take(&mut self.parsed));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Takes a whole packet if the buffer has one.
    fn take_packet(&mut self) -> Result<Option<Packet>, Malformed> {
        let Some((length, rest)) = self.buffer[self.parsed..].split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            return Err(Malformed::TooLong);
        }
        let Some(packet) = rest.get(..length) else { return Ok(None) };
        let packet = Packet::decode(packet)?;
        self.parsed += 4 + length;
        Ok(Some(packet))
    }
}

impl Packet {
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&kind, mut rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
        Ok(match kind {
            CMD_RESPONSE => Self::Response(Message::decode(rest)?),
            CMD_UNKNOWN => Self::UnknownCommand,
            EVENT_CONFIRM => Self::Confirm,
            EVENT_UNKNOWN => Self::UnknownEvent,
            EVENT => {
                let name = read_name(&mut rest)?;
                Self::Event(ViciEvent { name, message: Message::decode(rest)? })
            }
            _ => return Err(Malformed::Unexpected),
        })
    }
}

#[cfg(test)]
mod tests {
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
    async fn events_between_commands_are_kept_in_their_order() {
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
    async fn what_is_listed_is_told_apart_from_events() {
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
        let line = |text: &str| packet(EVENT, Some("log"), &Message::default().with("msg", text));
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
    async fn waiting_for_an_event_may_be_cancelled_at_any_byte() {
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
    async fn nonsense_ends_the_session() {
        for script in [b"\xff\xff\xff\xff".to_vec(), b"\x00\x00\x00\x01\x09".to_vec(), b"\x00\x00\x00\x00".to_vec()] {
            let mut session = session_with(script).await;
            assert!(!session.event().await.expect_err("nonsense").is_refusal());
        }
    }
}
