//! The cloud product's own format: keys and values of `DownloadVpnConnectionConfig`, which also describes the site.

use serde_json::{Value, json};

use super::site::{Algorithms, Site};

/// One object, indented.
pub fn json(site: &Site) -> String {
    text(&object(site))
}

/// The tunnels of a connection, most preferred first: an object with a list of those of [`json`], each with its role.
pub fn json_of_tunnels(sites: &[(Site, bool)]) -> String {
    let tunnel = |(site, is_active): &(Site, bool)| {
        let mut tunnel = object(site);
        tunnel["Name"] = json!(site.name);
        tunnel["Role"] = json!(if *is_active { "master" } else { "slave" });
        tunnel
    };
    text(&json!({ "Tunnels": sites.iter().map(tunnel).collect::<Vec<_>>() }))
}

// Only strings, booleans and numbers: serialization cannot fail.
fn text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn object(site: &Site) -> Value {
    let local: Vec<&str> = site.local.prefixes.iter().map(|prefix| prefix.cidr.as_str()).collect();
    // The cloud supports one proposal: use the most preferred one.
    let (ike, esp) = (&site.ike.proposals[0], &site.esp.proposals[0]);
    json!({
        "Local": site.local.address,
        "Remote": site.remote.address,
        "LocalSubnet": local.join(","),
        "RemoteSubnet": site.admitted,
        "IkeConfig": {
            "Psk": site.secret,
            "IkeVersion": format!("ikev{}", site.version),
            "IkeMode": if site.aggressive { "aggressive" } else { "main" },
            "IkeEncAlg": encryption(ike),
            "IkeAuthAlg": if ike.aead { ike.prf.trim_start_matches("prf") } else { ike.integrity },
            "IkePfs": group(ike),
            "IkeLifetime": site.ike.lifetime,
            "LocalId": site.local.id,
            "RemoteId": site.remote.id,
        },
        "IpsecConfig": {
            "IpsecEncAlg": encryption(esp),
            "IpsecAuthAlg": if esp.aead { "none" } else { esp.integrity },
            "IpsecPfs": group(esp),
            "IpsecLifetime": site.esp.lifetime,
        },
    })
}

/// The cloud calls AES-128 `aes`; other algorithms keep strongSwan's keyword.
fn encryption(proposal: &Algorithms) -> &'static str {
    if proposal.encryption == "aes128" { "aes" } else { proposal.encryption }
}

fn group(proposal: &Algorithms) -> String {
    match proposal.group_number {
        0 => "disabled".to_owned(),
        number => format!("group{number}"),
    }
}
