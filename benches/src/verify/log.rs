//! The verifier's log of a program: stack depth.
//!
//! aya reads the verifier's log only when a program is refused. So the program is loaded once more, by the system call,
//! with a log of statistics alone. It gets its BTF, too: without, the verifier does not know which functions are global, and
//! checks these at each call.

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result, bail};
use aya::features;
use aya_obj::{
    Object, ProgramSection,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type},
};
use nix::{errno::Errno, libc};

/// `BPF_LOG_STATS` (`include/linux/bpf_verifier.h`): no line for each instruction.
const STATISTICS: u32 = 4;
/// A few lines.
const LOG_BYTES: usize = 1 << 16;
/// `BPF_F_XDP_HAS_FRAGS` (linux/bpf.h).
const HAS_FRAGS: u32 = 1 << 5;

/// The kernel truncates a map's name to this length (`BPF_OBJ_NAME_LEN` without the final NUL).
const MAP_NAME: usize = 15;

/// Bytes of stack of the program and of each function that is not inlined, in the order of the code.
///
/// Has the program verified again, with these maps: by the names that the kernel has for them.
pub fn stack_bytes(object: &[u8], program: &str, maps: &HashMap<String, RawFd>) -> Result<Vec<u32>> {
    let mut object = Object::parse(object).context("reading the object")?;
    let no_btf = "this kernel does not take BTF: it is too old";
    let types = object.fixup_and_sanitize_btf(features().btf().context(no_btf)?).context("reading its BTF")?;
    let types = load_types(&types.context("the object has no BTF")?.to_bytes())?;
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let used = mem::take(&mut object.maps);
    // Maps that only other programs of the object use have no descriptor: theirs are not loaded here.
    let descriptor = |name: &str| maps.get(name.get(..MAP_NAME).unwrap_or(name)).copied().unwrap_or(-1);
    let known = used.iter().map(|(name, map)| (name.as_str(), descriptor(name), map));
    object.relocate_maps(known, &text).context("putting the maps into the program")?;
    object.relocate_calls(&text).context("putting the functions together")?;
    let found = object.programs.get(program).with_context(|| format!("no program {program}"))?;
    let function = &object.functions[&found.function_key()];
    let (kind, attach, flags) = match &found.section {
        ProgramSection::Xdp { frags, .. } => {
            (bpf_prog_type::BPF_PROG_TYPE_XDP, bpf_attach_type::BPF_XDP as u32, if *frags { HAS_FRAGS } else { 0 })
        }
        ProgramSection::SchedClassifier => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, 0, 0),
        ProgramSection::SocketFilter => (bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER, 0, 0),
        other => bail!("a program of section {other:?}: only XDP, TC and socket filters are known here"),
    };

    let mut log = vec![0_u8; LOG_BYTES];
    // SAFETY: plain old data, for which all zeroes is a valid value.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: this is the member of the union that the command reads, and it has only integers.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.expected_attach_type = attach;
    load.prog_flags = flags;
    load.insns = function.instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(function.instructions.len())?;
    load.license = object.license.as_ptr() as u64;
    let functions = function.func_info.func_info_bytes();
    load.prog_btf_fd = u32::try_from(types.as_raw_fd())?;
    load.func_info = functions.as_ptr() as u64;
    load.func_info_rec_size = u32::try_from(function.func_info_rec_size)?;
    load.func_info_cnt = u32::try_from(functions.len() / function.func_info_rec_size.max(1))?;
    load.log_level = STATISTICS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len())?;
    // SAFETY: the addresses are those of the instructions, the license, the functions and the log, with their lengths;
    // all of them outlive the call, as does the descriptor.
    drop(unsafe { call(bpf_cmd::BPF_PROG_LOAD, &mut attributes) }.context("loading it with a log of the verifier")?);
    let log = CStr::from_bytes_until_nul(&log).context("the verifier's log does not end")?.to_string_lossy();
    parse(&log).with_context(|| format!("the verifier's log is not understood: {log}"))
}

/// Loads BTF into the kernel.
fn load_types(bytes: &[u8]) -> Result<OwnedFd> {
    // SAFETY: plain old data, for which all zeroes is a valid value.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: this is the member of the union that the command reads, and it has only integers.
    let load = unsafe { &mut attributes.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = u32::try_from(bytes.len())?;
    // SAFETY: the address is that of the bytes, with their length, and they outlive the call.
    unsafe { call(bpf_cmd::BPF_BTF_LOAD, &mut attributes) }.context("loading its BTF")
}

/// A command that makes a descriptor.
///
/// # Safety
/// The member of the union that the command reads has only addresses and lengths of memory that outlives the call.
unsafe fn call(command: bpf_cmd, attributes: &mut bpf_attr) -> Result<OwnedFd> {
    // SAFETY: see above.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_mut(attributes), size_of::<bpf_attr>())
    };
    let descriptor = Errno::result(result).map_err(io::Error::from)?;
    // SAFETY: a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor)?) })
}

/// ```text
/// verification time 2213 usec
/// stack depth 192+0
/// processed 4321 insns (limit 1000000) max_states_per_insn 4 total_states 210 peak_states 198 mark_read 30
/// ```
fn parse(log: &str) -> Option<Vec<u32>> {
    let depths = log.lines().find_map(|line| line.strip_prefix("stack depth "))?;
    depths.split('+').map(|depth| depth.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_depths_are_parsed() {
        let log = "verification time 2213 usec\nstack depth 192+0+64\nprocessed 4321 insns (limit 1000000)\n";
        assert_eq!(parse(log), Some(vec![192, 0, 64]));
        assert_eq!(parse("processed 4321 insns"), None);
    }
}
