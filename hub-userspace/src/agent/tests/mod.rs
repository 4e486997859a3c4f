//! Steps of the agent, on a host that is simulated: no root, no kernel.

mod canonical;
mod draw;
mod evaluate;
mod orders;
mod random;
mod recordings;
mod round_trip;
mod sim;
