//! Messages of gRPC in a body: a byte that says whether it is compressed, four of its length, the message.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const HEAD: usize = 5;

/// A message as a body has it; `None` for one that is too long for any.
pub fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = BytesMut::with_capacity(HEAD + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// The next whole message of what has come so far.
pub fn next_message(come: &mut BytesMut) -> Option<Bytes> {
    let mut head = come.get(1..HEAD)?;
    let length = head.get_u32() as usize;
    if come.len() - HEAD < length {
        return None;
    }
    come.advance(HEAD);
    Some(come.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let body = [framed(b"one").unwrap(), framed(b"").unwrap(), framed(b"three").unwrap()].concat();
        let (mut come, mut found) = (BytesMut::new(), Vec::new());
        for byte in body {
            come.put_u8(byte);
            found.extend(next_message(&mut come));
        }
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
        assert!(come.is_empty());
    }
}
