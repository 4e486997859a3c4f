//! Requirements of tests and demo, other than the compiler: commands, kernel, root.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::plan;

/// The oldest kernel that VPN-Hub supports: Debian 12's.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Path of a command. Searches the system directories even if the user's PATH lacks them.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_absolute() && is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Reasons why this host cannot run the forwarder, a sentence each.
pub fn problems() -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |holds: bool, sentence: String| {
        if !holds {
            problems.push(sentence);
        }
    };
    let release = kernel_release();
    check(
        plan::version(&release).is_some_and(|version| version >= OLDEST_KERNEL),
        format!("the kernel is {release}: VPN-Hub needs Linux {}.{} or later", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
    );
    for (file, sentence) in [
        // Present exactly when the bpf system call is.
        (
            "/proc/sys/kernel/bpf_stats_enabled",
            "the kernel has no BPF (CONFIG_BPF_SYSCALL): boot a distribution's kernel",
        ),
        (
            "/sys/kernel/btf/vmlinux",
            "the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): boot a distribution's kernel",
        ),
        ("/proc/self/ns/net", "the kernel has no network namespaces (CONFIG_NET_NS): boot a distribution's kernel"),
    ] {
        check(Path::new(file).exists(), sentence.to_owned());
    }
    if is_root() {
        if let Err(sentence) = try_veth() {
            check(false, sentence);
        }
    } else {
        check(
            command("sudo").is_some(),
            "network namespaces and BPF need root: run as root, or install sudo".to_owned(),
        );
    }
    problems
}

/// The running kernel's release, as `uname -r` has it.
pub fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Creates a veth pair in a namespace that ends with the command: nothing stays.
fn try_veth() -> Result<(), String> {
    // util-linux is part of every distribution; without it, the tests report the error.
    let Some(unshare) = command("unshare") else {
        return Ok(());
    };
    let ip = command("ip").unwrap_or_else(|| "ip".into());
    let output = Command::new(unshare)
        .arg("--net")
        .arg(ip)
        .args(["link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b"])
        .output()
        .map_err(|error| format!("unshare cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    Err(if said.starts_with("unshare") {
        format!("root cannot create network namespaces here ({said}): in a container, run it privileged")
    } else {
        format!("the kernel has no veth interfaces (CONFIG_VETH; {said}): load the module or boot another kernel")
    })
}
