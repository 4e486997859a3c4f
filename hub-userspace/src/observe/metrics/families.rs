//! The families: names, types, labels, help texts, and where the samples come from.

use std::fmt;

use hub_common::Reason;
use prometheus_client::{metrics::MetricType, registry::Unit};

use super::{ConnectionScrape, ProcessScrape, Scrape, encode::Samples, shares};
use crate::{config::Role, connection::state::Health, datapath::Counters};

static BYTES: Unit = Unit::Bytes;
static SECONDS: Unit = Unit::Seconds;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// A gauge that is always 1, with labels.
    Info,
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Info => Self::Info,
        }
    }
}

/// A family of metrics.
#[derive(Debug)]
pub struct Family {
    /// Without unit and suffix.
    pub(super) name: &'static str,
    pub(super) unit: Option<&'static Unit>,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub(super) samples: fn(&Scrape, &mut Samples<'_>) -> fmt::Result,
}

impl Family {
    /// The name of its samples.
    pub fn full_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        format!("{}{unit}{suffix}", self.name)
    }

    const fn counter(name: &'static str, help: &'static str, samples: SampleWriter) -> Self {
        Self { name, unit: None, kind: Kind::Counter, labels: &[], help, samples }
    }

    const fn gauge(name: &'static str, help: &'static str, samples: SampleWriter) -> Self {
        Self { kind: Kind::Gauge, ..Self::counter(name, help, samples) }
    }

    const fn of_connection(self) -> Self {
        Self { labels: &["connection"], ..self }
    }

    const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    const fn in_unit(self, unit: &'static Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }
}

type SampleWriter = fn(&Scrape, &mut Samples<'_>) -> fmt::Result;

/// All families, in the order of the text.
pub static FAMILIES: [Family; 42] = [
    Family {
        kind: Kind::Info,
        ..Family::gauge("vpnhub_build", "Version of the agent.", |_, out| {
            out.info(&[("version", env!("CARGO_PKG_VERSION"))])
        })
        .by(&["version"])
    },
    Family::gauge("vpnhub_connection_up", "1 if the connection is up: negotiated and healthy.", |scrape, out| {
        each(scrape, |found| out.gauge(&found.label(), found.is_up.into()))?;
        scrape.with_tunnels.iter().try_for_each(|found| out.gauge(&[("connection", &found.name)], found.is_up.into()))
    })
    .of_connection(),
    Family::gauge("vpnhub_connection_admin_up", "0 if the connection is administratively down.", |scrape, out| {
        each(scrape, |found| out.gauge(&found.label(), found.is_admin_up.into()))?;
        let all = &scrape.with_tunnels;
        all.iter().try_for_each(|found| out.gauge(&[("connection", &found.name)], found.is_admin_up.into()))
    })
    .of_connection(),
    Family::counter("vpnhub_connection_state_changes", "Changes of the connection's state.", |scrape, out| {
        each(scrape, |found| out.count(&found.label(), found.state_changes))
    })
    .of_connection(),
    Family::counter(
        "vpnhub_receive_packets",
        "Packets from the connection that its selectors allow.",
        |scrape, out| each(scrape, |found| out.count(&found.label(), found.counters.rx_packets)),
    )
    .of_connection(),
    Family::counter("vpnhub_receive", "Bytes of these packets, without link headers.", |scrape, out| {
        each(scrape, |found| out.count(&found.label(), found.counters.rx_bytes))
    })
    .of_connection()
    .in_unit(&BYTES),
    Family::counter("vpnhub_transmit_packets", "Packets forwarded to the connection by the program.", |scrape, out| {
        each(scrape, |found| out.count(&found.label(), found.counters.tx_packets))
    })
    .of_connection(),
    Family::counter("vpnhub_transmit", "Bytes of these packets, without link headers.", |scrape, out| {
        each(scrape, |found| out.count(&found.label(), found.counters.tx_bytes))
    })
    .of_connection()
    .in_unit(&BYTES),
    Family::counter("vpnhub_drops", "Packets from the connection that were dropped.", |scrape, out| {
        each(scrape, |found| {
            by_reason(&found.counters, true, |reason, count| out.count(&[found.label()[0], reason], count))
        })
    })
    .by(&["connection", "reason"]),
    Family::counter("vpnhub_passes", "Packets from the connection that were left to the kernel.", |scrape, out| {
        each(scrape, |found| {
            by_reason(&found.counters, false, |reason, count| out.count(&[found.label()[0], reason], count))
        })
    })
    .by(&["connection", "reason"]),
    Family::counter(
        "vpnhub_vpc_receive_packets",
        "Packets from the VPC that were forwarded or left to the kernel.",
        |scrape, out| scrape.vpc.iter().try_for_each(|vpc| out.count(&[], vpc.rx_packets)),
    ),
    Family::counter("vpnhub_vpc_receive", "Bytes of these packets, without link headers.", |scrape, out| {
        scrape.vpc.iter().try_for_each(|vpc| out.count(&[], vpc.rx_bytes))
    })
    .in_unit(&BYTES),
    Family::counter("vpnhub_vpc_transmit_packets", "Packets forwarded to the VPC by the program.", |scrape, out| {
        scrape.vpc.iter().try_for_each(|vpc| out.count(&[], vpc.tx_packets))
    }),
    Family::counter("vpnhub_vpc_transmit", "Bytes of these packets, without link headers.", |scrape, out| {
        scrape.vpc.iter().try_for_each(|vpc| out.count(&[], vpc.tx_bytes))
    })
    .in_unit(&BYTES),
    Family::counter("vpnhub_vpc_drops", "Packets from the VPC that were dropped.", |scrape, out| {
        scrape.vpc.iter().try_for_each(|vpc| by_reason(vpc, true, |reason, count| out.count(&[reason], count)))
    })
    .by(&["reason"]),
    Family::counter("vpnhub_vpc_passes", "Packets from the VPC that were left to the kernel.", |scrape, out| {
        scrape.vpc.iter().try_for_each(|vpc| by_reason(vpc, false, |reason, count| out.count(&[reason], count)))
    })
    .by(&["reason"]),
    Family::counter(
        "vpnhub_unattributed_drops",
        "Dropped packets of unknown origin, such as malformed ones.",
        |scrape, out| by_reason(&scrape.unattributed, true, |reason, count| out.count(&[reason], count)),
    )
    .by(&["reason"]),
    Family::counter(
        "vpnhub_unattributed_passes",
        "Packets of unknown origin that were left to the kernel.",
        |scrape, out| by_reason(&scrape.unattributed, false, |reason, count| out.count(&[reason], count)),
    )
    .by(&["reason"]),
    Family::counter("vpnhub_cpu_packets", "Packets that the program has processed on the CPU.", |scrape, out| {
        each_cpu(&scrape.cpu_packets, |cpu, packets| out.count(&[("cpu", cpu)], packets))
    })
    .by(&["cpu"]),
    Family::counter(
        "vpnhub_underlay_interrupts",
        "Interrupts of the underlay's device that the CPU has served.",
        |scrape, out| {
            scrape.underlays.iter().try_for_each(|underlay| {
                let interface = ("interface", underlay.name.as_str());
                each_cpu(&underlay.interrupts, |cpu, count| out.count(&[interface, ("cpu", cpu)], count))
            })
        },
    )
    .by(&["interface", "cpu"]),
    Family::gauge(
        shares::NAME,
        "Share of the destination's flows that the next hop carries now, of destinations with several next hops.",
        // `shares` writes them after the others.
        |_, _| Ok(()),
    )
    .by(&["destination", "next_hop"]),
    Family::gauge(
        "vpnhub_route_shares_omitted",
        "Number of shares that are not listed, because there are too many.",
        |scrape, out| out.gauge(&[], scrape.omitted_shares as u64),
    ),
    Family::gauge("vpnhub_routes", "Number of destination routes.", |scrape, out| {
        scrape.routes.iter().try_for_each(|(origin, count)| out.gauge(&[("origin", origin)], *count as u64))
    })
    .by(&["origin"]),
    Family::gauge(
        "vpnhub_learned_routes_refused",
        "Number of the connection's learned routes that a rule or the quota refuses now.",
        |scrape, out| {
            each(scrape, |found| {
                found.refused_routes.iter().try_for_each(|count| out.gauge(&found.label(), *count as u64))
            })?;
            let mut all = scrape.with_tunnels.iter().filter_map(|found| Some((&found.name, found.refused_routes?)));
            all.try_for_each(|(name, count)| out.gauge(&[("connection", name)], count as u64))
        },
    )
    .of_connection(),
    Family::gauge("vpnhub_ike_up", "1 if the connection's IKE SA is established.", |scrape, out| {
        each(scrape, |found| found.ike.iter().try_for_each(|ike| out.gauge(&found.label(), ike.is_up.into())))
    })
    .of_connection(),
    Family::gauge("vpnhub_child_sas", "Number of the connection's child SAs that carry traffic.", |scrape, out| {
        each(scrape, |found| found.child_sas.iter().try_for_each(|count| out.gauge(&found.label(), *count as u64)))
    })
    .of_connection(),
    Family::counter("vpnhub_rekeys", "Completed rekeyings of the connection's IKE and child SAs.", |scrape, out| {
        each(scrape, |found| found.ike.iter().try_for_each(|ike| out.count(&found.label(), ike.rekeys)))
    })
    .of_connection(),
    Family::gauge("vpnhub_health_up", "1 if the health check passes, 0.5 if degraded, 0 otherwise.", |scrape, out| {
        let value = |state| match state {
            Some(Health::Up | Health::Answers) => 1.0,
            Some(Health::Degraded) => 0.5,
            Some(Health::Down) | None => 0.0,
        };
        each(scrape, |found| found.health.iter().try_for_each(|health| out.real(&found.label(), value(health.state))))
    })
    .of_connection(),
    Family::gauge(
        "vpnhub_health_round_trip",
        "Round-trip time of the last probe; NaN while the check does not pass.",
        |scrape, out| {
            let time = |round_trip: Option<f64>| round_trip.unwrap_or(f64::NAN);
            each(scrape, |found| {
                found.health.iter().try_for_each(|health| out.real(&found.label(), time(health.round_trip)))
            })
        },
    )
    .of_connection()
    .in_unit(&SECONDS),
    Family::counter("vpnhub_health_probes_sent", "Probes sent by the health check.", |scrape, out| {
        each(scrape, |found| found.health.iter().try_for_each(|health| out.count(&found.label(), health.sent)))
    })
    .of_connection(),
    Family::counter("vpnhub_health_probes_lost", "Probes without a reply in time.", |scrape, out| {
        each(scrape, |found| found.health.iter().try_for_each(|health| out.count(&found.label(), health.lost)))
    })
    .of_connection(),
    Family::gauge("vpnhub_quota_used", "Number of objects that count towards the quota.", |scrape, out| {
        scrape.quotas.iter().try_for_each(|quota| out.gauge(&[("quota", quota.name)], quota.used as u64))
    })
    .by(&["quota"]),
    Family::gauge("vpnhub_quota_limit", "The quota.", |scrape, out| {
        scrape.quotas.iter().try_for_each(|quota| out.gauge(&[("quota", quota.name)], quota.limit as u64))
    })
    .by(&["quota"]),
    Family::gauge(
        "vpnhub_objects_set_aside",
        "Number of objects of the store that are not in force.",
        |scrape, out| out.gauge(&[], scrape.set_aside as u64),
    ),
    Family::gauge(
        "vpnhub_config_last_reload_success",
        "1 if the last reload succeeded, or there was none.",
        |scrape, out| out.gauge(&[], scrape.last_reload_success.into()),
    ),
    Family::gauge("vpnhub_role", "1 for the role of the hub: active, withdrawn or standby.", |scrape, out| {
        [Role::Active, Role::Withdrawn, Role::Standby]
            .into_iter()
            .try_for_each(|role| out.gauge(&[("role", role.name())], (role == scrape.role).into()))
    })
    .by(&["role"]),
    Family::counter("process_cpu", "User and system CPU time of the agent.", |scrape, out| {
        process(scrape, |process| out.real_count(&[], process.cpu_seconds))
    })
    .in_unit(&SECONDS),
    Family::gauge("process_resident_memory", "Resident memory of the agent.", |scrape, out| {
        process(scrape, |process| out.gauge(&[], process.resident_bytes))
    })
    .in_unit(&BYTES),
    Family::gauge("process_virtual_memory", "Virtual memory of the agent.", |scrape, out| {
        process(scrape, |process| out.gauge(&[], process.virtual_bytes))
    })
    .in_unit(&BYTES),
    Family::gauge("process_open_fds", "Open file descriptors of the agent.", |scrape, out| {
        process(scrape, |process| out.gauge(&[], process.open_fds as u64))
    }),
    Family::gauge("process_max_fds", "Maximum number of open file descriptors.", |scrape, out| {
        process(scrape, |process| process.max_fds.iter().try_for_each(|limit| out.gauge(&[], *limit)))
    }),
    Family::gauge("process_start_time", "Start of the agent since 1970, UTC.", |scrape, out| {
        process(scrape, |process| out.real(&[], process.start_time_seconds))
    })
    .in_unit(&SECONDS),
];

impl ConnectionScrape {
    fn label(&self) -> [(&str, &str); 1] {
        [("connection", &self.name)]
    }
}

fn each(scrape: &Scrape, write: impl FnMut(&ConnectionScrape) -> fmt::Result) -> fmt::Result {
    scrape.connections.iter().try_for_each(write)
}

/// CPUs with a series of their own, in the order of their numbers: the others share one, with `other` as their number.
const MOST_CPUS: usize = 256;

fn each_cpu(counts: &[(u32, u64)], mut write: impl FnMut(&str, u64) -> fmt::Result) -> fmt::Result {
    let (own, others) = counts.split_at(counts.len().min(MOST_CPUS));
    own.iter().try_for_each(|(cpu, count)| write(&cpu.to_string(), *count))?;
    if others.is_empty() { Ok(()) } else { write("other", others.iter().map(|(_, count)| count).sum()) }
}

fn process(scrape: &Scrape, write: impl FnOnce(&ProcessScrape) -> fmt::Result) -> fmt::Result {
    scrape.process.as_ref().map_or(Ok(()), write)
}

/// All reasons for drops, or for passes, zeros included: a series that begins above zero hides its first increase.
fn by_reason(counters: &Counters, drops: bool, mut write: impl FnMut((&str, &str), u64) -> fmt::Result) -> fmt::Result {
    let of_kind = Reason::ALL.into_iter().filter(|reason| reason.is_drop() == drops);
    of_kind.into_iter().try_for_each(|reason| write(("reason", reason.name()), counters.reasons[reason as usize]))
}
