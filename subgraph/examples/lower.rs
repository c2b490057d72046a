//! Prints where the nodes of ONNX models would go if every kernel existed, bodies of control flow included:
//! `lower [--maximal] [--text] model.onnx...`.

use engraft_subgraph::{AcceptAll, Attribute, HostGraph, PartitionOptions, PartitionPolicy, onnx, partition};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let policy = if flag("--maximal") { PartitionPolicy::Maximal } else { PartitionPolicy::Profit };
    let options = PartitionOptions { policy, ..PartitionOptions::default() };
    for path in arguments.iter().filter(|argument| !argument.starts_with("--")) {
        let start = std::time::Instant::now();
        let model = onnx::read_model(path)?;
        println!("{path}: read in {:.1?}", start.elapsed());
        show(&model.graph, &options, flag("--text"));
    }
    Ok(())
}

fn show(graph: &HostGraph, options: &PartitionOptions, text: bool) {
    let start = std::time::Instant::now();
    let partition = partition(graph, &AcceptAll, options);
    println!("partitioned in {:.1?}", start.elapsed());
    print!("{}", partition.report);
    if text {
        for segment in &partition.segments {
            println!("  {}", segment.name);
            for (_, node) in segment.network.nodes() {
                let types: Vec<String> = node
                    .outputs
                    .iter()
                    .map(|&value| format!("{value}: {}", segment.network.ty(value)))
                    .collect();
                println!("    {} = {} {:?}  # {}", types.join(", "), node.op.name(), node.inputs, node.name);
            }
        }
    }
    for node in &graph.nodes {
        for attribute in node.attributes.values() {
            match attribute {
                Attribute::Graph(inner) => show(inner, options, text),
                Attribute::Graphs(list) => list.iter().for_each(|inner| show(inner, options, text)),
                _ => {}
            }
        }
    }
}
