//! Health checks against the running kernel, as root, in network namespaces that each test makes for itself and that end
//! with it.

mod far_end;
#[path = "../netlink/lab.rs"]
#[expect(dead_code, reason = "shared with the netlink tests, which need more of it")]
mod lab;
mod packets;
mod path;
mod support;
