//! Which packets count as a reply.

use std::time::{Duration, Instant};

use hub_userspace::health::LinkLayer;

use crate::{
    far_end::{FarEnd, layout, reply, resum},
    lab::in_namespace,
    support::{INTERVAL, Probing, target},
};

const VERSIONS: [(&str, &str); 2] = [("192.0.2.1", "10.1.0.2"), ("2001:db8:1::1", "2001:db8::2")];

/// Number of payload bytes that all probes through an interface share.
const COOKIE: usize = 4;

fn probing(far_end: &FarEnd, (source, destination): (&str, &str)) -> Probing {
    Probing::start(&[("one", target(far_end.ifindex, LinkLayer::RawIp, source, destination))])
}

#[test]
fn probe_is_valid_echo_request_and_reply_counts_once() {
    in_namespace(async |lab| {
        let mut far_end = FarEnd::new(&lab, "tun0").await;
        for version in VERSIONS {
            let mut probing = probing(&far_end, version);
            let request = far_end.request().await;
            let mut summed = request.clone();
            resum(&mut summed);
            assert_eq!(request, summed, "checksums");
            for _ in 0..2 {
                far_end.send(&reply(&request));
            }
            probing.healthy("one").await;
            assert_eq!(probing.report("one").received, 1);

            let second = far_end.request().await;
            let payload = layout(&request).message + 8;
            let sequence = payload - 2;
            assert_eq!(request[payload..][..COOKIE], second[payload..][..COOKIE]);
            assert_ne!(request[payload + COOKIE..], second[payload + COOKIE..], "each has a nonce of its own");
            assert_ne!(request[sequence..payload], second[sequence..payload]);
            far_end.send(&reply(&second));
            probing.until("one", "the second reply", |report| report.received == 2).await;
        }
    });
}

#[test]
fn forged_reply_is_ignored() {
    type Forgery = (&'static str, fn(&mut Vec<u8>));
    let forgeries: [Forgery; 8] = [
        ("another nonce", |packet| *packet.last_mut().unwrap() ^= 1),
        ("another cookie", |packet| {
            let payload = layout(packet).message + 8;
            packet[payload] ^= 1;
        }),
        ("another sequence number", |packet| {
            let message = layout(packet).message;
            packet[message + 7] ^= 1;
        }),
        ("another identifier", |packet| {
            let message = layout(packet).message;
            packet[message + 5] ^= 1;
        }),
        ("another code", |packet| {
            let message = layout(packet).message;
            packet[message + 1] = 1;
        }),
        ("another source", |packet| {
            let at = layout(packet);
            packet[at.addresses + at.address - 1] ^= 1;
        }),
        ("another destination", |packet| {
            let at = layout(packet);
            packet[at.message - 1] ^= 1;
        }),
        ("the request itself", |packet| *packet = reply(packet)),
    ];
    in_namespace(async move |lab| {
        let mut far_end = FarEnd::new(&lab, "tun0").await;
        for version in VERSIONS {
            let mut probing = probing(&far_end, version);
            let start = Instant::now();
            let mut requests = Vec::new();
            for (what, forge) in forgeries {
                let request = far_end.request().await;
                let mut packet = reply(&request);
                forge(&mut packet);
                resum(&mut packet);
                if what == "the request itself" {
                    packet.clone_from(&request);
                }
                far_end.send(&packet);
                requests.push(request);
            }
            probing.unhealthy("one", start).await;
            let mut wrong_sum = reply(&requests[7]);
            let checksum = layout(&wrong_sum).message + 2;
            wrong_sum[checksum] ^= 1;
            far_end.send(&wrong_sum);
            far_end.send(&reply(&requests[7])[..40]);
            probing.quiet(INTERVAL).await;
            assert_eq!(probing.report("one").received, 0);
            // But late ones do.
            far_end.send(&reply(&requests[7]));
            probing.healthy("one").await;
        }
    });
}

#[test]
fn reply_on_other_interface_is_ignored() {
    in_namespace(async |lab| {
        let mut right = FarEnd::new(&lab, "tun0").await;
        let mut wrong = FarEnd::new(&lab, "tun1").await;
        for version in VERSIONS {
            let through = |far_end: &FarEnd| target(far_end.ifindex, LinkLayer::RawIp, version.0, version.1);
            let mut probing = Probing::start(&[("right", through(&right)), ("wrong", through(&wrong))]);
            let start = Instant::now();
            for _ in 0..4 {
                let request = right.request().await;
                wrong.send(&reply(&request));
            }
            let mut names = [probing.event().await.connection, probing.event().await.connection];
            names.sort();
            assert_eq!(names, ["right", "wrong"]);
            assert!(start.elapsed() < INTERVAL * 30);
            assert_eq!(probing.report("right").received + probing.report("wrong").received, 0);
            let request = right.request().await;
            right.send(&reply(&request));
            probing.healthy("right").await;
        }
    });
}

#[test]
fn round_trip_above_interval_stays_healthy() {
    in_namespace(async |lab| {
        let mut far_end = FarEnd::new(&lab, "tun0").await;
        let mut probing = probing(&far_end, VERSIONS[0]);
        // Two probes are always in flight.
        let mut under_way = [far_end.request().await, far_end.request().await];
        for _ in 0..20 {
            under_way.rotate_left(1);
            let request = far_end.request().await;
            far_end.send(&reply(&std::mem::replace(&mut under_way[1], request)));
        }
        probing.healthy("one").await;
        probing.quiet(Duration::ZERO).await;
        assert!(probing.report("one").round_trip.unwrap() > INTERVAL);
    });
}

#[test]
fn flood_of_other_packets_delays_no_probe() {
    in_namespace(async |lab| {
        let mut far_end = FarEnd::new(&lab, "tun0").await;
        let mut probing = probing(&far_end, VERSIONS[0]);
        let mut sent = Vec::new();
        for _ in 0..10 {
            let request = far_end.request().await;
            sent.push(Instant::now());
            let genuine = reply(&request);
            let mut foreign = genuine.clone();
            *foreign.last_mut().unwrap() ^= 1;
            resum(&mut foreign);
            // They fill the socket's buffer; a genuine reply behind them would be lost like on a full link.
            far_end.send(&genuine);
            for _ in 0..2000 {
                far_end.send(&foreign);
            }
        }
        probing.healthy("one").await;
        probing.quiet(Duration::ZERO).await;
        let took = *sent.last().unwrap() - sent[0];
        assert!(took < INTERVAL * 20, "{took:?} for nine intervals");
    });
}
