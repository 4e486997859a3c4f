//! `health_check` of a connection: its keys, their values and rules, and its text.

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Located, Problem, counted},
    read::SectionReader,
    section::List,
    show::{string, strings, time},
    value,
};

/// `health_check.interval`.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(3);
/// `health_check.retries`.
pub const DEFAULT_RETRIES: u32 = 3;
/// Maximum number of destinations: each is probed by itself.
pub const MAX_TARGETS: usize = 8;
/// Maximum of `degraded.window`: the agent stores one bit for each probe.
const MAX_WINDOW: u32 = 1000;
pub(super) const KEYS: &[&str] = &["source", "destination", "interval", "retries", "require", "degraded", "when_down"];
pub(super) const DEGRADED_KEYS: &[&str] = &["loss", "window"];
const REQUIRE: [(&str, Require); 2] = [("any", Require::Any), ("all", Require::All)];
const WHEN_DOWN: [(&str, WhenDown); 2] = [("keep", WhenDown::Keep), ("revoke", WhenDown::Revoke)];

/// ICMP echo through the connection's own interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub source: IpAddr,
    /// Each is probed; all of the same family as `source`. 1 to [`MAX_TARGETS`].
    pub destinations: Vec<IpAddr>,
    pub interval: Duration,
    /// Consecutive misses after which a destination is down.
    pub retries: u32,
    pub require: Require,
    /// `None`: loss alone never degrades it.
    pub degraded: Option<Degraded>,
    pub when_down: WhenDown,
}

/// How many of several destinations must be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Require {
    #[default]
    Any,
    All,
}

/// What happens to published routes while the connection is down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// They stay, as long as its interface is up.
    #[default]
    Keep,
    /// They are withdrawn, unless another next hop of the destination is up or keeps them.
    Revoke,
}

/// The loss above which a destination is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degraded {
    /// Fraction of the window, in millionths: above 0, below 1,000,000.
    pub loss: u32,
    /// Number of probes.
    pub window: u32,
}

impl Degraded {
    /// Lost probes of a window that do not degrade a destination yet.
    pub fn tolerated(self) -> u32 {
        (u64::from(self.loss) * u64::from(self.window) / 1_000_000) as u32
    }
}

#[derive(Debug, Clone)]
pub(super) struct HealthCheckDraft {
    pub source: Option<Located<IpAddr>>,
    pub destinations: List<IpAddr>,
    pub interval: Option<Located<Duration>>,
    pub retries: Option<Located<u32>>,
    pub require: Option<Located<Require>>,
    pub degraded: Option<Degraded>,
    /// False if `degraded` is there, and wrong.
    pub is_sound: bool,
    pub when_down: Option<Located<WhenDown>>,
}

impl HealthCheckDraft {
    pub fn finish(self) -> Option<HealthCheck> {
        self.is_sound.then_some(())?;
        Some(HealthCheck {
            source: self.source?.value,
            destinations: self.destinations.finish()?,
            interval: self.interval?.value,
            retries: self.retries?.value,
            require: self.require?.value,
            degraded: self.degraded,
            when_down: self.when_down?.value,
        })
    }
}

impl SectionReader<'_, '_> {
    /// Reads `health_check`; `None` if it is no table.
    pub(super) fn health_check<'a>(
        &mut self,
        table: &'a Spanned<DeValue<'a>>,
        path: String,
    ) -> Option<HealthCheckDraft> {
        let shape = "health_check = { source = \"192.168.0.1\", destination = \"10.10.10.1\" }";
        let section = self.open(table, path, KEYS, shape)?;
        let degraded = section.get("degraded").map(|table| self.degraded(table, section.path_of("degraded")));
        let report = &mut *self.report;
        let check = HealthCheckDraft {
            source: section.required("source", "\"192.168.0.1\", an address of this host", report, value::host_address),
            destinations: section.one_or_more(
                "destination",
                "\"10.10.10.1\", an address of the site",
                report,
                value::host_address,
            ),
            interval: section.or_default("interval", DEFAULT_INTERVAL, report, value::interval),
            retries: section.or_default("retries", DEFAULT_RETRIES, report, |value| value::integer(value, 1..=100)),
            require: section.or_default("require", Require::Any, report, |value| value::choice(value, &REQUIRE)),
            degraded: degraded.flatten(),
            is_sound: degraded != Some(None),
            when_down: section
                .or_default("when_down", WhenDown::Keep, report, |value| value::choice(value, &WHEN_DOWN)),
        };
        let path = section.path_of("destination");
        if let Some(extra) = check.destinations.items.get(MAX_TARGETS) {
            let count = counted(check.destinations.items.len(), "destination");
            let help = format!("probe {MAX_TARGETS} at most: those that show best whether the site is reached");
            report.error(extra.at, path.as_str(), Problem::new(format!("{count} are too many")).help(help));
        }
        let Some(source) = check.source else { return Some(check) };
        for destination in &check.destinations.items {
            if source.value.is_ipv4() != destination.value.is_ipv4() {
                let (destination, at) = (destination.value, destination.at);
                let problem = format!("{destination} and the source {} are not of one IP version", source.value);
                let problem = Problem::new(problem).help("use IPv4 for both, or IPv6 for both");
                report.error(at, path.as_str(), problem);
            }
        }
        Some(check)
    }

    fn degraded<'a>(&mut self, table: &'a Spanned<DeValue<'a>>, path: String) -> Option<Degraded> {
        let section = self.open(table, path, DEGRADED_KEYS, "degraded = { loss = 0.05, window = 30 }")?;
        let report = &mut *self.report;
        let example = "0.05, the fraction of lost probes above which it is degraded";
        let loss = section.required("loss", example, report, loss);
        let example = "30, the number of last probes that count";
        let window = section.required("window", example, report, |value| value::integer(value, 2..=MAX_WINDOW));
        Some(Degraded { loss: loss?.value, window: window?.value })
    }
}

/// A fraction, in millionths.
fn loss(value: &DeValue<'_>) -> Result<u32, Problem> {
    let number = match value {
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().ok(),
        _ => None,
    };
    let millionths = number.map(|number| (number * 1e6).round()).filter(|number| (1.0..1e6).contains(number));
    // The range is checked.
    #[expect(clippy::cast_sign_loss, reason = "from 1 to 999,999")]
    millionths.map(|number| number as u32).ok_or_else(|| {
        value::wrong_type("a fraction above 0 and below 1", value).help("write 0.05 for 5 % of the probes")
    })
}

/// As an inline table of a file.
pub(super) fn text(check: &HealthCheck) -> String {
    let HealthCheck { source, destinations, interval, retries, require, degraded, when_down } = check;
    let destination = match destinations.as_slice() {
        [destination] => string(destination),
        destinations => strings(destinations),
    };
    let mut text = format!(
        "{{ source = {}, destination = {destination}, interval = {}, retries = {retries}",
        string(source),
        time(*interval)
    );
    // `write!` to a string does not fail.
    if *require != Require::default() {
        let _ = write!(text, ", require = \"all\"");
    }
    if let Some(Degraded { loss, window }) = degraded {
        let _ = write!(text, ", degraded = {{ loss = {}, window = {window} }}", f64::from(*loss) / 1e6);
    }
    if *when_down != WhenDown::default() {
        let _ = write!(text, ", when_down = \"revoke\"");
    }
    text + " }"
}
