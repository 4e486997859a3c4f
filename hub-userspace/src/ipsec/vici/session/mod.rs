//! A session with charon over its Unix socket: commands and their answers, in order, with events in between.
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
    #[error("strongSwan sent an invalid answer: {0}")]
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

    /// Sends commands at once, which charon executes in their order (`process_queue`, `vici_socket.c`). Returns the
    /// reason for each that it refused.
    pub async fn request_all(&mut self, requests: &[(&str, &Message)]) -> Result<Vec<Option<String>>, SessionError> {
        for (command, message) in requests {
            self.send(CMD_REQUEST, command, Some(message)).await?;
        }
        let mut refusals = Vec::with_capacity(requests.len());
        for (command, _) in requests {
            refusals.push(match self.result(command, None).await {
                Err(SessionError::Refused { why, .. }) => Some(why),
                result => result.map(|_| None)?,
            });
        }
        Ok(refusals)
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
        self.result(command, listed).await
    }

    /// The answer to the first command that has none yet.
    async fn result(
        &mut self,
        command: &str,
        listed: Option<(&str, &mut Vec<Message>)>,
    ) -> Result<Message, SessionError> {
        let refused = |why: &str| SessionError::Refused { command: command.to_owned(), why: why.to_owned() };
        match self.answer(command, listed).await? {
            Packet::Response(answer) if answer.value("success") == Some("no") => {
                Err(refused(answer.value("errmsg").unwrap_or("no reason given")))
            }
            Packet::Response(answer) => Ok(answer),
            Packet::UnknownCommand => Err(refused("unknown command")),
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
                Err(SessionError::Refused { command: event.to_owned(), why: "unknown event".to_owned() })
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

    /// The next answer. Events that arrive before it are queued, except those that `listed` collects.
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
mod tests;
