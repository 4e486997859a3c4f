use super::*;
use crate::config::{parse, show};

/// A hub with two customer gateways, and a connection with these keys.
fn text(keys: &str) -> String {
    format!(
        r#"
[gateway]
name = "hub"
address = "203.0.113.1"
max_connections = 1
[customer_gateway.first]
address = "198.51.100.1"
[customer_gateway.second]
address = "198.51.100.2"
[[route]]
destination = "10.10.10.0/24"
next_hop = "x"
[connection.x]
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.10.10.0/24"]
{keys}
"#
    )
}

const PLAIN: &str = r#"
customer_gateway = "first"
tunnels = [{ name = "a", interface = "tun-a" }, { name = "b", interface = "tun-b", weight = 0, customer_gateway = "second" }]
"#;

fn ipsec(first: &str, second: &str) -> String {
    format!(
        "customer_gateway = \"first\"\ntunnels = [{{ name = \"a\", interface = \"xfrm-a\", {first} }}, {{ name = \
         \"b\", interface = \"xfrm-b\", {second} }}]\n[connection.x.ipsec]\npsk_file = \"/nowhere/psk\"\n\
         create_interface = true\n"
    )
}

fn errors(keys: &str) -> Vec<String> {
    let found = parse(&text(keys)).err().unwrap_or_default();
    found.iter().map(ToString::to_string).filter(|text| text.contains("error: ")).collect()
}

fn config(keys: &str) -> Config {
    parse(&text(keys)).unwrap_or_else(|errors| panic!("{errors:#?}")).0
}

#[test]
fn each_tunnel_is_a_connection_with_the_keys_of_its_own() {
    let config = config(PLAIN);
    let found: Vec<_> = config
        .members("x")
        .map(|(name, found)| (&**name, &*found.interface, &*found.customer_gateway, found.tunnel_weight))
        .collect();
    assert_eq!(found, [("x/a", "tun-a", "first", Some(100)), ("x/b", "tun-b", "second", Some(0))]);
    let names: Vec<_> = config.configured().map(|(name, members)| (name, members.len())).collect();
    assert_eq!(names, [("x", 2)]);
    assert_eq!(config.members("x/b").count(), 1);
    assert_eq!(config.members("x/c").count() + config.members("y").count() + config.members("").count(), 0);
}

#[test]
fn tunnels_survive_config_show() {
    let check = "health_check = { source = \"192.168.0.1\", destination = \"10.10.10.1\" }";
    let other = check.replace("10.10.10.1", "10.10.10.2");
    let cases = [
        PLAIN.to_owned(),
        format!("{PLAIN}{check}"),
        PLAIN.replace("\"tun-a\"", &format!("\"tun-a\", peer = \"169.254.1.2\", {check}")),
        PLAIN.replace("\"tun-a\"", &format!("\"tun-a\", {check}")) + &other,
        PLAIN
            .replace("customer_gateway = \"first\"\n", "")
            .replace("\"tun-a\"", "\"tun-a\", customer_gateway = \"first\""),
        ipsec("ipsec.if_id = 1", "ipsec = { if_id = 2, remote_id = \"b\", start = \"none\" }"),
        ipsec("ipsec.if_id = 1, customer_gateway = \"second\"", "ipsec.if_id = 2") + "local_id = \"hub.example.net\"\n",
        ipsec("ipsec = { if_id = 1, local_id = \"a\" }", "ipsec = { if_id = 2, local_id = \"b\" }"),
    ];
    for keys in cases {
        let config = config(&keys);
        let shown = show(&config);
        let again = parse(&shown).unwrap_or_else(|errors| panic!("{shown}\n{errors:#?}")).0;
        assert_eq!(again, config, "{shown}");
        assert_eq!(shown.matches("[connection.x]").count(), 1, "{shown}");
        assert_eq!(show(&again).lines().skip(1).collect::<Vec<_>>().len(), shown.lines().skip(1).count());
    }
}

#[test]
fn mistakes_are_reported_once_each_with_the_way_out() {
    let of = |tunnels: &str| format!("customer_gateway = \"first\"\ntunnels = {tunnels}\n");
    let many = |count: usize| {
        let tunnels: Vec<String> =
            (0..count).map(|number| format!("{{ name = \"t{number}\", interface = \"tun{number}\" }}")).collect();
        of(&format!("[{}]", tunnels.join(", ")))
    };
    let a = "{ name = \"a\", interface = \"tun-a\" }";
    let cases = [
        (of("\"a\""), "must be a list of tables"),
        (of("[]"), "the list is empty"),
        (of(&format!("[{a}, \"b\"]")), "must be a table"),
        (many(1), "one tunnel alone needs no list"),
        (many(9), "9 tunnels are too many"),
        (of(&format!("[{a}, {{ interface = \"tun-b\" }}]")), "the key \"name\" is missing"),
        (of(&format!("[{a}, {{ name = \"b\" }}]")), "the key \"interface\" is missing"),
        (of(&format!("[{a}, {{ name = \"a/b\", interface = \"tun-b\" }}]")), "has \"/\" in it"),
        (of(&format!("[{a}, {{ name = \"a234567890123456\", interface = \"tun-b\" }}]")), "has 16 characters"),
        (of(&format!("[{a}, {{ name = \"a\", interface = \"tun-b\" }}]")), "\"a\" is also the name of another tunnel"),
        (of(&format!("[{a}, {{ name = \"b\", interface = \"tun-a\" }}]")), "also the interface of another tunnel"),
        (of(&format!("[{a}, {{ name = \"b\", interface = \"tun-b\", mtu = 3 }}]")), "unknown key \"mtu\""),
        (of(&format!("[{a}, {{ name = \"b\", interface = \"tun-b\", weight = 101 }}]")), "101"),
        (
            of("[{ name = \"a\", interface = \"ta\", weight = 0 }, { name = \"b\", interface = \"tb\", weight = 0 }]"),
            "every tunnel has weight 0",
        ),
        (format!("{PLAIN}interface = \"tun-x\"\n"), "interface is beside tunnels"),
        (format!("{PLAIN}peer = \"169.254.1.2\"\n"), "peer is beside tunnels"),
        (PLAIN.replace("\"tun-a\"", "\"tun-a\", customer_gateway = \"second\""), "so this one is for none"),
        (PLAIN.replace("customer_gateway = \"first\"\n", ""), "the key \"customer_gateway\" is missing"),
        (PLAIN.replace("\"second\"", "\"third\""), "there is no customer gateway \"third\""),
        (PLAIN.replace("\"tun-a\"", "\"tun-a\", ipsec.if_id = 3"), "the connection has no [ipsec] section"),
        (ipsec("ipsec.if_id = 1", "customer_gateway = \"second\""), "the tunnel has no if_id"),
        (ipsec("ipsec.if_id = 1", "ipsec.if_id = 2"), "cannot tell tunnel \"b\" from tunnel \"a\""),
        (ipsec("ipsec.if_id = 1", "customer_gateway = \"second\", ipsec.if_id = 1"), "1 is the if_id of \"xfrm-a\""),
        (
            ipsec("ipsec.if_id = 1", "customer_gateway = \"second\", ipsec.if_id = 2") + "if_id = 3\n",
            "ipsec.if_id is beside tunnels",
        ),
        (
            ipsec("ipsec.if_id = 1", "ipsec = { if_id = 2, remote_id = \"b\" }")
                + "start = \"none\"\nesp.per_cpu_sas = true\n",
            "start = \"none\" does not allow",
        ),
    ];
    for (keys, expected) in cases {
        let found = errors(&keys);
        assert_eq!(found.len(), 1, "{expected}: {found:#?}");
        assert!(found[0].contains(expected) && found[0].contains("help: "), "{expected}: {found:#?}");
    }
}

#[test]
fn tunnels_of_one_connection_are_one_site() {
    // Overlaps with another site are reported once; the quota counts connections; a route names the connection.
    let other = "[connection.y]\ncustomer_gateway = \"second\"\ninterface = \"tun-y\"\nlocal_cidrs = [\"0.0.0.0/0\"]\n";
    let disjoint = format!("{PLAIN}{other}remote_cidrs = [\"10.10.20.0/24\"]\n");
    let found = errors(&disjoint);
    assert!(found.len() == 1 && found[0].contains("2 connections, and gateway.max_connections allows 1"), "{found:#?}");
    let more = |keys: &str| text(keys).replace("max_connections = 1\n", "");
    let same = more(&format!("{PLAIN}{other}remote_cidrs = [\"10.10.10.0/25\"]\n"));
    assert!(parse(&same).is_ok(), "the second customer gateway is that of a tunnel: one site");
    let third = same.replace("\"tun-y\"", "\"tun-b\"");
    let has = |text: &str, expected: &str| {
        let found = parse(text).expect_err(expected);
        assert!(found.iter().any(|found| found.to_string().contains(expected)), "{expected}: {found:#?}");
    };
    has(&third, "both are on interface \"tun-b\"");
    has(&text(PLAIN).replace("next_hop = \"x\"", "next_hop = \"x/a\""), "name connection x");
}
