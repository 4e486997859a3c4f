//! The socket for listings and changes. Blocking: the kernel does all work within the call, which takes too long for an
//! async task with thousands of elements.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
    thread::sleep,
    time::{Duration, Instant},
};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::{
    io::Errno,
    net::{netlink::NETFILTER, sockopt},
};
use socket2::SockRef;

use super::{
    super::socket::{Refusal, enlarge_receive_buffer, kernel_words},
    GuardError, TABLE,
    table::{self, NftTable, Ownership},
    wire::{
        Messages, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NftMessage, Received, TABLE_NAME, messages,
        number32,
    },
};

/// Attempts for a listing that changed while it was read.
const ATTEMPTS: usize = 5;
/// The kernel fills its answers up to this size.
const LONGEST_ANSWER: usize = 32 << 10;
/// An answer that is later than this counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The kernel may take this long to close the sockets of an agent that has ended.
const OWNER_ENDS_WITHIN: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(10);
/// `MSG_DONTWAIT`.
const DO_NOT_WAIT: i32 = 0x40;

pub struct NftRequests {
    socket: Socket,
    /// Netlink port, which identifies us as the author of a change.
    port: u32,
    /// Sequence number of the last request.
    sequence: u32,
    received: Vec<u8>,
}

impl NftRequests {
    /// Opens a socket in the network namespace of the calling thread, and sends a first request: without `nf_tables` it
    /// fails here.
    pub fn open() -> Result<Self, GuardError> {
        let socket = Socket::new(NETLINK_NETFILTER).map_err(GuardError::no_socket)?;
        Self::on(socket, Socket::bind_auto)
    }

    /// The same on a socket opened earlier. `None` if it belongs to another network namespace than the calling thread.
    pub fn resume(socket: OwnedFd) -> Result<Option<Self>, GuardError> {
        let resume = || -> io::Result<Option<Socket>> {
            let here = Socket::new(NETLINK_NETFILTER)?;
            if sockopt::socket_protocol(&socket)? != Some(NETFILTER) || namespace_of(&socket)? != namespace_of(&here)? {
                return Ok(None);
            }
            // SAFETY: it is open, and we own it.
            let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
            // Drain the earlier owner's unread messages; reading also ends an unfinished listing.
            let mut unread = Vec::with_capacity(LONGEST_ANSWER);
            while socket.recv(&mut unread, DO_NOT_WAIT).is_ok() {
                unread.clear();
            }
            Ok(Some(socket))
        };
        let Some(socket) = resume().map_err(GuardError::no_socket)? else {
            return Ok(None);
        };
        let address = |socket: &mut Socket| {
            let mut address = SocketAddr::new(0, 0);
            socket.get_address(&mut address).map(|()| address)
        };
        Self::on(socket, address).map(Some)
    }

    fn on(mut socket: Socket, address: impl FnOnce(&mut Socket) -> io::Result<SocketAddr>) -> Result<Self, GuardError> {
        const WHAT: &str = "asking for nf_tables";
        let port = address(&mut socket).and_then(|address| set_up(&socket).map(|()| address.port_number()));
        let port = port.map_err(GuardError::no_socket)?;
        let mut requests = Self { socket, port, sequence: 0, received: Vec::with_capacity(LONGEST_ANSWER) };
        let request = Messages::request(requests.sequence, NftMessage::GetGeneration, 0, |_| ());
        match requests.ask(WHAT, &request, &mut |_| ())? {
            // nfnetlink without nf_tables (`nfnetlink_rcv_msg`).
            Some(refusal) if refusal.is(Errno::INVAL) => Err(GuardError::Missing(Errno::OPNOTSUPP.into())),
            Some(refusal) => Err(GuardError::refused(WHAT, refusal)),
            None => Ok(requests),
        }
    }

    pub fn port(&self) -> u32 {
        self.port
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The attributes of all objects of our table that a request selects. Empty without a table.
    pub fn list(
        &mut self,
        what: &'static str,
        kind: NftMessage,
        select: impl Fn(&mut Messages),
    ) -> Result<Vec<Vec<u8>>, GuardError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = Messages::request(self.sequence, kind, NLM_F_DUMP, |request| {
                request.string(TABLE_NAME, TABLE);
                select(request);
            });
            let (mut objects, mut whole) = (Vec::new(), true);
            let refusal = self.ask(what, &request, &mut |message| {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                objects.extend(message.of_our_table().map(<[u8]>::to_vec));
            })?;
            match refusal {
                Some(refusal) if refusal.is(Errno::NOENT) => return Ok(Vec::new()),
                Some(refusal) => return Err(GuardError::refused(what, refusal)),
                // Under constant change no listing is ever complete.
                None if whole || attempt == ATTEMPTS => return Ok(objects),
                None => {}
            }
        }
    }

    /// Sends a request that is answered by objects; returns the kernel's refusal, if any.
    fn ask(
        &mut self,
        what: &'static str,
        request: &Messages,
        take: &mut dyn FnMut(Received<'_>),
    ) -> Result<Option<Refusal>, GuardError> {
        self.send(what, request)?;
        let is_dump = request.is_dump();
        loop {
            self.receive(what)?;
            for message in messages(&self.received).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => return Ok(refusal(message)),
                    _ => take(message),
                }
                if !is_dump {
                    return Ok(None);
                }
            }
        }
    }

    /// Sends a batch, which the kernel applies completely or not at all.
    pub fn change(
        &mut self,
        what: &'static str,
        write: impl FnOnce(&mut Messages),
    ) -> Result<Result<(), Refusal>, GuardError> {
        let batch = Messages::batch(self.sequence, write);
        self.make_room(batch.bytes().len()).map_err(|source| GuardError::Socket { what, source })?;
        self.send(what, &batch)?;
        let first = batch.sequence().wrapping_sub(batch.count()).wrapping_add(1);
        let last = batch.sequence().wrapping_sub(1);
        let mut refused = None;
        loop {
            self.receive(what)?;
            for message in messages(&self.received).filter(|message| message.kind == NLMSG_ERROR) {
                let place = message.sequence.wrapping_sub(first);
                if place >= batch.count() {
                    continue;
                }
                refused = refused.or_else(|| refusal(message));
                // An answer to the batch's begin covers the whole batch (`nfnetlink_rcv_batch`).
                if place == 0 || message.sequence == last {
                    return Ok(refused.map_or(Ok(()), Err));
                }
            }
        }
    }

    /// The same, after waiting for an owner that is just ending.
    ///
    /// # Errors
    /// When another process owns the table and does not close it.
    pub fn change_when_free(
        &mut self,
        what: &'static str,
        write: impl Fn(&mut Messages),
    ) -> Result<Result<(), Refusal>, GuardError> {
        match self.change(what, &write)? {
            Err(refusal) if refusal.is(Errno::PERM) => {
                self.must_be_free()?;
                self.change(what, write)
            }
            result => Ok(result),
        }
    }

    /// # Errors
    /// [`GuardError::Owned`] when another socket owns the table and does not close.
    pub fn must_be_free(&mut self) -> Result<(), GuardError> {
        let start = Instant::now();
        while let Some(port) = self.table()?.and_then(|table| table.owner).filter(|port| *port != self.port) {
            if start.elapsed() > OWNER_ENDS_WITHIN {
                return Err(GuardError::Owned { port });
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Our table, if there is one.
    pub fn table(&mut self) -> Result<Option<NftTable>, GuardError> {
        let tables = self.list("reading the nftables table", NftMessage::GetTable, |_| ())?;
        Ok(tables.first().map(|table| NftTable::read(table)))
    }

    /// Probes which kinds of tables this kernel supports.
    pub fn ownership(&mut self) -> Result<Ownership, GuardError> {
        const WHAT: &str = "asking whether nftables tables can have an owner";
        match self.change(WHAT, table::probe)? {
            Err(refusal) if refusal.is(Errno::NOENT) => Ok(Ownership::Owned),
            Err(refusal) if refusal.is(Errno::OPNOTSUPP) || refusal.is(Errno::INVAL) => Ok(Ownership::Plain),
            Err(refusal) => Err(GuardError::refused(WHAT, refusal)),
            Ok(()) => Ok(Ownership::Plain),
        }
    }

    /// A batch is sent in one piece, which may exceed `net.core.wmem_max` (`netlink_sendmsg`).
    fn make_room(&self, length: usize) -> io::Result<()> {
        const BESIDES: usize = 4096;
        if sockopt::socket_send_buffer_size(&self.socket)? < length + BESIDES {
            sockopt::set_socket_send_buffer_size_force(&self.socket, length + BESIDES)?;
        }
        Ok(())
    }

    fn send(&mut self, what: &'static str, request: &Messages) -> Result<(), GuardError> {
        self.sequence = request.sequence();
        let sent = self.socket.send_to(request.bytes(), &SocketAddr::new(0, 0), 0);
        sent.map(drop).map_err(|source| GuardError::Socket { what, source })
    }

    /// Receives one datagram of answers.
    fn receive(&mut self, what: &'static str) -> Result<(), GuardError> {
        loop {
            self.received.clear();
            match self.socket.recv_from(&mut self.received, 0) {
                // Other processes may send to this port.
                Ok((_, sender)) if sender.port_number() == 0 => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(GuardError::Socket { what, source }),
            }
        }
    }
}

/// The refusal in an answer; none in an acknowledgement or at the end of a listing.
fn refusal(message: Received<'_>) -> Option<Refusal> {
    let errno = (number32(message.body, 0)? as i32).wrapping_neg();
    let detail = || if message.kind == NLMSG_ERROR { kernel_words(message.body.get(4..)?) } else { None };
    (errno != 0).then(|| Refusal { errno, detail: detail() })
}

fn set_up(socket: &Socket) -> io::Result<()> {
    enlarge_receive_buffer(socket)?;
    // Errors include the kernel's message, and omit the request.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    SockRef::from(socket).set_read_timeout(Some(ANSWER_TIMEOUT))
}

/// The cookie of a socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
fn namespace_of(socket: impl AsFd) -> io::Result<u64> {
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes `length` bytes at most.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

impl Messages {
    fn request(sequence: u32, kind: NftMessage, flags: u16, write: impl FnOnce(&mut Self)) -> Self {
        let mut messages = Self::after(sequence);
        messages.bare(kind, flags, write);
        messages
    }

    fn is_dump(&self) -> bool {
        messages(self.bytes()).next().is_some_and(|request| request.flags & NLM_F_DUMP == NLM_F_DUMP)
    }
}
