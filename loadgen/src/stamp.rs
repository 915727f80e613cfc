//! What a payload says about itself: when it should have been sent, and which one it is.

/// Bytes of a stamp, and so of the smallest payload.
pub const STAMP_BYTES: usize = 16;

/// The first bytes of every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When it was to be sent, by the schedule.
    pub intended_ns: u64,
    /// Counts the publishes of a run.
    pub index: u32,
    /// How much later it was sent than intended.
    pub lag_us: u32,
}

impl Stamp {
    /// Puts the stamp in front of a payload of at least `STAMP_BYTES`.
    pub fn write(self, payload: &mut [u8]) {
        payload[..8].copy_from_slice(&self.intended_ns.to_le_bytes());
        payload[8..12].copy_from_slice(&self.index.to_le_bytes());
        payload[12..16].copy_from_slice(&self.lag_us.to_le_bytes());
    }

    /// Takes the stamp off a payload; none when it is too short to have one.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<STAMP_BYTES>()?;
        let whole = u128::from_le_bytes(*bytes);
        Some(Self {
            intended_ns: whole as u64,
            index: (whole >> 64) as u32,
            lag_us: (whole >> 96) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back() {
        let stamp = Stamp { intended_ns: u64::MAX - 7, index: 0x0102_0304, lag_us: 99 };
        let mut payload = [0xee; 20];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
    }
}
