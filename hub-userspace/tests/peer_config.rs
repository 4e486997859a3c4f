//! `vpnhub peer-config` for the hubs of tests/peer-config: the output must equal the stored site configuration exactly.
//!
//! `UPDATE_EXPECTED=1 cargo test -p hub-userspace --test peer_config` rewrites the expectations; read the difference.

use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use hub_userspace::{
    config::{self, Config},
    peer_config::{Format, PLACEHOLDER, render},
};

const SECRET: &str = "0sSecret+of/the=test\"";

fn folder() -> PathBuf {
    // Cargo runs tests in the directory of their package.
    PathBuf::from("../tests/peer-config")
}

/// The hub of a folder, with its secret in a temporary file.
fn hub(folder: &Path, secret: &Path) -> Config {
    let text = fs::read_to_string(folder.join("hub.toml")).expect("a hub");
    let text = text.replace("@SECRET@", &secret.display().to_string());
    config::parse(&text).unwrap_or_else(|errors| panic!("{}: {errors:#?}", folder.display())).0
}

fn secret_file(name: &str, secret: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(fs::remove_file(&file));
    fs::write(&file, secret).expect("the folder can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    file
}

/// The only connection with IPsec.
fn connection(hub: &Config) -> &str {
    hub.tunnels().next().expect("a tunnel").name
}

#[test]
fn peer_config_of_every_hub_and_format_equals_expected() {
    let update = env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = String::new();
    let mut count = 0;
    for entry in fs::read_dir(folder()).expect("the folder is there") {
        let folder = entry.expect("an entry").path();
        let hub = hub(&folder, Path::new("/nowhere"));
        for format in Format::ALL {
            let expectation = folder.join(format!("{}.expected", format.name()));
            let actual = match render(&hub, connection(&hub), format, false) {
                Ok(text) => text,
                Err(error) => format!("error: {error}\n"),
            };
            if update {
                fs::write(&expectation, &actual).expect("the folder can be written");
            }
            let expected = fs::read_to_string(&expectation).unwrap_or_default();
            if actual != expected {
                let _ = write!(wrong, "--- {}\n{actual}\n", expectation.display());
            }
            assert!(actual.ends_with('\n') && !actual.ends_with("\n\n"), "{actual}");
            assert!(!actual.lines().any(|line| line != line.trim_end()), "{actual}");
            count += 1;
        }
    }
    assert!(count >= 32, "only {count}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn secret_appears_only_on_request() {
    let plain = "a-secret-that-every-device-takes";
    let file = secret_file("plain.psk", plain);
    let hub = hub(&folder().join("plain"), &file);
    for format in Format::ALL {
        let without = render(&hub, "shanghai", format, false).expect("a configuration");
        let with = render(&hub, "shanghai", format, true).expect("a configuration");
        assert!(without.contains(PLACEHOLDER) && !without.contains(plain), "{without}");
        assert_eq!(with, without.replace(PLACEHOLDER, plain), "nothing else differs");
    }
}

#[test]
fn secret_unfit_for_device_is_rejected_and_not_shown() {
    let file = secret_file("odd.psk", SECRET);
    let hub = hub(&folder().join("plain"), &file);
    for format in [Format::CiscoIos, Format::CiscoAsa, Format::Huawei, Format::H3c, Format::Juniper] {
        let error = render(&hub, "shanghai", format, true).expect_err("it has a quote in it").to_string();
        assert!(error.starts_with(format.name()) && error.contains("help: ") && !error.contains(SECRET), "{error}");
    }
    // strongSwan's files can express it.
    for format in [Format::Swanctl, Format::Strongswan] {
        let text = render(&hub, "shanghai", format, true).expect("a configuration");
        let digits = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert!(text.contains(&format!(" 0x{digits}\n")), "{text}");
    }
}

#[test]
fn unsupported_peer_config_reports_cause_and_remedy() {
    let file = secret_file("why.psk", "x");
    let text = fs::read_to_string(folder().join("plain/hub.toml")).expect("a hub");
    let of = |from: &str, to: &str, name: &str, format, with_secret| {
        let text = text.replace("@SECRET@", &file.display().to_string());
        assert!(text.contains(from), "{from}");
        let hub = config::parse(&text.replace(from, to)).expect("a good hub").0;
        render(&hub, name, format, with_secret).expect_err("it cannot be").to_string()
    };
    let psk = format!("psk_file = \"{}\"", file.display());
    let dn = format!("{psk}\nremote_id = \"CN=shanghai\"");
    let odd = format!("{psk}\nike.proposals = [\"chacha20poly1305-prfsha384-curve25519\"]");
    let absent = "psk_file = \"/nowhere/psk\"";
    let named = format!("{psk}\nlocal_id = \"hub.example.com\"");
    let unknown = of("", "", "beijing", Format::Json, false);
    assert_eq!(unknown, "there is no connection \"beijing\"; help: the connections are ningbo, shanghai");
    let bare = of("", "", "ningbo", Format::Json, false);
    assert!(bare.starts_with("connection ningbo has no IPsec; help: add [connection.ningbo.ipsec]"), "{bare}");
    let without_address = {
        let text = text.replace("@SECRET@", &file.display().to_string()).replace("address = \"203.0.113.1\"\n", "");
        let hub = config::parse(&text.replace(&psk, &named)).expect("a good hub").0;
        render(&hub, "shanghai", Format::Swanctl, false).expect_err("no address").to_string()
    };
    assert!(without_address.contains("help: add address = \"203.0.113.1\""), "{without_address}");
    let mixed = of("203.0.113.1", "2001:db8::1", "shanghai", Format::Swanctl, false);
    assert!(mixed.contains("not of one IP version"), "{mixed}");
    let asa = of(&psk, &dn, "shanghai", Format::CiscoAsa, false);
    assert!(asa.starts_with("cisco-asa: the device does not support dn as the site's identity; help: "), "{asa}");
    let ios = of(&psk, &dn, "shanghai", Format::CiscoIos, false);
    assert!(ios.contains("does not support dn as the site's identity"), "{ios}");
    let h3c = of(&psk, &odd, "shanghai", Format::H3c, false);
    assert!(h3c.contains("none of the IKE proposals (chacha20poly1305-prfsha384-curve25519); help: add one"), "{h3c}");
    let missing = of(&psk, absent, "shanghai", Format::Swanctl, true);
    assert!(missing.starts_with("/nowhere/psk is not there; help: make one"), "{missing}");
}
