//! The addresses that connections come from: one address has only so many ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, bail};

/// Connections from one address to one destination, at most: the rest of the default port range
/// stays free for whatever else runs here.
const PER_SOURCE_MAX: u32 = 20_000;
/// Ports of the range that are left to others, in percent.
const MARGIN_PERCENT: u32 = 30;
/// The same when addresses cost nothing. The kernel tries one half of the ports before the other,
/// and walks through all of the first half for each connection once that is full: measured, 60,000
/// connections took 8.4 s from 3 addresses instead of 2.
const PER_LOOPBACK_SOURCE_MAX: u32 = 10_000;
/// Addresses of a network that are written out at most.
const ADDRESSES_MAX: u64 = 65_536;
/// The default sources for a loopback target: 127.1.0.1 and on.
const LOOPBACK_FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

/// Which address connection `k` comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Empty: the kernel chooses.
    addresses: Vec<IpAddr>,
}

impl Sources {
    /// Addresses for `count` connections to `target`, of the `given` ones or the default.
    pub fn plan(
        given: &[IpAddr],
        target: SocketAddr,
        count: u32,
        local_ports: u32,
    ) -> Result<Self> {
        let per_source = (local_ports / 100 * (100 - MARGIN_PERCENT)).clamp(1, PER_SOURCE_MAX);
        let needed = count.div_ceil(per_source).max(1);
        if !given.is_empty() {
            if given.len() < needed as usize {
                bail!(
                    "{count} connections need {needed} source addresses of {per_source} ports \
                     each, and --source gives {}: give more, or widen \
                     net.ipv4.ip_local_port_range",
                    given.len()
                );
            }
            return Ok(Self { addresses: given.to_vec() });
        }
        if target.is_ipv4() && target.ip().is_loopback() {
            let first = LOOPBACK_FIRST.to_bits();
            let per_source = (per_source / 2).clamp(1, PER_LOOPBACK_SOURCE_MAX);
            let addresses = (0..count.div_ceil(per_source))
                .map(|k| Ipv4Addr::from_bits(first + k).into())
                .collect();
            return Ok(Self { addresses });
        }
        if needed > 1 {
            bail!(
                "{count} connections to {target} need {needed} source addresses: add some to an \
                 interface (ip addr add …) and name them with --source"
            );
        }
        Ok(Self { addresses: Vec::new() })
    }

    /// Where connection `k` comes from; none: the kernel chooses. The port is always the kernel's.
    pub fn of(&self, k: u32) -> Option<SocketAddr> {
        let count = self.addresses.len();
        (count > 0).then(|| SocketAddr::new(self.addresses[k as usize % count], 0))
    }
}

/// Reads `--source`: addresses and networks, separated by commas.
pub fn parse_list(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.split_once('/') {
            None => addresses.push(parse_address(item)?),
            Some((network, bits)) => {
                let bits = bits.parse().map_err(|_| format!("{item}: not a prefix length"))?;
                addresses.extend(network_addresses(parse_address(network)?, bits)?);
            }
        }
    }
    if addresses.is_empty() {
        return Err("no address: give 10.0.0.1,10.0.0.2 or 10.0.0.0/28".to_owned());
    }
    Ok(addresses)
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text}: not an IP address"))
}

/// The usable addresses of a network: without its own and the broadcast address, if it has any.
fn network_addresses(network: IpAddr, prefix: u32) -> Result<Vec<IpAddr>, String> {
    let width: u32 = if network.is_ipv4() { 32 } else { 128 };
    let host_bits = width.checked_sub(prefix).ok_or(format!("/{prefix}: at most /{width}"))?;
    let size = 1u64.checked_shl(host_bits).unwrap_or(u64::MAX);
    if size > ADDRESSES_MAX {
        return Err(format!("/{prefix} is {size} addresses, at most {ADDRESSES_MAX} make sense"));
    }
    let usable = if size > 2 { 1..size - 1 } else { 0..size };
    let base = match network {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    } & !(u128::from(size) - 1);
    let address = |host: u64| match network {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((base + u128::from(host)) as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(base + u128::from(host))),
    };
    Ok(usable.map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> String {
        match parse_list(text) {
            Ok(list) => list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error,
        }
    }

    #[test]
    fn sources_are_addresses_and_networks() {
        assert_eq!(list("10.0.0.5, 10.0.0.9/30"), "10.0.0.5 10.0.0.9 10.0.0.10");
        assert_eq!(list("10.0.0.7/32"), "10.0.0.7");
        assert_eq!(list("fd00::4/127"), "fd00::4 fd00::5");
        assert_eq!(list("10.0.0.0/8"), "/8 is 16777216 addresses, at most 65536 make sense");
        assert_eq!(list("::/0"), format!("/0 is {} addresses, at most 65536 make sense", u64::MAX));
        assert_eq!(list("10.0.0.0/33"), "/33: at most /32");
        assert_eq!(list("ten"), "ten: not an IP address");
        assert_eq!(list(" ,"), "no address: give 10.0.0.1,10.0.0.2 or 10.0.0.0/28");
    }

    fn planned(given: &str, target: &str, count: u32) -> String {
        let given = if given.is_empty() { Vec::new() } else { parse_list(given).unwrap() };
        match Sources::plan(&given, target.parse().unwrap(), count, 28_232) {
            Ok(sources) => format!("{} {:?}", sources.addresses.len(), sources.of(1)),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_loopback_target_gets_as_many_sources_as_it_needs() {
        assert_eq!(planned("", "127.0.0.1:9", 10), "1 Some(127.1.0.1:0)");
        assert_eq!(planned("", "127.0.0.1:9", 1_000_000), "102 Some(127.1.0.2:0)");
    }

    #[test]
    fn another_target_needs_sources_to_be_named() {
        assert_eq!(planned("", "10.9.9.9:9", 10), "0 None");
        assert!(planned("", "10.9.9.9:9", 50_000).contains("--source"));
        assert_eq!(planned("10.0.0.0/28", "10.9.9.9:9", 50_000), "14 Some(10.0.0.2:0)");
        assert!(planned("10.0.0.1", "10.9.9.9:9", 50_000).contains("need 3 source addresses"));
    }
}
