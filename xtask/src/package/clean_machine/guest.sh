#!/bin/sh
# The clean-machine test, inside the guest, as root: install, run, upgrade under traffic, reboot, remove, purge.
# Its output is the report. The third serial line gets "passed" at the end.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
state=/var/cache/clean-machine
mkdir -p "$state"

ok() { echo "  ok      $*"; }

fail() {
    echo "  FAILED  $*"
    systemctl --no-pager --lines 0 status vpnhub.service vpnhub-guard.service
    journalctl --no-pager --quiet --lines 40 --unit vpnhub.service --unit vpnhub-guard.service
    ip -brief link
    systemctl poweroff
    exit 1
}

# NAME COMMAND...: the command succeeds; its output is shown if not.
check() {
    name=$1
    shift
    if "$@" > "$state/output" 2>&1; then
        ok "$name"
    else
        cat "$state/output"
        fail "$name"
    fi
}

# NAME EXPECTED ACTUAL
equal() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
    ok "$1: $3"
}

# Names, types and rights of all files on the disk. Left out: the test's own, logs, caches, and what any use of apt, dpkg and
# systemd changes.
files() {
    find / -xdev \( -path "$state" -o -path /var/log -o -path /var/cache/apt -o -path /var/cache/debconf -o -path /var/cache/man \
        -o -path /tmp \
        -o -path /var/tmp -o -path '/var/lib/apt/*' -o -path '/var/lib/dpkg/*-old' -o -path '/var/lib/systemd/random-seed' \
        -o -path '/var/lib/systemd/timers' -o -path '/etc/group*' -o -path '/etc/gshadow*' -o -path /etc/.pwd.lock \
        -o -path /var/cache/ldconfig -o -path /media -o -path /lost+found \) -prune -o -printf '%p %y %m\n' | sort
}

# What the kernel forwards, and by which rules.
forwarding() {
    sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.all.rp_filter
    ip rule
    nft list tables
    find /sys/fs/bpf -mindepth 1
    ip route show table all proto 118
    ip route show table all proto 119
}

# Two sites, each a namespace with a network behind it and a GRE tunnel to the hub, across a bridge as the Internet.
sites() {
    ip link add wan type bridge
    ip address add 198.51.100.254/24 dev wan
    ip link set wan up
    for site in "a 1" "b 2"; do
        name=${site% *}
        number=${site#* }
        ip netns add "$name"
        ip link add "wan-$name" master wan type veth peer name wan netns "$name"
        ip link set "wan-$name" up
        ip -n "$name" link set lo up
        ip -n "$name" address add "10.10.$number.1/24" dev lo
        ip -n "$name" address add "198.51.100.$number/24" dev wan
        ip -n "$name" link set wan up
        ip -n "$name" link add hub type gre local "198.51.100.$number" remote 198.51.100.254
        ip -n "$name" link set hub up
        ip -n "$name" route add default dev hub src "10.10.$number.1"
        ip link add "gre-$name" type gre local 198.51.100.254 remote "198.51.100.$number"
        ip link set "gre-$name" up
    done
}

ping_sites() {
    ip netns exec a ping -n -I 10.10.1.1 "$@" 10.10.2.1
}

reachable() {
    tries=0
    until ping_sites -c 1 -W 1 > /dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || { vpnhub status; fail "the sites do not reach each other"; }
    done
    check "site a reaches site b through the hub" sh -c \
        'ip netns exec a ping -n -I 10.10.1.1 -c 20 -i 0.1 10.10.2.1 | grep -q "20 packets transmitted, 20 received"'
}

# The highest sequence number among the replies, and how many are missing below it.
replies() {
    sed -n 's/.*icmp_seq=\([0-9]*\) .*/\1/p' "$state/ping" | sort -n -u |
        awk '{ last = $1 } END { print last + 0, last - NR }'
}

configuration() {
    cat << 'TOML'
[gateway]
name = "hub"

[customer_gateway.a]
address = "198.51.100.1"

[customer_gateway.b]
address = "198.51.100.2"

[connection.a]
customer_gateway = "a"
interface = "gre-a"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.10.1.0/24"]

[connection.b]
customer_gateway = "b"
interface = "gre-b"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.10.2.0/24"]

[[route]]
destination = "10.10.1.0/24"
next_hop = "a"

[[route]]
destination = "10.10.2.0/24"
next_hop = "b"
TOML
}

agent() { systemctl show --property MainPID --value vpnhub.service; }

before_reboot() {
    echo "Linux $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"
    # As docs/ipsec.md asks for: the hub's strongSwan adds neither routes nor rules.
    printf 'charon {\n  install_routes = no\n  routing_table = 0\n}\n' > /etc/strongswan.d/hub.conf
    systemctl restart strongswan
    files > "$state/before"
    forwarding > "$state/forwarding"

    echo "install"
    check "apt installs the package" apt-get install --yes --quiet /media/first.deb
    forwarding > "$state/output2"
    check "installing changes no forwarding" diff "$state/forwarding" "$state/output2"
    equal "unit" "disabled inactive" \
        "$(systemctl is-enabled vpnhub) $(systemctl is-active vpnhub)"
    equal "guard" "disabled inactive" \
        "$(systemctl is-enabled vpnhub-guard) $(systemctl is-active vpnhub-guard)"
    version=$(dpkg-query --show --showformat='${Version}' vpnhub)
    equal "version" "vpnhub ${version%-*}" "$(vpnhub --version)"
    for page in vpnhub vpnhub-run vpnhub-route-add vpnhub-unload; do
        check "man page $page" man --where "$page"
    done
    check "man page is readable" sh -c 'man vpnhub | grep -q "Forwarding agent"'
    for file in bash-completion/completions/vpnhub zsh/vendor-completions/_vpnhub fish/vendor_completions.d/vpnhub.fish; do
        check "completion $file" test -s "/usr/share/$file"
    done
    check "bill of materials" grep -q '"bomFormat": "CycloneDX"' /usr/share/doc/vpnhub/vpnhub.cdx.json
    check "group" getent group vpnhub
    check "installed configuration is accepted" vpnhub check --config /etc/vpnhub/vpnhub.toml
    check "units are verified" systemd-analyze verify vpnhub.service vpnhub-guard.service
    check "all files are unchanged" dpkg --verify vpnhub

    echo "run"
    check "the installed configuration starts" systemctl start vpnhub.service
    check "and stops" systemctl stop vpnhub.service
    configuration > /etc/vpnhub/vpnhub.toml
    check "configuration of two sites" vpnhub check --config /etc/vpnhub/vpnhub.toml
    check "agent and guard start" systemctl enable --now vpnhub-guard.service vpnhub.service
    sites
    reachable
    equal "the kernel forwards nothing" 0 "$(sysctl --values net.ipv4.ip_forward)"
    check "reload" systemctl reload vpnhub.service

    echo "upgrade under traffic, 50 packets a second"
    first=$(agent)
    ping_sites -i 0.02 > "$state/ping" &
    pid=$!
    sleep 2
    check "apt installs the newer package" apt-get install --yes --quiet /media/second.deb
    equal "agent" active "$(systemctl is-active vpnhub)"
    second=$(agent)
    [ "$first" != "$second" ] || fail "the upgrade has not restarted the agent"
    ok "another agent runs"
    at=$(replies)
    tries=0
    # Until replies of packets sent after the upgrade are there.
    while now=$(replies) && [ "${now% *}" -lt $((${at% *} + 100)) ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || fail "no replies after the upgrade"
        sleep 1
    done
    kill "$pid"
    equal "packets lost of ${now% *}" 0 "${now#* }"

    echo "reboot"
    touch "$state/rebooted"
    sync
    systemctl reboot
}

after_reboot() {
    tries=0
    until [ "$(systemctl is-active vpnhub-guard vpnhub | tr '\n' ' ')" = "active active " ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || fail "agent and guard do not come up by themselves"
        sleep 1
    done
    ok "agent and guard come up by themselves"
    sites
    reachable

    echo "remove"
    check "apt removes the package" apt-get remove --yes --quiet vpnhub
    equal "agent" inactive "$(systemctl is-active vpnhub)"
    forwarding > "$state/output2"
    check "forwarding is as before the installation" diff "$state/forwarding" "$state/output2"
    ping_sites -c 3 -i 0.2 -W 1 > "$state/ping"
    equal "replies through the hub" "0 0" "$(replies)"
    check "configuration stays" grep -q gre-a /etc/vpnhub/vpnhub.toml
    check "apt purges the package" apt-get purge --yes --quiet vpnhub
    files > "$state/after"
    check "files are as before the installation" diff "$state/before" "$state/after"
    equal "failed units" "" "$(systemctl --failed --no-legend --plain | grep vpnhub)"
    echo passed > /dev/ttyS2
    systemctl poweroff
}

if [ -e "$state/rebooted" ]; then
    after_reboot
else
    # When all units have started: the comparison must not see files that they make.
    systemctl is-system-running --wait > /dev/null
    before_reboot
fi
