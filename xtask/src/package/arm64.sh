#!/bin/busybox sh
# The machine's first process: starts a hub of two sites, has the loaded programs judge packets, and takes all away again.
busybox=/bin/busybox
end() {
  echo "$1"
  # Whatever is written must reach the host first.
  $busybox sleep 1
  $busybox poweroff -f
  # This process must not end.
  while :; do $busybox sleep 60; done
}
must() {
  "$@" || end "arm64: failed: $*"
}
# What a packet's trace must say: its words, the rest are its arguments.
traced() {
  words=$1
  shift
  vpnhub trace "$@" >/run/trace || end "arm64: no trace of $*"
  $busybox grep -q "$words" /run/trace || { $busybox cat /run/trace; end "arm64: $* is not traced as '$words'"; }
  echo "$*: $words"
}

export PATH=/bin
must $busybox mount -t proc proc /proc
must $busybox mount -t sysfs sys /sys
must $busybox mount -t devtmpfs dev /dev
must $busybox mount -t tmpfs run /run
must $busybox mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do must $busybox insmod "$module"; done

must $busybox ip link set lo up
for site in 1 2; do
  must $busybox ip tunnel add site$site mode gre local 203.0.113.1 remote 198.51.100.$site
  must $busybox ip link set site$site up
done
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding

$busybox uname -srm
must vpnhub check --config /vpnhub.toml
vpnhub run --config /vpnhub.toml --state /run/state 2>/run/log &
agent=$!
tries=0
until vpnhub status >/run/status 2>/run/said; do
  tries=$((tries + 1))
  if [ $tries -gt 120 ] || ! kill -0 $agent; then
    $busybox cat /run/log /run/said
    end "arm64: the agent does not answer"
  fi
  $busybox sleep 1
done
$busybox cat /run/status
traced "forward" --in one --src 10.1.0.9 --dst 10.2.0.9 --proto udp --sport 7 --dport 9
traced "forward" --in two --src fd00:2::9 --dst fd00:1::9 --proto tcp --sport 7 --dport 9 --tcp-flags syn
traced "spoofed_source" --in one --src 10.2.0.9 --dst 10.2.0.8 --proto udp --sport 7 --dport 9
traced "selector_mismatch" --in one --src 10.1.0.9 --dst 10.3.0.9 --proto udp --sport 7 --dport 9
must kill $agent
wait $agent
vpnhub unload || end "arm64: failed: unload"
end "arm64: passed"
