//! The formats that name LAN clients. Pure. Lines that do not fit are passed over: the files are
//! written while they are read.

use super::Mac;

/// Gives each address and name of a text to a callback, later ones last.
pub(super) type Reader = fn(&str, &mut dyn FnMut(Mac, &str));

/// ethers(5): `MAC NAME`, `#` starts a comment. Names that are IP addresses tell nothing new.
pub(super) fn ethers(text: &str, name: &mut dyn FnMut(Mac, &str)) {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut fields = line.split_ascii_whitespace();
        if let (Some(mac), Some(host)) = (fields.next().and_then(mac), fields.next())
            && host.parse::<std::net::IpAddr>().is_err()
        {
            name(mac, host);
        }
    }
}

/// dnsmasq's leases: `EXPIRY MAC IP NAME CLIENT-ID`, `*` for no name. Lines of DHCPv6 have an
/// IAID in place of the MAC. A network type other than Ethernet is written in front, `06-`.
pub(super) fn dnsmasq(text: &str, name: &mut dyn FnMut(Mac, &str)) {
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if let (Some(mac), Some(host)) = (fields.next().and_then(mac), fields.nth(1))
            && host != "*"
        {
            name(mac, host);
        }
    }
}

/// Kea's CSV with a header line; columns differ between DHCPv4, DHCPv6 and versions. Commas in
/// values are written `&#x2c`.
pub(super) fn kea(text: &str, name: &mut dyn FnMut(Mac, &str)) {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |wanted: &str| header.iter().position(|column| *column == wanted);
    let (Some(hwaddr), Some(hostname)) = (column("hwaddr"), column("hostname")) else {
        return;
    };
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        if let (Some(mac), Some(host)) = (
            fields.get(hwaddr).and_then(|field| mac(field)),
            fields.get(hostname),
        ) {
            name(mac, host);
        }
    }
}

/// dhcpd.leases(5): `lease IP { ... hardware ethernet MAC; client-hostname "NAME"; ... }`. Each
/// change of a lease is appended.
pub(super) fn dhcpd(text: &str, name: &mut dyn FnMut(Mac, &str)) {
    let (mut mac_of_lease, mut host) = (None, None);
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("hardware ethernet ") {
            mac_of_lease = mac(rest.trim_end_matches(';'));
        } else if let Some(rest) = line.strip_prefix("client-hostname ") {
            host = Some(rest.trim_end_matches(';').trim_matches('"'));
        } else if line == "}" {
            if let (Some(mac), Some(host)) = (mac_of_lease, host) {
                name(mac, host);
            }
            (mac_of_lease, host) = (None, None);
        }
    }
}

/// Six hexadecimal numbers of one or two digits.
pub(super) fn mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(reader: Reader, text: &str) -> Vec<(u8, String)> {
        let mut found = Vec::new();
        reader(text, &mut |mac, name| found.push((mac[5], name.to_owned())));
        found
    }

    #[track_caller]
    fn check(reader: Reader, text: &str, expect: &[(u8, &str)]) {
        let expect: Vec<_> = expect
            .iter()
            .map(|&(mac, name)| (mac, name.to_owned()))
            .collect();
        assert_eq!(names(reader, text), expect);
    }

    #[test]
    fn ethers_is_read() {
        let text = "# hosts\n00:00:5e:00:53:01 desk # mine\n0:0:5e:0:53:2\tlap\n\n00:00:5e:00:53:03 192.0.2.3\nx y\n";
        check(ethers, text, &[(1, "desk"), (2, "lap")]);
    }

    #[test]
    fn dnsmasq_leases_are_read() {
        let text = "1786000000 00:00:5e:00:53:01 192.0.2.10 phone 01:00:00:5e:00:53:01\n\
                    0 00:00:5e:00:53:02 192.0.2.11 * *\n\
                    duid 00:01:00:01:2a:2b:2c:2d\n\
                    1786000000 12345 2001:db8::5 tablet 00:01\n";
        check(dnsmasq, text, &[(1, "phone")]);
    }

    #[test]
    fn kea_leases_are_read_by_their_header() {
        let v4 = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context,pool_id\n\
                  192.0.2.10,00:00:5e:00:53:01,,3600,1786000000,1,0,0,old,0,,0\n\
                  192.0.2.10,00:00:5e:00:53:01,,3600,1786003600,1,0,0,tv.lan.,0,,0\n\
                  192.0.2.11,,,3600,1786003600,1,0,0,none,0,,0\n";
        check(kea, v4, &[(1, "old"), (1, "tv.lan.")]);
        let v6 = "address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,fqdn_fwd,fqdn_rev,hostname,hwaddr,state\n\
                  2001:db8::5,00:01,3600,1,1,1800,0,7,128,0,0,cam,00:00:5e:00:53:04,0\n";
        check(kea, v6, &[(4, "cam")]);
        check(kea, "no header\n", &[]);
    }

    #[test]
    fn dhcpd_leases_are_read() {
        let text = "authoring-byte-order little-endian;\n\
                    lease 192.0.2.20 {\n  starts 2 2026/11/24 01:00:00;\n  hardware ethernet 00:00:5e:00:53:05;\n  client-hostname \"box\";\n}\n\
                    lease 192.0.2.21 {\n  hardware ethernet 00:00:5e:00:53:06;\n}\n\
                    lease 192.0.2.22 {\n  client-hostname \"cut";
        check(dhcpd, text, &[(5, "box")]);
    }

    #[test]
    fn an_address_has_six_bytes() {
        assert_eq!(mac("00:00:5E:00:53:0a"), Some([0, 0, 0x5e, 0, 0x53, 10]));
        for wrong in [
            "",
            "00:00:5e:00:53",
            "00:00:5e:00:53:01:02",
            "00:00:5e:00:53:001",
            "06-00:00:5e:00:53:01",
            "0:0:0:0:0:",
            "+1:0:0:0:0:0",
        ] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~\n]{0,200}") {
            for reader in [ethers, dnsmasq, kea, dhcpd] as [Reader; 4] {
                names(reader, &text);
            }
        }
    }
}
