//! Constants had back from their packed forms, so that a plan need not hold both.

use crate::{Operand, Problem, Tactic};
use engraft_network::{AlignedBytes, Tensor};
use smallvec::SmallVec;

/// The plain bytes of operand `input`, of which `tactic` made `packed`. The problem's own constant is not looked at.
/// `None`: the packing does more than move elements ([`Tactic::packing_moves`]), or elements are of a width or number
/// that cannot be followed, or `packed` is not of the packing's size.
///
/// Packs the elements' numbers to see where each element went.
pub fn unpack(tactic: &dyn Tactic, p: &Problem<'_>, input: usize, packed: &[u8]) -> Option<AlignedBytes> {
    let desc = &p.inputs.get(input)?.desc;
    let count = desc.count();
    let mut plain = AlignedBytes::zeroed(desc.dense_bytes());
    // Padding is zero, so numbers begin at one.
    match desc.dtype.bits() {
        32 => {
            let last = u32::try_from(count).ok()?;
            for (to, number) in bytemuck::cast_slice_mut(plain.as_mut_slice()).iter_mut().zip(1..=last) {
                *to = number;
            }
        }
        64 => {
            for (to, number) in
                bytemuck::cast_slice_mut(plain.as_mut_slice()).iter_mut().zip(1..=count as u64)
            {
                *to = number;
            }
        }
        _ => return None,
    }
    let numbers = Tensor::new(desc.dtype, &desc.shape, plain.into()).ok()?;
    let mut inputs: SmallVec<[Operand<'_>; 6]> = p.inputs.iter().cloned().collect();
    inputs[input].constant = Some(&numbers);
    let p = &Problem { inputs: &inputs, ..p.clone() };
    if !tactic.packing_moves(p, input) || tactic.packed_bytes(p, input) != packed.len() {
        return None;
    }
    let mut places = AlignedBytes::zeroed(packed.len());
    tactic.pack(p, input, places.as_mut_slice());
    let mut plain = AlignedBytes::zeroed(desc.dense_bytes());
    let found = match desc.dtype.bits() {
        32 => gather::<u32>(places.as_slice(), packed, plain.as_mut_slice(), |n| n as usize),
        _ => gather::<u64>(places.as_slice(), packed, plain.as_mut_slice(), |n| n as usize),
    };
    (found == count).then_some(plain)
}

/// Puts each element that has a number where the number says; returns how many there were.
fn gather<T: bytemuck::Pod>(
    numbers: &[u8],
    packed: &[u8],
    plain: &mut [u8],
    number: impl Fn(T) -> usize,
) -> usize {
    let plain: &mut [T] = bytemuck::cast_slice_mut(plain);
    let elements = packed.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>);
    let mut found = 0;
    for (n, element) in bytemuck::cast_slice::<u8, T>(numbers).iter().zip(elements) {
        if let Some(to) = number(*n).checked_sub(1).and_then(|i| plain.get_mut(i)) {
            *to = element;
            found += 1;
        }
    }
    found
}
