//! Whose an established flow is. There is no packet to start from, only the connection.

use std::time::Instant;

use super::Found;
use crate::{
    attribution::{Attributor, Clues, Source},
    config::Hook,
    feed::Direction,
    host::wires::Wires,
    packet::Protocol,
};

/// Looks sources up, and ends their sockets.
pub(super) struct Finder {
    attributor: Attributor,
    wires: Wires,
    /// That sockets cannot be ended was told already.
    cannot_end: bool,
}

impl Finder {
    pub(super) fn new(attributor: Attributor) -> Self {
        Self {
            attributor,
            wires: Wires::new(),
            cannot_end: false,
        }
    }

    /// Ends the socket of a local TCP flow that was cut. Its process would wait for answers otherwise,
    /// and the kernel send again for minutes what is dropped. The reset meets the cut bit and stays here.
    pub(super) fn end_connection(&mut self, found: &Found) {
        if found.filtered.proto != Protocol::TCP {
            return;
        }
        let ended = match found.hook {
            Hook::Forward => return,
            Hook::Output => self
                .attributor
                .end_connection(&found.sent, Direction::Egress),
            Hook::Input => self
                .attributor
                .end_connection(&found.filtered, Direction::Ingress),
        };
        match ended {
            Ok(ended) => tracing::trace!(ended, "socket of a cut flow"),
            // The cut bit is enough.
            Err(why) => {
                if !std::mem::replace(&mut self.cannot_end, true) {
                    tracing::warn!("the sockets of cut flows are not ended: {why}");
                }
            }
        }
    }

    pub(super) fn attribute(
        &mut self,
        found: &Found,
        direction: Direction,
        until: Option<Instant>,
    ) -> Source {
        let mut source = match found.hook {
            _ if until.is_some_and(|until| Instant::now() >= until) => Source {
                cause: Some("too many live flows at once to look all of them up".into()),
                ..Source::default()
            },
            Hook::Forward => self.attribute_forwarded(found, direction),
            // The socket knows the address it was connected to, not what NAT made of it.
            Hook::Output => self
                .attributor
                .local(&found.sent, direction, &Clues::default()),
            Hook::Input => self
                .attributor
                .local(&found.filtered, direction, &Clues::default()),
        };
        source.method = Some("live-flow");
        source
    }

    /// There is no packet that shows the interface and the sender's card: the route back and the
    /// neighbour table do, as far as they lead there.
    fn attribute_forwarded(&mut self, found: &Found, direction: Direction) -> Source {
        let (flow, inside) = match direction {
            Direction::Egress => (&found.sent, found.filtered.src),
            Direction::Ingress => (&found.filtered, found.filtered.dst),
        };
        let device = self.wires.device_to(inside);
        let mac = device.and_then(|device| self.wires.mac_of(device, inside));
        let clues = Clues {
            mac,
            peer: device.and_then(|device| self.wires.peer(device, mac)),
            ..Clues::default()
        };
        self.attributor.forwarded(flow, direction, &clues)
    }
}
