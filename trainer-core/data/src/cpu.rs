//! What the processor can do, for loops that exist in plain code and in vector code.

/// Whether the processor has AVX2.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether the processor has AVX-512 with bytes and words (BW), and for short vectors (VL).
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512_bytes() -> bool {
    std::arch::is_x86_feature_detected!("avx512bw") && std::arch::is_x86_feature_detected!("avx512vl")
}
