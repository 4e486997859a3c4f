//! A bench in a virtual machine.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    guest::{Guest, Machine, RESULT, quoted},
    kernel::METAPACKAGE,
    prepare,
};
use crate::{build, process};

/// In MiB: three networks of a thousand tunnels each.
const MEMORY: u32 = 3072;
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Modules that are loaded first: without AES-NI the kernel uses another implementation for all SAs that it has by then.
const MODULES: &str = "modprobe -a aesni_intel esp4 esp6 xfrm_interface";

/// Builds, and runs a verb of vpnhub-bench in the guest, whose clock counts instructions.
pub fn bench(verb: &str, args: &[OsString]) -> Result<ExitCode> {
    run(&format!("{verb} --instructions"), args, Machine::Counting)
}

/// The same in a guest with two CPUs, whose clock is the host's.
pub fn bench_on_two_cpus(verb: &str, args: &[OsString]) -> Result<ExitCode> {
    run(verb, args, Machine::Fast)
}

fn run(verb: &str, args: &[OsString], machine: Machine) -> Result<ExitCode> {
    let (kernel, busybox) = prepare(METAPACKAGE)?;
    let built = build::run(&build::Args {})?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let (args, result) = redirect_json(args)?;
    let words = args.iter().map(|word| quoted(Path::new(word))).collect::<Result<Vec<_>>>()?.join(" ");
    let bench = quoted(&process::release_dir()?.join("vpnhub-bench"))?;
    let script = format!("{MODULES} || exit 1\nexec {bench} {verb} {words}\n");
    eprintln!("booting Linux {} under QEMU", kernel.release);
    let guest = Guest {
        kernel: &kernel,
        machine,
        script: &script,
        environment: &[("RUST_BACKTRACE", Path::new("0"))],
        memory: MEMORY,
        limit: LIMIT,
        result: result.as_deref(),
    };
    guest.run(&busybox)
}

/// Replaces the file of `--json` with one that the guest can write; returns it.
fn redirect_json(args: &[OsString]) -> Result<(Vec<OsString>, Option<PathBuf>)> {
    let (mut rest, mut file) = (Vec::new(), None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--json" {
            file = Some(PathBuf::from(args.next().context("--json needs a file")?));
        } else if let Some(name) = arg.to_str().and_then(|arg| arg.strip_prefix("--json=")) {
            file = Some(PathBuf::from(name));
        } else {
            rest.push(arg.clone());
        }
    }
    if file.is_some() {
        rest.extend(["--json", RESULT].map(OsString::from));
    }
    Ok((rest, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_file_is_written_inside_guest() {
        for given in [&["--json", "a b.json", "--rounds", "3"][..], &["--rounds", "3", "--json=a b.json"]] {
            let given: Vec<OsString> = given.iter().map(Into::into).collect();
            let (args, file) = redirect_json(&given).unwrap();
            assert_eq!(args, ["--rounds", "3", "--json", RESULT]);
            assert_eq!(file, Some(PathBuf::from("a b.json")));
        }
        assert_eq!(redirect_json(&["--help".into()]).unwrap(), (vec!["--help".into()], None));
        assert!(redirect_json(&["--json".into()]).is_err());
    }
}
