//! Random changes of random files: what they mean is what a change of the [`Config`] means, and nothing else moves.
//!
//! Lines that a change must keep end in `#keep-N`; comments that go with their route are `#own-N`.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{
    super::{
        Config,
        model::{DEFAULT_WEIGHT, Route},
        parse,
    },
    AddRoute, DeleteRoute, Edit, Enable, SetRoute, edit,
};

const NAMES: [&str; 4] = ["a", "b-b", "c.c", "d_d"];

fn destination(random: &mut SmallRng) -> IpNet {
    format!("10.{}.0.0/16", random.random_range(0..6)).parse().expect("a prefix")
}

fn name(random: &mut SmallRng) -> String {
    NAMES[random.random_range(0..NAMES.len())].to_owned()
}

/// A file, and which route each of its own comments belongs to.
struct Maker<'r> {
    random: &'r mut SmallRng,
    text: String,
    tags: usize,
    owned: BTreeMap<String, (IpNet, String)>,
}

impl Maker<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    fn line(&mut self, line: &str) {
        self.tags += 1;
        let tag = if self.chance(50) { format!(" #keep-{}", self.tags) } else { String::new() };
        writeln!(self.text, "{line}{tag}").expect("a string");
    }

    fn free_comment(&mut self) {
        if self.chance(40) {
            self.tags += 1;
            write!(self.text, "\n#keep-{}\n\n", self.tags).expect("a string");
        }
    }

    fn own_comment(&mut self, (destination, next_hop): &(IpNet, String), indent: &str) {
        if self.chance(40) {
            self.tags += 1;
            let tag = format!("#own-{}", self.tags);
            writeln!(self.text, "{indent}{tag}").expect("a string");
            self.owned.insert(tag, (*destination, next_hop.clone()));
        }
    }

    /// Writes those that are keys of the whole file, and returns the sections of the others.
    fn connections(&mut self) -> String {
        let before = std::mem::take(&mut self.text);
        let mut later = Vec::new();
        let values = |name: &str| {
            let interface = format!("interface = \"tun-{}\"", &name[..1]);
            ["customer_gateway = \"g\"".to_owned(), interface, "local_cidrs = [\"0.0.0.0/0\"]".to_owned()]
        };
        let remotes = "remote_cidrs = [\"10.0.0.0/8\"]";
        for name in NAMES {
            let key = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
            self.free_comment();
            let enabled = match self.random.random_range(0..3) {
                0 => None,
                1 => Some("enabled = true"),
                _ => Some("enabled  =  false"),
            };
            let values = values(name).into_iter().chain([remotes.to_owned()]);
            let mut values: Vec<String> = values.chain(enabled.map(str::to_owned)).collect();
            values.shuffle(self.random);
            // Dotted, inline, or a section; dotted keys cannot stand in another section's place.
            match self.random.random_range(0..3) {
                0 => {
                    self.line(&format!("[connection.{key}]"));
                    for value in &values {
                        self.line(value);
                    }
                    if self.chance(30) {
                        self.line(&format!("[connection.{key}.health_check]"));
                        self.line("source = \"192.168.0.1\"");
                        self.line("destination = \"10.0.0.1\"");
                    }
                }
                1 => {
                    self.line(&format!("[ connection . {key} ]"));
                    for value in &values {
                        self.line(&format!("  {}", value.replacen(' ', "     ", 1)));
                    }
                }
                _ => later.push((key, values)),
            }
        }
        // These forms stand before the sections: see `file`.
        let sections = std::mem::replace(&mut self.text, before);
        for (key, values) in later {
            if self.chance(50) {
                for value in &values {
                    self.line(&format!("connection.{key}.{value}"));
                }
            } else {
                self.line(&format!("connection.{key} = {{ {} }}", values.join(", ")));
            }
        }
        sections
    }

    fn pairs(&mut self, (destination, next_hop): &(IpNet, String)) -> Vec<String> {
        let mut pairs = vec![format!("destination = \"{destination}\""), format!("next_hop = '{next_hop}'")];
        if self.chance(50) {
            pairs.push(format!("weight = {}", self.random.random_range(0..=100)));
        }
        if self.chance(50) {
            pairs.push(format!("publish = {}", self.chance(50)));
        }
        pairs.shuffle(self.random);
        pairs
    }

    fn tables(&mut self, routes: &[(IpNet, String)]) {
        for route in routes {
            self.free_comment();
            self.own_comment(route, "");
            self.own_comment(route, "  ");
            self.text.push_str("[[route]]\n");
            for pair in self.pairs(route) {
                self.own_comment(route, "\t");
                writeln!(self.text, "{pair}").expect("a string");
            }
            for _ in 0..self.random.random_range(0..3) {
                self.text.push('\n');
            }
        }
    }

    fn list(&mut self, routes: &[(IpNet, String)]) {
        let lines = self.chance(60);
        self.text.push_str(if lines { "route = [\n" } else { "route = [" });
        for (index, route) in routes.iter().enumerate() {
            if lines {
                self.own_comment(route, "    ");
                self.text.push_str("    ");
            }
            let pairs = self.pairs(route).join(", ");
            let blank = if self.chance(50) { " " } else { "" };
            write!(self.text, "{{{blank}{pairs}{blank}}}").expect("a string");
            if index + 1 < routes.len() || self.chance(50) {
                self.text.push(',');
            }
            if lines {
                self.own_comment(route, " ");
                self.text.truncate(self.text.trim_end().len());
                self.text.push('\n');
            } else if self.chance(50) {
                self.text.push(' ');
            }
        }
        self.text.push_str("]\n");
    }
}

fn file(random: &mut SmallRng) -> (String, BTreeMap<String, (IpNet, String)>) {
    let mut routes: Vec<(IpNet, String)> = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let route = (destination(random), name(random));
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    let mut maker = Maker { random, text: String::new(), tags: 0, owned: BTreeMap::new() };
    let in_list = maker.chance(40);
    if in_list {
        maker.list(&routes);
    }
    maker.line("gateway = { name = \"hub\", max_connections = 20 }");
    maker.line("customer_gateway = { g = { address = \"198.51.100.1\" } }");
    let connections = maker.connections();
    let tables_first = maker.chance(50);
    if !in_list && tables_first {
        maker.tables(&routes);
    }
    maker.text.push_str(&connections);
    if !in_list && !tables_first {
        maker.tables(&routes);
    }
    maker.free_comment();
    let (mut text, owned) = (maker.text, maker.owned);
    if random.random_ratio(1, 4) {
        text.truncate(text.trim_end().len());
    }
    if random.random_ratio(1, 4) {
        text = text.replace('\n', "\r\n");
    }
    if random.random_ratio(1, 4) {
        text.insert(0, '\u{feff}');
    }
    (text, owned)
}

fn change(random: &mut SmallRng) -> Edit {
    let (destination, next_hop) = (destination(random), random.random_ratio(1, 2).then(|| name(random)));
    let weight = random.random_ratio(1, 2).then(|| random.random_range(0..=100));
    match random.random_range(0..5) {
        0 | 1 => Edit::AddRoute(AddRoute { destination, next_hop: name(random), weight, publish: random.random() }),
        2 => Edit::DeleteRoute(DeleteRoute { destination, next_hop }),
        3 => {
            let publish = random.random_ratio(1, 2).then(|| random.random());
            Edit::SetRoute(SetRoute { destination, next_hop, weight, publish })
        }
        _ => Edit::Enable(Enable { connection: name(random), enabled: random.random() }),
    }
}

/// What a change means; `None` where it must be refused.
fn model(config: &Config, change: &Edit) -> Option<Config> {
    let mut config = config.clone();
    let pick = |routes: &[Route], destination: IpNet, next_hop: Option<&str>| {
        let fits = |route: &Route| {
            route.destination == destination && next_hop.is_none_or(|next_hop| route.next_hop == next_hop)
        };
        let found: Vec<usize> = (0..routes.len()).filter(|index| fits(&routes[*index])).collect();
        (found.len() == 1).then(|| found[0])
    };
    match change.clone() {
        Edit::AddRoute(AddRoute { destination, next_hop, weight, publish }) => {
            let route = Route { destination, next_hop, weight: weight.unwrap_or(DEFAULT_WEIGHT), publish };
            match pick(&config.routes, destination, Some(&route.next_hop)) {
                None => config.routes.push(route),
                Some(index) if config.routes[index] == route => {}
                Some(_) => return None,
            }
        }
        Edit::DeleteRoute(DeleteRoute { destination, next_hop }) => {
            config.routes.remove(pick(&config.routes, destination, next_hop.as_deref())?);
        }
        Edit::SetRoute(SetRoute { weight: None, publish: None, .. }) => return None,
        Edit::SetRoute(SetRoute { destination, next_hop, weight, publish }) => {
            let index = pick(&config.routes, destination, next_hop.as_deref())?;
            let route = &mut config.routes[index];
            route.weight = weight.unwrap_or(route.weight);
            route.publish = publish.unwrap_or(route.publish);
        }
        Edit::Enable(Enable { connection, enabled }) => config.connections.get_mut(&connection)?.enabled = enabled,
    }
    Some(config)
}

fn tags<'t>(text: &'t str, kind: &str) -> Vec<&'t str> {
    let words = text.split_whitespace().filter(|word| word.starts_with(kind));
    words.collect()
}

#[test]
fn changes_of_the_text_are_changes_of_the_configuration_and_keep_the_rest() {
    let mut made = 0;
    for seed in 0..2000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let (mut text, mut owned) = file(random);
        let (mut config, _) = parse(&text).unwrap_or_else(|found| panic!("seed {seed}: {found:?}\n{text}"));
        let kept: Vec<String> = tags(&text, "#keep").into_iter().map(str::to_owned).collect();
        for step in 0..12 {
            let change = change(random);
            let context = format!("seed {seed}, step {step}: {change:?}\n{text}");
            let (after, expected) = match (edit(&text, &change), model(&config, &change)) {
                (Ok(after), Some(expected)) => (after, expected),
                (Err(_), None) => continue,
                (result, expected) => panic!("{context}\ngives {result:?}\nand not {expected:?}"),
            };
            let context = format!("{context}\nbecame\n{after}");
            let (parsed, _) = parse(&after).unwrap_or_else(|found| panic!("{context}\n{found:?}"));
            assert_eq!(parsed, expected, "{context}");
            assert_eq!(expected == config, after == text, "{context}");
            assert_eq!(tags(&after, "#keep"), kept, "{context}");
            owned.retain(|_, (destination, next_hop)| {
                expected.routes.iter().any(|route| route.destination == *destination && route.next_hop == *next_hop)
            });
            let mut left = tags(&after, "#own");
            left.sort_unstable();
            assert_eq!(left, owned.keys().map(String::as_str).collect::<Vec<_>>(), "{context}");
            let line_ends = |text: &str| (text.contains("\r\n"), text.replace("\r\n", "").contains('\n'));
            assert_eq!(line_ends(&after), line_ends(&text), "{context}");
            assert_eq!(after.ends_with('\n'), text.ends_with('\n'), "{context}");
            assert_eq!(after.starts_with('\u{feff}'), text.starts_with('\u{feff}'), "{context}");
            (text, config) = (after, expected);
            made += 1;
        }
    }
    assert!(made > 8000, "only {made} changes");
}
