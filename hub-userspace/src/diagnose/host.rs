//! The kernel, its settings, other processes' rules, and the agent. Pure.

use super::{
    facts::{DatapathFacts, Facts, HostFacts, IkeFacts, NeighbourFacts, NetworkFacts},
    remedy,
};
use crate::{
    api_types::diagnose::{Area, Code, Finding, Severity},
    kernel::netlink::{Family, ForeignRule},
};

/// The oldest supported kernel, and the first ones with TCX and with owners of nftables tables.
const OLDEST: (u32, u32) = (6, 1);
const TCX: (u32, u32) = (6, 6);
const TABLE_OWNERS: (u32, u32) = (6, 9);
/// The priority, and the table, of the rule that charon adds.
const CHARON: u32 = 220;
/// Rules that a message lists.
const LISTED: usize = 5;
/// Parts of a hundred: a neighbour table this full, and memory this scarce.
const NEARLY_FULL: u64 = 80;
const SCARCE: u64 = 5;
const FORWARDING: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
const OF_ONE_FAMILY: [&str; 2] = ["ipv4", "ipv6"];

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let HostFacts { kernel, jit, has_btf, missing_bpf, is_synchronized, memory, network } = &facts.host;
    let mut findings = agent(facts);
    findings.extend(kernel.as_deref().map(self::kernel));
    findings.extend(jit.map(bpf_jit));
    findings.push(match has_btf {
        true => Finding::ok(Area::Host, "BTF", Code::Btf, "the kernel describes its types"),
        false => Finding::error(
            Area::Host,
            "BTF",
            Code::Btf,
            "the kernel does not describe its types: /sys/kernel/btf/vmlinux is missing",
            "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it",
        ),
    });
    findings.extend(missing_bpf.as_deref().map(bpf_features));
    findings.extend(is_synchronized.map(clock));
    findings.extend(memory.map(|memory| self::memory(memory.available, memory.total)));
    match network {
        Some(network) => findings.extend(self::network(facts, network)),
        None => findings.push(not_checked(
            "the agent runs in another network namespace: its interfaces, rules and sysctls are not checked".to_owned(),
            "run `vpnhub diagnose` there: `nsenter -t PID -n vpnhub diagnose`",
        )),
    }
    if let Some(ike) = facts.config.as_ref().and_then(|config| config.ike.as_ref()) {
        findings.extend(ike_daemon(ike));
    }
    findings.extend(facts.unchecked.iter().map(|reason| not_checked(reason.clone(), "run as root")));
    findings
}

fn not_checked(reason: String, action: &str) -> Finding {
    Finding::warning(Area::Host, "diagnosis", Code::NotChecked, reason, action)
}

fn agent(facts: &Facts) -> Vec<Finding> {
    if facts.status.is_some() {
        return vec![Finding::ok(Area::Host, "agent", Code::Agent, "it answers")];
    }
    let reason = facts.no_agent.as_deref().unwrap_or("no agent answers");
    let start =
        "start the agent: `systemctl start vpnhub`; `vpnhub check --config FILE` shows whether its file is valid";
    let agent = remedy::finding(Severity::Error, Area::Host, "agent", Code::Agent, reason, start);
    let datapath = match &facts.datapath {
        DatapathFacts::Unknown => None,
        DatapathFacts::Running(datapath) => Some(Finding::warning(
            Area::Host,
            "datapath",
            Code::Datapath,
            format!(
                "the datapath of {} connections on {} interfaces forwards with its last tables, without failover",
                datapath.connections.len(),
                datapath.interfaces.len()
            ),
            "start the agent, which adopts it",
        )),
        DatapathFacts::Missing => Some(Finding::error(
            Area::Host,
            "datapath",
            Code::Datapath,
            "no program of this instance is attached: nothing is forwarded between the sites",
            "start the agent; if its instance is not named default, name it with --instance",
        )),
    };
    [agent].into_iter().chain(datapath).collect()
}

/// Major and minor version of a release such as "6.12.0-9-amd64".
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(release: &str) -> Finding {
    let subject = "kernel";
    let Some(version) = version(release) else {
        let message = format!("its version {release:?} is unknown");
        return Finding::warning(
            Area::Host,
            subject,
            Code::Kernel,
            message,
            "compare it with the supported ones, 6.1 and later",
        );
    };
    if version < OLDEST {
        let message = format!("{release} is older than the oldest supported one, 6.1");
        return Finding::error(Area::Host, subject, Code::Kernel, message, "install Linux 6.1 or later");
    }
    let lacks = match version {
        version if version < TCX => ": without TCX, TC programs are clsact filters; nftables tables have no owner",
        version if version < TABLE_OWNERS => {
            ": nftables tables have no owner, so another process can flush the agent's"
        }
        _ => "",
    };
    Finding::ok(Area::Host, subject, Code::Kernel, format!("{release}{lacks}"))
}

fn bpf_jit(enabled: u32) -> Finding {
    let subject = "net.core.bpf_jit_enable";
    match enabled {
        0 => Finding::warning(
            Area::Host,
            subject,
            Code::BpfJit,
            "the kernel interprets BPF programs: forwarding is several times slower",
            "`sysctl net.core.bpf_jit_enable=1`, and a file in /etc/sysctl.d",
        ),
        _ => Finding::ok(Area::Host, subject, Code::BpfJit, "the kernel compiles BPF programs"),
    }
}

fn bpf_features(missing: &[&str]) -> Finding {
    match missing {
        [] => {
            let message = "the kernel has the types of programs and maps that the datapath needs";
            Finding::ok(Area::Host, "BPF", Code::BpfFeatures, message)
        }
        missing => Finding::error(
            Area::Host,
            "BPF",
            Code::BpfFeatures,
            format!("the kernel lacks {}: the datapath cannot be loaded", missing.join(", ")),
            "use a kernel with CONFIG_BPF_SYSCALL, as distributions build it; in a container, permit bpf(2)",
        ),
    }
}

fn clock(is_synchronized: bool) -> Finding {
    match is_synchronized {
        true => Finding::ok(Area::Host, "clock", Code::Clock, "synchronized"),
        false => Finding::warning(
            Area::Host,
            "clock",
            Code::Clock,
            "the kernel's clock is not synchronized: certificates may seem expired, and times in logs differ",
            "run chrony or systemd-timesyncd",
        ),
    }
}

fn memory(available: u64, total: u64) -> Finding {
    let shown = format!("{} of {} MiB are available", available / 1024, total / 1024);
    match available * 100 < total * SCARCE {
        true => Finding::warning(
            Area::Host,
            "memory",
            Code::Memory,
            format!("{shown}: the kernel may end the agent or strongSwan"),
            "add memory, or end other processes; `[dataplane] lookup_memory` limits that of the routes",
        ),
        false => Finding::ok(Area::Host, "memory", Code::Memory, shown),
    }
}

fn network(facts: &Facts, network: &NetworkFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (subject, forwards) in FORWARDING.into_iter().zip(network.forwarding) {
        findings.extend(forwards.map(|forwards| forwarding(subject, forwards)));
    }
    for (family, table) in OF_ONE_FAMILY.into_iter().zip(network.neighbours) {
        findings.extend(table.map(|table| neighbours(family, table)));
    }
    findings.extend(rules(&network.rules, network.has_own_rules));
    findings.extend(guard(facts, network.has_table));
    findings
}

fn forwarding(subject: &str, forwards: bool) -> Finding {
    match forwards {
        true => Finding::ok(Area::Host, subject, Code::Forwarding, "on"),
        false => Finding::warning(
            Area::Host,
            subject,
            Code::Forwarding,
            "off: packets that the program leaves to the kernel are lost, such as the first ones to a neighbour, those \
             with options, and those to be fragmented or answered by an ICMP error",
            format!("`sysctl {subject}=1`, and a file in /etc/sysctl.d"),
        ),
    }
}

fn neighbours(family: &str, NeighbourFacts { entries, limit }: NeighbourFacts) -> Finding {
    let subject = format!("net.{family}.neigh.default.gc_thresh3");
    let shown = format!("{entries} of {limit} neighbours are in use");
    let action = || format!("`sysctl {subject}={}`, and a file in /etc/sysctl.d", limit.saturating_mul(4));
    if entries >= limit {
        let message = format!("{shown}: the kernel resolves no further ones");
        return Finding::error(Area::Host, &subject, Code::NeighbourTable, message, action());
    }
    match entries * 100 > limit * NEARLY_FULL {
        true => Finding::warning(Area::Host, &subject, Code::NeighbourTable, shown, action()),
        false => Finding::ok(Area::Host, subject, Code::NeighbourTable, shown),
    }
}

/// The cost was measured: docs/benchmarks.md.
fn rules(rules: &[ForeignRule], has_own: bool) -> Vec<Finding> {
    if rules.is_empty() {
        let message = match has_own {
            true => {
                "no rules of other processes; the agent's, which policy routes need, make each packet into an xfrm \
                 interface cost about 20 % more instructions"
            }
            false => "no rules of other processes",
        };
        return vec![Finding::ok(Area::Host, "ip rule", Code::IpRules, message)];
    }
    let is_charons = |rule: &&ForeignRule| rule.priority == CHARON && rule.table == CHARON;
    let (charons, others): (Vec<_>, Vec<_>) = rules.iter().partition(is_charons);
    let mut findings = Vec::new();
    if !charons.is_empty() {
        findings.push(Finding::warning(
            Area::Host,
            "ip rule 220",
            Code::IpRules,
            format!(
                "strongSwan's rule \"220: from all lookup 220\" ({}) makes each packet into an xfrm interface cost about \
                 20 % more instructions",
                families(&charons)
            ),
            "set routing_table = 0 and install_routes = no in the section charon of strongswan.conf, and reboot: the \
             first rule costs until then, even after it is deleted",
        ));
    }
    if !others.is_empty() {
        let listed: Vec<_> = others.iter().take(LISTED).map(|rule| rule.priority.to_string()).collect();
        let more = if others.len() > LISTED { ", ..." } else { "" };
        findings.push(Finding::warning(
            Area::Host,
            "ip rule",
            Code::IpRules,
            format!(
                "{} of other processes ({}; priority {}{more}): the first one makes each packet into an xfrm interface \
                 cost about 20 % more instructions, each further one 30 to 40 instructions",
                if others.len() == 1 { "a rule".to_owned() } else { format!("{} rules", others.len()) },
                families(&others),
                listed.join(", "),
            ),
            "remove them if they are not needed, and reboot: the first rule costs until then; `ip rule` and `ip -6 rule` \
             list them",
        ));
    }
    findings
}

fn families(rules: &[&ForeignRule]) -> &'static str {
    let has = |family| rules.iter().any(|rule| rule.family == family);
    match (has(Family::V4), has(Family::V6)) {
        (true, true) => "IPv4 and IPv6",
        (true, false) => "IPv4",
        _ => "IPv6",
    }
}

/// `has_table`: as read by this process, which may lack the permission.
fn guard(facts: &Facts, has_table: Option<bool>) -> Option<Finding> {
    // The agent reads its counters, and reports none if it cannot.
    let of_agent = facts.status.as_ref().map(|status| !status.status.kernel_drops.is_empty());
    let is_needed = facts.status.is_some() || !matches!(facts.datapath, DatapathFacts::Missing);
    let subject = "nftables";
    match has_table.or(of_agent)? {
        true => Some(Finding::ok(Area::Host, subject, Code::NftablesTable, "the table inet vpnhub is in force")),
        false if !is_needed => None,
        false => Some(Finding::error(
            Area::Host,
            subject,
            Code::NftablesTable,
            "the table inet vpnhub is missing: the kernel forwards to the sites past the selectors",
            "start the agent, which writes it; if one runs, its log has the reason",
        )),
    }
}

fn ike_daemon(ike: &IkeFacts) -> Option<Finding> {
    let subject = "strongSwan";
    match ike {
        IkeFacts::Listens => Some(Finding::ok(Area::Host, subject, Code::IkeDaemon, "it listens on its VICI socket")),
        IkeFacts::Silent(reason) => Some(Finding::error(
            Area::Host,
            subject,
            Code::IkeDaemon,
            format!("its VICI socket cannot be used: {reason}"),
            "start it: `systemctl start strongswan`; compare [gateway] vici_socket with charon.plugins.vici.socket",
        )),
        // The agent reports it by connection.
        IkeFacts::Unknown => None,
    }
}
