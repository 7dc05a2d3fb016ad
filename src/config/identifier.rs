//! Names that `nft` reads as they stand.

use toml::de::DeValue;

use super::value::{Problem, quoted, text};

/// Words that `nft` 1.0.6 refuses as a table's name (tried with `nft -c`).
const RESERVED: &str = "\
accept add ah all and arp bridge cgroup chain comment comp constant continue counter cpu \
create ct day dccp define delete describe device devices dnat drop dst dup dynamic ecn \
element elements esp ether exists expires export exthdr fib flags flow flowtable flush frag \
fwd gc-interval get goto handle hbh hook hour ibriport ibrname icmp icmpv6 igmp iif iifgroup \
iifname iiftype import include index inet insert interval ip ip6 ipsec jhash jump limit list \
log lshift map mark masquerade meta meter mh missing monitor netdev nftrace notrack numgen \
obriport obrname oif oifgroup oifname oiftype or osf pkttype policy position priority queue \
quota random redirect reject rename replace reset return rt rt0 rt2 rtclassid rule ruleset \
sctp secmark set size skgid skuid snat socket srh symhash synproxy table tcp th time timeout \
tproxy type typeof udp udplite undefine update vlan vmap xor xt";

/// A table's name, at most 255 bytes (NFT_NAME_MAXLEN).
///
/// The kernel takes any name, but the emergency exit, `nft delete table`, must be able to say it.
pub(super) fn identifier(value: &DeValue<'_>) -> Result<String, Problem> {
    const LONGEST: usize = 255;
    let text = text(value)?;
    let good = text.len() <= LONGEST
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-/".contains(&b));
    if !good {
        let problem = Problem::new(format!("{} is no nft identifier", quoted(text)));
        return Err(problem.help("use A-Z a-z 0-9 _ . - / and start with a letter or _"));
    }
    if RESERVED.split(' ').any(|word| word == text) {
        let problem = Problem::new(format!("{} is a word of nft's own", quoted(text)));
        return Err(problem.help("choose another name, such as \"feedgate\""));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn names() {
        let read = |name: &str| identifier(&DeValue::String(Cow::Borrowed(name)));
        for good in ["feedgate", "filter", "_x", "a.b-c/d", "Drop"] {
            assert_eq!(read(good).unwrap(), good);
        }
        for bad in [
            "",
            "9a",
            ".x",
            "a b",
            "ä",
            "drop",
            "table",
            "xt",
            &"x".repeat(256),
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
