//! Rules, which this version does not create.

use hub_userspace::kernel::netlink::ReconcileReport;

use crate::lab::{Plan, Planned, in_namespace, ip};

#[test]
fn rules_of_earlier_version_are_removed_and_foreign_ones_stay() {
    in_namespace(async |_lab| {
        ip("rule add pref 1180 iif lo table 1180 protocol static");
        ip("rule add pref 500 to 10.0.0.0/8 table main");
        let before = [ip("-details rule show"), ip("-6 -details rule show")];
        for leftover in [
            "rule add pref 1180 iif old table 1180 protocol 118",
            "rule add pref 1180 iif lo ipproto icmp suppress_prefixlength 0 table 1180 protocol 118",
            "rule add pref 1179 iif old from 169.254.0.0/16 blackhole protocol 118",
            "-6 rule add pref 1180 iif old table 1180 protocol 118",
        ] {
            ip(leftover);
        }
        let reconciler = Planned::start();
        assert_eq!(
            reconciler.keep(&Plan::default()).await,
            ReconcileReport { deleted: 4, ..ReconcileReport::default() }
        );
        assert_eq!([ip("-details rule show"), ip("-6 -details rule show")], before);
        assert!(reconciler.keep(&Plan::default()).await.is_empty(), "a second time changes nothing");
        assert_eq!(reconciler.clear().await.unwrap(), ReconcileReport::default());
        assert_eq!([ip("-details rule show"), ip("-6 -details rule show")], before);
    });
}
