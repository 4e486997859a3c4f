//! The keys of named objects, as flags.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::table;
use crate::{
    api::{Client, CustomerGatewayEntry, SegmentEntry},
    api_types::status::ConnectionStatus,
    store::{Keys, ObjectId},
};

/// The keys of `[connection.NAME]`.
#[derive(Debug, Args)]
pub struct ConnectionKeys {
    /// Customer gateway at the other end.
    #[arg(long, value_name = "NAME")]
    customer_gateway: Option<String>,
    /// Segment: what the connection reaches.
    #[arg(long, value_name = "NAME")]
    segment: Option<String>,
    /// Whether it carries traffic, unless overridden by `up` or `down`.
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// Interface that carries the decrypted traffic.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Link neighbour; Ethernet-type interfaces only.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<String>,
    /// Prefixes of the hub's side and all behind it, separated by commas.
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    local_cidrs: Option<Vec<String>>,
    /// Prefixes of the site, separated by commas.
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    remote_cidrs: Option<Vec<String>>,
    /// How the hub sees the site's own prefixes, as SITE=HUB, separated by commas: 192.168.1.0/24=10.201.1.0/24.
    #[arg(long, value_name = "SITE=HUB", value_delimiter = ',', value_parser = translation)]
    translate: Option<Vec<Value>>,
    /// Source of the selectors: file, ike or xfrm.
    #[arg(long, value_name = "SOURCE")]
    selectors: Option<String>,
    /// strict or off.
    #[arg(long, value_name = "MODE")]
    reverse_path: Option<String>,
    /// Limit on the TCP maximum segment size: auto, off or bytes.
    #[arg(long, value_name = "LIMIT", value_parser = word_or_number)]
    mss_clamp: Option<Value>,
    /// Hold-down: healthy time after a failure before it carries traffic again, such as 1s.
    #[arg(long, value_name = "TIME")]
    up_delay: Option<String>,
    /// An inline table, such as '{ source = "192.168.0.1", destination = "10.10.10.1" }'.
    #[arg(long, value_name = "TOML", value_parser = inline_table)]
    health_check: Option<Value>,
    /// A tunnel as an inline table, such as '{ name = "a", interface = "xfrm-a", weight = 100 }'; once for each. Replaces
    /// all tunnels.
    #[arg(long, value_name = "TOML", value_parser = inline_table)]
    tunnel: Option<Vec<Value>>,
}

/// The keys of `[customer_gateway.NAME]`.
#[derive(Debug, Args)]
pub struct CustomerGatewayKeys {
    /// Public address or DNS name of the site's device, or `any`: then `remote_id` alone identifies it.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

/// The keys of `[segment.NAME]`.
#[derive(Debug, Args)]
pub struct SegmentKeys {
    /// What its connections reach: vpc, default and names of segments, separated by commas; '' is nothing.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    reaches: Option<Vec<String>>,
}

/// A kind of named objects, with the keys that flags can set.
pub trait NamedObject: Args {
    /// An entry in a list.
    type Listed: Serialize;

    fn id(name: String) -> ObjectId;
    /// The keys set by flags.
    fn keys(self) -> Keys;
    async fn list(client: &Client) -> Result<Vec<Self::Listed>>;
    fn table(listed: &[Self::Listed]) -> String;
}

impl NamedObject for ConnectionKeys {
    type Listed = ConnectionStatus;

    fn id(name: String) -> ObjectId {
        ObjectId::Connection(name)
    }

    fn keys(self) -> Keys {
        let Self {
            customer_gateway,
            segment,
            enabled,
            interface,
            peer,
            local_cidrs,
            remote_cidrs,
            translate,
            selectors,
            reverse_path,
            mss_clamp,
            up_delay,
            health_check,
            tunnel,
        } = self;
        let texts = [
            ("customer_gateway", customer_gateway),
            ("segment", segment),
            ("interface", interface),
            ("peer", peer),
            ("selectors", selectors),
            ("reverse_path", reverse_path),
            ("up_delay", up_delay),
        ];
        let texts = texts.into_iter().map(|(key, value)| (key, value.map(Value::from)));
        let others = [
            ("enabled", enabled.map(Value::from)),
            ("local_cidrs", local_cidrs.map(Value::from)),
            ("remote_cidrs", remote_cidrs.map(Value::from)),
            ("translate", translate.map(Value::from)),
            ("health_check", health_check),
            ("mss_clamp", mss_clamp),
            ("tunnels", tunnel.map(Value::from)),
        ];
        texts.chain(others).filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    async fn list(client: &Client) -> Result<Vec<ConnectionStatus>> {
        client.connections().await
    }

    fn table(listed: &[ConnectionStatus]) -> String {
        table::connections(listed)
    }
}

impl NamedObject for CustomerGatewayKeys {
    type Listed = CustomerGatewayEntry;

    fn id(name: String) -> ObjectId {
        ObjectId::CustomerGateway(name)
    }

    fn keys(self) -> Keys {
        self.address.map(|address| ("address".to_owned(), Value::from(address))).into_iter().collect()
    }

    async fn list(client: &Client) -> Result<Vec<CustomerGatewayEntry>> {
        client.customer_gateways().await
    }

    fn table(listed: &[CustomerGatewayEntry]) -> String {
        table::customer_gateways(listed)
    }
}

impl NamedObject for SegmentKeys {
    type Listed = SegmentEntry;

    fn id(name: String) -> ObjectId {
        ObjectId::Segment(name)
    }

    fn keys(self) -> Keys {
        let names = |names: Vec<String>| names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>();
        self.reaches.map(|reaches| ("reaches".to_owned(), Value::from(names(reaches)))).into_iter().collect()
    }

    async fn list(client: &Client) -> Result<Vec<SegmentEntry>> {
        client.segments().await
    }

    fn table(listed: &[SegmentEntry]) -> String {
        table::segments(listed)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn word_or_number(text: &str) -> Result<Value, String> {
    Ok(text.parse::<u32>().map_or_else(|_| Value::from(text), Value::from))
}

/// A table of `translate`; the agent validates the prefixes.
fn translation(text: &str) -> Result<Value, String> {
    let (site, hub) = text.split_once('=').ok_or("write SITE=HUB, such as 192.168.1.0/24=10.201.1.0/24")?;
    Ok(json!({ "site": site, "hub": hub }))
}

fn inline_table(text: &str) -> Result<Value, String> {
    let root = toml::from_str::<Value>(&format!("value = {text}")).map_err(|error| error.message().to_owned())?;
    Ok(root.get("value").cloned().unwrap_or_default())
}
