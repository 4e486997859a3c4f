//! A scrape as text.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, prometheus_text, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{FAMILIES, Family, Scrape, shares};

/// Usual sizes of the text's parts: growing a text of megabytes would copy it several times.
const BASE_BYTES: usize = 16 << 10;
const CONNECTION_BYTES: usize = 3 << 10;

/// Text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that a client prefers, by its `Accept` header (RFC 9110, section 12.5.1). Without `OpenMetrics` in it,
    /// the text format.
    pub fn preferred(accept: &str) -> Self {
        let quality = |media_type: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next()?.eq_ignore_ascii_case(media_type);
                let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
                is_it.then_some(quality)
            });
            ranges.fold(0.0, f64::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= quality("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text of a scrape.
pub fn encode(scrape: Scrape, format: Format) -> String {
    let shares: usize = scrape.groups.iter().map(|group| group.destinations.len() * group.shares.len()).sum();
    let size = BASE_BYTES + scrape.connections.len() * CONNECTION_BYTES + shares * shares::SAMPLE_BYTES;
    let mut text = String::with_capacity(size);
    let is_shares = |family: &Family| family.name == shares::NAME;
    let (first, rest) = FAMILIES.split_at(FAMILIES.iter().position(is_shares).map_or(FAMILIES.len(), |at| at + 1));
    let scrape = Arc::new(scrape);
    let write = |text: &mut String, families| {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ScrapeCollector(Arc::clone(&scrape), families)));
        let written = match format {
            Format::Prometheus => prometheus_text::encode(text, &registry),
            Format::OpenMetrics => text::encode_registry(text, &registry),
        };
        written.expect("writing to a string cannot fail");
    };
    write(&mut text, first);
    shares::write(&mut text, &scrape.groups);
    write(&mut text, rest);
    if format == Format::OpenMetrics {
        text::encode_eof(&mut text).expect("writing to a string cannot fail");
    }
    text
}

/// Some of the families.
#[derive(Debug)]
struct ScrapeCollector(Arc<Scrape>, &'static [Family]);

impl Collector for ScrapeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.1 {
            let metric = encoder.encode_descriptor(family.name, family.help, family.unit, family.kind.into())?;
            (family.samples)(&self.0, &mut Samples(metric))?;
        }
        Ok(())
    }
}

/// Writes the samples of one family.
pub(super) struct Samples<'e>(MetricEncoder<'e>);

impl Samples<'_> {
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_family(&labels)?)
    }

    pub fn real_count(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_family(&labels)?)
    }

    pub fn gauge(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_family(&labels)?)
    }

    pub fn real(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_family(&labels)?)
    }

    pub fn info(&mut self, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_info(&labels)
    }
}
