//! The socket that hears what others change in our table.

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
/// The kernel's events come in pieces of this, `NLMSG_GOODSIZE`, unless one alone is longer.
const LONGEST_EVENT: usize = 64 << 10;
/// `MSG_DONTWAIT`.
const DO_NOT_WAIT: i32 = 0x40;

pub struct Watch {
    socket: TokioSocket,
    received: Vec<u8>,
}

impl Watch {
    /// Hears all but what the socket of this port number causes.
    pub fn open(own_port: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        enlarge_receive_buffer(socket.socket_ref())?;
        skip_own(socket.socket_ref(), own_port)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().add_membership(GROUP)?;
        Ok(Self { socket, received: Vec::with_capacity(LONGEST_EVENT) })
    }

    /// Reads all that has come, and says whether something was changed, or may have been: events were lost.
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

    /// Returns when something is changed, or may have been. May be cancelled.
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

/// Has the kernel withhold the events that we cause: a whole table of them would not fit the receive buffer. All messages
/// of a datagram have one author (`nf_tables_commit_notify`), whose port number is in `struct nlmsghdr`.
///
/// A classic BPF program, which reads in network byte order.
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
