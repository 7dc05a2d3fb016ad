//! Space that is not the Internet's (IANA's special-purpose address registries).

/// Private, loopback and link-local networks, and those that mean this host or network.
pub const PRIVATE: [&str; 10] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::/8",
    "fc00::/7",
    "fe80::/10",
];

/// Multicast, and what is above it.
pub const MULTICAST: [&str; 2] = ["224.0.0.0/3", "ff00::/8"];
