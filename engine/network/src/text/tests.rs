use super::*;
use crate::DType;

fn round_trip(text: &str) -> Network {
    let mut net = Network::parse(text).unwrap();
    net.verify().unwrap();
    let printed = net.to_string();
    let again =
        Network::parse_with(&printed, &|h| net.constants().iter().find(|t| t.content_hash() == h).cloned())
            .unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.to_string(), printed);
    net.compact();
    let ops = |n: &Network| n.nodes().map(|(_, n)| n.clone()).collect::<Vec<_>>();
    assert_eq!(ops(&again), ops(&net));
    assert_eq!(again.symbols(), net.symbols());
    assert_eq!(again.constants(), net.constants());
    net
}

const EXAMPLE: &str = r#"network "example"
symbol s0 "batch" = input 0 axis 0
symbol s1 "found" = node n3 output 0 axis 1
input %0 "x" : f32[s0,224,224,3]
const %1 "w" : f32[7,7,3,64] = seed(1)
const %2 "b" : f32[64] = splat(0.5)
const %3 "k" : i64[3] = [1, -2, 3]
%4 = conv(%0, %1, %2) strides=[2,2] padding=[3,3]:[3,3] epilogue=bias,{v0=sigmoid(x0);mul(x0,v0)} "conv1" : f32[s0,112,112,64]
%5, %6 "indices" = top_k(%4) axis=3 largest k=5 "top" : f32[s0,112,112,5], i64[s0,112,112,5]
%7 = reshape(%5) shape=[s0,floor(s0+3/(2))*0+62720] "flat" : f32[s0,62720]
%8 = non_zero(%7) "hits" : i64[2,s1]
%9 = relu(%7) "act" : f32[s0,62720]
output %6, %8, %9
"#;

#[test]
fn the_example_round_trips() {
    let net = round_trip(EXAMPLE);
    assert_eq!(net.name, "example");
    assert_eq!(net.value(net.outputs()[0]).name, "indices");
    assert_eq!(net.ty(net.outputs()[1]).to_string(), "i64[2,s1]");
    assert_eq!(net.symbols().len(), 2);
    let (_, conv) = net.nodes().next().unwrap();
    let Op::Conv(conv) = &conv.op else { panic!("{conv:?}") };
    assert_eq!((conv.groups, &conv.dilations), (1, &vec![1, 1]));
    assert_eq!(conv.epilogue.operands(), 1);
}

/// Every kind of attribute, through its text and back.
#[test]
fn every_operator_round_trips() {
    let text = r#"network "all \"kinds\""
symbol s0 "n" = input 0 axis 0
symbol s1 "len" = input 1 element 0
input %0 "x" : f32[s0,4,8,8]
input %1 "shape" : i64[2]
input %2 "c" : bool[s0,1,8,8]
const %3 "scale" : f32[8] = splat(1.5)
const %4 "zero" : u8[8] = splat(128)
const %5 "i" : i64[s] = [0]
"#;
    assert!(Network::parse(text).is_err(), "a symbolic constant");
    let text = r#"network "all \"kinds\""
symbol s0 "n" = input 0 axis 0
symbol s1 "len" = input 1 element 0
input %0 "x" : f32[s0,4,8,8]
input %1 "shape" : i64[2]
input %2 "c" : bool[s0,1,8,8]
const %3 "scale" : f32[8] = splat(1.5)
const %4 "zero" : u8[8] = splat(128)
const %5 "i" : i64[2] = [0, 1]
const %6 "special" : f32[4] = [inf, -inf, nan, -0.0]
const %7 "half" : f16[3] = [0.1, 65504, 1e-5]
const %8 "flags" : bool[2] = [true, false]
const %9 "big" : u64[2] = [18446744073709551615, 1]
const %10 "range" : i32[4,8] = arange
const %11 "w4" : i4[3] = [-8, 7, 1]
const %12 "f" : f32[] = [0.25]
const %13 "w" : f32[8,8] = seed(3)
%20 = cast(%0) to=f16 : f16[s0,4,8,8]
%21 = select(%2, %0, %12)
%22 = pointwise(%0, %12) expr=select(gt(x0,0.0f32),{v0=exp(x0);mul(v0,v0)},f32(i32(x1)))
%23 = matmul(%0, %13, %12) trans_b epilogue=max(min(x0,6.0f32),x1) "fc"
%24 = conv_transpose(%0, %30) strides=[2,2] padding=same_upper output_padding=[1,0] groups=2
"#;
    let e = Network::parse(text).unwrap_err();
    assert_eq!(e.line, 20, "{e}");
    let text = text.replace("{v0=exp(x0);mul(v0,v0)}", "mul(exp(x0),2.5f32)");
    let e = Network::parse(&text).unwrap_err();
    assert_eq!((e.line, e.reason.as_str()), (22, "%30 is not defined above"));
    let text = text.replace("%30", "%14").replace(
        "%20 =",
        r#"const %14 "wt" : f32[3,3,8,4] = seed(4)
const %15 "rnn" : f32[2,32,8] = seed(5)
const %16 "one" : f32[] = [1.0]
const %17 "seq" : f32[5,1,8] = seed(6)
const %18 "q" : f32[1,2,4,8] = seed(7)
const %79 "points" : f32[3,8,2] = seed(11)
const %77 "signal" : f32[1,16,1] = seed(10)
const %78 "window" : f32[4] = splat(0.5)
const %73 "boxes" : f32[2,5,4] = seed(8)
const %74 "scores" : f32[2,3,5] = seed(9)
const %105 "r4" : f32[2,4] = seed(8)
const %106 "r5" : f32[2,5] = seed(9)
const %112 "grid" : f32[1,3,2] = seed(10)
const %19 "v" : f64[2,3] = [0.1, 1e300, -0.0, nan, inf, 5e-324]
%20 ="#,
    ) + r#"%31, %32, %33 = rnn(%17, %15, %15) kind=lstm direction=bidirectional hidden=8 activations=[sigmoid,tanh,tanh,hard_sigmoid(0.2,0.5),leaky_relu(0.01),softsign] clip=3.5
%34 = attention(%18, %18, %18) scale=0.35355338f32 causal
%35 = layer_norm(%0, %3, %3) axis=3 epsilon=1e-5f32 scale bias
%36 = group_norm(%0, %3, %3) groups=4 epsilon=1e-5f32
%37 = softmax(%0) axis=1 log
%38 = reduce(%0) op=log_sum_exp axes=[1,3] keep_dims
%39 = arg_reduce(%0) max axis=2 last
%40 = cumulative(%0) product axis=1 exclusive reverse
%41, %42 = pool(%0) kind=max kernel=[3,3] strides=[2,2] padding=[1,1]:[1,1] ceil_mode indices
%43 = pool(%0) kind=lp(2) kernel=[2,2]
%44 = transpose(%0) perm=[0,2,3,1]
%45 = expand(%12) shape=[s0,s1,max(s0,s1)]
%46 = concat(%0, %0) axis=1
%47 = slice(%46) ranges=[1:7:4:-2,0:0:s0:1]
%48 = pad(%0, %12) before=[0,0,1,1] after=[0,0,s1,2]
%49 = pad(%0) mode=reflect before=[0,0,1,1] after=[0,0,1,2]
%50 = tile(%0) repeats=[1,2,1,1]
%51 = range(%12, %16) len=s1
%52 = shape_tensor() dims=[s0,2*s0*s1-3] dtype=i32
%53 = trilu(%0) upper k=-1
%54 = gather(%0, %5) axis=1
%55 = gather_elements(%10, %10) axis=0
%56 = gather_nd(%10, %5)
%57 = scatter_elements(%10, %10, %10) axis=1 reduction=add
%58 = one_hot(%5, %8) axis=1 depth=s1
%59 = resize(%0) mode=cubic(-0.75) coordinates=align_corners sizes=[s0,4,16,s1] exclude_outside
%60 = resize(%0) mode=nearest(floor) coordinates=tf_crop_and_resize(0.0,0.0,0.1,0.2,1.0,1.0,0.9,0.8) sizes=[s0,4,16,16] extrapolation=-1.0
%61 = resize(%0) mode=linear sizes=[s0,4,16,16] scales=[1.0,1.0,2.0,2.0] antialias
%101 = grid_sample(%18, %112) mode=cubic outside=reflection align_corners
%102 = roi_align(%0, %105, %5) max height=3 width=2 samples=2 scale=0.25 half_pixel
%103 = roi_max_pool(%0, %106) height=3 width=2 scale=0.5
%107 = expand(%12) shape=[s0,2,10,4]
%108 = expand(%12) shape=[s0,2,10,2]
%104 = deform_sample(%0, %107, %108) kernel=[1,1] strides=[2,1] padding=[0,1]:[0,1] groups=2 mask
%109 = fold(%17) image=[s1] block=[1] padding=[1]:[0]
%110 = det(%13)
%111 = bit_cast(%13) to=i32
%62 = quantize(%0, %3, %4) axis=3 to=u8 zero_point
%63 = dequantize(%62, %3, %4) axis=3 zero_point
%64 = scatter_nd(%10, %5, %65)
%66, %67, %68, %69, %70 = unique(%0) axis=1 sorted
%75 = dft(%79) length=s1 inverse
%76 = stft(%77, %78) length=4 step=2 onesided window
%71, %72 = non_max_suppression(%73, %74, %12, %16) score_threshold limit=s1
output %63, %6, %7, %9, %11, %19, %4
"#;
    let text = text.replace("%64 = scatter_nd(%10, %5, %65)\n", "");
    // Indices that are out of range type all the same.
    let net = round_trip(&text);
    assert_eq!(net.node_count(), 48);
    let printed = net.to_string();
    for part in ["clip=3.5", "0.35355338f32", "-0.0", "5e-324", "nan", "18446744073709551615", "1:7:4:-2"] {
        assert!(printed.contains(part), "{part} in\n{printed}");
    }
}

#[test]
fn dead_values_are_left_out_and_numbers_close_up() {
    let mut net = Network::parse(
        "input %0 \"x\" : f32[2]\nconst %1 : f32[2] = splat(1.0)\n%2 = neg(%0)\n%3 = add(%0, %1)\n%4 = relu(%3)\noutput %4",
    )
    .unwrap();
    assert_eq!(net.remove_dead(), 1);
    let text = net.to_string();
    assert!(text.contains("%3 = relu(%2) \"relu\" : f32[2]\noutput %3"), "{text}");
    net.compact();
    assert_eq!(net.to_string(), text);
}

#[test]
fn errors_name_line_and_reason() {
    let fails = |text: &str, line: usize, part: &str| {
        let e = Network::parse(text).unwrap_err();
        assert!(e.line == line && e.reason.contains(part), "{e}");
    };
    fails("input %0 : f32[2]\n%1 = neg(%2)", 2, "%2 is not defined");
    fails("input %0 : f32[2]\n%1 = nag(%0)", 2, "`nag` is no operator");
    fails("input %0 : f32[s0]", 1, "symbol s0 is not declared");
    fails("input %0 : f32[2]\n%1 = transpose(%0)", 2, "attribute `perm` is missing");
    fails("input %0 : f32[2]\n%1 = neg(%0) axis=1", 2, "no attribute `axis`");
    fails("input %0 : f32[2]\n%1 = neg(%0) : f32[3]", 2, "%1 is f32[2], not f32[3]");
    fails("input %0 : f32[2]\n%0 = neg(%0)", 2, "defined twice");
    fails("const %0 : f32[2] = #00000000000000ab", 1, "not here");
    fails("const %0 : f32[2] = [1.0]", 1, "1 values");
    fails("const %0 : i8[1] = [200]", 1, "`200` is no i8");
    fails("const %0 : f32[99999999,99999999] = splat(0.0)", 1, "too large");
    fails("network \"a", 1, "without end");
    fails("symbol s0 \"n\" = input 0 axis 0", 1, "source of s0");
    fails("input %0 : f32[2] trailing", 1, "`trailing` is too much");
    fails("what", 1, "starts no statement");
}

#[test]
fn hashes_bring_large_constants_back() {
    let t = Tensor::seeded(DType::F32, &[40], 9).unwrap();
    let mut net = Network::new("large");
    let c = net.add_constant("c", t.clone());
    let y = net.add("y", crate::ops::Unary { op: crate::UnaryOp::Neg }.into(), &[c]).unwrap();
    net.set_outputs(vec![y]);
    let text = net.to_string();
    assert!(text.contains(&format!("#{:016x}", t.content_hash())), "{text}");
    assert!(Network::parse(&text).is_err());
    let back = Network::parse_with(&text, &|h| (h == t.content_hash()).then(|| t.clone())).unwrap();
    assert_eq!(back.constants(), [t]);
}
