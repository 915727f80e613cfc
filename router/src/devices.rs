//! Which of a user's connections give way when one more comes.

use barrage_wire::client::Platform;

use crate::policy::PLATFORMS;

const _: () = assert!(Platform::ALL.len() == PLATFORMS, "each platform has its number");

/// One of a user's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What the client calls it; 0: each connection is a device of its own.
    pub name: u64,
    /// What it runs on.
    pub platform: Platform,
    /// Rises with every connection of the user, whatever the caller counts it in.
    pub arrived: u64,
}

/// Why a connection gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// The same device is connected anew.
    Device,
    /// The platform may have so many connections.
    Platform(u16),
    /// The user has as many as a user may have.
    User,
}

/// Which connections have to go, by their places in `all`, when the last of `all` has come: the older
/// ones of its device, then the oldest of its platform and of all, as far as there are too many. It
/// goes itself when it is the older one and was overtaken on its way.
///
/// `devices` says how many connections each platform may have, where 0 is any number; `most` how many
/// a user may have at all.
pub fn replaced(all: &[Device], devices: &[u16; PLATFORMS], most: usize) -> Vec<(usize, Surplus)> {
    let Some(newcomer) = all.last() else { return Vec::new() };
    let mut left: Vec<usize> = (0..all.len()).collect();
    left.sort_by_key(|&at| all[at].arrived);
    let mut gone = Vec::new();
    let mut keep_newest = |most: usize, why: Surplus, is_rival: &dyn Fn(&Device) -> bool| {
        let rivals = left.iter().filter(|&&at| is_rival(&all[at])).count();
        let mut too_many = rivals.saturating_sub(most);
        left.retain(|&at| {
            let goes = too_many > 0 && is_rival(&all[at]);
            if goes {
                too_many -= 1;
                gone.push((at, why));
            }
            !goes
        });
    };
    if newcomer.name != 0 {
        keep_newest(1, Surplus::Device, &|device| device.name == newcomer.name);
    }
    let of_platform = devices[newcomer.platform as usize];
    if of_platform > 0 {
        let is_rival = |device: &Device| device.platform == newcomer.platform;
        keep_newest(usize::from(of_platform), Surplus::Platform(of_platform), &is_rival);
    }
    keep_newest(most, Surplus::User, &|_| true);
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `all` in the order of the slice: I for iOS, W for the web, each with its arrival, and with the
    /// name of its device if that has one. Two of each platform are allowed.
    fn check(all: &str, expected: &[(usize, Surplus)]) {
        check_with(all, 2, expected);
    }

    fn check_with(all: &str, most: u16, expected: &[(usize, Surplus)]) {
        let devices: Vec<_> = all.split_whitespace().map(device).collect();
        assert_eq!(replaced(&devices, &[most; PLATFORMS], 16), expected, "{all:?}, {most}");
    }

    fn device(text: &str) -> Device {
        let (platform, rest) = text.split_at(1);
        let platform = if platform == "I" { Platform::Ios } else { Platform::Web };
        let (arrived, name) = rest.split_once(':').unwrap_or((rest, "0"));
        Device { name: name.parse().unwrap(), platform, arrived: arrived.parse().unwrap() }
    }

    const PLATFORM: Surplus = Surplus::Platform(2);

    #[test]
    fn the_oldest_of_the_platform_goes() {
        check("", &[]);
        check("I1", &[]);
        check("I1 I2", &[]);
        check("I1 I2 I3", &[(0, PLATFORM)]);
        check("I2 I1 I3", &[(1, PLATFORM)]);
        check("I1 I1 I1", &[(0, PLATFORM)]);
    }

    #[test]
    fn platforms_are_independent() {
        check("I1 I2 I3 W4", &[]);
        check("W1 I2 W3 I4 W5", &[(0, PLATFORM)]);
    }

    #[test]
    fn zero_is_any_number_of_a_platform() {
        check_with("I1 I2 I3 I4 I5", 0, &[]);
    }

    #[test]
    fn a_stricter_policy_takes_effect_with_the_next_to_come() {
        check("I5 W1 I3 I4 I2 I6", &[(4, PLATFORM), (2, PLATFORM), (3, PLATFORM)]);
    }

    #[test]
    fn a_device_replaces_itself_and_nobody_else() {
        check("W1:7 W2:8 W3:8", &[(1, Surplus::Device)]);
        check("I1:8 W2:7 W3:8", &[(0, Surplus::Device)]);
        check_with("W1:8 W2:7 W3:8", 0, &[(0, Surplus::Device)]);
        check("W1:7 W2:8 W3:9", &[(0, PLATFORM)]);
        check_with("W1 W2", 0, &[]);
    }

    #[test]
    fn who_was_overtaken_goes_itself() {
        check("W2:8 W1:8", &[(1, Surplus::Device)]);
        check("W2 W3 W1", &[(2, PLATFORM)]);
    }

    #[test]
    fn a_user_has_a_bounded_number_of_connections() {
        let all: Vec<_> = (1..=16).map(|at| format!("I{at}:{at}")).collect();
        check_with(&all.join(" "), 0, &[]);
        check_with(&format!("{} W17", all.join(" ")), 0, &[(0, Surplus::User)]);
        check_with(&format!("{} W17:5", all.join(" ")), 0, &[(4, Surplus::Device)]);
    }
}
