//! The configuration of a site with several tunnels of one connection.

use std::{cmp::Reverse, fmt::Write as _};

use super::{
    Format, PeerConfigError, cloud,
    site::{Site, SiteTunnel},
};
use crate::config::{Config, ipsec::secret::Secret, model::Connection};

/// Metric of the routes into the most preferred tunnel.
const FIRST_METRIC: u32 = 100;
/// Gives each tunnel its routes while it is up.
const SCRIPT: &str = "/etc/swanctl/vpnhub-route";

/// All tunnels of a connection, in the order of the hub's weights.
///
/// # Errors
/// When the format cannot express several.
pub fn write(config: &Config, name: &str, format: Format, secret: Option<&Secret>) -> Result<String, PeerConfigError> {
    let mut members: Vec<(&String, &Connection)> = config.members(name).collect();
    members.sort_by_key(|(_, connection)| Reverse(connection.tunnel_weight));
    let sites = members.iter().zip(FIRST_METRIC..).map(|((member, connection), metric)| {
        let site = Site::of(config, member, secret)?;
        let if_id = connection.ipsec.as_ref().and_then(|ipsec| ipsec.if_id);
        let tunnel = if_id.map(|if_id| SiteTunnel {
            if_id,
            interface: format!("hub-{if_id}"),
            metric,
            source: config.customer_gateways.get(&connection.customer_gateway).and_then(|gateway| gateway.address.ip()),
        });
        Ok((Site { tunnel, ..site }, connection.tunnel_weight != Some(0)))
    });
    let sites: Vec<(Site, bool)> = sites.collect::<Result<_, PeerConfigError>>()?;
    match format {
        Format::Json => Ok(cloud::json_of_tunnels(&sites)),
        Format::Swanctl => swanctl(name, &sites),
        _ => Err(PeerConfigError::OneTunnel {
            format: format.name(),
            name: name.to_owned(),
            tunnels: config.tunnel_names(name),
        }),
    }
}

/// Sections of several files add up, so the file has those of each tunnel.
fn swanctl(name: &str, sites: &[(Site, bool)]) -> Result<String, PeerConfigError> {
    let mut text = format!(
        "# {name}: {} tunnels to the hub. Each has an xfrm interface, and its routes while it is up: those of the first one\n\
         # are preferred. Run this as root, and at each start of the site:\n#\n",
        sites.len()
    );
    for SiteTunnel { if_id, interface, .. } in sites.iter().filter_map(|(site, _)| site.tunnel.as_ref()) {
        // `write!` to a string does not fail.
        let _ = writeln!(text, "#     ip link add {interface} type xfrm if_id {if_id}; ip link set {interface} up");
        let _ = writeln!(text, "#     sysctl -w net.ipv4.conf.{interface}.rp_filter=0");
    }
    let _ = write!(
        text,
        "#\n# Save this as {SCRIPT}, with mode 0755:\n#\n\
         #     #!/bin/sh\n\
         #     case \"$PLUTO_VERB\" in\n\
         #     up-client*) ip route replace \"$PLUTO_PEER_CLIENT\" dev \"$1\" metric \"$2\" ;;\n\
         #     down-client*) ip route del \"$PLUTO_PEER_CLIENT\" dev \"$1\" metric \"$2\" ;;\n\
         #     esac\n\n"
    );
    for (site, _) in sites {
        text += &super::write(site, Format::Swanctl)?;
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{parse, tunnels::member_name},
        peer_config::render,
    };

    fn config() -> Config {
        let text = r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[vpc]
interface = "vpc0"
cidrs = ["192.168.0.0/24"]
[customer_gateway.first]
address = "198.51.100.1"
[customer_gateway.second]
address = "198.51.100.2"
[connection.x]
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.10.10.0/24"]
tunnels = [
    { name = "a", interface = "xfrm-a", weight = 0, customer_gateway = "first", ipsec.if_id = 7 },
    { name = "b", interface = "xfrm-b", customer_gateway = "second", ipsec.if_id = 8 },
]
[connection.x.ipsec]
psk_file = "/nowhere/psk"
create_interface = true
"#;
        parse(text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
    }

    #[test]
    fn site_gets_all_tunnels_in_order_of_weights() {
        let config = config();
        let text = render(&config, "x", Format::Swanctl, false).expect("both");
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part:?} in {text}"));
        for part in ["if_id_out = 8", "local_addrs = 198.51.100.2", "vpnhub-route hub-8 100"] {
            assert!(at(part) < at("if_id_out = 7"), "{text}");
        }
        assert!(text.contains("vpnhub-route hub-7 101") && text.contains("type xfrm if_id 7"), "{text}");
        assert_eq!(text.matches("remote_ts = 192.168.0.0/24").count(), 2, "{text}");
        let json = render(&config, "x", Format::Json, false).expect("both");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let tunnels = json["Tunnels"].as_array().expect("a list").iter();
        let roles: Vec<_> = tunnels.map(|tunnel| [&tunnel["Local"], &tunnel["Role"]]).collect();
        assert_eq!(roles, [["198.51.100.2", "master"], ["198.51.100.1", "slave"]], "{json}");
    }

    #[test]
    fn format_for_one_tunnel_says_so_and_writes_each() {
        let config = config();
        for format in Format::ALL.into_iter().filter(|format| !matches!(format, Format::Swanctl | Format::Json)) {
            let error = render(&config, "x", format, false).expect_err("several").to_string();
            assert!(error.contains("x/a, x/b"), "{error}");
        }
        for tunnel in ["a", "b"] {
            let text = render(&config, &member_name("x", tunnel), Format::Strongswan, false).expect("one");
            assert!(text.contains("192.168.0.0/24") && !text.contains("if_id"), "{text}");
        }
    }
}
