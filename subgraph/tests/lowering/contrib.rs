//! What ONNX Runtime adds to ONNX, against values worked out by hand.

use engraft_subgraph::{AcceptAll, Attribute, DType, Placement, Tensor, partition};

use crate::builder::{Builder, close, fix, floats, maximal, run, sym};

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn float(value: f32) -> Attribute {
    Attribute::Float(value)
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().to_vec())
}

fn ids(shape: &[usize], data: &[i32]) -> Tensor {
    Tensor::from_slice(shape, data).unwrap()
}

/// One node whose operands are inputs of the graph with these contents; absent where `None`.
fn results(
    op: &str,
    operands: &[Option<Tensor>],
    attributes: &[(&str, Attribute)],
    outputs: usize,
) -> Vec<Tensor> {
    let (b, given) = node(op, operands, attributes, outputs);
    run(&b, &given)
}

fn node(
    op: &str,
    operands: &[Option<Tensor>],
    attributes: &[(&str, Attribute)],
    outputs: usize,
) -> (Builder, Vec<Tensor>) {
    let mut b = Builder::new(17);
    let mut given = Vec::new();
    let mut inputs = Vec::new();
    for (index, operand) in operands.iter().enumerate() {
        inputs.push(operand.as_ref().map(|tensor| {
            let shape: Vec<_> = tensor.shape().iter().map(|&size| fix(size as u64)).collect();
            given.push(tensor.clone());
            b.input(&format!("x{index}"), tensor.dtype(), &shape)
        }));
    }
    for output in b.node_of(op, &inputs, attributes, outputs) {
        b.output(output);
    }
    (b, given)
}

/// Why the node stays with the host.
fn reason(op: &str, operands: &[Option<Tensor>], attributes: &[(&str, Attribute)], outputs: usize) -> String {
    let (b, _) = node(op, operands, attributes, outputs);
    match &partition(&b.graph, &AcceptAll, &maximal()).report.nodes[0].placement {
        Placement::Host(reason) => reason.clone(),
        taken => panic!("taken: {taken:?}"),
    }
}

#[test]
fn gelus_add_their_bias_first() {
    let x = floats(&[1, 2], &[0.5, -1.5]);
    let bias = floats(&[2], &[0.5, 0.5]);
    // gelu(1) and gelu(-1).
    let want = [0.841_344_8, -0.158_655_25];
    close(&results("com.microsoft:BiasGelu", &[Some(x.clone()), Some(bias.clone())], &[], 1)[0], &want);
    let sums = floats(&[1, 2], &[1.0, -1.0]);
    close(&results("com.microsoft:Gelu", &[Some(sums.clone())], &[], 1)[0], &want);
    // By the tanh.
    let want = [0.841_192, -0.158_808];
    close(&results("com.microsoft:FastGelu", &[Some(x), Some(bias)], &[], 1)[0], &want);
    close(&results("com.microsoft:FastGelu", &[Some(sums.clone())], &[], 1)[0], &want);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let want = [sigmoid(1.702), -sigmoid(-1.702)];
    close(&results("com.microsoft:QuickGelu", &[Some(sums.clone())], &[], 1)[0], &want);
    let want = [sigmoid(2.0), -sigmoid(-2.0)];
    close(&results("com.microsoft:QuickGelu", &[Some(sums)], &[("alpha", float(2.0))], 1)[0], &want);
}

#[test]
fn halves_gate_each_other() {
    let x = floats(&[1, 1, 4], &[1.0, 2.0, 0.0, -2.0]);
    let bias = floats(&[4], &[1.0, 1.0, 1.0, 1.0]);
    let y = results("com.microsoft:BiasSplitGelu", &[Some(x), Some(bias)], &[], 1).remove(0);
    assert_eq!(y.shape(), [1, 1, 2]);
    close(&y, &[2.0 * 0.841_344_8, 3.0 * -0.158_655_25]);
}

#[test]
fn convolutions_end_in_a_sum_and_an_activation() {
    let x = floats(&[1, 1, 1, 3], &[1.0, 2.0, 3.0]);
    let w = floats(&[1, 1, 1, 1], &[2.0]);
    let (bias, z) = (floats(&[1], &[-5.0]), floats(&[1, 1, 1, 3], &[1.0, -1.0, 1.0]));
    let clip = [("activation", text("Clip")), ("activation_params", Attribute::Floats(vec![-1.5, 1.5]))];
    let operands = [Some(x), Some(w), Some(bias), Some(z)];
    // 2 x - 5 + z = [-2, -2, 2].
    close(&results("com.microsoft:FusedConv", &operands, &clip, 1)[0], &[-1.5, -1.5, 1.5]);
    let leaky = [("activation", text("LeakyRelu")), ("activation_params", Attribute::Floats(vec![0.5]))];
    close(&results("com.microsoft:FusedConv", &operands, &leaky, 1)[0], &[-1.0, -1.0, 2.0]);
    let missing = reason("com.microsoft:FusedConv", &operands, &clip[..1], 1);
    assert!(missing.contains("activation_params lack min"), "{missing}");
    let unknown = reason("com.microsoft:FusedConv", &operands, &[("activation", text("Erf"))], 1);
    assert!(unknown.contains("\"Erf\""), "{unknown}");
}

#[test]
fn products_end_in_an_activation() {
    let a = floats(&[1, 2], &[1.0, 2.0]);
    let (w, c) = (floats(&[2, 2], &[1.0, 0.0, 0.0, -1.0]), floats(&[2], &[1.0, 1.0]));
    let operands = [Some(a), Some(w), Some(c)];
    let elu = [("activation", text("Elu")), ("activation_alpha", float(2.0))];
    // [2, -1].
    let want = [2.0, 2.0 * (-1f32).exp_m1()];
    close(&results("com.microsoft:FusedGemm", &operands, &elu, 1)[0], &want);
    let missing = reason("com.microsoft:FusedGemm", &operands, &elu[..1], 1);
    assert!(missing.contains("activation_alpha is missing"), "{missing}");
    let relu = [("activation", text("Relu")), ("alpha", float(2.0)), ("transB", int(1))];
    close(&results("com.microsoft:FusedMatMulActivation", &operands[..2], &relu, 1)[0], &[2.0, 0.0]);
    close(&results("com.microsoft:TransposeMatMul", &operands[..2], &relu[1..], 1)[0], &[2.0, -4.0]);
}

#[test]
fn batches_may_stand_between_rows_and_columns() {
    // [M, B, K] of 1, 2 and 2.
    let a = floats(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let b = floats(&[2, 2, 1], &[1.0, 1.0, 2.0, 0.0]);
    let y =
        results("com.microsoft:FusedMatMul", &[Some(a), Some(b)], &[("transBatchA", int(1))], 1).remove(0);
    assert_eq!(y.shape(), [2, 1, 1]);
    close(&y, &[3.0, 6.0]);
}

#[test]
fn skips_are_added_before_normalizing() {
    let (x, skip) = (floats(&[1, 1, 2], &[1.0, 2.0]), floats(&[1, 2], &[1.0, 2.0]));
    let (scale, shift, bias) =
        (floats(&[2], &[2.0, 1.0]), floats(&[2], &[0.5, 0.0]), floats(&[2], &[0.0, 2.0]));
    let operands = [Some(x), Some(skip), Some(scale), Some(shift), Some(bias)];
    let mut b = Builder::new(17);
    let shapes: [&[_]; 5] =
        [&[sym("b"), sym("s"), fix(2)], &[sym("s"), fix(2)], &[fix(2)], &[fix(2)], &[fix(2)]];
    let inputs: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| Some(b.input(&format!("x{i}"), DType::F32, shape)))
        .collect();
    let made = b.node_of("com.microsoft:SkipLayerNormalization", &inputs, &[("epsilon", float(0.0))], 4);
    for index in [1, 2] {
        b.graph.nodes[0].outputs[index] = None;
    }
    b.output(made[0]);
    b.output(made[3]);
    let given: Vec<Tensor> = operands.iter().flatten().cloned().collect();
    let got = run(&b, &given);
    // [2, 6]: mean 4, deviation 2.
    close(&got[0], &[-2.0 + 0.5, 1.0]);
    close(&got[1], &[2.0, 6.0]);
    let reason = reason("com.microsoft:SkipLayerNormalization", &operands, &[], 2);
    assert!(reason.contains("output mean"), "{reason}");
    // Without the mean: x / sqrt(mean of squares).
    let x = floats(&[1, 2], &[1.0, 3.0]);
    let zero = floats(&[1, 2], &[0.0, 4.0]);
    let one = floats(&[2], &[1.0, 1.0]);
    let rms =
        results("com.microsoft:SkipSimplifiedLayerNormalization", &[Some(x), Some(zero), Some(one)], &[], 1);
    close(&rms[0], &[0.2, 1.4]);
}

#[test]
fn root_mean_squares_are_told() {
    let x = floats(&[1, 2], &[1.0, 7.0]);
    let scale = floats(&[2], &[5.0, 10.0]);
    let got = results("SimplifiedLayerNormalization", &[Some(x), Some(scale)], &[("epsilon", float(0.0))], 2);
    close(&got[0], &[1.0, 14.0]);
    close(&got[1], &[0.2]);
}

#[test]
fn embeddings_are_summed_and_normalized() {
    let words = floats(&[2, 2], &[0.0, 0.0, 1.0, 1.0]);
    let positions = floats(&[3, 2], &[0.0, 2.0, 0.0, 4.0, 0.0, 6.0]);
    let segments = floats(&[2, 2], &[0.0, 0.0, 3.0, -3.0]);
    let operands = [
        Some(ids(&[1, 2], &[1, 0])),
        Some(ids(&[1, 2], &[0, 1])),
        Some(words),
        Some(positions),
        Some(segments),
        Some(floats(&[2], &[1.0, 1.0])),
        Some(floats(&[2], &[0.0, 10.0])),
        Some(ids(&[1, 2], &[1, 0])),
        Some(ids(&[1, 2], &[2, 1])),
    ];
    let got = results("com.microsoft:EmbedLayerNormalization", &operands, &[("epsilon", float(0.0))], 3);
    // Sums [1, 7] and [3, 1].
    close(&got[2], &[1.0, 7.0, 3.0, 1.0]);
    close(&got[0], &[-1.0, 11.0, 1.0, 9.0]);
    assert_eq!(got[1], ids(&[1], &[1]));
    let mut plain = operands.clone();
    (plain[1], plain[4], plain[7], plain[8]) = (None, None, None, None);
    let got = results("com.microsoft:EmbedLayerNormalization", &plain, &[("epsilon", float(0.0))], 3);
    close(&got[2], &[1.0, 3.0, 0.0, 4.0]);
    assert_eq!(got[1], ids(&[1], &[0]));
    plain[4] = operands[4].clone();
    let reason = reason("com.microsoft:EmbedLayerNormalization", &plain, &[], 1);
    assert!(reason.contains("segment_ids"), "{reason}");
}

#[test]
fn groups_are_normalized_after_a_skip() {
    let x = floats(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let (one, zero) = (floats(&[4], &[1.0; 4]), floats(&[4], &[0.0; 4]));
    let skip = floats(&[1, 4], &[0.0, 1.0, 0.0, 1.0]);
    let attributes = [("groups", int(2)), ("activation", int(0)), ("epsilon", float(0.0))];
    let operands = [Some(x), Some(one), Some(zero), Some(skip)];
    let got = results("com.microsoft:SkipGroupNorm", &operands, &attributes, 2);
    close(&got[1], &[1.0, 3.0, 3.0, 5.0]);
    close(&got[0], &[-1.0, 1.0, -1.0, 1.0]);
    let got = results("com.microsoft:GroupNorm", &operands[..3], &attributes, 1);
    close(&got[0], &[-1.0, 1.0, -1.0, 1.0]);
    let silu = [attributes[0].clone(), ("activation", int(1)), attributes[2].clone()];
    let got = results("com.microsoft:GroupNorm", &operands[..3], &silu, 1);
    close(&got[0], &[-0.268_941_4, 0.731_058_6, -0.268_941_4, 0.731_058_6]);
}

/// Queries of zero: all keys that take part weigh the same, and results are means of values.
#[test]
fn masks_choose_the_keys() {
    // One head, two batch items, three keys of one feature.
    let (q, k) = (floats(&[2, 1, 1], &[0.0; 2]), floats(&[2, 3, 1], &[0.0; 6]));
    let v = floats(&[2, 3, 1], &[2.0, 4.0, 9.0, 1.0, 3.0, 8.0]);
    let masked = |mask: Option<Tensor>, bias: Option<Tensor>| {
        let operands = [Some(q.clone()), Some(k.clone()), Some(v.clone()), None, mask, bias];
        results("com.microsoft:MultiHeadAttention", &operands, &[("num_heads", int(1))], 1).remove(0)
    };
    close(&masked(None, None), &[5.0, 4.0]);
    // How many keys; and the same in front of what only packed sequences need.
    close(&masked(Some(ids(&[2], &[2, 1])), None), &[3.0, 1.0]);
    close(&masked(Some(ids(&[8], &[2, 1, 0, 0, 0, 0, 0, 0])), None), &[3.0, 1.0]);
    close(&masked(Some(ids(&[2, 3], &[0, 1, 0, 1, 1, 0])), None), &[4.0, 2.0]);
    close(&masked(Some(ids(&[2, 1, 3], &[0, 1, 0, 1, 0, 0])), None), &[4.0, 1.0]);
    // A term that doubles the weight of the last key, alone and beside a mask.
    let term = floats(&[1, 1, 1, 3], &[0.0, 0.0, 2f32.ln()]);
    close(&masked(None, Some(term.clone())), &[6.0, 5.0]);
    close(&masked(Some(ids(&[2, 3], &[1, 0, 1, 0, 0, 1])), Some(term)), &[20.0 / 3.0, 8.0]);
    let operands = [Some(q.clone()), Some(k.clone()), Some(v.clone()), None, Some(ids(&[5], &[0; 5]))];
    let why = reason("com.microsoft:MultiHeadAttention", &operands, &[("num_heads", int(1))], 1);
    assert!(why.contains("key_padding_mask of 5 elements"), "{why}");
    let why = reason("com.microsoft:MultiHeadAttention", &operands[..3], &[("num_heads", int(1))], 4);
    assert!(why.contains("output qk"), "{why}");
}

#[test]
fn heads_have_their_biases_and_their_past() {
    // Two heads of one feature; queries of zero.
    let past_k = floats(&[1, 2, 1, 1], &[0.0, 0.0]);
    let past_v = floats(&[1, 2, 1, 1], &[10.0, 20.0]);
    let (x, v) = (floats(&[1, 2, 2], &[0.0; 4]), floats(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let bias = floats(&[6], &[0.0, 0.0, 5.0, 6.0, 1.0, 1.0]);
    let operands = [Some(x.clone()), Some(x), Some(v), Some(bias), None, None, Some(past_k), Some(past_v)];
    let attributes = [("num_heads", int(2)), ("unidirectional", int(1))];
    let got = results("com.microsoft:MultiHeadAttention", &operands, &attributes, 3);
    // Values with their bias are [2, 3] and [4, 5]; the first row sees the past and itself.
    close(&got[0], &[6.0, 11.5, 16.0 / 3.0, 28.0 / 3.0]);
    assert_eq!((got[1].shape(), got[2].shape()), (&[1, 2, 3, 1][..], &[1, 2, 3, 1][..]));
    close(&got[1], &[0.0, 5.0, 5.0, 0.0, 6.0, 6.0]);
    close(&got[2], &[10.0, 2.0, 4.0, 20.0, 3.0, 5.0]);
}

#[test]
fn packed_heads_are_taken_apart() {
    // [B, S, N, 3, D]: one position, two heads of one feature.
    let packed = floats(&[1, 1, 2, 3, 1], &[0.0, 0.0, 1.0, 0.0, 0.0, 2.0]);
    let heads = [("num_heads", int(2))];
    close(&results("com.microsoft:MultiHeadAttention", &[Some(packed)], &heads, 1)[0], &[1.0, 2.0]);
    let (q, kv) = (floats(&[1, 1, 2], &[0.0; 2]), floats(&[1, 1, 2, 2, 1], &[0.0, 3.0, 0.0, 4.0]));
    close(&results("com.microsoft:MultiHeadAttention", &[Some(q), Some(kv)], &heads, 1)[0], &[3.0, 4.0]);
}

#[test]
fn projections_are_split() {
    // Weights give queries and keys of 0, values of x + 1.
    let x = floats(&[1, 3, 1], &[1.0, 2.0, 6.0]);
    let weights = floats(&[1, 3], &[0.0, 0.0, 1.0]);
    let bias = floats(&[3], &[0.0, 0.0, 1.0]);
    let past = floats(&[2, 1, 1, 1, 1], &[0.0, 12.0]);
    let operands = [Some(x), Some(weights), Some(bias), None, Some(past)];
    let heads = ("num_heads", int(1));
    let attention = "com.microsoft:Attention";
    close(&results(attention, &operands[..3], std::slice::from_ref(&heads), 1)[0], &[4.0; 3]);
    let causal = [heads.clone(), ("unidirectional", int(1))];
    close(&results(attention, &operands[..3], &causal, 1)[0], &[2.0, 2.5, 4.0]);
    let got = results(attention, &operands, &causal, 2);
    close(&got[0], &[7.0, 17.0 / 3.0, 6.0]);
    assert_eq!(got[1].shape(), [2, 1, 1, 4, 1]);
    close(&got[1], &[0.0, 0.0, 0.0, 0.0, 12.0, 2.0, 3.0, 7.0]);
    // Padding at both ends: ends, then starts.
    let mut masked = operands.to_vec();
    (masked[3], masked[4]) = (Some(ids(&[2], &[2, 1])), None);
    close(&results(attention, &masked, std::slice::from_ref(&heads), 1)[0], &[3.0; 3]);
    let shared = [heads.clone(), ("past_present_share_buffer", int(1))];
    assert!(reason(attention, &operands, &shared, 2).contains("past_present_share_buffer"));
    masked[3] = Some(ids(&[1, 1, 3, 3], &[1; 9]));
    let why = reason(attention, &masked, &[heads], 1);
    assert!(why.contains("mask_index of rank 4"), "{why}");
}

#[test]
fn features_are_rotated_by_their_positions() {
    // Quarter turns: at position 1 (a, b) becomes (-b, a).
    let (cos, sin) = (floats(&[3, 1], &[1.0, 0.0, -1.0]), floats(&[3, 1], &[0.0, 1.0, 0.0]));
    let x = floats(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let turned = |at: Tensor, attributes: &[(&str, Attribute)]| {
        let operands = [Some(x.clone()), Some(at), Some(cos.clone()), Some(sin.clone())];
        results("com.microsoft:RotaryEmbedding", &operands, attributes, 1).remove(0)
    };
    let first = Tensor::from_slice(&[1], &[1i64]).unwrap();
    let each = Tensor::from_slice(&[1, 2], &[1i64, 2]).unwrap();
    // Two heads of two features.
    let want = [-2.0, 1.0, -4.0, 3.0, -5.0, -6.0, -7.0, -8.0];
    close(&turned(first, &[]), &want);
    close(&turned(each.clone(), &[("interleaved", int(1))]), &want);
    // One head of which two features are rotated.
    let some = [("num_heads", int(1)), ("rotary_embedding_dim", int(2))];
    close(&turned(each.clone(), &some), &[-2.0, 1.0, 3.0, 4.0, -5.0, -6.0, 7.0, 8.0]);
    let operands = [Some(x.clone()), Some(each), Some(cos.clone()), Some(sin.clone())];
    let why = reason("com.microsoft:RotaryEmbedding", &operands, &[("scale", float(2.0))], 1);
    assert!(why.contains("scale"), "{why}");
}

/// Two heads of queries over one of keys, of one feature; queries and keys of 0, values as given. The cache holds `cached`
/// for each of two batch items.
fn grouped(
    values: &[f32],
    cached: &[f32],
    lengths: [i32; 2],
    extra: &[Option<Tensor>],
    attributes: &[(&str, Attribute)],
) -> Vec<Tensor> {
    let (rows, past) = (values.len() / 2, cached.len() / 2);
    let total = lengths[0].max(lengths[1]);
    let mut operands = vec![
        Some(floats(&[2, rows, 2], &vec![0.0; 4 * rows])),
        Some(floats(&[2, rows, 1], &vec![0.0; 2 * rows])),
        Some(floats(&[2, rows, 1], values)),
        Some(floats(&[2, 1, past, 1], &vec![0.0; 2 * past])),
        Some(floats(&[2, 1, past, 1], cached)),
        Some(ids(&[2], &lengths.map(|length| length - 1))),
        Some(ids(&[1], &[total])),
    ];
    operands.extend_from_slice(extra);
    let mut all = vec![("num_heads", int(2)), ("kv_num_heads", int(1))];
    all.extend_from_slice(attributes);
    results("com.microsoft:GroupQueryAttention", &operands, &all, 3)
}

#[test]
fn groups_share_a_cache_that_grows() {
    // The second item had one key less: its new key takes the place of what follows its last one.
    let got = grouped(&[6.0, 8.0], &[2.0, 4.0, 2.0, 100.0], [3, 2], &[], &[]);
    close(&got[0], &[4.0, 4.0, 5.0, 5.0]);
    assert_eq!(got[2].shape(), [2, 1, 3, 1]);
    close(&got[2], &[2.0, 4.0, 6.0, 2.0, 8.0, 0.0]);
    // A cache with room keeps its size.
    let got = grouped(&[6.0, 8.0], &[2.0, 0.0, 0.0, 2.0, 4.0, 0.0], [2, 3], &[], &[]);
    close(&got[0], &[4.0, 4.0, 14.0 / 3.0, 14.0 / 3.0]);
    assert_eq!(got[2].shape(), [2, 1, 3, 1]);
    // A prompt: each row sees itself and what stands before it.
    let got = grouped(&[1.0, 3.0, 5.0, 9.0], &[], [2, 2], &[], &[]);
    close(&got[0], &[1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 7.0, 7.0]);
    // A window of two keys, and keys that all see each other.
    let got = grouped(&[6.0, 8.0], &[2.0, 4.0, 2.0, 100.0], [3, 2], &[], &[("local_window_size", int(2))]);
    close(&got[0], &[5.0, 5.0, 5.0, 5.0]);
    let got = grouped(&[1.0, 3.0, 5.0, 9.0], &[], [2, 2], &[], &[("causal", int(0))]);
    close(&got[0], &[2.0, 2.0, 2.0, 2.0, 7.0, 7.0, 7.0, 7.0]);
}

#[test]
fn sinks_take_their_share() {
    let smooth = [("smooth_softmax", int(1))];
    let got = grouped(&[6.0, 8.0], &[2.0, 4.0, 2.0, 100.0], [3, 2], &[], &smooth);
    close(&got[0], &[3.0, 3.0, 10.0 / 3.0, 10.0 / 3.0]);
    // -1 is the schema's word for nothing.
    let got = grouped(&[6.0, 8.0], &[2.0, 4.0, 2.0, 100.0], [3, 2], &[], &[("smooth_softmax", int(-1))]);
    close(&got[0], &[4.0, 4.0, 5.0, 5.0]);
    // Scores of 0 and ln 3 for the heads' sinks.
    let sinks = [None, None, None, None, Some(floats(&[2], &[0.0, 3f32.ln()]))];
    let got = grouped(&[6.0, 8.0], &[2.0, 4.0, 2.0, 100.0], [3, 2], &sinks, &[]);
    close(&got[0], &[3.0, 2.0, 10.0 / 3.0, 2.0]);
}

#[test]
fn one_batch_item_needs_no_places() {
    let operands = [
        Some(floats(&[1, 1, 4], &[0.0, 0.0, 0.0, 6.0])),
        None,
        None,
        Some(floats(&[1, 1, 3, 1], &[0.0; 3])),
        Some(floats(&[1, 1, 3, 1], &[2.0, 100.0, 0.0])),
        Some(ids(&[1], &[1])),
        Some(ids(&[1], &[2])),
    ];
    let attributes = [("num_heads", int(2)), ("kv_num_heads", int(1))];
    let got = results("com.microsoft:GroupQueryAttention", &operands, &attributes, 3);
    close(&got[0], &[4.0, 4.0]);
    close(&got[2], &[2.0, 6.0, 0.0]);
    let quantized = [attributes[0].clone(), attributes[1].clone(), ("k_quant_type", text("PER_TENSOR"))];
    let why = reason("com.microsoft:GroupQueryAttention", &operands, &quantized, 3);
    assert!(why.contains("block-quantized"), "{why}");
    let why = reason("com.microsoft:GroupQueryAttention", &operands, &attributes, 4);
    assert!(why.contains("output_qk"), "{why}");
}
