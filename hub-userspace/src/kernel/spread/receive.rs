//! How the CPUs receive packets of an interface: its receive queues, the interrupts that serve them, and the kernel's
//! counts by CPU. Nothing is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use super::{
    Incarnation, SpreadFailure,
    mask::CpuMask,
    sysfs::{self, Sysfs},
};

/// Receive queues, and interrupts, of an interface that are read: each takes some system calls.
const MOST: usize = 64;

/// Reads what an interface receives by. For use outside the agent's loop.
#[derive(Debug, Clone)]
pub struct ReceiveReader {
    sysfs: Arc<Sysfs>,
    proc: PathBuf,
}

/// Of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receive {
    /// `rps_cpus` of the first queues, by number.
    pub rps_cpus: BTreeMap<u32, CpuMask>,
    /// The first interrupts, ascending. A virtual interface has none.
    pub interrupts: Vec<Interrupt>,
    /// Number of all interrupts.
    pub interrupt_count: usize,
}

/// An interrupt of a device. Its queue has a name of the driver's choice, such as `eth0-rx-1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interrupt {
    pub number: u32,
    /// Empty if nothing handles it.
    pub name: String,
    /// CPUs that may serve it, and those of them that do.
    pub affinity: Option<CpuMask>,
    pub effective: Option<CpuMask>,
    /// Interrupts since boot of each possible CPU.
    pub counts: Vec<u64>,
}

impl ReceiveReader {
    pub(super) fn new(sysfs: Arc<Sysfs>, proc: PathBuf) -> Self {
        Self { sysfs, proc }
    }

    /// # Errors
    /// When sysfs does not show the interface.
    pub fn read(&self, name: &str, link: &Incarnation) -> Result<Receive, SpreadFailure> {
        let interface = self.sysfs.interface(name, link)?;
        let queues = self.sysfs.queues(name, link)?;
        // Without RPS there are no masks.
        let rps_cpus = queues.first_masks(MOST).unwrap_or_default();
        // A PCI device has them itself; a virtio device has a PCI device as parent.
        let listed = ["device/msi_irqs", "device/../msi_irqs"].into_iter().find_map(|path| {
            let names = sysfs::names(&interface, path).ok()?;
            Some(names.iter().filter_map(|name| name.parse().ok()).collect::<BTreeSet<u32>>())
        });
        let numbers = listed.unwrap_or_default();
        let interrupts = numbers.iter().take(MOST).map(|number| self.interrupt(*number)).collect();
        Ok(Receive { rps_cpus, interrupts, interrupt_count: numbers.len() })
    }

    fn interrupt(&self, number: u32) -> Interrupt {
        let cpus = |file| {
            let text = fs::read_to_string(self.proc.join(format!("irq/{number}/{file}"))).ok()?;
            CpuMask::parse_list(text.trim_end()).ok()
        };
        let text = |file| self.sysfs.text(&format!("kernel/irq/{number}/{file}")).unwrap_or_default();
        let counts: Option<Vec<u64>> = text("per_cpu_count").split(',').map(|count| count.parse().ok()).collect();
        Interrupt {
            number,
            name: text("actions"),
            affinity: cpus("smp_affinity_list"),
            effective: cpus("effective_affinity_list"),
            counts: counts.unwrap_or_default(),
        }
    }
}

/// Counts of a CPU since boot, of 32 bits each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Softnet {
    /// Packets that passed through the CPU's receive path. With RPS a packet counts on the second CPU.
    pub processed: u32,
    /// Packets that did not fit into its backlog queue (`net.core.netdev_max_backlog`).
    pub dropped: u32,
    /// Times that work was left when time or budget was used up (`net.core.netdev_budget`).
    pub squeezed: u32,
}

impl Softnet {
    /// The counts of online CPUs, of all interfaces and network namespaces; empty if they cannot be read.
    pub fn by_cpu() -> BTreeMap<u32, Self> {
        fs::read_to_string("/proc/net/softnet_stat").map(|text| softnet(&text)).unwrap_or_default()
    }
}

/// Each line has the counts of an online CPU in hexadecimal; the 13th is the CPU's number, since Linux 5.10
/// (`softnet_seq_show`, net/core/net-procfs.c).
fn softnet(text: &str) -> BTreeMap<u32, Softnet> {
    let line = |line: &str| {
        let numbers: Vec<u32> = line.split_whitespace().map_while(|word| u32::from_str_radix(word, 16).ok()).collect();
        let [processed, dropped, squeezed] = *numbers.first_chunk()?;
        Some((*numbers.get(12)?, Softnet { processed, dropped, squeezed }))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LINK: Incarnation = Incarnation { index: 3, mac: None };

    /// A host with `eth0`, a virtio device with three interrupts, and `tun0`, a virtual interface.
    fn host() -> (tempfile::TempDir, ReceiveReader) {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("ours");
            fs::write(path, text).expect("ours");
        };
        for (device, index) in [("pci0/virtio2/net/eth0", 3), ("virtual/net/tun0", 4)] {
            write(&format!("sys/devices/{device}/ifindex"), &format!("{index}\n"));
            write(&format!("sys/devices/{device}/queues/rx-0/rps_cpus"), "3\n");
        }
        write("sys/devices/pci0/virtio2/net/eth0/queues/rx-1/rps_cpus", "0\n");
        for number in ["37", "38", "39"] {
            write(&format!("sys/devices/pci0/msi_irqs/{number}"), "msix\n");
        }
        write("sys/kernel/irq/38/actions", "virtio2-input.0\n");
        write("sys/kernel/irq/38/per_cpu_count", "7,0,4096\n");
        write("sys/kernel/irq/39/per_cpu_count", "nonsense\n");
        write("proc/irq/38/smp_affinity_list", "0-2\n");
        write("proc/irq/38/effective_affinity_list", "2\n");
        fs::create_dir_all(root.path().join("sys/class/net")).expect("ours");
        let link = |target: &str, path: &str| symlink(target, root.path().join("sys").join(path)).expect("ours");
        link("../../devices/pci0/virtio2/net/eth0", "class/net/eth0");
        link("../..", "devices/pci0/virtio2/net/eth0/device");
        link("../../devices/virtual/net/tun0", "class/net/tun0");
        let sysfs = Sysfs::at(&root.path().join("sys")).expect("it is there");
        let reader = ReceiveReader::new(Arc::new(sysfs), root.path().join("proc"));
        (root, reader)
    }

    #[test]
    fn interrupts_of_the_parent_device_are_found_with_their_cpus() {
        let (_root, reader) = host();
        let receive = reader.read("eth0", &LINK).expect("it is there");
        let list = |text| CpuMask::parse_list(text).ok();
        assert_eq!(receive.rps_cpus, BTreeMap::from([(0, list("0-1").expect("a list")), (1, CpuMask::default())]));
        let served = Interrupt {
            number: 38,
            name: "virtio2-input.0".to_owned(),
            affinity: list("0-2"),
            effective: list("2"),
            counts: vec![7, 0, 4096],
        };
        let unknown = |number| Interrupt { number, ..Interrupt::default() };
        assert_eq!(receive.interrupts, [unknown(37), served, unknown(39)]);
        assert_eq!(receive.interrupt_count, 3);
    }

    #[test]
    fn virtual_interface_has_no_interrupts() {
        let (_root, reader) = host();
        let receive = reader.read("tun0", &Incarnation { index: 4, mac: None }).expect("it is there");
        assert_eq!((receive.rps_cpus.len(), receive.interrupts, receive.interrupt_count), (1, vec![], 0));
        assert!(reader.read("tun0", &LINK).is_err(), "another interface has this name");
    }

    #[test]
    fn interrupts_are_bounded_and_counted() {
        let (root, reader) = host();
        for number in 100..300 {
            fs::write(root.path().join(format!("sys/devices/pci0/msi_irqs/{number}")), "msix\n").expect("ours");
        }
        let receive = reader.read("eth0", &LINK).expect("it is there");
        assert_eq!((receive.interrupts.len(), receive.interrupt_count), (MOST, 203));
    }

    #[test]
    fn softnet_counts_are_by_number_of_the_cpu() {
        let line = |cpu: u32| format!("000000{cpu:x}0 00000001 0000000f {} {cpu:08x} 0 0\n", ["0"; 9].join(" "));
        let counts = |processed| Softnet { processed, dropped: 1, squeezed: 15 };
        assert_eq!(softnet(&(line(0) + &line(11))), BTreeMap::from([(0, counts(0)), (11, counts(0xb0))]));
        assert_eq!(softnet("00000001 00000002\nnonsense\n"), BTreeMap::new());
    }
}
