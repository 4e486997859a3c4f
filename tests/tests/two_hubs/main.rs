//! Two hubs for the same sites: both carry traffic, or one stands by for the other. Configured as in examples/.

mod active_active;
#[path = "../harness/mod.rs"]
mod harness;
mod role;
mod standby;

use std::process::ExitCode;

use hub_tests::lab::{Bird, Charon};

fn main() -> ExitCode {
    let with_bird: [(&str, fn()); 3] = [
        ("both_hubs_carry_traffic_of_each_kind", active_active::shared),
        ("drained_hub_loses_no_packet_nor_does_its_return", active_active::drained),
        ("killed_hub_is_replaced_by_the_other_and_takes_part_again", active_active::killed),
    ];
    let with_strongswan: [(&str, fn()); 2] = [
        ("standby_hub_unloads_tunnels_over_restarts_until_active", standby::one),
        ("standby_hub_takes_over_tunnels_of_the_other", standby::takes_over),
    ];
    let alone: [(&str, fn()); 2] = [
        ("commands_of_role_are_idempotent_and_survive_restarts", role::survives),
        ("hub_that_boots_as_standby_publishes_nothing_until_active", role::boots_as_standby),
    ];
    let [no_bird, no_strongswan] = [Bird::missing(), Charon::missing()];
    let cases = with_bird.into_iter().map(|(name, run)| (no_bird.clone(), name, run));
    let cases = cases.chain(with_strongswan.into_iter().map(|(name, run)| (no_strongswan.clone(), name, run)));
    harness::run(cases.chain(alone.into_iter().map(|(name, run)| (None, name, run))))
}
