//! Masking, which is its own inverse.

/// Masks or unmasks `bytes` in place; they start where `mask` starts.
///
/// Eight bytes at a time, which the compiler widens to the machine's vectors.
#[inline]
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_masked_as_byte_by_byte() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        for length in 0..70 {
            let plain: Vec<u8> = (0..length).map(|at: u8| at.wrapping_mul(37)).collect();
            let naive: Vec<u8> =
                plain.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
            let mut masked = plain.clone();
            apply_mask(&mut masked, mask);
            assert_eq!(masked, naive, "length {length}");
            apply_mask(&mut masked, mask);
            assert_eq!(masked, plain, "length {length}");
        }
    }
}
