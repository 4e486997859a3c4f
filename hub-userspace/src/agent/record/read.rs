//! Parses a recording into events.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::format::{Line, RecordedEvent, RecordingHeader, VERSION};
use crate::{
    agent::{Transition, event::Event},
    config::{Config, Role, parse},
    ipsec::{vici::tunnels::Tunnels, xfrm},
    kernel::netlink::{HostState, KernelHop, KernelHops},
};

/// A parsed recording.
#[derive(Debug)]
pub struct Recorded {
    pub header: RecordingHeader,
    pub config: Config,
    pub host: HostState,
    /// With the time since the start.
    pub events: Vec<(Duration, Event)>,
}

/// # Errors
/// A message about the first invalid line.
pub fn read(text: &str) -> Result<Recorded, String> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let (number, first) = lines.next().ok_or("the recording is empty: line 1 must be its header")?;
    let anything: serde_json::Value = line(number, first)?;
    match anything["format"].as_u64() {
        Some(format) if format == u64::from(VERSION) => {}
        Some(format) => return Err(format!("the recording has format {format}: this version reads {VERSION}")),
        None => return Err("line 1 of the recording is not a header".to_owned()),
    }
    let header: RecordingHeader = line(number, first)?;
    let mut host = HostState::default();
    header.host.apply(&mut host);
    let config = config(number, &header.config, header.role)?;
    let mut decoder = Decoder { role: header.role, host: host.clone(), tunnels: Tunnels::default() };
    let mut events = Vec::new();
    for (number, text) in lines {
        let Line { at, event } = line(number, text)?;
        events.push((Duration::from_micros(at), decoder.event(number, event)?));
    }
    Ok(Recorded { header, config, host, events })
}

fn line<T: DeserializeOwned>(number: usize, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("line {number} of the recording is invalid: {error}"))
}

fn config(number: usize, text: &str, role: Role) -> Result<Config, String> {
    let parsed = parse(text).map(|(config, _)| Config { role, ..config });
    parsed.map_err(|errors| format!("line {number} of the recording has a configuration with errors: {errors:?}"))
}

struct Decoder {
    /// No part of the texts.
    role: Role,
    host: HostState,
    tunnels: Tunnels,
}

impl Decoder {
    fn event(&mut self, number: usize, entry: RecordedEvent) -> Result<Event, String> {
        Ok(match entry {
            RecordedEvent::Start => Event::Start,
            RecordedEvent::Started => Event::Started,
            RecordedEvent::Host { host, changes } => {
                host.apply(&mut self.host);
                Event::Host { host: self.host.clone(), changes }
            }
            RecordedEvent::Health(reports) => Event::Health(reports),
            RecordedEvent::Tunnels(change) => {
                change.apply(&mut self.tunnels);
                Event::Tunnels(Arc::new(self.tunnels.clone()))
            }
            RecordedEvent::Policies { table, problem } => {
                Event::Policies(Arc::new(xfrm::follow::Policies { table: table.map(Arc::new), problem }))
            }
            RecordedEvent::Interfaces(problems) => Event::Interfaces(Arc::new(problems)),
            RecordedEvent::Learned(changes) => {
                let change = |(prefix, hops): (IpNet, Option<Vec<KernelHop>>)| (prefix, hops.map(KernelHops::from));
                Event::Learned(changes.into_iter().map(change).collect())
            }
            RecordedEvent::Change { difference, config: text } => {
                self.role = difference.role.unwrap_or(self.role);
                let config = text.map(|text| config(number, &text, self.role)).transpose()?.map(Arc::new);
                Event::Change(Arc::new(Transition { difference, config }))
            }
            RecordedEvent::Secrets => Event::Secrets,
            RecordedEvent::Due => Event::Due,
            RecordedEvent::GuardDisturbed => Event::GuardDisturbed,
            RecordedEvent::RoutesDisturbed => Event::RoutesDisturbed,
            RecordedEvent::SysctlsDisturbed => Event::SysctlsDisturbed,
            RecordedEvent::NeighbourMiss(ifindex, address) => Event::NeighbourMiss(ifindex, address),
            RecordedEvent::Idle => Event::Idle,
            RecordedEvent::Settled(settled) => Event::Settled(settled),
            RecordedEvent::GraceOver => Event::GraceOver,
        })
    }
}
