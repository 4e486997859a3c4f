//! The quick way of random changes of random files is the whole file's way, to the byte and to the word.

use std::{collections::HashSet, fmt::Write as _};

use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{
    super::{
        Config, Diagnostic, bulk,
        diagnostic::{Problem, Report},
        edit::edit,
        ipsec::Files,
        judge, parse, read_whole,
    },
    *,
};

const NAMES: [&str; 6] = ["a", "b-b", "c.c", "d_d", "e", "f"];

fn name(random: &mut SmallRng) -> String {
    NAMES[random.random_range(0..NAMES.len())].to_owned()
}

/// Prefixes lie in one another often, those of different connections seldom.
fn destination(random: &mut SmallRng, next_hop: &str) -> IpNet {
    let own = NAMES.iter().position(|name| *name == next_hop).unwrap_or_default();
    let block = if random.random_ratio(1, 8) { random.random_range(0..NAMES.len()) } else { own };
    let third = [0, 64, 128, 192][random.random_range(0..4)];
    let text = match random.random_range(0..24) {
        0 => "0.0.0.0/0".to_owned(),
        1 => "::/0".to_owned(),
        2 => "10.0.0.0/8".to_owned(),
        3 => format!("10.{}.0.0/15", block & !1),
        4 | 5 => format!("10.{block}.0.0/16"),
        6..=9 => format!("10.{block}.{third}.0/18"),
        10..=12 => format!("fd00:{block}:{third}::/48"),
        13 => format!("fd00:{block}::/32"),
        14 => ["192.168.7.0/24", "10.200.0.0/25"][random.random_range(0..2)].to_owned(),
        _ => format!("10.{block}.{third}.{}/32", random.random_range(0..4)),
    };
    text.parse().expect("a prefix")
}

/// What a file is made of, each piece of text with the lines that belong to it.
struct Maker<'r> {
    random: &'r mut SmallRng,
    /// Keys of the whole file.
    root: String,
    sections: Vec<String>,
    routes: Vec<(IpNet, String, String)>,
}

impl Maker<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    fn comment(&mut self, percent: u32) -> String {
        let number = self.random.random_range(0..1000);
        if self.chance(percent) { format!("# {number} \u{e4}") } else { String::new() }
    }

    /// Lines of keys, some with a comment above or behind.
    fn keys(&mut self, mut pairs: Vec<String>) -> String {
        pairs.shuffle(self.random);
        let spacing = [" = ", "=", "    =  "][self.random.random_range(0..3)];
        let indent = ["", "", "  ", "\t"][self.random.random_range(0..4)];
        let mut text = String::new();
        for pair in pairs {
            let above = self.comment(10);
            if !above.is_empty() {
                writeln!(text, "{indent}{above}").expect("a string");
            }
            let behind = self.comment(10);
            writeln!(text, "{indent}{} {behind}", pair.replacen(" = ", spacing, 1)).expect("a string");
        }
        text
    }

    /// With comments and blank lines around it.
    fn surrounded(&mut self, section: &str) -> String {
        let mut text = "\n".repeat(self.random.random_range(0..3));
        for percent in [10, 30] {
            let comment = self.comment(percent);
            if !comment.is_empty() {
                text += &(comment + "\n");
                text += if self.chance(30) { "\n" } else { "" };
            }
        }
        text += section;
        let below = self.comment(15);
        if below.is_empty() { text } else { text + &below + if self.chance(50) { "\n\n" } else { "\n" } }
    }

    fn connections(&mut self) {
        let mut dotted = String::new();
        for (index, name) in NAMES.into_iter().enumerate() {
            let remotes = match self.random.random_range(0..4) {
                0 => format!("[\"10.{index}.0.0/16\"]"),
                1 => format!("[\n  \"10.{index}.0.0/17\", # first\n  \"fd00:{index}::/32\",\n]"),
                _ => "[\"0.0.0.0/0\", \"::/0\"]".to_owned(),
            };
            let mut pairs = vec![
                format!("customer_gateway = \"g{}\"", self.random.random_range(0..4)),
                format!("interface = \"tun{index}\""),
                "local_cidrs = [\"0.0.0.0/0\"]".to_owned(),
                format!("remote_cidrs = {remotes}"),
            ];
            match self.random.random_range(0..4) {
                0 => pairs.push("enabled = false".to_owned()),
                1 => pairs.push("enabled = true".to_owned()),
                _ => {}
            }
            let key = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
            match self.random.random_range(0..16) {
                0 => {
                    for pair in &pairs {
                        writeln!(self.root, "connection.{key}.{pair}").expect("a string");
                    }
                }
                1 => {
                    // On one line, so without a list of several.
                    pairs.retain(|pair| !pair.starts_with("remote_cidrs"));
                    pairs.push("remote_cidrs = [\"0.0.0.0/0\"]".to_owned());
                    writeln!(dotted, "connection.{key} = {{ {} }}", pairs.join(", ")).expect("a string");
                }
                form => {
                    let header = if form == 2 { "[ connection . KEY ]" } else { "[connection.KEY]" };
                    let mut section = header.replace("KEY", &key) + "\n" + &self.keys(pairs);
                    if self.chance(20) {
                        writeln!(section, "[connection.{key}.health_check]").expect("a string");
                        section += &self.keys(vec![
                            "source = \"192.168.0.1\"".to_owned(),
                            format!("destination = \"10.{index}.0.1\""),
                        ]);
                    }
                    if self.chance(20) {
                        writeln!(section, "[connection.{key}.ipsec]").expect("a string");
                        section += &self.keys(vec![
                            format!("psk_file = \"/etc/vpnhub/{index}.psk\""),
                            "local_id = \"hub.example.com\"".to_owned(),
                            format!("remote_id = \"site-{index}.example.com\""),
                        ]);
                        if self.chance(50) {
                            writeln!(section, "[connection.{key}.ipsec.esp]").expect("a string");
                            section += &self.keys(vec!["lifetime = \"30m\"".to_owned()]);
                        }
                    }
                    let section = self.surrounded(&section);
                    self.sections.push(section);
                }
            }
        }
        self.root += &dotted;
    }

    fn route(&mut self) {
        let next_hop = name(self.random);
        let destination = match self.routes.last() {
            // The same destination by several next hops.
            Some((destination, ..)) if self.random.random_ratio(1, 6) => *destination,
            _ => destination(self.random, &next_hop),
        };
        let mut pairs = vec![format!("destination = \"{destination}\""), format!("next_hop = '{next_hop}'")];
        if self.chance(15) {
            pairs.push(format!("weight = {}", ["0x0A", "100", "0"][self.random.random_range(0..3)]));
        }
        if self.chance(15) {
            pairs.push(format!("publish = {}", self.chance(50)));
        }
        let header = if self.chance(4) { "  [[ route ]] # here\n" } else { "[[route]]\n" };
        let section = header.to_owned() + &self.keys(pairs);
        let section = self.surrounded(&section);
        self.routes.push((destination, next_hop, section));
    }

    /// The file, with fewer routes until it breaks no rule.
    fn finish(mut self) -> String {
        let (layout, in_list) = (self.random.random_range(0..4), self.random.random_ratio(1, 30));
        let (windows, marked, open) = (self.chance(25), self.random.random_ratio(1, 30), self.chance(25));
        loop {
            let mut text = self.root.clone();
            let mut routes: Vec<String> = self.routes.iter().map(|(.., section)| section.clone()).collect();
            if in_list {
                text += "route = [\n";
                for (destination, next_hop, _) in &self.routes {
                    writeln!(text, "  {{ destination = \"{destination}\", next_hop = \"{next_hop}\" }},")
                        .expect("a string");
                }
                text += "]\n";
                routes.clear();
            }
            let split = match layout {
                0 | 1 => self.sections.len(),
                2 => 0,
                _ => self.sections.len() / 2,
            };
            text.extend(self.sections[..split].iter().map(String::as_str));
            text.extend(routes.iter().map(String::as_str));
            text.extend(self.sections[split..].iter().map(String::as_str));
            if open {
                text.truncate(text.trim_end().len());
            }
            if windows {
                text = text.replace('\n', "\r\n");
            }
            if marked {
                text.insert(0, '\u{feff}');
            }
            match parse(&text) {
                Ok(_) => return text,
                Err(found) if self.routes.is_empty() => panic!("{found:?}\n{text}"),
                Err(_) => _ = self.routes.remove(self.random.random_range(0..self.routes.len())),
            }
        }
    }
}

fn file(random: &mut SmallRng) -> String {
    let mut maker = Maker { random, root: String::new(), sections: Vec::new(), routes: Vec::new() };
    let default = if maker.chance(50) { ", allow_default_route = true" } else { "" };
    maker.root = maker.comment(50) + &format!("\ngateway = {{ name = \"hub\"{default} }}\n");
    for gateway in 0..4 {
        writeln!(maker.root, "customer_gateway.g{gateway}.address = \"198.51.100.{gateway}\"").expect("a string");
    }
    maker.connections();
    if maker.chance(50) {
        let section =
            maker.surrounded("[vpc]\ninterface = \"vpc0\"\ncidrs = [\"192.168.7.0/25\", \"10.200.0.0/24\"]\n");
        maker.sections.push(section);
    }
    maker.sections.shuffle(maker.random);
    for _ in 0..maker.random.random_range(0..16) {
        maker.route();
    }
    maker.finish()
}

fn change(random: &mut SmallRng, config: &Config) -> Edit {
    let next_hop = name(random);
    // Of the routes that there are, mostly.
    let known = config.routes.get(random.random_range(0..=config.routes.len()));
    let target = known.filter(|_| random.random_ratio(7, 8)).map(|route| (route.destination, route.next_hop.clone()));
    let (destination, hop) = target.unwrap_or_else(|| (destination(random, &next_hop), name(random)));
    let hop = random.random_ratio(2, 3).then_some(hop);
    let weight = random.random_ratio(1, 2).then(|| random.random_range(0..=101));
    let publish = random.random_ratio(1, 2).then(|| random.random());
    match random.random_range(0..10) {
        0..=4 => {
            let again = random.random_ratio(1, 4);
            let destination = if again { destination } else { self::destination(random, &next_hop) };
            let next_hop = if random.random_ratio(1, 40) { "none".to_owned() } else { next_hop };
            Edit::AddRoute(AddRoute { destination, next_hop, weight, publish: publish.unwrap_or_default() })
        }
        5 | 6 => Edit::DeleteRoute(DeleteRoute { destination, next_hop: hop }),
        7 | 8 => Edit::SetRoute(SetRoute { destination, next_hop: hop, weight, publish }),
        _ => Edit::Enable(Enable { connection: next_hop, enabled: random.random() }),
    }
}

/// The definition: what the whole file says now and did not say before.
fn new_sentences(warnings: &[Diagnostic], before: &[Diagnostic]) -> Vec<String> {
    let known: HashSet<_> = before.iter().map(Diagnostic::subject).collect();
    warnings.iter().filter(|warning| !known.contains(&warning.subject())).map(Diagnostic::sentence).collect()
}

#[derive(Debug, Default)]
struct Tally {
    files: usize,
    in_blocks: usize,
    done: usize,
    quick: usize,
    refused: usize,
    warned: usize,
}

fn text_of(known: &Known, patch: Option<&Patch>) -> String {
    let text: String = known.slices(patch).collect();
    assert_eq!(known.len(patch), text.len());
    text
}

/// One file and its changes.
fn run(seed: u64, tally: &mut Tally) {
    let random = &mut SmallRng::seed_from_u64(seed);
    let mut text = file(random);
    let mut judged = judge(&text, Files::Unseen).expect("a good file");
    tally.files += 1;
    let Ok(mut known) = Known::of(text.clone(), &judged) else { return };
    tally.in_blocks += 1;
    for step in 0..30 {
        let change = change(random, &judged.config);
        let context = || format!("seed {seed}, step {step}: {change:?}\n{text}");
        let quick = known.judge(&change);
        assert_eq!(text_of(&known, None), text, "{}", context());
        let after = match (edit(&text, &change), &quick) {
            (Ok(after), _) => after,
            (Err(error), Err(other)) => {
                assert_eq!(error, *other, "{}", context());
                continue;
            }
            (Err(_), Ok(Outcome::CannotTell)) => continue,
            (Err(error), _) => panic!("{}: {error}, and not so by the quick way", context()),
        };
        let quick = quick.unwrap_or_else(|error| panic!("{}: {error}", context()));
        let Ok(wanted) = judge(&after, Files::Unseen) else {
            match quick {
                Outcome::Edited(patch) => assert_eq!(text_of(&known, Some(&patch)), after, "{}", context()),
                Outcome::CannotTell => {}
                _ => panic!("{}: allowed by the quick way", context()),
            }
            tally.refused += 1;
            continue;
        };
        match quick {
            Outcome::Nothing => assert_eq!(after, text, "{}", context()),
            Outcome::CannotTell if after == text => {}
            Outcome::Change(quick) => {
                assert_eq!(text_of(&known, Some(&quick.patch)), after, "{}", context());
                let mut config = judged.config.clone();
                config.apply(&quick.difference);
                assert_eq!(config, wanted.config, "{}", context());
                assert_eq!(Difference::between(&judged.config, &config), quick.difference, "{}", context());
                let warnings: Vec<_> = quick.warning.iter().map(Problem::sentence).collect();
                assert_eq!(warnings, new_sentences(&wanted.warnings, &judged.warnings), "{}", context());
                tally.warned += warnings.len();
                known.apply(*quick);
                tally.quick += 1;
                tally.done += 1;
            }
            Outcome::Edited(_) | Outcome::CannotTell => {
                if let Outcome::Edited(patch) = quick {
                    assert_eq!(text_of(&known, Some(&patch)), after, "{}", context());
                }
                // A list that was empty has got its first route.
                let Ok(anew) = Known::of(after.clone(), &wanted) else { return };
                known = anew;
                tally.done += 1;
            }
        }
        (text, judged) = (after, wanted);
    }
}

/// Seeds to run: one, or as many as the environment asks for.
fn seeds(many: u64) -> std::ops::Range<u64> {
    match std::env::var("VPNHUB_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..many,
    }
}

#[test]
fn the_quick_way_does_and_says_what_the_whole_files_way_does() {
    let mut tally = Tally::default();
    let seeds = seeds(1000);
    let is_all = seeds.clone().count() > 1;
    seeds.for_each(|seed| run(seed, &mut tally));
    println!("{tally:?}");
    if is_all {
        assert!(tally.in_blocks * 10 > tally.files * 9, "{tally:?}");
        assert!(tally.quick * 10 > tally.done * 8, "{tally:?}");
        assert!(tally.done > 15_000 && tally.refused > 1000 && tally.warned > 2000, "{tally:?}");
    }
}

#[test]
fn reading_in_pieces_is_reading_the_whole() {
    let (mut in_pieces, mut damaged) = (0, 0);
    for seed in seeds(3000) {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut text = file(random);
        if random.random_ratio(1, 2) {
            // Lines that come and go keep much of the rest readable.
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            let (from, to) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
            match random.random_range(0..4) {
                0 => _ = lines.remove(from),
                1 => lines.insert(to, lines[from]),
                2 => lines
                    .insert(to, ["x = '''\n", "[[route]]\n", "y = [\n", "]\n", "[vpc]\n"][random.random_range(0..5)]),
                _ => lines.swap(from, to),
            }
            text = lines.concat();
            damaged += 1;
        }
        let piece = random.random_range(0..200);
        let mut report = Report::new(&text);
        let Some((draft, _, headers)) = bulk::read(&text, piece, &mut report) else { continue };
        in_pieces += 1;
        let mut whole = Report::new(&text);
        let (expected, unread, expected_headers) = read_whole(&text, &mut whole);
        let context = || format!("seed {seed}\n{text}");
        assert_eq!(format!("{draft:?}"), format!("{expected:?}"), "{}", context());
        assert_eq!(headers, expected_headers, "{}", context());
        assert_eq!(report.finish(), whole.finish(), "{}", context());
        assert!(unread.is_empty(), "{}", context());
    }
    println!("{in_pieces} in pieces, {damaged} damaged");
    assert!(in_pieces == 1 || in_pieces > 1000, "only {in_pieces}");
}
