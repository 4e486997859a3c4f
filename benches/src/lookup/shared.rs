//! Kernel programs that work with the maps of another process: filled by it, followed by it, its counters counted on.

use std::{collections::HashMap, fs, path::Path, thread};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapInfo},
};
use hub_tests::lab::Scratch;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::process;

/// Loads an object with the maps of the process `pid`, except for its `own` maps.
///
/// Maps are passed by pins, which need a BPF file system: one in a mount namespace of a thread, so that it is gone
/// with the thread, however that ends.
pub fn load(object: &[u8], pid: u32, own: &[&str]) -> Result<Ebpf> {
    let held = held(pid)?;
    let directory = Scratch::new()?;
    let place = directory.file("bpf");
    fs::create_dir(&place).with_context(|| place.display().to_string())?;
    let result = thread::scope(|scope| scope.spawn(|| load_there(object, &held, own, &place)).join());
    result.expect("loading does not panic")
}

/// The maps of a process by name, truncated by the kernel.
fn held(pid: u32) -> Result<HashMap<String, MapData>> {
    let mut held = HashMap::new();
    for id in process::maps(pid)?.into_keys() {
        // Pinned maps have names like files.
        let name = MapInfo::from_id(id)?.name_as_str().context("a map without a name")?.to_uppercase();
        held.insert(name, MapData::from_id(id)?);
    }
    Ok(held)
}

fn load_there(object: &[u8], held: &HashMap<String, MapData>, own: &[&str], place: &Path) -> Result<Ebpf> {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("keeping mounts apart")?;
    mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), nothing).context("mounting a BPF file system")?;

    let parsed = aya_obj::Object::parse(object).context("reading the object")?;
    let mut loader = EbpfLoader::new();
    // Sections of data have a dot in front: constants of this object.
    let shared = |name: &&String| !name.starts_with('.') && !own.contains(&name.as_str());
    for name in parsed.maps.keys().filter(shared) {
        let map = held.get(name).with_context(|| format!("the agent has no map {name}: is it of this version?"))?;
        let path = place.join(name);
        map.pin(&path).with_context(|| format!("handing over {name}"))?;
        loader.map_pin_path(name, path);
    }
    let ebpf = loader.load(object).context("loading the kernel programs")?;
    for name in own {
        ensure!(ebpf.map(name).is_some(), "no map {name}");
    }
    Ok(ebpf)
}
