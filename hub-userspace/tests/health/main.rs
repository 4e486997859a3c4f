//! Health checks against the running kernel, as root, each test in its own network namespaces, which end with it.

mod far_end;
#[path = "../netlink/lab.rs"]
#[expect(dead_code, reason = "shared with the netlink tests, which need more of it")]
mod lab;
mod packets;
mod path;
mod support;
