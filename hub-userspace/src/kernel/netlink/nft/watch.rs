//! The socket for events of others' changes to our table.

use std::{future::poll_fn, io};

use rtnetlink::sys::{AsyncSocket as _, Socket, TokioSocket, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use socket2::{SockFilter, SockRef};

use super::{
    super::socket::enlarge_receive_buffer,
    wire::{Received, messages},
};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// The kernel splits its events into pieces of this size, `NLMSG_GOODSIZE`, except for a longer single event.
const LONGEST_EVENT: usize = 64 << 10;
/// `MSG_DONTWAIT`.
const DO_NOT_WAIT: i32 = 0x40;

pub struct Watch {
    socket: TokioSocket,
    received: Vec<u8>,
}

impl Watch {
    /// Receives all events except those caused by the socket with this port number.
    pub fn open(own_port: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        enlarge_receive_buffer(socket.socket_ref())?;
        skip_own(socket.socket_ref(), own_port)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().add_membership(GROUP)?;
        Ok(Self { socket, received: Vec::with_capacity(LONGEST_EVENT) })
    }

    /// Reads all pending events; returns whether something changed, or may have changed because events were lost.
    pub fn changed_so_far(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            self.received.clear();
            let event = self.socket.socket_ref().recv_from(&mut self.received, DO_NOT_WAIT);
            match event.map(|_| ()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                event => changed |= self.tells_of_change(event)?,
            }
        }
    }

    /// Returns when something has changed, or may have. Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.received.clear();
            let event = poll_fn(|context| self.socket.poll_recv_from(context, &mut self.received)).await;
            if self.tells_of_change(event.map(|_| ()))? {
                return Ok(());
            }
        }
    }

    fn tells_of_change(&self, event: io::Result<()>) -> io::Result<bool> {
        match event {
            Ok(()) => Ok(messages(&self.received).any(|message| Received::of_our_table(message).is_some())),
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Makes the kernel filter out our own events: those of a whole table would overflow the receive buffer. All messages
/// of a datagram have one author (`nf_tables_commit_notify`), whose port number is in `struct nlmsghdr`.
///
/// A classic BPF program. Loads convert from network byte order.
fn skip_own(socket: &Socket, own_port: u32) -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT: u32 = 12;
    // (operation, jump if equal, jump if not, operand); jumps count from the next instruction.
    let program = [
        SockFilter::new(LOAD_WORD, 0, 0, PORT),
        SockFilter::new(JUMP_EQUAL, 0, 1, own_port.to_be()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(socket).attach_filter(&program)
}
