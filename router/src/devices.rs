//! On how many devices a user may be at a time.

use barrage_wire::client::Platform;

use crate::policy::PLATFORMS;

const _: () = assert!(Platform::ALL.len() == PLATFORMS, "each platform has its number");

/// One of a user's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it runs on.
    pub platform: Platform,
    /// Rises with every connection of the user, whatever the caller counts it in.
    pub arrived: u64,
}

/// Which of those present have to go when one more comes, by their places in `present`: the oldest
/// of the newcomer's platform that are too many, the oldest first. The newcomer is not among
/// `present`, and always stays.
///
/// `devices` says how many connections each platform may have; 0: any number.
pub fn replaced(present: &[Device], newcomer: Platform, devices: &[u16; PLATFORMS]) -> Vec<usize> {
    let most = usize::from(devices[newcomer as usize]);
    let rivals = || (0..present.len()).filter(|&at| present[at].platform == newcomer);
    let too_many = (rivals().count() + 1).saturating_sub(most);
    if most == 0 || too_many == 0 {
        return Vec::new();
    }
    let mut oldest: Vec<_> = rivals().collect();
    oldest.sort_unstable_by_key(|&at| (present[at].arrived, at));
    oldest.truncate(too_many);
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `present` in the order of the slice: I for iOS, W for the web, each with its arrival.
    fn check(present: &str, newcomer: Platform, most: u16, expected: &[usize]) {
        let present: Vec<_> = present.split_whitespace().map(device).collect();
        let mut devices = [1; PLATFORMS];
        devices[newcomer as usize] = most;
        let replaced = replaced(&present, newcomer, &devices);
        assert_eq!(replaced, expected, "{present:?}, {newcomer:?}, {most}");
        assert!(!expected.is_empty() || replaced.capacity() == 0, "nothing was allocated");
    }

    fn device(text: &str) -> Device {
        let (platform, arrived) = text.split_at(1);
        let platform = if platform == "I" { Platform::Ios } else { Platform::Web };
        Device { platform, arrived: arrived.parse().unwrap() }
    }

    #[test]
    fn the_oldest_of_the_platform_goes() {
        check("", Platform::Ios, 1, &[]);
        check("I1", Platform::Ios, 1, &[0]);
        check("I1", Platform::Ios, 2, &[]);
        check("I1 I2", Platform::Ios, 2, &[0]);
        check("I2 I1", Platform::Ios, 2, &[1]);
        check("I7 I9 I8", Platform::Ios, 3, &[0]);
    }

    #[test]
    fn platforms_are_independent() {
        check("I1 I2 I3", Platform::Web, 1, &[]);
        check("I1 W2 I3", Platform::Web, 1, &[1]);
        check("W1 I2 W3 I4", Platform::Ios, 2, &[1]);
    }

    #[test]
    fn zero_is_any_number() {
        check("I1 I2 I3 I4 I5", Platform::Ios, 0, &[]);
    }

    #[test]
    fn a_stricter_policy_takes_effect_with_the_next_to_come() {
        check("I5 W1 I3 I4 I2", Platform::Ios, 2, &[4, 2, 3]);
        check("I5 W1 I3 I4 I2", Platform::Ios, 1, &[4, 2, 3, 0]);
        check("I4 I4 I4", Platform::Ios, 2, &[0, 1]);
    }
}
