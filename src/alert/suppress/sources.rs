//! How many different addresses there were, in a few kilobytes whatever their number.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

/// Different addresses that are counted exactly; as hashes they take what the registers take.
pub const EXACT: usize = 512;
/// Bits of a hash that choose a register.
const BITS: u32 = 12;
/// Registers, one byte each. The standard error is 1.04 / sqrt(4096): 1.6%.
const REGISTERS: usize = 1 << BITS;

/// Counts different addresses: exactly up to [`EXACT`], then by HyperLogLog (Flajolet et al., 2007).
/// The hash has a key of its own, so that nobody can choose addresses that spoil the estimate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distinct {
    key: RandomState,
    seen: HashSet<u64>,
    /// Empty while all are in `seen`.
    registers: Vec<u8>,
}

impl Distinct {
    pub(crate) fn add(&mut self, address: &IpAddr) {
        let hash = self.key.hash_one(address);
        if self.registers.is_empty() {
            self.seen.insert(hash);
            if self.seen.len() > EXACT {
                self.registers = vec![0; REGISTERS];
                for hash in std::mem::take(&mut self.seen) {
                    note(&mut self.registers, hash);
                }
            }
        } else {
            note(&mut self.registers, hash);
        }
    }

    /// How many there were, and whether that is exact.
    pub(crate) fn count(&self) -> (u64, bool) {
        if self.registers.is_empty() {
            let exact = u64::try_from(self.seen.len()).unwrap_or(u64::MAX);
            return (exact, true);
        }
        (estimate(&self.registers), false)
    }
}

/// The register that the high bits name keeps the longest run of zeros before the rest's first one.
fn note(registers: &mut [u8], hash: u64) {
    let at = usize::try_from(hash >> (u64::BITS - BITS)).unwrap_or(0);
    let run = ((hash << BITS) | 1 << (BITS - 1)).leading_zeros() + 1;
    if let Some(register) = registers.get_mut(at) {
        *register = (*register).max(u8::try_from(run).unwrap_or(u8::MAX));
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, and below 2^64
fn estimate(registers: &[u8]) -> u64 {
    let of = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let m = of(registers.len());
    let sum: f64 = registers.iter().map(|r| 2f64.powi(-i32::from(*r))).sum();
    let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
    let empty = registers.iter().filter(|register| **register == 0).count();
    // Few of them leave registers empty, which says more.
    let best = match empty {
        1.. if raw <= 2.5 * m => m * (m / of(empty)).ln(),
        _ => raw,
    };
    best.round() as u64
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn few_are_counted_and_many_are_estimated() {
        for count in [0u32, 1, 512, 513, 5_000, 20_000, 131_072, 1_000_000] {
            let mut all = Distinct::default();
            for n in 0..count {
                let address = Ipv4Addr::from(0xc612_0000 + n).into();
                all.add(&address);
                all.add(&address);
            }
            let (found, is_exact) = all.count();
            assert_eq!(is_exact, count <= 512, "{count}");
            let off = found.abs_diff(count.into());
            // Six times the standard error.
            let most = if is_exact { 0 } else { u64::from(count) / 10 };
            assert!(off <= most, "{found} instead of {count}");
        }
    }
}
