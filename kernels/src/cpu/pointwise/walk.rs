//! How a region's operands are walked: axes merged to outer axes, rows and columns, cut into units of one tile.

use super::program::TILE;
use engraft_network::DType;
use smallvec::SmallVec;

/// Strides of one operand in elements.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub dtype: DType,
    pub outer: SmallVec<[isize; 4]>,
    pub row: isize,
    pub col: isize,
}

impl View {
    pub fn offset(&self, unit: &Unit) -> isize {
        let outer: isize = self.outer.iter().zip(&unit.outer).map(|(s, &i)| s * i as isize).sum();
        outer + self.row * unit.row as isize + self.col * unit.col as isize
    }
}

/// How steps read an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// In place, as a contiguous run.
    Direct,
    /// One element for the whole unit.
    Scalar,
    /// Copied to a tile; the same for all units that start at the same address.
    Pattern,
    /// Copied to a tile.
    Staged,
}

/// A block of rows and columns at one outer position.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    pub outer: SmallVec<[usize; 4]>,
    pub row: usize,
    pub rows: usize,
    pub col: usize,
    pub cols: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Walk {
    outer: SmallVec<[usize; 4]>,
    rows: usize,
    cols: usize,
    /// Rows and columns of a unit.
    block_rows: usize,
    block_cols: usize,
    row_blocks: usize,
    col_blocks: usize,
    units: usize,
    pub inputs: SmallVec<[View; 4]>,
    pub output: View,
}

struct Axis {
    size: usize,
    /// Inputs, then the output.
    strides: SmallVec<[isize; 6]>,
}

/// Columns and rows of a unit where some operand runs along the rows: whole cache lines both ways.
const BLOCK_ROWS: usize = 16;
const BLOCK_COLS: usize = 32;

impl Walk {
    /// `strides[k][axis]` are the strides of input `k`, 0 where it broadcasts.
    pub fn new(shape: &[usize], inputs: &[(DType, &[isize])], output: (DType, &[isize])) -> Walk {
        let mut axes: SmallVec<[Axis; 6]> = SmallVec::new();
        for (axis, &size) in shape.iter().enumerate() {
            if size != 1 {
                let strides = inputs.iter().chain([&output]).map(|(_, s)| s[axis]).collect();
                axes.push(Axis { size, strides });
            }
        }
        let last = inputs.len();
        axes.sort_by_key(|a| std::cmp::Reverse(a.strides[last].unsigned_abs()));
        let mut merged: SmallVec<[Axis; 6]> = SmallVec::new();
        for axis in axes {
            match merged.last_mut() {
                Some(outer)
                    if outer.strides.iter().zip(&axis.strides).all(|(o, i)| *o == i * axis.size as isize) =>
                {
                    outer.size *= axis.size;
                    outer.strides = axis.strides;
                }
                _ => merged.push(axis),
            }
        }
        let unit_axis = || Axis { size: 1, strides: SmallVec::from_elem(0, last + 1) };
        let cols = merged.pop().unwrap_or_else(unit_axis);
        let rows = merged.pop().unwrap_or_else(unit_axis);
        let view = |k: usize, dtype: DType| View {
            dtype,
            outer: merged.iter().map(|a| a.strides[k]).collect(),
            row: rows.strides[k],
            col: cols.strides[k],
        };
        let views = inputs.iter().enumerate().map(|(k, i)| view(k, i.0)).collect();
        let outer = merged.iter().map(|a| a.size).collect();
        Walk::over(outer, rows.size, cols.size, views, view(last, output.0))
    }

    /// A walk over one matrix.
    pub fn matrix(rows: usize, cols: usize, inputs: SmallVec<[View; 4]>, output: View) -> Walk {
        Walk::over(SmallVec::new(), rows, cols, inputs, output)
    }

    fn over(
        outer: SmallVec<[usize; 4]>,
        rows: usize,
        cols: usize,
        inputs: SmallVec<[View; 4]>,
        output: View,
    ) -> Walk {
        let across = |v: &View| v.col.unsigned_abs() > 1 && v.row.unsigned_abs() == 1;
        let transposed = inputs.iter().any(across) && rows >= BLOCK_ROWS / 2;
        let (block_rows, block_cols) = if transposed {
            let block_cols = cols.clamp(1, BLOCK_COLS);
            (rows.clamp(1, (TILE / block_cols).max(BLOCK_ROWS)), block_cols)
        } else if cols > TILE {
            (1, TILE)
        } else {
            (rows.clamp(1, (TILE / cols.max(1)).max(1)), cols.max(1))
        };
        let (row_blocks, col_blocks) = (rows.div_ceil(block_rows), cols.div_ceil(block_cols));
        let units = outer.iter().product::<usize>() * row_blocks * col_blocks;
        Walk { outer, rows, cols, block_rows, block_cols, row_blocks, col_blocks, units, inputs, output }
    }

    pub fn units(&self) -> usize {
        self.units
    }

    pub fn elements(&self) -> usize {
        self.outer.iter().product::<usize>() * self.rows * self.cols
    }

    fn run_of_rows(&self, v: &View) -> bool {
        let whole_rows = self.block_cols == self.cols && v.row == self.cols as isize;
        v.col == 1 && (self.block_rows == 1 || whole_rows) || (self.cols == 1 && v.row == 1)
    }

    /// Access to input `k`; `scalars` says whether its readers take scalars.
    pub fn access(&self, k: usize, scalars: bool) -> Access {
        let v = &self.inputs[k];
        let converted = matches!(v.dtype, DType::F16 | DType::BF16);
        let row_constant = v.row == 0 || self.block_rows == 1;
        let col_constant = v.col == 0 || self.block_cols == 1;
        if row_constant && col_constant && scalars {
            Access::Scalar
        } else if !converted && self.run_of_rows(v) {
            Access::Direct
        } else if v.row == 0 && self.col_blocks == 1 {
            Access::Pattern
        } else {
            Access::Staged
        }
    }

    /// Whether the result's units are contiguous and need no conversion.
    pub fn output_direct(&self) -> bool {
        !matches!(self.output.dtype, DType::F16 | DType::BF16) && self.run_of_rows(&self.output)
    }

    /// Writes unit number `index` to `unit`.
    pub fn unit(&self, index: usize, unit: &mut Unit) {
        let (rest, col) = (index / self.col_blocks, index % self.col_blocks);
        let (mut rest, row) = (rest / self.row_blocks, rest % self.row_blocks);
        unit.row = row * self.block_rows;
        unit.rows = self.block_rows.min(self.rows - unit.row);
        unit.col = col * self.block_cols;
        unit.cols = self.block_cols.min(self.cols - unit.col);
        unit.outer.resize(self.outer.len(), 0);
        for (i, &size) in unit.outer.iter_mut().zip(&self.outer).rev() {
            *i = rest % size;
            rest /= size;
        }
    }
}
