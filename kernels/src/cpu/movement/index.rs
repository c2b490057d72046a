//! What indexing operators share: tuples of indices that lead into a tensor, and the blocks found there.

use super::blocks::copy_up_to_16;
use super::strided::{Axis, StridedCopy};
use crate::{KernelError, Reject, TensorDesc};
use engraft_network::DType;
use smallvec::SmallVec;

/// Tuples of indices and where they lead.
#[derive(Clone, Debug)]
pub(super) struct Tuples {
    wide: bool,
    /// Bytes between the members of a tuple.
    stride: isize,
    /// Size and stride in bytes of the axis that each member indexes.
    axes: SmallVec<[(usize, isize); 4]>,
}

impl Tuples {
    /// Tuples of indices of this type, with `stride` bytes between members.
    pub fn new(
        dtype: DType,
        stride: isize,
        axes: impl IntoIterator<Item = (usize, isize)>,
    ) -> Result<Tuples, Reject> {
        let wide = match dtype {
            DType::I64 => true,
            DType::I32 => false,
            _ => return Err(Reject::new("indices that are neither i32 nor i64")),
        };
        Ok(Tuples { wide, stride, axes: axes.into_iter().collect() })
    }

    /// Size and stride in bytes of the one axis that single indices of 8 bytes lead along, if that is what tuples are.
    pub fn single(&self) -> Option<(usize, isize)> {
        match self.axes.as_slice() {
            &[axis] if self.wide => Some(axis),
            _ => None,
        }
    }

    /// The offset in bytes to which the tuple at `at` leads. Negative indices count from the end.
    ///
    /// # Safety
    /// The tuple is readable.
    #[inline(always)]
    pub unsafe fn offset(&self, at: *const u8) -> Result<isize, KernelError> {
        if let (true, [(size, stride)]) = (self.wide, self.axes.as_slice()) {
            // SAFETY: the one member of the tuple.
            let index = unsafe { at.cast::<i64>().read_unaligned() };
            let place = if index < 0 { index.wrapping_add(*size as i64) } else { index };
            if place as u64 >= *size as u64 {
                return Err(KernelError::Index { index, size: *size });
            }
            return Ok(place as isize * stride);
        }
        let mut offset = 0;
        for (k, &(size, stride)) in self.axes.iter().enumerate() {
            // SAFETY: a member of the tuple; nothing is said of alignment.
            let index = unsafe {
                let member = at.offset(k as isize * self.stride);
                if self.wide {
                    member.cast::<i64>().read_unaligned()
                } else {
                    i64::from(member.cast::<i32>().read_unaligned())
                }
            };
            let place = if index < 0 { index.wrapping_add(size as i64) } else { index };
            if place as u64 >= size as u64 {
                return Err(KernelError::Index { index, size });
            }
            offset += place as isize * stride;
        }
        Ok(offset)
    }
}

/// What lies behind a tuple: elements of the remaining axes.
#[derive(Clone, Debug)]
pub(super) enum Block {
    /// Contiguous on both sides.
    Run(usize),
    View(Box<StridedCopy>),
}

impl Block {
    /// The block of the axes from `src_axis` on in `src` and from `dst_axis` on in `dst`, which have the same sizes.
    pub fn new(src: &TensorDesc, src_axis: usize, dst: &TensorDesc, dst_axis: usize) -> Block {
        let e = (src.dtype.bits() / 8) as isize;
        let axes = (src_axis..src.rank()).zip(dst_axis..dst.rank());
        let copy = StridedCopy::new(
            e as usize,
            axes.map(|(s, d)| Axis { size: src.shape[s], src: src.strides[s] * e, dst: dst.strides[d] * e }),
        );
        if copy.is_plain() { Block::Run(copy.bytes()) } else { Block::View(Box::new(copy)) }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Block::Run(bytes) => *bytes,
            Block::View(copy) => copy.bytes(),
        }
    }

    /// Copies the block.
    ///
    /// # Safety
    /// `src` and `dst` are where blocks begin, and these do not overlap.
    #[inline(always)]
    pub unsafe fn copy(&self, src: *const u8, dst: *mut u8) {
        // SAFETY: passed on; byte arrays want no alignment.
        unsafe {
            match self {
                Block::Run(4) => dst.cast::<[u8; 4]>().write(src.cast::<[u8; 4]>().read()),
                Block::Run(8) => dst.cast::<[u8; 8]>().write(src.cast::<[u8; 8]>().read()),
                Block::Run(0) => {}
                Block::Run(bytes @ 1..=16) => copy_up_to_16(*bytes, src, dst),
                Block::Run(bytes) => std::ptr::copy_nonoverlapping(src, dst, *bytes),
                Block::View(copy) => copy.run(0..copy.units(), src, dst),
            }
        }
    }
}

/// Byte strides of a view.
pub(super) fn byte_strides(desc: &TensorDesc) -> SmallVec<[isize; 6]> {
    let e = (desc.dtype.bits() / 8) as isize;
    desc.strides.iter().map(|s| s * e).collect()
}

/// Refuses elements that are not whole bytes.
pub(super) fn whole_bytes(desc: &TensorDesc) -> Result<(), Reject> {
    if desc.dtype.bits() < 8 { Err(Reject::new("4-bit elements")) } else { Ok(()) }
}
