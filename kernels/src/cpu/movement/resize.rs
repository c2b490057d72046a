//! Resize: nearest neighbours of any element type, and linear, cubic and antialiased interpolation of `f32`.

mod interpolate;
mod nearest;
mod taps;

pub(super) use interpolate::Interpolation;
pub(super) use nearest::Nearest;
