//! How a receiver knows that a call is the scheduler's: HMAC-SHA256 over time and body.

use ring::hmac;

/// `t=SECONDS,v1=HEX`, over `SECONDS.BODY`: an old call cannot be sent again as a new one.
pub fn signature(secret: &str, seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    format!("t={seconds},v1={}", hex::encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_the_time_and_the_body() {
        // By `printf '1796089826.{}' | openssl dgst -sha256 -hmac secret`.
        let known = "t=1796089826,v1=75cf462a09a7eddc3e5ed0f4b08fbc83c03966dca2593556e803b1212d67f00d";
        assert_eq!(signature("secret", 1_796_089_826, b"{}"), known);
        assert_ne!(signature("secret", 1_796_089_827, b"{}"), known);
        assert_ne!(signature("other", 1_796_089_826, b"{}"), known);
    }
}
