//! Capabilities that say what a process could do beyond its own network flows. Pure.

/// Those worth naming, by their bit (linux/capability.h): they give the host, its network, or
/// other processes away.
const OF_INTEREST: [(u32, &str); 12] = [
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (16, "CAP_SYS_MODULE"),
    (17, "CAP_SYS_RAWIO"),
    (18, "CAP_SYS_CHROOT"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// From a mask of proc(5), one bit for each capability.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The names of those that matter for an alert.
    pub fn of_interest(self) -> impl Iterator<Item = &'static str> {
        OF_INTEREST
            .into_iter()
            .filter(move |&(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_the_kernels() {
        for (bit, name) in OF_INTEREST {
            let known: caps::Capability = name.parse().unwrap();
            assert_eq!(known.bitmask(), 1 << bit, "{name}");
            let named: Vec<_> = Capabilities::from_bits(1 << bit).of_interest().collect();
            assert_eq!(named, [name]);
        }
        assert_eq!(Capabilities::default().of_interest().count(), 0);
    }
}
