//! Hub and sites authenticate with certificates.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use hub_tests::lab::{
    AuthConfig, Esp, HANGZHOU, HUB_PUBLIC, HubConfig, IpsecLab, IpsecOptions, NINGBO, SHANGHAI, Scratch, Status, reach,
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::cases::assert_all_reach;
use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "userspace::certificates::tunnels_with_address_name_or_subject_id_come_up", known),
    (Needs::StrongSwan, "userspace::certificates::site_of_other_ca_is_rejected_and_reported", unknown),
];

/// IKE identities of the sites by index, if not their addresses.
const NAMES: [Option<&str>; 3] = [None, Some("hangzhou.example.com"), Some("O=Example, CN=Ningbo")];
const HUB_NAME: &str = "hub.example.com";
const REFUSED: &str = "IPsec: the site's certificate is not from a CA that the hub trusts, or not for the site's \
    identity: compare ca and remote_id with it";

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM form.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    // Otherwise a default name would come first.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, common_name: &str, address: IpAddr, name: Option<&str>) -> Pair {
        self.issue_for(common_name, address, name, |_| {})
    }

    /// Like [`issue`](Self::issue), with other parameters.
    pub fn issue_for(
        &self,
        common_name: &str,
        address: IpAddr,
        name: Option<&str>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = params(common_name);
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.subject_alt_names.extend(name.map(|name| SanType::DnsName(name.try_into().unwrap())));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// The hub's files.
pub struct Files(Scratch);

impl Files {
    pub fn new(hub: &Pair, authorities: &[(&str, &Authority)]) -> Self {
        let files = Self(Scratch::new().unwrap());
        files.write("hub.crt", &hub.certificate, 0o644);
        files.write("hub.key", &hub.key, 0o600);
        for (name, authority) in authorities {
            files.write(name, &authority.pem, 0o644);
        }
        files
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.file(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.0.file(name).display().to_string()
    }

    fn auth(&self, authority: &str) -> AuthConfig {
        let file = |name: &str| -> PathBuf { self.0.file(name) };
        AuthConfig::Certificate { certificate: file("hub.crt"), private_key: file("hub.key"), ca: file(authority) }
    }

    /// Gives every connection certificates: all sites one authority, and the identities of [`NAMES`].
    pub fn configure(&self, mut config: HubConfig, authority: &str) -> HubConfig {
        for (connection, name) in config.connections.iter_mut().zip(NAMES) {
            let ipsec = connection.ipsec.as_mut().unwrap();
            ipsec.auth = self.auth(authority);
            ipsec.local_id = name.map(|_| HUB_NAME.to_owned());
            ipsec.remote_id = name.map(str::to_owned);
        }
        config
    }
}

/// Puts a site's files where `peer-config` expects them, and loads its output.
pub fn configure(lab: &IpsecLab, place: &str, pair: &Pair, trusted: &Authority) {
    let office = lab.office(place);
    let text = office.peer_config(&lab.agent, "swanctl", &[]).unwrap();
    for (folder, end, content) in [("x509", "crt", &pair.certificate), ("private", "key", &pair.key)] {
        let path = format!("{folder}/{place}.{end}");
        assert!(text.contains(&format!("/etc/swanctl/{path}")), "{text}");
        office.charon.write(&path, content).unwrap();
    }
    assert!(text.contains("the hub's CA to /etc/swanctl/x509ca"), "{text}");
    office.charon.write("x509ca/hub.crt", &trusted.pem).unwrap();
    office.charon.load(place, &text).unwrap();
}

pub fn hub_pair(authority: &Authority) -> Pair {
    authority.issue("Hub", HUB_PUBLIC.into(), Some(HUB_NAME))
}

fn known() {
    let authority = Authority::new("Authority");
    let files = Files::new(&hub_pair(&authority), &[("ca.crt", &authority)]);
    let lab =
        IpsecLab::prepare(&IpsecOptions::new(Esp::Userspace), |config| files.configure(config, "ca.crt")).unwrap();
    for (office, name) in lab.offices.iter().zip(NAMES) {
        let dns = name.filter(|name| !name.contains('='));
        let pair = authority.issue(common_name(&office.site.place), office.site.public4().into(), dns);
        configure(&lab, &office.site.place, &pair, &authority);
    }
    lab.wait_until_up().unwrap();
    assert_all_reach(&lab);
    // No log contains keys.
    for log in [lab.agent.log(), lab.hub.log()] {
        assert!(!log.contains("PRIVATE KEY"));
    }
    lab.stop().unwrap();
}

fn common_name(place: &str) -> &'static str {
    if place == "ningbo" { "Ningbo" } else { "Site" }
}

/// Hangzhou's certificate is from an authority that the hub does not trust, Ningbo's from one that it trusts only for
/// Shanghai.
fn unknown() {
    let [ours, shanghais, strange] = ["Authority", "Shanghai's", "Strange"].map(Authority::new);
    let files = Files::new(&hub_pair(&ours), &[("ca.crt", &ours), ("shanghai.crt", &shanghais)]);
    let lab = IpsecLab::prepare(&IpsecOptions::new(Esp::Userspace), |config| {
        let mut config = files.configure(config, "ca.crt");
        config.connection("shanghai").ipsec.as_mut().unwrap().auth = files.auth("shanghai.crt");
        config
    })
    .unwrap();
    let sites = [(SHANGHAI, &shanghais), (HANGZHOU, &strange), (NINGBO, &shanghais)];
    for ((site, issuer), name) in sites.iter().zip(NAMES) {
        let dns = name.filter(|name| !name.contains('='));
        let pair = issuer.issue(common_name(&site.place), site.public4().into(), dns);
        configure(&lab, &site.place, &pair, &ours);
    }
    let has_reason = |status: &Status| {
        let reason = |name: &str| status.connection(name)["state_reason"].as_str().map(str::to_owned);
        status.connection("shanghai")["state"] == "up"
            && ["hangzhou", "ningbo"].iter().all(|name| reason(name).as_deref() == Some(REFUSED))
    };
    let status = lab.wait_for_status(has_reason).unwrap();
    for name in ["hangzhou", "ningbo"] {
        assert_eq!(status.connection(name)["state"], "down");
    }
    let vpc = hub_tests::lab::VPC;
    reach(lab.office("shanghai").place(), vpc.host4.into()).unwrap();

    // In the operator's view.
    let said = lab.agent.cli(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains(&format!("ningbo: {REFUSED}")), "{text}");

    // With a certificate from the right authority Hangzhou connects.
    let pair = ours.issue("Site", HANGZHOU.public4().into(), NAMES[1]);
    configure(&lab, "hangzhou", &pair, &ours);
    let up = |status: &Status| status.connection("hangzhou")["state"] == "up";
    drop(lab.office("hangzhou").initiate());
    lab.wait_for_status(up).unwrap();
    lab.stop().unwrap();
}
