//! A network device in a network namespace.

use anyhow::{Context as _, Result};
use hub_tests::lab::{Mac, Namespace};

pub struct Netdev {
    pub namespace: Namespace,
    pub device: String,
    pub index: u32,
}

impl Netdev {
    /// # Errors
    /// When there is no such namespace or device, or this process may not enter it.
    pub fn find(namespace: &str, device: &str) -> Result<Self> {
        let found = Namespace::open(namespace)?
            .with_context(|| format!("no network namespace {namespace}: `ip netns list` shows what there is"))?;
        found.enter(|| ()).context("run it as root (it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF)")?;
        let index = found
            .ifindex(device)
            .with_context(|| format!("`ip -n {namespace} -brief link` shows what devices there are"))?;
        Ok(Self { namespace: found, device: device.to_owned(), index })
    }

    pub fn mac(&self) -> Result<Mac> {
        self.namespace.mac(&self.device)
    }
}
