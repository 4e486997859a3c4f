//! Messages that this project parses itself: those that the library does not know, and those that come by the hundred
//! thousand.

use std::iter;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use tokio::task::yield_now;

use super::{ALIGNMENT, NetlinkError, Refusal, Requests, is_end};
use crate::kernel::netlink::attributes::{number16, number32};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// A message of a datagram, not parsed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// `RTM_*`, or `NLMSG_*` below 16.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// The messages of a datagram, up to the first whose length is not possible.
pub fn raw_messages(datagram: &[u8]) -> impl Iterator<Item = RawMessage<'_>> {
    let mut rest = datagram;
    iter::from_fn(move || {
        let length = number32(rest, 0)? as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        let (kind, flags) = (number16(message, 4)?, number16(message, 6)?);
        Some(RawMessage { kind, flags, sequence: number32(message, 8)?, payload: &message[HEADER..] })
    })
}

impl Requests {
    /// As [`Self::dump`]. `kind` is an `RTM_GET*`, `payload` its header and attributes, padded to 4 bytes.
    pub async fn dump_raw(
        &mut self,
        what: &'static str,
        kind: u16,
        payload: &[u8],
        mut take: impl FnMut(RawMessage<'_>),
    ) -> Result<bool, NetlinkError> {
        if let Some(sequence) = self.unfinished {
            self.read_raw(what, sequence, &mut |_| ()).await?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
        self.sending.clear();
        self.sending.extend(length.to_ne_bytes());
        self.sending.extend(kind.to_ne_bytes());
        self.sending.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        self.sending.extend(self.sequence.to_ne_bytes());
        self.sending.extend([0; 4]);
        self.sending.extend(payload);
        self.send(what).await?;
        self.unfinished = Some(self.sequence);
        self.read_raw(what, self.sequence, &mut take).await
    }

    async fn read_raw(
        &mut self,
        what: &'static str,
        sequence: u32,
        take: &mut impl FnMut(RawMessage<'_>),
    ) -> Result<bool, NetlinkError> {
        let mut whole = true;
        loop {
            self.receive(what).await?;
            for message in raw_messages(&self.received).filter(|message| message.sequence == sequence) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                if !matches!(message.kind, ERROR | DONE) {
                    take(message);
                    continue;
                }
                self.unfinished = None;
                let code = number32(message.payload, 0).unwrap_or_default().cast_signed();
                let refusal = Refusal { errno: code.saturating_abs(), detail: None };
                return if is_end(&refusal) { Ok(whole) } else { Err(NetlinkError::Refused { what, refusal }) };
            }
            yield_now().await;
        }
    }
}
