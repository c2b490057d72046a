//! Sampling, unpooling, cropping and reversing, by hand.

use engraft_subgraph::{Attribute, DType, Tensor};

use crate::builder::{Builder, close, fix, floats, ints, run, sym};

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn list(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().to_vec())
}

/// One node whose operands are all inputs with symbolic sizes.
fn apply(opset: i64, op: &str, attributes: &[(&str, Attribute)], operands: &[Tensor]) -> Tensor {
    let mut b = Builder::new(opset);
    let inputs: Vec<_> = operands
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let dims: Vec<_> = (0..x.shape().len()).map(|axis| sym(&format!("d{i}_{axis}"))).collect();
            b.input(&format!("x{i}"), x.dtype(), &dims)
        })
        .collect();
    let y = b.node(op, &inputs, attributes);
    b.output(y);
    run(&b, operands).remove(0)
}

/// `1, 2, 3, ...`
fn count(shape: &[usize]) -> Tensor {
    let len: usize = shape.iter().product();
    floats(shape, &(1..=len).map(|i| i as f32).collect::<Vec<_>>())
}

#[test]
fn grids_are_sampled_in_both_spellings() {
    // Two channels of 2 by 2 pixels, at the middle and beside the right edge.
    let operands = [count(&[1, 2, 2, 2]), floats(&[1, 1, 2, 2], &[0.0, 0.0, 1.0, 0.5])];
    let want = [2.5, 2.0, 6.5, 4.0];
    close(&apply(16, "GridSample", &[], &operands), &want);
    close(&apply(16, "GridSample", &[("mode", text("bilinear"))], &operands), &want);
    close(&apply(20, "GridSample", &[("mode", text("linear"))], &operands), &want);
    let attributes = [("mode", text("nearest")), ("align_corners", int(1)), ("padding_mode", text("border"))];
    let operands = [count(&[1, 1, 2, 2]), floats(&[1, 1, 2, 2], &[-3.0, 0.5, 0.6, -0.9])];
    close(&apply(20, "GridSample", &attributes, &operands), &[3.0, 2.0]);
}

#[test]
fn grids_are_made_of_any_size() {
    // x' = x + 10 y + 100, y' = y.
    let theta = floats(&[1, 2, 3], &[1.0, 10.0, 100.0, 0.0, 1.0, 0.0]);
    let grid = |size: Option<&[i64]>, align: i64| {
        let mut b = Builder::new(20);
        let input = b.input("theta", DType::F32, &[sym("n"), fix(2), fix(3)]);
        let extent = match size {
            Some(size) => b.ints(size),
            None => b.input("size", DType::I64, &[fix(4)]),
        };
        let y = b.node("AffineGrid", &[input, extent], &[("align_corners", int(align))]);
        b.output(y);
        let mut inputs = vec![theta.clone()];
        if size.is_none() {
            inputs.push(ints(&[4], &[1, 1, 2, 2]));
        }
        run(&b, &inputs).remove(0)
    };
    let centres = [94.5, -0.5, 95.5, -0.5, 104.5, 0.5, 105.5, 0.5];
    close(&grid(Some(&[1, 1, 2, 2]), 0), &centres);
    close(&grid(None, 0), &centres);
    close(&grid(Some(&[1, 1, 2, 2]), 1), &[89.0, -1.0, 91.0, -1.0, 109.0, 1.0, 111.0, 1.0]);
    // A pixel without others is at 1 where corners are aligned, in the middle otherwise.
    close(&grid(Some(&[1, 1, 1, 1]), 1), &[111.0, 1.0]);
    close(&grid(Some(&[1, 1, 1, 1]), 0), &[100.0, 0.0]);
}

#[test]
fn sequences_are_reversed_up_to_their_lengths() {
    let x = count(&[3, 2]);
    close(
        &apply(10, "ReverseSequence", &[], &[x.clone(), ints(&[2], &[3, 1])]),
        &[5.0, 2.0, 3.0, 4.0, 1.0, 6.0],
    );
    let batch_first = [("batch_axis", int(0)), ("time_axis", int(1))];
    let lengths = ints(&[3], &[2, 0, 2]);
    close(&apply(10, "ReverseSequence", &batch_first, &[x, lengths]), &[2.0, 1.0, 3.0, 4.0, 6.0, 5.0]);
}

#[test]
fn centres_are_cropped_and_padded_by_sizes_that_arrive_late() {
    let mut b = Builder::new(18);
    let input = b.input("x", DType::F32, &[sym("h"), sym("w")]);
    let shape = b.input("shape", DType::I64, &[fix(2)]);
    let y = b.node("CenterCropPad", &[input, shape], &[]);
    let z = b.node("CenterCropPad", &[input, shape], &[("axes", list(&[-1, 0]))]);
    b.output(y);
    b.output(z);
    let results = run(&b, &[count(&[2, 4]), ints(&[2], &[3, 1])]);
    // One row more at the end; of four columns the second.
    close(&results[0], &[2.0, 6.0, 0.0]);
    // The first row; the first three columns.
    close(&results[1], &[1.0, 2.0, 3.0]);
}

#[test]
fn maxima_go_back_where_they_came_from() {
    let attributes = [("kernel_shape", list(&[2, 2])), ("strides", list(&[2, 2]))];
    let operands = [floats(&[1, 1, 1, 2], &[7.0, 8.0]), ints(&[1, 1, 1, 2], &[1, 6])];
    close(&apply(11, "MaxUnpool", &attributes, &operands), &[0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0]);
    // An output shape beyond what was pooled.
    let mut b = Builder::new(22);
    let x = b.input("x", DType::F32, &[fix(1), fix(1), fix(1), fix(2)]);
    let indices = b.input("i", DType::I64, &[fix(1), fix(1), fix(1), fix(2)]);
    let shape = b.ints(&[1, 1, 3, 5]);
    let y = b.node("MaxUnpool", &[x, indices, shape], &attributes);
    b.output(y);
    let mut want = [0.0; 15];
    (want[1], want[7]) = (7.0, 8.0);
    close(&run(&b, &operands)[0], &want);
}

#[test]
fn places_of_maxima_count_columns_first() {
    let mut b = Builder::new(12);
    let x = b.input("x", DType::F32, &[sym("n"), fix(1), sym("h"), sym("w")]);
    let attributes = [("kernel_shape", list(&[2, 2])), ("storage_order", int(1))];
    let outputs = b.node_of("MaxPool", &[Some(x)], &attributes, 2);
    b.output(outputs[1]);
    // The greatest of two images of 2 by 3 is in the last row, in columns 1 and 2.
    let indices = run(&b, &[count(&[2, 1, 2, 3])]).remove(0);
    assert_eq!(indices.to_vec::<i64>().unwrap(), [3, 5, 9, 11]);
}

#[test]
fn caches_take_updates_from_an_index_on() {
    let operands = [floats(&[2, 4, 1], &[0.0; 8]), count(&[2, 2, 1]), ints(&[2], &[1, 3])];
    let circular = [("mode", text("circular"))];
    let y = apply(24, "TensorScatter", &circular, &operands);
    close(&y, &[0.0, 1.0, 2.0, 0.0, 4.0, 0.0, 0.0, 3.0]);
    close(&apply(24, "TensorScatter", &[], &operands[..2]), &[1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
}

#[test]
fn regions_are_pooled_by_version() {
    let images = ints(&[1], &[0]);
    let operands = [count(&[1, 1, 4, 4]), floats(&[1, 4], &[0.0, 0.0, 2.0, 2.0]), images];
    // The middle at (1, 1), or at (1/2, 1/2) where pixel centres count.
    close(&apply(10, "RoiAlign", &[], &operands), &[6.0]);
    close(&apply(16, "RoiAlign", &[], &operands), &[3.5]);
    let output = [("coordinate_transformation_mode", text("output_half_pixel")), ("sampling_ratio", int(1))];
    close(&apply(22, "RoiAlign", &output, &operands), &[6.0]);
    let regions = floats(&[1, 5], &[0.0, 1.0, 1.0, 2.0, 3.0]);
    let pooled = [("pooled_shape", list(&[1, 2]))];
    close(&apply(7, "MaxRoiPool", &pooled, &[count(&[1, 1, 4, 4]), regions]), &[14.0, 15.0]);
}

#[test]
fn moved_windows_are_convolved() {
    let mut b = Builder::new(19);
    let x = b.input("x", DType::F32, &[sym("n"), fix(2), sym("h"), sym("w")]);
    let offsets = b.input("offsets", DType::F32, &[sym("n"), fix(2), sym("h"), sym("w")]);
    let w = b.constant(floats(&[1, 2, 1, 1], &[1.0, 10.0]));
    let bias = b.constant(floats(&[1], &[0.5]));
    let y = b.node("DeformConv", &[x, w, offsets, bias], &[]);
    b.output(y);
    // Channels 1 2 and 3 4; the first pixel is read half a pixel further, the second a pixel lower: outside.
    let offsets = floats(&[1, 2, 1, 2], &[0.0, 1.0, 0.5, 0.0]);
    close(&run(&b, &[count(&[1, 2, 1, 2]), offsets])[0], &[1.5 + 35.0 + 0.5, 0.5]);
}

#[test]
fn columns_become_images() {
    let mut b = Builder::new(18);
    let x = b.input("x", DType::F32, &[sym("n"), sym("c"), sym("l")]);
    let (image, block) = (b.ints(&[1, 4]), b.ints(&[1, 2]));
    let y = b.node("Col2Im", &[x, image, block], &[]);
    b.output(y);
    close(&run(&b, &[count(&[1, 2, 3])])[0], &[1.0, 6.0, 8.0, 6.0]);
}

#[test]
fn determinants_and_powers() {
    close(&apply(11, "Det", &[], &[floats(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0])]), &[-2.0]);
    let x = floats(&[1, 1, 3], &[-3.0, 4.0, 5.0]);
    close(&apply(13, "GlobalLpPool", &[("p", int(3))], std::slice::from_ref(&x)), &[6.0]);
    let window = [("p", int(3)), ("kernel_shape", list(&[3]))];
    close(&apply(18, "LpPool", &window, &[x]), &[6.0]);
}

#[test]
fn bits_become_another_type() {
    let y = apply(26, "BitCast", &[("to", int(6))], &[floats(&[2], &[1.0, -2.0])]);
    assert_eq!(y.to_vec::<i32>().unwrap(), [0x3f80_0000, -0x4000_0000]);
    let x = Tensor::from_slice(&[3], &[0u8, 1, 9]).unwrap();
    let y = apply(26, "BitCast", &[("to", int(9))], &[x]);
    assert_eq!((y.dtype(), y.bytes()), (DType::Bool, &[0u8, 1, 1][..]));
}
