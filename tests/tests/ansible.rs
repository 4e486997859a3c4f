//! The role of contrib/ansible, applied to a Debian system: this host's, in a mount namespace with a layer of its own above the
//! root. What the role writes is in that layer, and gone with it. systemd does not run there, so units are enabled, but
//! neither started nor reloaded.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use hub_tests::lab::{Scratch, agent_binary};
use hub_tests::{checkout, tools};

fn main() -> ExitCode {
    let missing = missing();
    let cases: [harness::Case; 3] = [
        (missing.clone(), "second_run_changes_nothing", second_run),
        (missing.clone(), "invalid_configuration_leaves_the_old_file", invalid_configuration),
        (missing, "role_is_without_findings_of_ansible_lint", lint),
    ];
    harness::run(cases.into_iter())
}

fn missing() -> Option<String> {
    if tools::python("ansible-playbook").is_none() {
        return Some("needs ansible-core, which `cargo xtask setup` unpacks".to_owned());
    }
    if !Path::new("/usr/bin/dpkg-deb").exists() {
        return Some("needs a Debian host".to_owned());
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!filesystems.contains("\toverlay\n")).then(|| "needs overlayfs (CONFIG_OVERLAY_FS)".to_owned())
}

/// A gateway, and the directory of its playbook.
struct Gateway {
    dir: Scratch,
}

impl Gateway {
    fn new() -> Self {
        let dir = Scratch::new().unwrap();
        for name in ["layer/upper", "layer/work", "layer/root"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let gateway = Self { dir };
        gateway.write("site.yml", PLAYBOOK);
        gateway.write("hub.toml", CONFIG);
        gateway.package();
        gateway
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A package of the agent, its units and its configuration, as cargo-deb makes it, without the manual. Its scripts are the
    /// package's own.
    fn package(&self) {
        let top = checkout::find().unwrap();
        let root = self.path("package");
        let copy = |from: PathBuf, to: &str| {
            let to = root.join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        };
        copy(agent_binary().into(), "usr/bin/vpnhub");
        for unit in ["vpnhub.service", "vpnhub-guard.service"] {
            copy(top.join("contrib/systemd").join(unit), &format!("usr/lib/systemd/system/{unit}"));
        }
        copy(top.join("contrib/debian/vpnhub.sysusers"), "usr/lib/sysusers.d/vpnhub.conf");
        copy(top.join("contrib/debian/vpnhub.toml"), "etc/vpnhub/vpnhub.toml");
        for script in ["postinst", "prerm", "postrm"] {
            copy(top.join("contrib/debian/scripts").join(script), &format!("DEBIAN/{script}"));
        }
        self.write("package/DEBIAN/conffiles", "/etc/vpnhub/vpnhub.toml\n");
        let architecture = succeed(Command::new("dpkg").arg("--print-architecture"));
        self.write("package/DEBIAN/control", &CONTROL.replace("ARCHITECTURE", architecture.trim()));
        let mut modes = Command::new("chmod");
        succeed(modes.arg("0755").args(["postinst", "prerm", "postrm"].map(|name| root.join("DEBIAN").join(name))));
        succeed(
            Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&root).arg(self.path("vpnhub.deb")),
        );
    }

    /// Runs the playbook with more arguments.
    fn play(&self, arguments: &[&str]) -> Output {
        let ansible = tools::python("ansible-playbook").unwrap();
        let roles = checkout::find().unwrap().join("contrib/ansible/roles");
        let mut command = self.inside(&format!(
            "cd {dir} && exec env PATH=/usr/sbin:/usr/bin:/sbin:/bin ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3 \
             ANSIBLE_ROLES_PATH={roles} ANSIBLE_NOCOLOR=1 ANSIBLE_LOCALHOST_WARNING=0 LC_ALL=C.UTF-8 \
             {ansible} \
             -i localhost, site.yml \"$@\"",
            dir = self.dir.path().display(),
            roles = roles.display(),
            ansible = ansible.display(),
        ));
        command.args(arguments).output().unwrap()
    }

    /// A shell command in the gateway's file system; arguments are appended. The layer stays, the mounts end with it.
    fn inside(&self, script: &str) -> Command {
        let layer = self.path("layer");
        let layer = layer.display();
        let dir = self.dir.path().display();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(format!(
            "mount -t overlay overlay -o lowerdir=/,upperdir={layer}/upper,workdir={layer}/work {layer}/root\n\
             for place in proc sys dev; do mount --rbind /$place {layer}/root/$place; done\n\
             mount --bind {dir} {layer}/root{dir}\n\
             exec chroot {layer}/root sh -ec '{script}' sh \"$@\"\n"
        ));
        command.arg("sh");
        command
    }

    /// A file of the gateway.
    fn read(&self, path: &str) -> String {
        succeed(&mut self.inside(&format!("cat {path}")))
    }
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Both streams.
fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `NAME=NUMBER` of the play's last line.
fn count(output: &Output, name: &str) -> usize {
    let text = text(output);
    let line = text.lines().find(|line| line.starts_with("localhost") && line.contains("changed=")).unwrap_or_default();
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
}

const SECRET: &str = "0sMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

fn second_run() {
    let gateway = Gateway::new();
    let syntax = gateway.play(&["--syntax-check"]);
    assert!(syntax.status.success(), "{}", text(&syntax));

    // Before the package is there.
    let dry = gateway.play(&["--check", "--diff"]);
    assert!(dry.status.success(), "{}", text(&dry));
    assert!(count(&dry, "changed") >= 1, "{}", text(&dry));
    assert!(!gateway.path("layer/upper/usr/bin/vpnhub").exists(), "check mode installs the package");

    // With all that Ansible can print.
    let first = gateway.play(&["--diff", "-vvv"]);
    assert!(first.status.success(), "{}", text(&first));
    assert_eq!(gateway.read("/etc/vpnhub/vpnhub.toml"), CONFIG);
    assert_eq!(gateway.read("/etc/vpnhub/shanghai.psk"), SECRET);
    let mode = succeed(&mut gateway.inside("stat -c \"%a %U\" /etc/vpnhub/shanghai.psk"));
    assert_eq!(mode, "600 root\n");
    assert!(!text(&first).contains(SECRET) && !text(&dry).contains(SECRET), "a secret is shown: {}", text(&first));
    let enabled = succeed(&mut gateway.inside("systemctl is-enabled vpnhub.service vpnhub-guard.service"));
    assert_eq!(enabled, "enabled\nenabled\n");

    for arguments in [&[][..], &["--check"]] {
        let again = gateway.play(arguments);
        assert!(again.status.success(), "{}", text(&again));
        assert_eq!(count(&again, "changed"), 0, "{}", text(&again));
    }

    gateway.write("hub.toml", &CONFIG.replace("10.10.10.0/24", "10.10.11.0/24"));
    let changed = gateway.play(&[]);
    assert!(changed.status.success(), "{}", text(&changed));
    assert!(text(&changed).contains("RUNNING HANDLER [vpnhub : Reload VPN-Hub]"), "{}", text(&changed));
    assert!(gateway.read("/etc/vpnhub/vpnhub.toml").contains("10.10.11.0/24"));
}

fn invalid_configuration() {
    let gateway = Gateway::new();
    let first = gateway.play(&[]);
    assert!(first.status.success(), "{}", text(&first));
    gateway.write("hub.toml", &CONFIG.replace("next_hop = \"shanghai\"", "next_hop = \"shnghai\""));
    let refused = gateway.play(&[]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("did you mean"), "{}", text(&refused));
    assert_eq!(gateway.read("/etc/vpnhub/vpnhub.toml"), CONFIG);

    gateway.write("hub.toml", CONFIG);
    let missing = gateway.play(&["--extra-vars", "{\"vpnhub_state\": \"paused\"}"]);
    assert!(!missing.status.success() && text(&missing).contains("vpnhub_state"), "{}", text(&missing));
}

fn lint() {
    let lint = tools::python("ansible-lint").expect("it is installed with ansible-core");
    let path = format!("{}:{}", lint.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(&lint);
    command.args(["--offline", "--profile", "production", "--strict", "--nocolor", "roles"]).env("PATH", path);
    let output = command.current_dir(checkout::find().unwrap().join("contrib/ansible")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

const PLAYBOOK: &str = r#"---
- name: Gateway
  hosts: all
  connection: local
  roles:
    - role: vpnhub
      vars:
        vpnhub_deb: "{{ playbook_dir }}/vpnhub.deb"
        vpnhub_install_recommends: false
        vpnhub_config: "{{ lookup('ansible.builtin.file', playbook_dir ~ '/hub.toml') }}"
        vpnhub_secrets:
          - name: shanghai.psk
            content: "0sMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
"#;

const CONFIG: &str = r#"[gateway]
name = "hub"
address = "203.0.113.1"

[customer_gateway.shanghai-office]
address = "198.51.100.10"

[connection.shanghai]
customer_gateway = "shanghai-office"
interface = "xfrm-sh"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.10.10.0/24"]

[connection.shanghai.ipsec]
psk_file = "/etc/vpnhub/shanghai.psk"
if_id = 10
create_interface = true

[[route]]
destination = "10.10.10.0/24"
next_hop = "shanghai"
"#;

const CONTROL: &str = "Package: vpnhub\nVersion: 0.0.1-1\nArchitecture: ARCHITECTURE\nSection: net\nPriority: optional\n\
    Maintainer: VPN-Hub tests <nobody@vpnhub.invalid>\nDescription: agent, units and configuration, for a test\n";
