//! `Op::DeformSample`: the kernel positions of an output pixel side by side for their places and weights, then one after
//! another over consecutive channels.

use super::{LANES, NOWHERE, Real, blend};
use crate::cpu::shared::{Shared, Units};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::tactic::Build;
use crate::{Args, Fit, Isa, KernelError, Problem, Reject, Tactic};
use engraft_network::ops::DeformSample;
use engraft_network::{DType, Op};

/// Operands of `f32` or of `f64` whose channels, offsets and masks of a pixel are consecutive.
#[derive(Debug)]
pub(super) struct DeformSampleTactic;

#[derive(Clone, Debug)]
pub(super) struct Shape {
    dtype: DType,
    size: [usize; 2],
    output: [usize; 2],
    batch: usize,
    /// Channels of a group.
    channels: usize,
    strides: [usize; 2],
    begin: [usize; 2],
    x: [isize; 3],
    offsets: [isize; 3],
    mask: Option<[isize; 3]>,
    y: [isize; 3],
    /// What is read for a pixel: all kernel positions of one group after another.
    samples: Vec<Sample>,
}

/// A kernel position of a group.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// From the window's first pixel, down and to the right.
    at: [f32; 2],
    /// The group's first channel in x, and in y from the pixel's first element.
    channel: isize,
    to: isize,
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::DeformSample(op) = p.op else { return Err(Reject::new("no sampling of moved pixels")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if !matches!(x.dtype, DType::F32 | DType::F64) || p.inputs.iter().any(|o| o.desc.dtype != x.dtype) {
            return Err(Reject(format!("images of {} moved by another type", x.dtype)));
        }
        if x.shape[3] > 1 && (x.strides[3] != 1 || y.strides[4] != 1) {
            return Err(Reject::new("channels are not consecutive"));
        }
        if x.shape[1..3].iter().any(|n| *n >= 1 << 23) {
            return Err(Reject::new("an image of more than 2^23 pixels along an axis"));
        }
        let reach: usize = (1..4).map(|a| (x.shape[a].max(1) - 1) * x.strides[a].unsigned_abs()).sum();
        if reach >= 1 << 30 {
            return Err(Reject::new("an image of more than 2^30 elements"));
        }
        if p.inputs[1..].iter().any(|o| o.desc.shape[3] > 1 && o.desc.strides[3] != 1) {
            return Err(Reject::new("offsets or masks of a pixel are not consecutive"));
        }
        let three = |s: &[isize]| [s[0], s[1], s[2]];
        let begin = [0, 1].map(|i| {
            let DeformSample { kernel, strides, dilations, padding, .. } = op;
            padding.resolve(i, x.shape[i + 1], kernel[i], strides[i], dilations[i]).0
        });
        let channels = x.shape[3] / op.groups;
        let positions = op.kernel[0] * op.kernel[1];
        let sample = |number: usize| {
            let (group, position) = (number / positions, number % positions);
            let (row, column) = (position / op.kernel[1], position % op.kernel[1]);
            let channel = (group * channels) as isize;
            Sample {
                at: [(row * op.dilations[0]) as f32, (column * op.dilations[1]) as f32],
                channel,
                to: position as isize * y.strides[3] + channel,
            }
        };
        Ok(Shape {
            dtype: x.dtype,
            size: [x.shape[1], x.shape[2]],
            output: [y.shape[1], y.shape[2]],
            batch: y.shape[0],
            channels,
            strides: [op.strides[0], op.strides[1]],
            begin,
            x: three(&x.strides),
            offsets: three(&p.inputs[1].desc.strides),
            mask: p.inputs.get(2).map(|o| three(&o.desc.strides)),
            y: three(&y.strides),
            samples: (0..op.groups * positions).map(sample).collect(),
        })
    }
}

impl Tactic for DeformSampleTactic {
    fn id(&self) -> &'static str {
        "sample.deform"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    crate::tactic::built!();
}

impl Build for DeformSampleTactic {
    type Kernel = Shared<Shape>;

    fn build(&self, p: &Problem<'_>) -> Result<Shared<Shape>, Reject> {
        Ok(Shared::new(Shape::new(p)?, p))
    }

    fn fit(&self, kernel: &Shared<Shape>, p: &Problem<'_>) -> Result<Fit, Reject> {
        Ok(kernel.fit(p))
    }
}

impl Units for Shape {
    /// Rows of output pixels.
    fn units(&self) -> usize {
        if self.channels == 0 || self.output[1] == 0 { 0 } else { self.batch * self.output[0] }
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let per_value = match isa {
            Isa::Avx512 | Isa::Amx => 0.15,
            Isa::Avx2 => 0.25,
            Isa::Portable => 1.0,
        };
        let samples = (self.units() * self.output[1] * self.samples.len()) as f64;
        100.0 + samples * (8.0 + per_value * self.channels as f64)
    }

    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError> {
        if self.dtype == DType::F64 {
            dispatch(isa, Run::<f64>::new(self, args, units));
        } else {
            dispatch(isa, Run::<f32>::new(self, args, units));
        }
        Ok(())
    }
}

/// Rows of output pixels of one task.
struct Run<'a, E> {
    shape: &'a Shape,
    x: *const E,
    offsets: *const E,
    mask: *const E,
    y: *mut E,
    units: (usize, usize),
}

impl<'a, E: Real> Run<'a, E> {
    fn new(shape: &'a Shape, args: &Args<'_>, units: (usize, usize)) -> Self {
        Run {
            shape,
            x: args.inputs[0].cast(),
            offsets: args.inputs[1].cast(),
            mask: args.inputs.get(2).map_or(std::ptr::null(), |p| p.cast()),
            y: args.outputs[0].cast(),
            units,
        }
    }
}

impl<E: Real> Task for Run<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Run { shape, x, offsets, mask, y, units } = self;
        for unit in units.0..units.1 {
            let (n, i) = (unit / shape.output[0], unit % shape.output[0]);
            let image = x.wrapping_offset(n as isize * shape.x[0]);
            for j in 0..shape.output[1] {
                let pixel = |s: [isize; 3]| n as isize * s[0] + i as isize * s[1] + j as isize * s[2];
                let offsets = offsets.wrapping_offset(pixel(shape.offsets));
                let mask = shape.mask.map(|strides| mask.wrapping_offset(pixel(strides)));
                let out = y.wrapping_offset(pixel(shape.y));
                let first = [0, 1].map(|axis| {
                    let o = [i, j][axis] * shape.strides[axis];
                    E::of(o as f64 - shape.begin[axis] as f64)
                });
                for (block, samples) in shape.samples.chunks(LANES).enumerate() {
                    let mut at = [[E::of(0.0); LANES]; 2];
                    let mut scale = [E::of(1.0); LANES];
                    for (l, sample) in samples.iter().enumerate() {
                        let number = block * LANES + l;
                        // SAFETY: an offset and the mask of this pixel.
                        unsafe {
                            for axis in 0..2 {
                                let regular = first[axis] + E::of(f64::from(sample.at[axis]));
                                at[axis][l] = regular + *offsets.add(2 * number + axis);
                            }
                            if let Some(mask) = mask {
                                scale[l] = *mask.add(number);
                            }
                        }
                    }
                    let rows = neighbours(at[0], shape.size[0], shape.x[1] as i32);
                    let columns = neighbours(at[1], shape.size[1], shape.x[2] as i32);
                    for (l, sample) in samples.iter().enumerate() {
                        let image = image.wrapping_offset(sample.channel);
                        let mut list = [(image, E::of(0.0)); 4];
                        let mut count = 0;
                        for (places, weights) in &rows {
                            for (others, more) in &columns {
                                if places[l] != NOWHERE && others[l] != NOWHERE {
                                    let place = (places[l] + others[l]) as isize;
                                    let weight = scale[l] * weights[l] * more[l];
                                    list[count] = (image.wrapping_offset(place), weight);
                                    count += 1;
                                }
                            }
                        }
                        // SAFETY: neighbours lie in the image; a group of channels of one position.
                        unsafe {
                            blend(&list[..count], out.wrapping_offset(sample.to), shape.channels, false)
                        };
                    }
                }
            }
        }
    }
}

/// Offsets (nowhere if outside) and weights of the pixels before and behind coordinates along an axis.
#[inline(always)]
fn neighbours<E: Real>(at: [E; LANES], size: usize, stride: i32) -> [([i32; LANES], [E; LANES]); 2] {
    let (zero, one, far) = (E::of(0.0), E::of(1.0), E::of(f64::from(1 << 24)));
    let last = E::of(size as f64) - one;
    let mut found = [([0; LANES], [zero; LANES]); 2];
    for l in 0..LANES {
        let x = if at[l] > zero - far { at[l] } else { zero - far };
        let x = if x < far { x } else { far };
        let low = x.floor();
        for (k, (offsets, weights)) in found.iter_mut().enumerate() {
            let place = low + E::of(k as f64);
            let inside = if place > zero { place } else { zero };
            let inside = if inside < last { inside } else { last };
            // SAFETY: the number of a pixel.
            let offset = unsafe { inside.to_i32() } * stride;
            offsets[l] = if inside == place { offset } else { NOWHERE };
            weights[l] = if k == 0 { one - (x - low) } else { x - low };
        }
    }
    found
}
