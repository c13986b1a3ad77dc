//! Tensors of a GPU brought to the host together: put one behind the other there, copied in few pieces, and waited for
//! once a piece. One by one, each would be a copy and a wait of its own.

use std::collections::VecDeque;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::libtorch::copies::ToHost;
use crate::libtorch::{TorchError, catch_on, foreach};

/// Bytes of a piece, for which the GPU must have room; a tensor that is larger is one of its own.
const PIECE_BYTES: usize = 64 << 20;
/// Where a tensor may begin in a piece: a multiple of the size of any number.
const ALIGNMENT: usize = 16;
/// Pieces on their way at a time: one is copied while the host reads the one before.
const IN_FLIGHT: usize = 2;

/// The values of each tensor, row-major; `tensors` are of `device`, a GPU. Waits for it.
///
/// # Errors
/// Memory ran out, on either side, or the GPU has failed.
pub(super) fn values(device: Device, tensors: &[&Tensor]) -> Result<Vec<Vec<u8>>, TorchError> {
    in_pieces(device, tensors, PIECE_BYTES)
}

fn in_pieces(device: Device, tensors: &[&Tensor], most: usize) -> Result<Vec<Vec<u8>>, TorchError> {
    let _no_grad = tch::no_grad_guard();
    let mut found = Vec::with_capacity(tensors.len());
    let mut on_their_way = VecDeque::new();
    let mut left = tensors;
    while !left.is_empty() {
        let (count, places) = fill(left.iter().map(|tensor| bytes(tensor)), most);
        let (now, later) = left.split_at(count);
        // What was not made by tch itself comes as a panic.
        let piece = catch_on(device, || pack(device, now, &places))?;
        on_their_way.push_back((ToHost::begin(vec![piece?])?, places));
        left = later;
        if on_their_way.len() == IN_FLIGHT {
            unpack(on_their_way.pop_front(), &mut found)?;
        }
    }
    while !on_their_way.is_empty() {
        unpack(on_their_way.pop_front(), &mut found)?;
    }
    Ok(found)
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// How many tensors of these lengths, at least one, go into a piece, and where each lies.
fn fill(lengths: impl Iterator<Item = usize>, most: usize) -> (usize, Vec<Range<usize>>) {
    let mut places: Vec<Range<usize>> = Vec::new();
    for length in lengths {
        let start = places.last().map_or(0, |before| before.end.next_multiple_of(ALIGNMENT));
        if start + length > most && !places.is_empty() {
            break;
        }
        places.push(start..start + length);
    }
    (places.len(), places)
}

/// The tensors one behind the other: `[bytes]` on the device.
fn pack(device: Device, tensors: &[&Tensor], places: &[Range<usize>]) -> Result<Tensor, TorchError> {
    let number = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let length = places.last().map_or(0, |last| last.end);
    let piece = Tensor::empty([number(length)], (Kind::Uint8, device));
    let views: Vec<(Tensor, Tensor)> = tensors
        .iter()
        .zip(places)
        .filter(|(tensor, _)| tensor.numel() > 0)
        .map(|(tensor, place)| {
            let bytes = piece.narrow(0, number(place.start), number(place.len()));
            (bytes.view_dtype(tensor.kind()).view(tensor.size().as_slice()), tensor.detach())
        })
        .collect();
    let (to, from): (Vec<&Tensor>, Vec<&Tensor>) = views.iter().map(|(to, from)| (to, from)).unzip();
    if !to.is_empty() {
        foreach::copy(&to, &from)?;
    }
    Ok(piece)
}

/// Waits for a piece, and takes its tensors' values.
fn unpack(piece: Option<(ToHost, Vec<Range<usize>>)>, found: &mut Vec<Vec<u8>>) -> Result<(), TorchError> {
    let Some((sent, places)) = piece else { return Ok(()) };
    for piece in sent.finish()? {
        let length = piece.numel();
        let start = piece.data_ptr().cast::<u8>();
        // SAFETY: it is on the host, has so many bytes one after the other, and lives through the loop.
        let bytes = if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start, length) } };
        found.extend(places.iter().map(|place| bytes[place.clone()].to_vec()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_filled_in_order_and_a_tensor_that_is_larger_is_one_of_its_own() {
        let mut left = vec![10, 20, 0, 4, 100, 5, 60];
        let mut pieces = Vec::new();
        while !left.is_empty() {
            let (count, places) = fill(left.iter().copied(), 64);
            left.drain(..count);
            pieces.push(places.iter().map(|place| (place.start, place.end)).collect::<Vec<_>>());
        }
        let first = vec![(0, 10), (16, 36), (48, 48), (48, 52)];
        assert_eq!(pieces, [first, vec![(0, 100)], vec![(0, 5)], vec![(0, 60)]]);
    }

    #[test]
    fn values_are_row_major_whatever_the_layout_and_the_type() {
        let numbers = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]);
        let tensors = [
            numbers.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).set_requires_grad(true),
            Tensor::from(true),
            Tensor::from_slice(&[7_i64, -1]),
            Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)),
            numbers.to_kind(Kind::Half),
        ];
        for most in [1, 100, 1000] {
            let found = in_pieces(Device::Cpu, &tensors.iter().collect::<Vec<_>>(), most).unwrap();
            let lengths: Vec<usize> = found.iter().map(Vec::len).collect();
            assert_eq!(lengths, [96, 1, 16, 0, 48]);
            let floats: Vec<f32> =
                found[0].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            assert_eq!(floats, (0..24_u8).map(f32::from).collect::<Vec<_>>());
            assert_eq!((&found[1][..], &found[2][..8]), (&[1][..], &7_i64.to_le_bytes()[..]));
        }
    }
}
