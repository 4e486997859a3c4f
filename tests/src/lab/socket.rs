//! Sockets that std cannot make: raw sockets, and sockets bound before they connect. Also waits with a deadline.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, bind, connect, socket,
};

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A raw ICMP or `ICMPv6` socket, in this thread's namespace. std's UDP socket type serves as its handle: its calls
/// work on any datagram socket, with ports of 0. IPv4 packets include their IP header.
pub(super) fn raw_icmp(to: IpAddr) -> anyhow::Result<UdpSocket> {
    let protocol = if to.is_ipv4() { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
    let fd =
        socket(family(to), SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).context("opening a raw ICMP socket")?;
    Ok(UdpSocket::from(fd))
}

/// A TCP connection from `source` (when given) to `to`, in this thread's namespace.
pub(super) fn tcp_connect(source: Option<IpAddr>, to: SocketAddr, timeout: Duration) -> anyhow::Result<TcpStream> {
    let fd = socket(family(to.ip()), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(source) = source {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))
            .with_context(|| format!("binding to {source}"))?;
    }
    // The kernel bounds connect by the send timeout.
    let stream = TcpStream::from(fd);
    stream.set_write_timeout(Some(timeout))?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(stream),
        Err(nix::errno::Errno::EINPROGRESS) => {
            Err(io::Error::from(ErrorKind::TimedOut)).with_context(|| format!("connecting to {to} within {timeout:?}"))
        }
        Err(error) => Err(error).with_context(|| format!("connecting to {to}")),
    }
}

/// Sets a socket option whose value is a C int.
pub(super) fn set_option(fd: impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, and its length is given.
    let result =
        unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length_of(&value)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of a value for the kernel.
pub(super) fn length_of<T>(value: &T) -> libc::socklen_t {
    size_of_val(value).try_into().expect("options and addresses are small")
}

/// Waits until something can be read; `false` if the deadline passes first.
pub(super) fn readable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so as not to spin during the last millisecond.
        let milliseconds = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            0 => return Ok(false),
            1.. => return Ok(true),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Sets DF on IPv4, forbids fragments on IPv6, and ignores the known path MTU: only the device's own MTU counts.
pub(super) fn dont_fragment(fd: impl AsFd, v4: bool) -> io::Result<()> {
    if v4 {
        set_option(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
    }
}

/// The result of one receive call.
pub(super) struct Received {
    pub bytes: Vec<u8>,
    /// The sender, for IP sockets.
    pub from: Option<SocketAddr>,
    /// Control messages: level, type, data.
    pub control: Vec<(libc::c_int, libc::c_int, Vec<u8>)>,
}

/// Receives a message with its control messages; does not wait.
pub(super) fn receive(fd: impl AsFd) -> io::Result<Received> {
    let mut bytes = vec![0_u8; 65_536 + 64];
    // Aligned as cmsghdr must be.
    let mut control = [0_u64; 16];
    let mut slice = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: both are plain old data, for which all zeroes is a valid value.
    let (mut message, mut from): (libc::msghdr, libc::sockaddr_storage) = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = length_of(&from);
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message refers to the buffers above with their lengths, and all outlive the call.
    let length = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    bytes.truncate(length);
    // SAFETY: the kernel has written an address of this length there.
    let from = unsafe { SockaddrStorage::from_raw((&raw const from).cast(), Some(message.msg_namelen)) };
    Ok(Received { bytes, from: from.as_ref().and_then(internet_address), control: control_messages(&message) })
}

fn internet_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()))
}

fn control_messages(message: &libc::msghdr) -> Vec<(libc::c_int, libc::c_int, Vec<u8>)> {
    let mut messages = Vec::new();
    // SAFETY: the kernel filled in the message, and its control buffer is alive. The macros stay within it, and each
    // header's length covers itself and its data.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let length = ((*header).cmsg_len as usize).saturating_sub(data.addr() - header.addr());
            let data = std::slice::from_raw_parts(data, length).to_vec();
            messages.push(((*header).cmsg_level, (*header).cmsg_type, data));
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    messages
}
