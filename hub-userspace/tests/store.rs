//! The file is replaced as a whole or not at all, and never written over another hand's edits.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use hub_userspace::config::{
    self,
    edit::{AddRoute, DeleteRoute, Edit, Enable},
    store::{Change, ProposeError, Store, StoreError},
};
use ipnet::{IpNet, Ipv4Net};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::process::geteuid;

const TEXT: &str = "\
# Kept.
[gateway]
name = \"hub\"
[customer_gateway.g]
address = \"198.51.100.1\"
[connection.a]
customer_gateway = \"g\"
interface = \"tun-a\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.0.0.0/8\"]
";

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn moves<T: Send + 'static>(_: &T) {}

fn enable(enabled: bool) -> Edit {
    Edit::Enable(Enable { connection: "a".into(), enabled })
}

fn add(destination: &str) -> Edit {
    let destination = destination.parse().expect(destination);
    Edit::AddRoute(AddRoute { destination, next_hop: "a".into(), weight: None, publish: false })
}

/// Makes a change that no rule is against.
fn replace(store: &mut Store, change: &Edit) -> Result<(), StoreError> {
    let proposal = store.propose(change).expect("no rule is against it");
    store.commit(proposal)
}

#[test]
fn a_proposal_changes_nothing_and_stands_until_another_is_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vpnhub.toml");
    fs::write(&file, TEXT).expect("written");
    let (mut store, loaded) = Store::open(&file).expect("a good file");
    let mut config = loaded.config;
    // The agent keeps it in a task for what blocks.
    moves(&store);
    let unchanged = |store: &Store, text: &str| {
        assert_eq!((fs::read_to_string(&file).expect("there").as_str(), store.text().as_str()), (text, text));
    };
    // The first route is judged by the whole file, the second by itself.
    let first = store.propose(&add("10.1.0.0/16")).expect("may");
    assert!(matches!(first.change, Change::Whole(_)), "{first:?}");
    let late = store.propose(&add("10.3.0.0/16")).expect("may");
    unchanged(&store, TEXT);
    if let Change::Whole(whole) = &first.change {
        config = whole.as_ref().clone();
    }
    store.commit(first).expect("may");
    assert!(matches!(store.commit(late), Err(StoreError::Overtaken)));
    let one = format!("{TEXT}\n[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n");
    unchanged(&store, &one);

    let second = store.propose(&add("192.168.0.0/16")).expect("may");
    assert_eq!(second.warnings.len(), 1, "{second:?}");
    assert!(second.warnings[0].contains("is not in connection.a.remote_cidrs"), "{second:?}");
    let late = store.propose(&add("10.3.0.0/16")).expect("may");
    unchanged(&store, &one);
    let Change::Small(difference) = &second.change else { panic!("{second:?}") };
    config.apply(difference);
    store.commit(second).expect("may");
    assert!(matches!(store.commit(late), Err(StoreError::Overtaken)));
    let text = fs::read_to_string(&file).expect("there");
    assert_eq!(store.text(), text);
    assert_eq!(config::parse(&text).expect("a good file").0, config);

    let nothing = store.propose(&add("192.168.0.0/16")).expect("may");
    assert!(matches!(nothing.change, Change::Nothing), "{nothing:?}");
    assert!(matches!(store.propose(&add("127.0.0.0/8")), Err(ProposeError::Refused(_))));
    let reload = store.propose_reload().expect("a good file");
    assert!(matches!(reload.change, Change::Nothing), "{reload:?}");
    let expected = format!("{}:17:15: warning: route[2].destination: 192.168.0.0/16", file.display());
    assert!(reload.warnings[0].starts_with(&expected), "{reload:?}");
}

#[test]
fn owner_mode_and_link_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let (target, link) = (folder.path().join("real.toml"), folder.path().join("vpnhub.toml"));
    fs::write(&target, TEXT).expect("written");
    symlink("real.toml", &link).expect("linked");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).expect("may");
    if geteuid().is_root() {
        chown(&target, Some(1234), Some(5678)).expect("may");
    }
    let before = fs::metadata(&target).expect("there");
    let (mut store, _) = Store::open(&link).expect("a good file");
    let text = format!("{TEXT}enabled = false\n");
    replace(&mut store, &enable(false)).expect("may");
    assert_eq!((fs::read_to_string(&target).expect("there"), store.text()), (text.clone(), text));
    assert!(link.symlink_metadata().expect("there").is_symlink());
    let after = fs::metadata(&target).expect("there");
    let owner_and_mode = |metadata: &fs::Metadata| (metadata.uid(), metadata.gid(), metadata.mode());
    assert_eq!(owner_and_mode(&after), owner_and_mode(&before));
    assert_ne!(after.ino(), before.ino());
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn what_another_hand_wrote_is_not_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vpnhub.toml");
    fs::write(&file, TEXT).expect("written");
    let (mut store, _) = Store::open(&file).expect("a good file");
    let by_hand = format!("{TEXT}# By hand.\n");
    fs::write(&file, &by_hand).expect("written");
    let error = replace(&mut store, &enable(false)).expect_err("a conflict");
    assert!(error.is_conflict(), "{error}");
    assert!(error.to_string().contains("`vpnhub reload`"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("there"), by_hand);

    let reload = store.propose_reload().expect("a good file");
    assert!(matches!(reload.change, Change::Whole(_)), "{reload:?}");
    assert_eq!(store.text(), TEXT);
    store.commit(reload).expect("a good file");
    assert_eq!(store.text(), by_hand);
    replace(&mut store, &enable(false)).expect("known now");
    assert_eq!(fs::read_to_string(&file).expect("there"), format!("{TEXT}enabled = false\n# By hand.\n"));

    fs::remove_file(&file).expect("there");
    let error = replace(&mut store, &enable(true)).expect_err("gone");
    assert!(matches!(error, StoreError::Write { .. }) && error.to_string().contains("put it back"), "{error}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_file_that_the_agent_could_not_read_again_is_not_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vpnhub.toml");
    let text = format!("{TEXT}#{}\n", "-".repeat((64 << 20) - TEXT.len() - 3));
    fs::write(&file, &text).expect("written");
    let (mut store, _) = Store::open(&file).expect("a good file");
    let error = replace(&mut store, &enable(false)).expect_err("too large");
    assert!(error.to_string().ends_with("would become larger than 64 MiB"), "{error}");
    assert!(fs::read_to_string(&file).expect("there") == text && store.text() == text);
}

#[test]
fn what_a_crash_left_is_removed_and_what_others_left_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vpnhub.toml");
    fs::write(&file, TEXT).expect("written");
    for name in [".vpnhub.toml.vpnhub-new", ".vpnhub.toml.swp", "vpnhub.toml.bak"] {
        fs::write(folder.path().join(name), "half").expect("written");
    }
    let (mut store, _) = Store::open(&file).expect("a good file");
    let expected = ["vpnhub.toml", ".vpnhub.toml.swp", "vpnhub.toml.bak"].map(str::to_owned).into();
    assert_eq!(names(folder.path()), expected);
    // One that appears later, as a trap: it is replaced, not followed.
    symlink("vpnhub.toml.bak", folder.path().join(".vpnhub.toml.vpnhub-new")).expect("linked");
    replace(&mut store, &enable(false)).expect("may");
    assert_eq!(names(folder.path()), expected);
    assert_eq!(fs::read_to_string(folder.path().join("vpnhub.toml.bak")).expect("there"), "half");
}

/// Has a thread with mounts of its own do it.
fn with_own_mounts(work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("root may");
        work();
    });
    thread.join().expect("it succeeds");
}

/// Whatever still has it: another test's child has all files of its parent until it is another program.
fn umount(mounted: &Path) {
    umount2(mounted, MntFlags::MNT_DETACH).expect("mounted");
}

#[test]
fn what_the_host_refuses_is_one_sentence_and_changes_nothing() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return;
    }
    with_own_mounts(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let none: Option<&str> = None;
        let refused = |file: &Path, expected: &str| {
            let (mut store, _) = Store::open(file).expect("a good file");
            let error = replace(&mut store, &enable(false)).expect_err("refused").to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
            assert_eq!((fs::read_to_string(file).expect("there").as_str(), store.text().as_str()), (TEXT, TEXT));
            assert_eq!(names(file.parent().expect("a folder")), ["vpnhub.toml".to_owned()].into());
        };
        // A file that is a mount of its own, as containers have it.
        let (own, outside) = (folder.path().join("own"), folder.path().join("outside.toml"));
        fs::create_dir(&own).expect("may");
        fs::write(&outside, TEXT).expect("may");
        let file = own.join("vpnhub.toml");
        fs::write(&file, "").expect("may");
        mount(Some(&outside), &file, none, MsFlags::MS_BIND, none).expect("root may");
        refused(&file, "mount its folder instead");
        umount(&file);

        let full = folder.path().join("full");
        fs::create_dir(&full).expect("may");
        mount(Some("tmpfs"), &full, Some("tmpfs"), MsFlags::empty(), Some("nr_inodes=2")).expect("root may");
        let file = full.join("vpnhub.toml");
        fs::write(&file, TEXT).expect("may");
        refused(&file, "make room");
        mount(none, &full, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).expect("root may");
        refused(&file, "ReadWritePaths=");
        umount(&full);
    });
}

/// Destination of the n-th change.
fn destination(n: u16) -> IpNet {
    let [high, low] = n.to_be_bytes();
    Ipv4Net::new([10, high, low, 0].into(), 24).expect("a length").into()
}

/// Routes that are there at a time.
const WINDOW: u16 = 5;

/// The n-th change, from 0: even ones add a route, odd ones remove the oldest beyond the window.
fn change(n: u16) -> Edit {
    match n % 2 {
        0 => Edit::AddRoute(AddRoute {
            destination: destination(n / 2),
            next_hop: "a".into(),
            weight: None,
            publish: false,
        }),
        _ => Edit::DeleteRoute(DeleteRoute { destination: destination((n / 2).wrapping_sub(WINDOW)), next_hop: None }),
    }
}

/// Destinations after the first `n` changes.
fn routes_after(n: u16) -> BTreeSet<IpNet> {
    let (added, removed) = (n.div_ceil(2), (n / 2).saturating_sub(WINDOW));
    (removed..added).map(destination).collect()
}

/// Run by the test below in a process of its own: changes the file named by the environment until it is killed, and
/// says the number of each change that is done.
#[test]
#[ignore = "only of use to a_kill_at_any_moment_loses_nothing"]
fn helper_change_until_killed() {
    let file = env::var_os("STORE_FILE").expect("the test says it");
    let (mut store, _) = Store::open(Path::new(&file)).expect("a good file");
    let first: u16 = env::var("STORE_FIRST").expect("the test says it").parse().expect("a number");
    println!("\nREADY");
    for n in first.. {
        // The first of the removals have nothing to remove.
        if let Ok(proposal) = store.propose(&change(n)) {
            store.commit(proposal).expect("may");
        }
        println!("DONE {n}");
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vpnhub.toml");
    fs::write(&file, TEXT).expect("written");
    let mut random = SmallRng::seed_from_u64(1);
    let (mut done, mut unsaid, mut left_over) = (0, 0, 0);
    for round in 0..200 {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "helper_change_until_killed"])
            .env("STORE_FILE", &file)
            .env("STORE_FIRST", done.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        lines.find(|line| line.as_ref().is_ok_and(|line| line == "READY")).expect("it starts").expect("text");
        thread::sleep(Duration::from_micros(random.random_range(0..15_000)));
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        let said = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("DONE ")?.parse::<u16>().ok());
        let said = said.last().map_or(done, |n| n + 1);

        let text = fs::read_to_string(&file).expect("the file is always there");
        let (config, _) = config::parse(&text).unwrap_or_else(|found| panic!("round {round}: {found:?}\n{text}"));
        assert!(text.starts_with(TEXT), "round {round}: {text}");
        let found: BTreeSet<IpNet> = config.routes.iter().map(|route| route.destination).collect();
        // One more may be done, and the kill came before it could be said.
        let more = routes_after(said) != found;
        assert!(!more || routes_after(said + 1) == found, "round {round}: {said} changes were said; {found:?}");
        unsaid += u32::from(more);
        left_over += u32::from(names(folder.path()).len() > 1);
        done = said + u16::from(more);
    }
    eprintln!("{done} changes; killed before saying so: {unsaid}, while writing: {left_over}");
    assert!(done > 100 && unsaid + left_over > 0, "{done} changes, and no kill within one");
    Store::open(&file).expect("a good file");
    assert_eq!(names(folder.path()).len(), 1);
}
