//! Runs a program over units: stages the operands that steps cannot read in place, runs the steps, stores the result.

use super::program::{Kind, Program, TILE};
use super::walk::{Access, Unit, View, Walk};
use super::{float, scalar};
use crate::cpu::simd::{Simd, Task};
use engraft_network::DType;
use smallvec::SmallVec;

/// Where a value of a step lives: a run of elements, or one element that stands for all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub ptr: *mut u8,
    pub scalar: bool,
}

const LINE: usize = 64;
/// Room of a scalar in scratch.
const CELL: usize = 8;

/// What differs between shapes: accesses, and places in scratch.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    access: SmallVec<[Access; 4]>,
    output_direct: bool,
    /// Bytes from the start of scratch to the cells of scalars (one per input and constant).
    cells: usize,
    /// To the tiles of staged inputs and constant vectors: `usize::MAX` where there is none.
    tiles: SmallVec<[usize; 8]>,
    buffers: usize,
    output_tile: usize,
    bytes: usize,
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

impl Frame {
    pub fn new(program: &Program, walk: &Walk) -> Frame {
        let inputs = program.inputs.len();
        let access: SmallVec<[Access; 4]> =
            (0..inputs).map(|k| walk.access(k, !program.vectors_only[k])).collect();
        let cells = aligned(program.slots() * size_of::<Place>());
        let mut bytes = aligned(cells + (inputs + program.consts.len()) * CELL);
        let mut tile = |width: usize| {
            let at = bytes;
            bytes += aligned(TILE * width);
            at
        };
        let mut tiles = SmallVec::new();
        for (access, dtype) in access.iter().zip(&program.inputs) {
            let copied = matches!(access, Access::Pattern | Access::Staged);
            let width = Kind::of(*dtype).map_or(8, Kind::bytes);
            tiles.push(if copied { tile(width) } else { usize::MAX });
        }
        for (k, (kind, _)) in program.consts.iter().enumerate() {
            let vector = *kind != Kind::F32 || program.vectors_only[inputs + k];
            tiles.push(if vector { tile(kind.bytes()) } else { usize::MAX });
        }
        let buffers = tile(0);
        for _ in 0..program.buffers {
            tile(program.width);
        }
        let output_direct = walk.output_direct();
        let output_tile = tile(if output_direct { 0 } else { 8 });
        Frame { access, output_direct, cells, tiles, buffers, output_tile, bytes }
    }

    pub fn scratch_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some operand is copied element by element.
    pub fn gathers(&self, walk: &Walk) -> bool {
        let gathered = |v: &View| v.col.unsigned_abs() > 1;
        self.access.iter().zip(&walk.inputs).any(|(a, v)| *a == Access::Staged && gathered(v))
            || (!self.output_direct && gathered(&walk.output))
    }
}

/// Units `first..last` of a walk.
pub(super) struct RunUnits<'a> {
    pub program: &'a Program,
    pub walk: &'a Walk,
    pub frame: &'a Frame,
    pub inputs: &'a [*const u8],
    pub output: *mut u8,
    pub scratch: *mut u8,
    pub first: usize,
    pub last: usize,
}

impl Task for RunUnits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RunUnits { program, walk, frame, inputs, output, scratch, first, last } = self;
        let (n_inputs, n_consts) = (program.inputs.len(), program.consts.len());
        let at = |offset: usize| scratch.wrapping_add(offset);
        let places = scratch.cast::<Place>();
        // SAFETY: the caller of the kernel hands over scratch of `scratch_bytes`, aligned to a line: the frame lays the table, the
        // cells and the tiles out inside it without overlap, and every slot is written before a step reads it. Operands are valid for
        // all elements of the walk. Units lie inside the walk, so that every offset below stays inside its operand.
        unsafe {
            let mut longest = 0;
            let mut unit = Unit::default();
            if first < last {
                walk.unit(first, &mut unit);
                longest = TILE.min(unit.rows * unit.cols).max(if last - first > 1 { TILE } else { 0 });
            }
            for (k, (kind, value)) in program.consts.iter().enumerate() {
                let slot = n_inputs + k;
                let place = match frame.tiles[slot] {
                    usize::MAX => {
                        let cell = at(frame.cells + slot * CELL);
                        cell.cast::<f32>().write(value.to_f64() as f32);
                        Place { ptr: cell, scalar: true }
                    }
                    tile => {
                        scalar::fill(*kind, *value, at(tile), longest);
                        Place { ptr: at(tile), scalar: false }
                    }
                };
                places.add(slot).write(place);
            }
            for b in 0..program.buffers {
                let ptr = at(frame.buffers + b * aligned(TILE * program.width));
                places.add(n_inputs + n_consts + b).write(Place { ptr, scalar: false });
            }
            let output_slot = places.add(program.slots() - 1);
            let mut staged: SmallVec<[*const u8; 8]> = SmallVec::from_elem(std::ptr::null(), n_inputs);

            for index in first..last {
                walk.unit(index, &mut unit);
                let n = unit.rows * unit.cols;
                for k in 0..n_inputs {
                    let view = &walk.inputs[k];
                    let source = inputs[k].offset(view.offset(&unit) * (view.dtype.bits() / 8) as isize);
                    let place = match frame.access[k] {
                        Access::Direct => Place { ptr: source.cast_mut(), scalar: false },
                        Access::Scalar => {
                            let mut ptr = source.cast_mut();
                            if matches!(view.dtype, DType::F16 | DType::BF16) {
                                ptr = at(frame.cells + k * CELL);
                                stage(s, view.dtype, source, (0, 0), (1, 1), ptr);
                            }
                            Place { ptr, scalar: true }
                        }
                        access => {
                            let tile = at(frame.tiles[k]);
                            // A pattern of fewer rows is a prefix of one of more: the first unit has the most.
                            if access == Access::Staged || staged[k] != source || unit.row == 0 {
                                stage(
                                    s,
                                    view.dtype,
                                    source,
                                    (view.row, view.col),
                                    (unit.rows, unit.cols),
                                    tile,
                                );
                                staged[k] = source;
                            }
                            Place { ptr: tile, scalar: false }
                        }
                    };
                    places.add(k).write(place);
                }
                let view = &walk.output;
                let target = output.offset(view.offset(&unit) * (view.dtype.bits() / 8) as isize);
                let ptr = if frame.output_direct { target } else { at(frame.output_tile) };
                output_slot.write(Place { ptr, scalar: false });

                for step in &program.steps {
                    let arg = |k: usize| *places.add(usize::from(step.args[k]));
                    let dst = *places.add(usize::from(step.dst));
                    let arity = step.arity();
                    let first = arg(0);
                    let second = if arity > 1 { arg(1) } else { first };
                    let third = if arity > 2 { arg(2) } else { first };
                    let operands = [dst, first, second, third];
                    if step.is_f32() {
                        float::run(s, step, &operands, n);
                    } else {
                        scalar::run(step, &operands, n);
                    }
                }
                if !frame.output_direct {
                    unstage(s, view.dtype, ptr, target, (view.row, view.col), (unit.rows, unit.cols));
                }
            }
        }
    }
}

/// Copies a block of an operand to a dense tile, widening half-width floats to `f32`.
///
/// # Safety
/// `source` is readable at the block's strides; `tile` holds `rows * cols` elements.
#[inline(always)]
unsafe fn stage<S: Simd>(
    s: S,
    dtype: DType,
    source: *const u8,
    strides: (isize, isize),
    (rows, cols): (usize, usize),
    tile: *mut u8,
) {
    // SAFETY: the caller's.
    unsafe {
        if matches!(dtype, DType::F16 | DType::BF16) {
            let half = dtype == DType::F16;
            if strides.1 == 1 {
                for r in 0..rows {
                    let row = source.cast::<u16>().offset(r as isize * strides.0);
                    widen_row(s, half, row, tile.cast::<f32>().add(r * cols), cols);
                }
            } else {
                for r in 0..rows {
                    for c in 0..cols {
                        let offset = r as isize * strides.0 + c as isize * strides.1;
                        let bits = source.cast::<u16>().offset(offset).read();
                        let x = if half {
                            half::f16::from_bits(bits).to_f32()
                        } else {
                            half::bf16::from_bits(bits).to_f32()
                        };
                        tile.cast::<f32>().add(r * cols + c).write(x);
                    }
                }
            }
            return;
        }
        match dtype.bits() / 8 {
            1 => copy_in::<u8>(source, strides, rows, cols, tile),
            2 => copy_in::<u16>(source, strides, rows, cols, tile),
            4 => copy_in::<u32>(source, strides, rows, cols, tile),
            _ => copy_in::<u64>(source, strides, rows, cols, tile),
        }
    }
}

#[inline(always)]
unsafe fn widen_row<S: Simd>(s: S, half: bool, source: *const u16, target: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: the caller's: n elements on both sides; the tail goes through a local array.
    unsafe {
        while i + S::LANES <= n {
            let x = if half { s.load_f16(source.add(i)) } else { s.load_bf16(source.add(i)) };
            s.store(target.add(i), x);
            i += S::LANES;
        }
        if i < n {
            let mut rest = [0u16; 16];
            std::ptr::copy_nonoverlapping(source.add(i), rest.as_mut_ptr(), n - i);
            let x = if half { s.load_f16(rest.as_ptr()) } else { s.load_bf16(rest.as_ptr()) };
            s.store_n(target.add(i), n - i, x);
        }
    }
}

#[inline(always)]
unsafe fn narrow_row<S: Simd>(s: S, half: bool, source: *const f32, target: *mut u16, n: usize) {
    let mut i = 0;
    // SAFETY: the caller's: n elements on both sides; the tail goes through a local array.
    unsafe {
        while i + S::LANES <= n {
            let x = s.load(source.add(i));
            if half {
                s.store_f16(target.add(i), x)
            } else {
                s.store_bf16(target.add(i), x)
            }
            i += S::LANES;
        }
        if i < n {
            let x = s.load_n(source.add(i), n - i);
            let mut bits = [0u16; 16];
            if half {
                s.store_f16(bits.as_mut_ptr(), x);
            } else {
                s.store_bf16(bits.as_mut_ptr(), x);
            }
            std::ptr::copy_nonoverlapping(bits.as_ptr(), target.add(i), n - i);
        }
    }
}

#[inline(never)]
unsafe fn copy_in<T: Copy>(
    source: *const u8,
    (row, col): (isize, isize),
    rows: usize,
    cols: usize,
    tile: *mut u8,
) {
    let (source, tile) = (source.cast::<T>(), tile.cast::<T>());
    // SAFETY: the caller's.
    unsafe {
        if row.unsigned_abs() == 1 && col.unsigned_abs() > 1 {
            // The operand runs along the rows: read it in its own order.
            for c in 0..cols {
                let from = source.offset(c as isize * col);
                for r in 0..rows {
                    tile.add(r * cols + c).write(from.offset(r as isize * row).read());
                }
            }
            return;
        }
        for r in 0..rows {
            let from = source.offset(r as isize * row);
            let to = tile.add(r * cols);
            match col {
                1 => std::ptr::copy_nonoverlapping(from, to, cols),
                0 => std::slice::from_raw_parts_mut(to, cols).fill(*from),
                _ => {
                    for c in 0..cols {
                        to.add(c).write(from.offset(c as isize * col).read());
                    }
                }
            }
        }
    }
}

#[inline(never)]
unsafe fn copy_out<T: Copy>(
    tile: *const u8,
    target: *mut u8,
    (row, col): (isize, isize),
    rows: usize,
    cols: usize,
) {
    let (tile, target) = (tile.cast::<T>(), target.cast::<T>());
    // SAFETY: the caller's.
    unsafe {
        for r in 0..rows {
            let (from, to) = (tile.add(r * cols), target.offset(r as isize * row));
            if col == 1 {
                std::ptr::copy_nonoverlapping(from, to, cols);
            } else {
                for c in 0..cols {
                    to.offset(c as isize * col).write(from.add(c).read());
                }
            }
        }
    }
}

/// Copies a dense tile to a block of the result, narrowing `f32` where the result has half width.
///
/// # Safety
/// `target` is writable at the block's strides; `tile` holds `rows * cols` elements.
#[inline(always)]
unsafe fn unstage<S: Simd>(
    s: S,
    dtype: DType,
    tile: *const u8,
    target: *mut u8,
    strides: (isize, isize),
    (rows, cols): (usize, usize),
) {
    // SAFETY: the caller's.
    unsafe {
        if matches!(dtype, DType::F16 | DType::BF16) {
            let half = dtype == DType::F16;
            for r in 0..rows {
                let from = tile.cast::<f32>().add(r * cols);
                let to = target.cast::<u16>().offset(r as isize * strides.0);
                if strides.1 == 1 {
                    narrow_row(s, half, from, to, cols);
                } else {
                    for c in 0..cols {
                        narrow_row(s, half, from.add(c), to.offset(c as isize * strides.1), 1);
                    }
                }
            }
            return;
        }
        match dtype.bits() / 8 {
            1 => copy_out::<u8>(tile, target, strides, rows, cols),
            2 => copy_out::<u16>(tile, target, strides, rows, cols),
            4 => copy_out::<u32>(tile, target, strides, rows, cols),
            _ => copy_out::<u64>(tile, target, strides, rows, cols),
        }
    }
}
