//! A virtual machine that boots a kernel on this host's own files, runs one command, and is gone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{initramfs, kernel::Kernel};
use crate::{process, setup::host};

const QEMU: &str = "qemu-system-x86_64";

/// How the guest runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Two CPUs, as fast as QEMU emulates them.
    Fast,
    /// One CPU whose clock counts instructions, one a nanosecond: a time is repeatable to 0.1 %.
    Counting,
}

impl Machine {
    fn arguments(self) -> [&'static str; 4] {
        // No KVM: many machines that this runs on are virtual themselves.
        match self {
            Self::Fast => ["-accel tcg,thread=multi", "-cpu max", "-smp 2", ""],
            // While the guest is idle its clock follows the host's: otherwise timeouts expire before work is done.
            // Repeated string instructions count once a byte or once a word: without ERMS and FSRM the kernel uses words.
            Self::Counting => {
                ["-accel tcg,thread=single", "-icount shift=0,sleep=on", "-cpu max,-erms,-fsrm", "-smp 1"]
            }
        }
    }

    /// Arguments of the kernel.
    fn kernel_arguments(self) -> String {
        let more = match self {
            Self::Fast => "",
            // As in most kernels that are built for speed: clearing memory would hide other costs.
            Self::Counting => " init_on_alloc=0",
        };
        KERNEL_ARGUMENTS.to_owned() + more
    }
}

/// Mitigations and self-tests only cost time here; RCU's grace periods end sooner.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=2 panic=-1 mitigations=off net.ifnames=0 cryptomgr.notests \
                                rcupdate.rcu_expedited=1 tsc=reliable";

/// The guest's command, in shell syntax.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub machine: Machine,
    pub script: &'a str,
    pub environment: &'a [(&'a str, &'a Path)],
    /// In MiB.
    pub memory: u32,
    pub limit: Duration,
    /// Where a file that the command writes as [`RESULT`] goes.
    pub result: Option<&'a Path>,
}

/// Path in the guest.
pub const RESULT: &str = "/shared/result";

impl Guest<'_> {
    /// Boots, runs the command, and returns its exit code. The command's output goes to xtask's own output.
    pub fn run(&self, busybox: &Path) -> Result<ExitCode> {
        let files = Files::create()?;
        let write = |name: &str, bytes: &[u8]| {
            let path = files.dir.join(name);
            fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
        };
        write("initramfs", &initramfs::archive(busybox, &self.kernel.first_modules()?)?)?;
        fs::create_dir(files.shared()).context("creating the shared directory")?;
        write("shared/environment", self.environment()?.as_bytes())?;
        write("shared/project", process::workspace().as_os_str().as_encoded_bytes())?;
        write("shared/command", self.script.as_bytes())?;

        let ended = process::status_within(&mut self.qemu(&files)?, self.limit)?;
        let Some(ended) = ended else { bail!("the guest took over {} s", self.limit.as_secs()) };
        if let Some(result) = self.result {
            let written = files.shared().join("result");
            // The command's own status reports that there is none.
            if written.exists() {
                fs::copy(&written, result).with_context(|| format!("writing {}", result.display()))?;
            }
        }
        match fs::read_to_string(files.shared().join("status")) {
            Ok(status) => {
                let code: u8 = status.trim().parse().with_context(|| format!("the guest's status is {status:?}"))?;
                Ok(ExitCode::from(code))
            }
            Err(_) => bail!("the guest ended before the command did ({QEMU}: {ended})"),
        }
    }

    /// The host's PATH, and further variables.
    fn environment(&self) -> Result<String> {
        let path = env::var("PATH").context("PATH")?;
        let lines = [format!("cd {}", quoted(process::workspace())?), format!("export PATH={path:?} HOME=/root")];
        let more = self.environment.iter().map(|(name, value)| Ok(format!("export {name}={}", quoted(value)?)));
        let lines = lines.into_iter().map(Ok).chain(more).collect::<Result<Vec<_>>>()?;
        Ok(lines.join("\n") + "\n")
    }

    fn qemu(&self, files: &Files) -> Result<Command> {
        let mut command = if host::is_root() {
            Command::new(QEMU)
        } else {
            // The guest sees this host's files with the rights of this process.
            let sudo = host::command("sudo").context("the guest can read all files of this host: run it as root")?;
            let mut command = Command::new(sudo);
            command.arg(QEMU);
            command
        };
        command.args(self.machine.arguments().into_iter().flat_map(str::split_whitespace));
        command.args(["-m", &self.memory.to_string()]);
        command.args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-device",
            "virtio-rng-pci",
        ]);
        // For a test that needs a NIC with LRO. It is connected to nothing.
        command.args(["-device", "vmxnet3"]);
        share(&mut command, "root", Path::new("/"), "readonly=on,multidevs=remap");
        share(&mut command, "shared", &files.shared(), "readonly=off");
        share(&mut command, "modules", &self.kernel.modules(), "readonly=on");
        command.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(files.dir.join("initramfs"));
        command.args(["-append", &self.machine.kernel_arguments()]).stdin(std::process::Stdio::null());
        Ok(command)
    }
}

/// A directory of the host that the guest mounts by this name.
fn share(command: &mut Command, name: &str, path: &Path, options: &str) {
    let path = path.display().to_string().replace(',', ",,");
    command.args(["-fsdev", &format!("local,id={name},path={path},security_model=none,{options}")]);
    command.args(["-device", &format!("virtio-9p-pci,fsdev={name},mount_tag={name}")]);
}

/// For a shell.
pub fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Files of one run, gone when dropped.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn create() -> Result<Self> {
        let dir = env::temp_dir().join(format!("vpnhub-vm-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self { dir })
    }

    fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A leftover is not a failure.
        drop(fs::remove_dir_all(&self.dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_path_survives_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")).unwrap(), r"'/a b/it'\''s'");
    }
}
