//! The Internet checksum (RFC 1071), computed to come out as an attacker wants.

/// The value that the kernel writes once it finishes a pending checksum: over all
/// bytes from `start` on, the field's own among them (`skb_checksum_help`).
pub fn finished(frame: &[u8], start: usize) -> u16 {
    match !fold(sum(&frame[start..])) {
        // CSUM_MANGLED_0: an all-zero UDP checksum would mean "none".
        0 => 0xffff,
        value => value,
    }
}

/// Sets the frame's last two bytes so that its checksum from `start` on is finished
/// as `wanted`, which may be anything but 0.
///
/// # Panics
///
/// If the last two bytes aren't an aligned word of what is summed.
pub fn steer(frame: &mut [u8], start: usize, wanted: u16) {
    let last = frame.len() - 2;
    assert!(
        last > start && (last - start).is_multiple_of(2),
        "no spare word"
    );
    frame[last..].fill(0);
    // One's complement: what is missing for the whole to add up to `!wanted`.
    let missing = fold(u32::from(!wanted) + u32::from(!fold(sum(&frame[start..]))));
    frame[last..].copy_from_slice(&missing.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::{finished, steer};

    #[test]
    fn a_steered_checksum_comes_out_as_wanted() {
        let mut frame: Vec<u8> = (0..64).collect();
        for wanted in [1, 53, 8080, 0x1234, 0xffff] {
            for start in [14, 28, 36] {
                steer(&mut frame, start, wanted);
                assert_eq!(finished(&frame, start), wanted, "from {start}");
            }
        }
    }
}
