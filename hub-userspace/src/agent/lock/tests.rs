//! Users other than root can neither hold the lock nor prevent root from taking it. Needs root.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::InstanceLock;

const NOBODY: u32 = 65_534;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// Runs in a new network namespace.
fn elsewhere<T: Send>(closure: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("run as root");
            closure()
        });
        thread.join().expect("it does not panic")
    })
}

fn refusal(parent: &Path) -> String {
    format!("{:#}", InstanceLock::claim_in(parent).expect_err("somebody else could hold it"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn second_agent_in_namespace_is_rejected_until_first_ends() {
    let folder = folder();
    let first = InstanceLock::claim_in(folder.path()).expect("nobody has it");
    assert!(refusal(folder.path()).contains("another agent runs in this network namespace"));
    drop(first);
    drop(InstanceLock::claim_in(folder.path()).expect("nobody has it any more"));
    assert_eq!(fs::read_dir(folder.path().join("lock")).expect("a folder").count(), 0, "the file stays behind");
}

#[test]
fn lock_in_other_namespace_is_independent() {
    let folder = folder();
    let _first = InstanceLock::claim_in(folder.path()).expect("nobody has it");
    elsewhere(|| drop(InstanceLock::claim_in(folder.path()).expect("nobody has it there")));
}

#[test]
fn lock_files_are_root_only() {
    let folder = folder();
    // The umask is per process and other tests create files concurrently: assert the requested modes.
    let lock = InstanceLock::claim_in(folder.path()).expect("nobody has it");
    let directory = folder.path().join("lock");
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(&lock.name)), 0o600);
}

#[test]
fn lock_directory_writable_by_others_is_rejected() {
    let folder = folder();
    drop(InstanceLock::claim_in(folder.path()).expect("nobody has it"));
    let lock = folder.path().join("lock");
    for path in [folder.path(), &lock] {
        let before = mode(path);
        for open in [0o777, 0o775, 0o757, 0o1777] {
            fs::set_permissions(path, fs::Permissions::from_mode(open)).expect("it is ours");
            let reported = refusal(folder.path());
            assert!(reported.contains(&format!("{} can be written by other users", path.display())), "{reported}");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(before)).expect("it is ours");
        chown(path, Some(NOBODY), None).expect("run as root");
        let reported = refusal(folder.path());
        assert!(reported.contains("belongs to user 65534"), "{reported}");
        chown(path, Some(0), None).expect("run as root");
    }
    drop(InstanceLock::claim_in(folder.path()).expect("all is as it was"));
}

#[test]
fn symlinked_lock_directory_is_rejected() {
    let (folder, other) = (folder(), folder());
    symlink(other.path(), folder.path().join("lock")).expect("it is ours");
    let reported = refusal(folder.path());
    assert!(reported.contains("cannot open the lock directory"), "{reported}");
    assert_eq!(fs::read_dir(other.path()).expect("a folder").count(), 0);
}

#[test]
fn concurrent_claims_have_one_holder_at_a_time() {
    const CLAIMS: usize = 200;
    let (folder, holders, taken) = (folder(), AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Arc::new(Barrier::new(4));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..CLAIMS {
                    if let Ok(lock) = InstanceLock::claim_in(folder.path()) {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        taken.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 0);
}
