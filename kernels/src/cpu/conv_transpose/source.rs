//! Input pixels around each output of a class, as rows of an implicit matrix.

use crate::cpu::gemm::lanes::Elem;
use crate::cpu::gemm::sweep::Source;
use std::ops::Range;

/// Row `(n, z, y, x)` reads, for each tap, the input pixel at `(z, y, x) + shift`, or zeros outside of the input.
#[derive(Clone, Copy, Debug)]
pub struct Shifted<'a, E> {
    pub base: *const E,
    pub input: [usize; 3],
    pub input_stride: [isize; 3],
    pub batch_stride: isize,
    /// Rows along each axis.
    pub count: [usize; 3],
    pub shifts: &'a [[isize; 3]],
    pub channels: usize,
}

impl<E: Elem> Source<E> for Shifted<'_, E> {
    fn taps(&self) -> usize {
        self.shifts.len()
    }
    fn run(&self) -> usize {
        self.channels
    }
    fn stage_bytes(&self, _rows: usize, _pitch: usize) -> usize {
        self.channels * size_of::<E>()
    }
    unsafe fn stage(&self, _row: usize, _rows: usize, _k: Range<usize>, stage: *mut u8, _pitch: usize) {
        // SAFETY: the stage holds one pixel.
        unsafe { std::ptr::write_bytes(stage.cast::<E>(), 0, self.channels) };
    }
    unsafe fn point(&self, _block: usize, row: usize, rows: usize, stage: *mut u8, table: *mut *const E) {
        let [d, h, w] = self.count;
        let zeros = stage.cast::<E>().cast_const();
        let mut place = [row / (h * w) % d, row / w % h, row % w];
        let mut image = self.base.wrapping_offset((row / (d * h * w)) as isize * self.batch_stride);
        for i in 0..rows {
            for (tap, shift) in self.shifts.iter().enumerate() {
                let mut offset = 0isize;
                let mut inside = true;
                for axis in 0..3 {
                    let x = place[axis] as isize + shift[axis];
                    inside &= (x as usize) < self.input[axis];
                    offset = offset.wrapping_add(x.wrapping_mul(self.input_stride[axis]));
                }
                let p = if inside { image.wrapping_offset(offset) } else { zeros };
                // SAFETY: the table holds `taps * rows` pointers.
                unsafe { table.add(tap * rows + i).write(p) };
            }
            place[2] += 1;
            for axis in [2, 1] {
                if place[axis] == self.count[axis] {
                    place[axis] = 0;
                    place[axis - 1] += 1;
                }
            }
            if place[0] == d {
                place[0] = 0;
                image = image.wrapping_offset(self.batch_stride);
            }
        }
    }
}
