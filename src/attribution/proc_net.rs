//! The socket tables of /proc/net, for what sock_diag does not answer: ping sockets (ICMP datagram
//! sockets, for which the kernel has no sock_diag handler), raw sockets where it is built without
//! CONFIG_INET_RAW_DIAG, and all others where it has no sock_diag for their protocol.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use super::{
    inet_diag::{Answer, Ends, IPPROTO_RAW, TCP_LISTEN, TCP_SYN_SENT},
    sock_diag::is_datagram,
};
use crate::packet::Protocol;

/// Candidates kept of one search; two are ambiguous already.
const MAX_CANDIDATES: usize = 64;

/// Packet sockets counted.
const MAX_PACKET_SOCKETS: usize = 256;

/// Lines read between two looks at the clock.
const LINES_PER_CHECK: usize = 64;

/// One line of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// IPv4-mapped addresses are given as IPv4. In `raw` and `raw6` the local port is the
    /// protocol number, in `icmp` and `icmp6` the echo id.
    pub(super) ends: Ends,
    /// net/tcp_states.h
    pub(super) state: u8,
    pub(super) uid: u32,
    /// 0: no process owns it.
    pub(super) inode: u32,
    /// Cgroup of its creation; the tables do not tell.
    pub(super) cgroup: Option<u64>,
}

impl Row {
    /// A socket of sock_diag as the tables have it.
    pub(super) fn of(answer: &Answer) -> Self {
        Self {
            ends: answer.ends,
            state: answer.state,
            uid: answer.uid,
            inode: answer.inode,
            cgroup: answer.cgroup,
        }
    }

    /// A raw socket of sock_diag as `raw` and `raw6` have it: nothing keeps a program from naming a
    /// remote port, which means nothing.
    pub(super) fn of_raw(answer: &Answer) -> Self {
        let mut row = Self::of(answer);
        row.ends.remote.set_port(0);
        row
    }
}

/// The deadline passed inside a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout;

/// True for the protocols with ports whose sockets [`local_end`] finds.
pub(super) fn has_table(proto: Protocol) -> bool {
    matches!(proto, Protocol::TCP | Protocol::UDP | Protocol::UDPLITE)
}

/// Sockets of the local end, whatever they are connected to. `sends`: the local end sent the packet.
pub(super) fn local_end(
    proc: &Path,
    proto: Protocol,
    ends: Ends,
    sends: bool,
    deadline: Instant,
) -> Result<Vec<Row>, Timeout> {
    // IPv4 flows can belong to IPv6 sockets, not the other way round.
    let tables: &[&str] = match (proto, ends.local.is_ipv6()) {
        (Protocol::TCP, false) => &["tcp", "tcp6"],
        (Protocol::TCP, true) => &["tcp6"],
        (Protocol::UDP, false) => &["udp", "udp6"],
        (Protocol::UDP, true) => &["udp6"],
        (Protocol::UDPLITE, false) => &["udplite", "udplite6"],
        (Protocol::UDPLITE, true) => &["udplite6"],
        _ => return Ok(Vec::new()),
    };
    let found = search(proc, tables, deadline, |row| is_at(row, ends))?;
    Ok(candidates(found, proto, sends))
}

/// Those of the local end that may have sent the packet (`sends`), or would take it.
pub(super) fn candidates(mut found: Vec<Row>, proto: Protocol, sends: bool) -> Vec<Row> {
    let mut seen = HashSet::new();
    found.retain(|row| row.inode == 0 || seen.insert(row.inode));
    if is_datagram(proto) {
        found
    } else {
        tcp_candidates(found, sends)
    }
}

/// Ping sockets with this echo id.
pub(super) fn pings(
    proc: &Path,
    ends: Ends,
    id: u16,
    deadline: Instant,
) -> Result<Vec<Row>, Timeout> {
    let table = if ends.local.is_ipv6() {
        "icmp6"
    } else {
        "icmp"
    };
    search(proc, &[table], deadline, |row| {
        row.ends.local.port() == id && is_between(row, ends)
    })
}

/// Raw sockets that send or receive this protocol.
pub(super) fn raws(
    proc: &Path,
    proto: Protocol,
    ends: Ends,
    deadline: Instant,
) -> Result<Vec<Row>, Timeout> {
    let table = if ends.local.is_ipv6() { "raw6" } else { "raw" };
    let found = search(proc, &[table], deadline, |row| {
        let number = row.ends.local.port();
        (number == u16::from(proto.0) || number == u16::from(IPPROTO_RAW.0))
            && is_between(row, ends)
    })?;
    Ok(prefer(found, |row| {
        row.ends.local.port() != u16::from(IPPROTO_RAW.0)
    }))
}

/// Packet sockets, which write whole frames and pass no hook of their own host, by number.
pub(super) fn packet_sockets(proc: &Path) -> usize {
    let Ok(file) = File::open(proc.join("net/packet")) else {
        return 0;
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    // sk RefCnt Type Proto Iface R Rmem User Inode
    let inodes = lines.take(MAX_PACKET_SOCKETS + 1).filter_map(|line| {
        let inode = line.split_ascii_whitespace().nth(8)?;
        inode.parse::<u32>().ok()
    });
    inodes.filter(|&inode| inode != 0).count()
}

/// The connection that is being made is likelier than one that exists, a listener sends nothing,
/// and only a listener takes what has no connection.
fn tcp_candidates(rows: Vec<Row>, sends: bool) -> Vec<Row> {
    let mut owned = rows;
    owned.retain(|row| row.inode != 0 && (row.state == TCP_LISTEN) != sends);
    prefer(owned, |row| row.state == TCP_SYN_SENT)
}

/// The rows for which `better` holds, or all where it holds for none.
fn prefer(rows: Vec<Row>, better: impl Fn(&Row) -> bool) -> Vec<Row> {
    if rows.iter().any(&better) {
        rows.into_iter().filter(better).collect()
    } else {
        rows
    }
}

/// True when the socket's local end is that of the flow.
pub(super) fn is_at(row: &Row, ends: Ends) -> bool {
    row.ends.local.port() == ends.local.port() && is_local(row, ends)
}

fn is_local(row: &Row, ends: Ends) -> bool {
    let ip = row.ends.local.ip();
    ip == ends.local.ip() || ip.is_unspecified()
}

/// Nobody else's: connected to the remote address, or to none.
pub(super) fn is_between(row: &Row, ends: Ends) -> bool {
    let remote = row.ends.remote.ip();
    is_local(row, ends) && (remote.is_unspecified() || remote == ends.remote.ip())
}

fn search(
    proc: &Path,
    names: &[&str],
    deadline: Instant,
    keep: impl Fn(&Row) -> bool,
) -> Result<Vec<Row>, Timeout> {
    let mut found = Vec::new();
    for name in names {
        // A table that is not there (a protocol not built in) holds no sockets.
        let Ok(file) = File::open(proc.join("net").join(name)) else {
            continue;
        };
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let mut line = String::new();
        let mut lines = 0_usize;
        while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            if let Some(row) = parse_row(&line).filter(&keep)
                && found.len() < MAX_CANDIDATES
                && !is_in(&found, &row)
            {
                found.push(row);
            }
            line.clear();
            lines += 1;
            if lines.is_multiple_of(LINES_PER_CHECK) && Instant::now() >= deadline {
                return Err(Timeout);
            }
        }
    }
    Ok(found)
}

/// The kernel lists a socket twice where others come while the table is read (seen: 1 of 350 reads on
/// a busy host).
fn is_in(found: &[Row], row: &Row) -> bool {
    row.inode != 0 && found.iter().any(|other| other.inode == row.inode)
}

/// `sl: LOCAL REMOTE ST TX:RX TR:WHEN RETRNSMT UID TIMEOUT INODE ...` (proc_net_tcp.rst).
fn parse_row(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = parse_end(fields.next()?)?;
    let remote = parse_end(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let mut fields = fields.skip(3);
    let uid = fields.next()?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Row {
        ends: Ends { local, remote },
        state,
        uid,
        inode,
        cgroup: None,
    })
}

/// `0100007F:1F90`: the address in words of the host's byte order, the port as a number.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(parse_word(address)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, space) in octets.chunks_exact_mut(4).enumerate() {
                space.copy_from_slice(&parse_word(address.get(at * 8..at * 8 + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn parse_word(hex: &str) -> Option<[u8; 4]> {
    Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn end(text: &str) -> String {
        let end: SocketAddr = text.parse().unwrap();
        let octets = match end.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let words = octets
            .chunks_exact(4)
            .map(|c| format!("{:08X}", u32::from_ne_bytes(c.try_into().unwrap())));
        format!("{}:{:04X}", words.collect::<String>(), end.port())
    }

    fn line(local: &str, remote: &str, state: u8, uid: u32, inode: u32) -> String {
        format!(
            "   0: {} {} {state:02X} 00000000:00000000 00:00000000 00000000 {uid:5}        0 {inode} 1 0000000000000000 100 0 0 10 0\n",
            end(local),
            end(remote)
        )
    }

    fn fixture(tables: &[(&str, &[String])]) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        for (name, lines) in tables {
            fs::write(
                dir.path().join("net").join(name),
                format!("{HEAD}{}", lines.concat()),
            )
            .unwrap();
        }
        dir
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn ends(local: &str, remote: &str) -> Ends {
        Ends {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    fn inodes(rows: Result<Vec<Row>, Timeout>) -> Vec<u32> {
        rows.unwrap().iter().map(|row| row.inode).collect()
    }

    #[test]
    fn a_line_is_read() {
        let row = parse_row(&line("127.0.0.1:8080", "192.0.2.9:1", 1, 1000, 42)).unwrap();
        assert_eq!(
            row,
            Row {
                ends: ends("127.0.0.1:8080", "192.0.2.9:1"),
                state: 1,
                uid: 1000,
                inode: 42,
                cgroup: None,
            }
        );
        let row = parse_row(&line(
            "[::ffff:127.0.0.1]:8080",
            "[2001:db8::1]:1",
            10,
            0,
            7,
        ))
        .unwrap();
        assert_eq!(row.ends, ends("127.0.0.1:8080", "[2001:db8::1]:1"));
        assert_eq!(parse_row(HEAD), None);
    }

    #[test]
    fn a_socket_that_is_listed_twice_is_one() {
        let twice = line("10.0.0.1:5000", "10.96.0.2:443", 1, 0, 2);
        let dir = fixture(&[("tcp", &[twice.clone(), twice])]);
        let ends = ends("10.0.0.1:5000", "192.0.2.80:443");
        let rows = local_end(dir.path(), Protocol::TCP, ends, true, soon());
        assert_eq!(inodes(rows), [2]);
    }

    #[test]
    fn the_local_end_names_the_socket_behind_a_rewritten_destination() {
        let dir = fixture(&[
            (
                "tcp",
                &[
                    line("10.0.0.1:5000", "10.96.0.1:443", TCP_SYN_SENT, 0, 1),
                    line("10.0.0.1:5000", "10.96.0.2:443", 1, 0, 2),
                    line("10.0.0.1:5001", "10.96.0.1:443", TCP_SYN_SENT, 0, 3),
                    line("0.0.0.0:5000", "0.0.0.0:0", TCP_LISTEN, 0, 4),
                ],
            ),
            (
                "tcp6",
                &[line(
                    "[::ffff:10.0.0.1]:6000",
                    "[::ffff:10.96.0.1]:443",
                    1,
                    0,
                    5,
                )],
            ),
        ]);
        let find = |local, sends| {
            inodes(local_end(
                dir.path(),
                Protocol::TCP,
                ends(local, "192.0.2.1:443"),
                sends,
                soon(),
            ))
        };
        assert_eq!(find("10.0.0.1:5000", true), [1]);
        assert_eq!(find("10.0.0.1:5000", false), [4]);
        assert_eq!(find("10.0.0.1:6000", true), [5]);
        assert_eq!(find("10.0.0.1:7000", true), [0_u32; 0]);
    }

    #[test]
    fn two_sockets_of_one_local_end_are_two_candidates() {
        let dir = fixture(&[(
            "udp",
            &[
                line("0.0.0.0:53", "0.0.0.0:0", 7, 0, 1),
                line("127.0.0.1:53", "0.0.0.0:0", 7, 0, 2),
                line("127.0.0.2:53", "0.0.0.0:0", 7, 0, 3),
            ],
        )]);
        let found = local_end(
            dir.path(),
            Protocol::UDP,
            ends("127.0.0.1:53", "192.0.2.1:9"),
            true,
            soon(),
        );
        assert_eq!(inodes(found), [1, 2]);
    }

    #[test]
    fn a_ping_is_found_by_its_echo_id_and_no_stranger_is_blamed() {
        let dir = fixture(&[
            (
                "icmp",
                &[
                    line("0.0.0.0:7", "0.0.0.0:0", 7, 0, 1),
                    line("0.0.0.0:8", "0.0.0.0:0", 7, 0, 2),
                ],
            ),
            (
                "raw",
                &[
                    line("0.0.0.0:1", "192.0.2.9:0", 7, 0, 3),
                    line("0.0.0.0:47", "0.0.0.0:0", 7, 0, 4),
                ],
            ),
        ]);
        let pinging = |id| {
            inodes(pings(
                dir.path(),
                ends("10.0.0.1:0", "192.0.2.1:0"),
                id,
                soon(),
            ))
        };
        assert_eq!(pinging(8), [2]);
        assert_eq!(pinging(9), [0_u32; 0]);
        let raw = |proto, remote| {
            let ends = ends("10.0.0.1:0", remote);
            inodes(raws(dir.path(), proto, ends, soon()))
        };
        assert_eq!(raw(Protocol::ICMP, "192.0.2.1:0"), [0_u32; 0]);
        assert_eq!(raw(Protocol::ICMP, "192.0.2.9:0"), [3]);
        assert_eq!(raw(Protocol(47), "192.0.2.1:0"), [4]);
    }

    #[test]
    fn packet_sockets_are_counted() {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        assert_eq!(packet_sockets(dir.path()), 0);
        let table = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                     ffff8f 3      3    0003   2     1 0      0      4711\n\
                     ffff8f 3      2    0003   2     1 0      0      0\n";
        fs::write(dir.path().join("net/packet"), table).unwrap();
        assert_eq!(packet_sockets(dir.path()), 1);
    }

    #[test]
    fn a_long_table_stops_at_the_deadline() {
        let lines = vec![line("10.0.0.1:1", "0.0.0.0:0", 1, 0, 1); 200];
        let dir = fixture(&[("tcp", &lines)]);
        let found = local_end(
            dir.path(),
            Protocol::TCP,
            ends("10.0.0.1:2", "192.0.2.1:1"),
            true,
            Instant::now(),
        );
        assert_eq!(found, Err(Timeout));
    }

    proptest! {
        #[test]
        fn any_line_never_panics(text in "[ -~é]{0,200}") {
            let _ = parse_row(&text);
        }

        #[test]
        fn ends_come_back(ip: u128, port: u16) {
            let end_v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port);
            let back = parse_end(&end(&end_v6.to_string())).unwrap();
            prop_assert_eq!(back, SocketAddr::new(end_v6.ip().to_canonical(), port));
        }
    }
}
