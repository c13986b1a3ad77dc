//! Mixup (Zhang et al. 2018): two images as one, blended.

/// Blends two images: `here` keeps `share` of 256, and `there` gets the rest.
pub fn mixup_row(here: &mut [u8], there: &[u8], share: u16) {
    for (here, there) in here.iter_mut().zip(there) {
        // At most 255 * 256 + 128, which fits.
        let sum = u16::from(*here)
            .wrapping_mul(share)
            .wrapping_add(u16::from(*there).wrapping_mul(256_u16.wrapping_sub(share)))
            .wrapping_add(128);
        *here = sum.to_be_bytes()[0];
    }
}
