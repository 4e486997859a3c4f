//! Warns of configuration files that other users can change: they decide what the agent, which runs as root, does.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use super::diagnostic::{Diagnostic, Problem, Severity};

const GROUP_MAY_WRITE: u32 = 0o020;
const OTHERS_MAY_WRITE: u32 = 0o002;
/// In a directory with this bit, only the owner of a file can rename or remove it.
const STICKY: u32 = 0o1000;

/// The warnings for files: one for each file or directory that another user can change.
pub(super) fn warnings<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<Diagnostic> {
    let mut checked = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for file in files {
        let Ok(file) = fs::canonicalize(file) else { continue };
        for place in file.ancestors().map(Path::to_owned) {
            if !checked.insert(place.clone()) {
                break;
            }
            found.extend(fault(&place).map(|(fault, help)| warning(&place, &fault, &help)));
        }
    }
    found
}

/// Who can change a file or a directory, and the remedy.
fn fault(place: &PathBuf) -> Option<(String, String)> {
    let metadata = fs::metadata(place).ok()?;
    let (mode, owner, path) = (metadata.mode() & 0o7777, metadata.uid(), place.display());
    if owner != 0 && owner != geteuid().as_raw() {
        return Some((format!("belongs to another user (uid {owner})"), format!("chown root {path}")));
    }
    if metadata.is_dir() && mode & STICKY != 0 {
        return None;
    }
    // The group root has no other members by default.
    let by_group = mode & GROUP_MAY_WRITE != 0 && metadata.gid() != 0;
    (by_group || mode & OTHERS_MAY_WRITE != 0)
        .then(|| (format!("can be written by other users (mode {mode:04o})"), format!("chmod go-w {path}")))
}

fn warning(place: &Path, fault: &str, help: &str) -> Diagnostic {
    let problem = Problem::new(format!("{} {fault}: who changes it decides what the agent does", place.display()));
    Diagnostic { severity: Severity::Warning, ..Diagnostic::whole_file(problem.help(help)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    fn faults(folder_mode: u32, file_mode: u32, owner: Option<u32>) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("vpnhub.toml");
        fs::write(&file, "").expect("written");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        set(folder.path(), folder_mode);
        set(&file, file_mode);
        chown(&file, owner, None).expect("run as root");
        let folder = fs::canonicalize(folder.path()).expect("it is there").display().to_string();
        let own = warnings([file.as_path()].into_iter()).into_iter().filter(|found| found.message.contains(&folder));
        own.map(|found| found.message.replace(&folder, "")).collect()
    }

    #[test]
    fn file_that_others_can_change_is_warned_of() {
        let none: [&str; 0] = [];
        assert_eq!(faults(0o755, 0o644, None), none);
        assert_eq!(faults(0o1777, 0o600, None), none, "as /tmp");
        let found = faults(0o755, 0o666, None);
        assert!(found[0].starts_with("/vpnhub.toml can be written by other users (mode 0666)"), "{found:?}");
        let found = faults(0o777, 0o644, None);
        assert!(found[0].starts_with(" can be written by other users (mode 0777)"), "{found:?}");
        let found = faults(0o755, 0o600, Some(65534));
        assert!(found[0].starts_with("/vpnhub.toml belongs to another user (uid 65534)"), "{found:?}");
    }
}
