//! Files of any size and content: bounded time and memory, and errors instead of panics.

use std::{fs, net::Ipv4Addr, process::Command, time::Duration};

use hub_userspace::config::{self, Config, Diagnostic};

use crate::{errors, repository};

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel");
    Duration::from_nanos(statistics.split(' ').next().expect("a number").parse().expect("a number"))
}

/// Parses, and fails if that takes more CPU time than an operator would wait.
fn parse_quickly(what: &str, text: &str) -> Result<Config, Vec<Diagnostic>> {
    let start = cpu_time();
    let result = config::parse(text).map(|(config, _)| config);
    // A release build takes a fraction of a second; a quadratic step would take minutes.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });
    let taken = cpu_time().saturating_sub(start);
    println!("{what}: {taken:?}");
    assert!(taken < limit, "{what}: {taken:?}");
    result
}

pub const TWO_SITES: &str = r#"
[gateway]
name = "hub"
[customer_gateway.a]
address = "198.51.100.1"
[customer_gateway.b]
address = "198.51.100.2"
[connection.a]
customer_gateway = "a"
interface = "tun-a"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.0.0.0/8"]
[connection.b]
customer_gateway = "b"
interface = "tun-b"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["172.16.0.0/12"]
"#;

pub fn route(destination: &str, next_hop: &str) -> String {
    format!("[[route]]\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"\n")
}

/// A text of `count` pieces.
fn pieces(count: u32, piece: impl Fn(u32) -> String) -> String {
    (0..count).map(piece).collect::<Vec<_>>().concat()
}

/// The `index`th /31 of 10.0.0.0/8.
fn pair(index: u32) -> String {
    format!("{}/31", Ipv4Addr::from((10 << 24) + index * 2))
}

#[test]
fn hundred_thousand_routes_are_checked_in_time() {
    const COUNT: u32 = 100_000;
    let apart = TWO_SITES.to_owned() + &pieces(COUNT, |index| route(&pair(index), "a"));
    assert_eq!(parse_quickly("apart", &apart).expect("no mistakes").routes.len(), COUNT as usize);

    let inside = TWO_SITES.to_owned() + &route("10.0.0.0/8", "a") + &pieces(COUNT, |index| route(&pair(index), "b"));
    let found = parse_quickly("inside", &inside).expect_err("all inside the first");
    assert_listed(&found, COUNT);

    let dangling = TWO_SITES.to_owned() + &pieces(COUNT, |index| route(&pair(index), &format!("a{index}")));
    let found = parse_quickly("dangling", &dangling).expect_err("all dangling");
    assert_listed(&found, COUNT);
}

/// The first thousand errors are listed, and the others are counted.
fn assert_listed(found: &[Diagnostic], count: u32) {
    assert_eq!(errors(found), 1001);
    // Each error may have a warning beside it.
    let omitted = found.last().and_then(|last| last.message.split(' ').next()?.parse::<u32>().ok());
    assert!(omitted.is_some_and(|omitted| omitted >= count - 1000), "{:?}", found.last());
}

/// Limits of the issue: a file of 64 MiB takes at most 10 s of CPU time and 1 GiB of memory.
#[test]
fn check_of_64_mib_of_any_content_takes_bounded_time_and_memory() {
    const SIZE: usize = 64 << 20;
    let filled = |piece: &str| piece.repeat(SIZE / piece.len());
    let numbered = |piece: &dyn Fn(usize) -> String| {
        let mut text = "[gateway]\nname = \"hub\"\n".to_owned();
        let mut number = 0;
        while text.len() < SIZE - 200 {
            text += &piece(number);
            number += 1;
        }
        text
    };
    let cases: [(&str, &dyn Fn() -> String); 10] = [
        ("lines", &|| filled("a\n")),
        ("brackets", &|| filled("[")),
        ("lists", &|| filled("a=[")),
        ("dotted keys", &|| numbered(&|number| format!("x{number}.a.b.c.d.e.f.g.h.i.j.k.l.m.n=1\n"))),
        ("include", &|| format!("include=[{}]\n", "\"x*\",".repeat(SIZE / 5 - 10))),
        ("keys", &|| numbered(&|number| format!("x{number} = 1\n"))),
        ("sections", &|| numbered(&|number| format!("[connection.c{number}]\n"))),
        ("inline tables", &|| numbered(&|number| format!("x{number} = {{a={{b={{}}}}}}\n"))),
        ("routes", &|| filled("[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"q\"\n")),
        ("long routes with errors", &|| {
            let pad = "x".repeat(40);
            numbered(&|number| {
                format!("[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"{pad}{number}\"\ny = 1\n")
            })
        }),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("large.toml");
    for (what, text) in cases {
        fs::write(&file, text()).expect("the folder can be written");
        let limited = "ulimit -t 10 && ulimit -d 1048576 && exec \"$0\" check --config \"$1\"";
        let output = Command::new("sh").args(["-c", limited, env!("CARGO_BIN_EXE_vpnhub")]).arg(&file).output();
        let output = output.expect("there is a shell");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{what}: {} {shown}", String::from_utf8_lossy(&output.stderr));
        assert!(shown.contains(": error: ") && shown.lines().count() < 2100, "{what}: {} lines", shown.lines().count());
    }
}

#[test]
fn hostile_file_ends_in_errors() {
    let quota = "[gateway]\nname = \"hub\"\nmax_connections = ".to_owned();
    let cases = [
        ("brackets", "a = ".to_owned() + &"[".repeat(1 << 20)),
        ("braces", "a = ".to_owned() + &"{a=".repeat(1 << 18)),
        ("dotted key", "a.".repeat(1 << 18) + "a = 1"),
        ("dotted header", "[".to_owned() + &"a.".repeat(1 << 18) + "a]"),
        ("integer", quota + &"9".repeat(1 << 20)),
        ("NUL bytes", "\0".repeat(1 << 20)),
        ("quotes", "\"".repeat((1 << 20) + 1)),
        ("headers", "[a\n".repeat(1 << 18)),
        ("open lists", "a = [\n".repeat(1 << 18)),
        ("open texts", "a = \"\"\"\n".repeat(1 << 17)),
        ("the same key", "a = 1\n".repeat(1 << 18)),
        ("the same header", "[a]\n".repeat(1 << 18)),
        ("escapes", "a = \"".to_owned() + &"\\q".repeat(100_000) + "\"\n"),
        ("too many routes", "[[route]]\n".repeat((1 << 20) + 1)),
        ("too many lines", "a\n".repeat(16_000_001)),
        ("unknown keys", pieces(100_000, |index| format!("key{index} = 1\n"))),
        ("long names", format!("[connection.{}]\n", "x".repeat(1 << 20))),
        ("translations", {
            let list = |item: &dyn Fn(u32) -> String| pieces(20_000, |index| item(index) + ", ");
            let address = |network: &str, index: u32| format!("\"{network}.{}.{}/32\"", index / 256, index % 256);
            let remotes = list(&|index| address("10.1", index));
            let tables =
                list(&|index| format!("{{ site = {}, hub = {} }}", address("10.1", index), address("10.2", index)));
            let connection = |index: u32| {
                format!(
                    "[connection.c{index}]\ninterface = \"tun\"\nremote_cidrs = [{remotes}]\ntranslate = [{tables}]\n"
                )
            };
            connection(1) + &connection(2)
        }),
        ("split prefixes", {
            let remotes = pieces(120, |length| format!("\"::/{length}\", "));
            let table =
                |index: u32| format!("{{ site = \"{index:x}:{index:x}::1/128\", hub = \"f{index:03x}::/128\" }}, ");
            let tables = pieces(32, |index| table(index + 1));
            pieces(2_000, |index| {
                format!(
                    "[connection.c{index}]\ninterface = \"tun{index}\"\nremote_cidrs = [{remotes}]\n\
                     translate = [{tables}]\n"
                )
            })
        }),
        ("sections", pieces(50_000, |index| format!("[connection.c{index}]\n"))),
    ];
    for (what, text) in cases {
        let found = parse_quickly(what, &text).expect_err(what);
        assert!(errors(&found) > 0, "{what}");
    }
}

/// xorshift64: the same bytes on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a usize")
    }

    /// Changes, adds or removes a byte, or copies a piece elsewhere.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const SIGNS: &[u8] = b"[]{}=\"'.,#\n\r\t \\_-:/0129azAZ\0\x7f\xc3\xa9";
        let at = self.below(bytes.len());
        let sign = SIGNS[self.below(SIGNS.len())];
        match self.below(4) {
            0 => bytes[at] = sign,
            1 => bytes.insert(at, sign),
            2 => _ = bytes.remove(at),
            _ => {
                let end = (at + self.below(80)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn damaged_file_never_panics() {
    let example = fs::read(repository().join("examples/three-offices.toml")).expect("the example");
    let mut random = Random(0x5eed);
    for _ in 0..20_000 {
        let mut bytes = example.clone();
        for _ in 0..=random.below(6) {
            random.damage(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(found) = config::parse(&text) {
            assert!(errors(&found) > 0, "refused without an error: {text}");
            assert!(found.is_sorted_by_key(|found| (found.line, found.column)), "{found:?}");
        }
    }
}
