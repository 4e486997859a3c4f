//! Loads the kernel programs, reads the kernel's information about them, and unloads them. Nothing is attached.

mod log;

use std::{
    collections::HashMap,
    fmt, fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, maps::MapInfo, programs::ProgramInfo};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::process;

#[derive(Args)]
pub struct Arguments {
    /// Objects with kernel programs. Default: that of the agent, as `cargo xtask build` made it last
    #[arg(value_name = "FILE")]
    objects: Vec<PathBuf>,
    /// Writes the rows here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where the build leaves it, beside this program.
const OBJECT: &str = "ebpf/bpfel-unknown-none/release/vpnhub-ebpf";
/// Of an instruction in the kernel's own form.
const INSTRUCTION_BYTES: u32 = 8;

/// One program.
#[derive(Debug, Serialize)]
struct Row {
    object: String,
    program: String,
    /// After verification and rewriting by the kernel, such as inlined look-ups (`xlated`).
    instructions: u32,
    /// Machine code.
    jited_bytes: u32,
    /// Instructions on all paths that the verifier had to follow; it gives up at a million.
    processed_instructions: u32,
    /// Of the program and of each function that is not inlined, in the order of the code.
    stack_bytes: Vec<u32>,
    /// Verification and compilation.
    load_microseconds: u128,
    /// Of the program itself, without its maps.
    memory_bytes: u64,
    maps: Vec<Map>,
}

/// One map that a program uses.
#[derive(Debug, Serialize)]
struct Map {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    /// When the map is empty; maps that allocate by the entry grow.
    memory_bytes: u64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut objects = arguments.objects.clone();
    if objects.is_empty() {
        objects.push(std::env::current_exe()?.with_file_name(OBJECT));
    }
    let mut rows = Vec::new();
    for object in &objects {
        rows.extend(verify(object).with_context(|| object.display().to_string())?);
    }
    println!("{}", Shown(&rows));
    match &arguments.json {
        Some(file) => fs::write(file, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("writing {}", file.display())),
        None => Ok(()),
    }
}

fn verify(file: &Path) -> Result<Vec<Row>> {
    let bytes = fs::read(file).context("`cargo xtask build` makes it")?;
    let mut object = Ebpf::load(&bytes).context("loading it: root (CAP_BPF, CAP_NET_ADMIN) is needed")?;
    let mut rows = Vec::new();
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    for (name, program) in object.programs_mut() {
        let begin = Instant::now();
        let loaded = match program {
            aya::programs::Program::Xdp(program) => program.load(),
            aya::programs::Program::SchedClassifier(program) => program.load(),
            aya::programs::Program::SocketFilter(program) => program.load(),
            _ => bail!("{name} is neither an XDP nor a TC program nor a socket filter: it is not known here"),
        };
        loaded.with_context(|| format!("loading {name}"))?;
        let load_microseconds = begin.elapsed().as_micros();
        rows.push(row(&file, &bytes, name, &program.info()?, load_microseconds).with_context(|| name.to_owned())?);
    }
    rows.sort_by(|one, other| one.program.cmp(&other.program));
    Ok(rows)
}

fn row(object: &str, bytes: &[u8], program: &str, info: &ProgramInfo, load_microseconds: u128) -> Result<Row> {
    let too_old = "this kernel does not tell: it is too old";
    let mut maps = Vec::new();
    let mut descriptors = HashMap::new();
    for id in info.map_ids()?.context(too_old)? {
        let map = MapInfo::from_id(id)?;
        let name = map.name_as_str().context("a map without a name")?.to_owned();
        let descriptor = map.fd()?;
        maps.push(Map {
            name: name.clone(),
            kind: format!("{:?}", map.map_type()?),
            key_bytes: map.key_size(),
            value_bytes: map.value_size(),
            max_entries: map.max_entries(),
            memory_bytes: process::locked(descriptor.as_fd().as_raw_fd())?,
        });
        descriptors.insert(name, descriptor);
    }
    maps.sort_by(|one, other| other.memory_bytes.cmp(&one.memory_bytes).then_with(|| one.name.cmp(&other.name)));
    let raw = descriptors.iter().map(|(name, descriptor)| (name.clone(), descriptor.as_fd().as_raw_fd())).collect();
    Ok(Row {
        object: object.to_owned(),
        program: program.to_owned(),
        instructions: info.size_translated().context(too_old)? / INSTRUCTION_BYTES,
        jited_bytes: info.size_jitted(),
        processed_instructions: info.verified_instruction_count().context(too_old)?,
        stack_bytes: log::stack_bytes(bytes, program, &raw)?,
        load_microseconds,
        memory_bytes: u64::from(info.memory_locked()?),
        maps,
    })
}

struct Shown<'a>(&'a [Row]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["OBJECT", "PROGRAM", "INSTRUCTIONS", "JITED BYTES", "PROCESSED", "STACK BYTES", "LOADED IN", "MEMORY"];
        let programs = self.0.iter().map(|row| {
            let stack: Vec<_> = row.stack_bytes.iter().map(u32::to_string).collect();
            vec![
                row.object.clone(),
                row.program.clone(),
                row.instructions.to_string(),
                row.jited_bytes.to_string(),
                row.processed_instructions.to_string(),
                stack.join("+"),
                format!("{} us", row.load_microseconds),
                kibibytes(row.memory_bytes),
            ]
        });
        writeln!(f, "{}\n", table(&head, 2, programs))?;
        let head = ["PROGRAM", "MAP", "TYPE", "KEY", "VALUE", "ENTRIES", "MEMORY"];
        let maps = self.0.iter().flat_map(|row| {
            row.maps.iter().map(|map| {
                let Map { name, kind, key_bytes, value_bytes, max_entries, memory_bytes } = map;
                let numbers = [*key_bytes, *value_bytes, *max_entries].map(|number| number.to_string());
                let words = [row.program.clone(), name.clone(), kind.clone()];
                words.into_iter().chain(numbers).chain([kibibytes(*memory_bytes)]).collect()
            })
        });
        writeln!(f, "{}\n", table(&head, 3, maps))?;
        write!(
            f,
            "Stack of the program and of each function called, of 512 bytes together. Maps are empty here: tries and the like \
             grow by the entry."
        )
    }
}

fn table(head: &[&str], words: usize, rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.iter().copied());
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        table.add_row(row);
    }
    table
}

fn kibibytes(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
