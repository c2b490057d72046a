//! The text form of networks: what people read, and what pass tests take and give.
//!
//! ```text
//! network "example"
//! symbol s0 "batch" = input 0 axis 0
//! input %0 "x" : f32[s0,224,224,3]
//! const %1 "w" : f32[7,7,3,64] = seed(1)
//! const %2 "b" : f32[64] = splat(0.5)
//! %3 = conv(%0, %1, %2) strides=[2,2] padding=[3,3]:[3,3] epilogue=bias,relu(x0) "conv1" : f32[s0,112,112,64]
//! %4, %5 = top_k(%3) axis=3 largest k=5 "top" : f32[s0,112,112,5], i64[s0,112,112,5]
//! output %4, %5
//! ```
//!
//! One statement a line; `//` starts a comment. A network is printed as [`Network::compact`] would leave it: values are
//! numbered in order, dead ones left out. Names of values that follow from their node's name (`top:0`, `top:1`) are left
//! out, and so are attributes that have their usual value. Constants of up to 16 elements are printed in full, those of
//! one repeated value as `splat(v)`, others as a hash, for which the reader needs the data ([`Network::parse_with`]).
//! Written by hand they may also be `arange` (0, 1, ... in row-major order) or `seed(n)` ([`Tensor::seeded`]). The types
//! of results may be left out by hand: they are inferred.

mod attributes;
mod constants;
mod lexer;

use crate::{
    Def, Dim, Network, Node, NodeId, Op, Symbol, SymbolId, SymbolSource, Tensor, TensorType, Value, ValueId,
};
use lexer::Lexer;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::fmt;

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TextError {
    /// From 1.
    pub line: usize,
    pub reason: String,
}

/// Data of a constant by its [`Tensor::content_hash`].
pub type ConstantSource<'a> = &'a dyn Fn(u64) -> Option<Tensor>;

fn default_name(node: &Node, output: usize) -> String {
    if node.outputs.len() == 1 { node.name.clone() } else { format!("{}:{output}", node.name) }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids: HashMap<ValueId, usize> = HashMap::new();
        let mut used = vec![false; self.value_count()];
        for v in self.nodes().flat_map(|(_, n)| &n.inputs).chain(self.outputs()) {
            used[v.index()] = true;
        }
        let positions: HashMap<NodeId, usize> =
            self.nodes().enumerate().map(|(i, (id, _))| (id, i)).collect();
        writeln!(f, "network {:?}", self.name)?;
        for (i, s) in self.symbols().iter().enumerate() {
            write!(f, "symbol s{i} {:?} = ", s.name)?;
            let at = |n: &NodeId| positions.get(n).map_or_else(|| "gone".to_owned(), |p| format!("n{p}"));
            match &s.source {
                SymbolSource::InputDim { input, axis } => writeln!(f, "input {input} axis {axis}")?,
                SymbolSource::InputElement { input, index } => writeln!(f, "input {input} element {index}")?,
                SymbolSource::Data { node, output, axis } => {
                    writeln!(f, "node {} output {output} axis {axis}", at(node))?;
                }
                SymbolSource::DataElement { node, output, index } => {
                    writeln!(f, "node {} output {output} element {index}", at(node))?;
                }
            }
        }
        for v in self.inputs() {
            let n = ids.len();
            ids.insert(*v, n);
            writeln!(f, "input %{n} {:?} : {}", self.value(*v).name, self.ty(*v))?;
        }
        for i in (0..self.value_count() as u32).map(ValueId) {
            if let (true, Some(t)) = (used[i.index()], self.constant(i)) {
                let n = ids.len();
                ids.insert(i, n);
                writeln!(
                    f,
                    "const %{n} {:?} : {} = {}",
                    self.value(i).name,
                    self.ty(i),
                    constants::Printed(t)
                )?;
            }
        }
        let show = |ids: &HashMap<ValueId, usize>, v: &ValueId| {
            ids.get(v).map_or_else(|| "%undefined".to_owned(), |n| format!("%{n}"))
        };
        for (_, node) in self.nodes() {
            for (i, v) in node.outputs.iter().enumerate() {
                let n = ids.len();
                ids.insert(*v, n);
                f.write_str(if i > 0 { ", " } else { "" })?;
                write!(f, "%{n}")?;
                if self.value(*v).name != default_name(node, i) {
                    write!(f, " {:?}", self.value(*v).name)?;
                }
            }
            write!(f, " = {}(", attributes::mnemonic(&node.op))?;
            for (i, v) in node.inputs.iter().enumerate() {
                write!(f, "{}{}", if i > 0 { ", " } else { "" }, show(&ids, v))?;
            }
            f.write_str(")")?;
            for (name, value) in attributes::print(&node.op) {
                match value.as_str() {
                    "true" => write!(f, " {name}")?,
                    value => write!(f, " {name}={value}")?,
                }
            }
            write!(f, " {:?} :", node.name)?;
            for (i, v) in node.outputs.iter().enumerate() {
                write!(f, "{} {}", if i > 0 { "," } else { "" }, self.ty(*v))?;
            }
            writeln!(f)?;
        }
        f.write_str("output")?;
        for (i, v) in self.outputs().iter().enumerate() {
            write!(f, "{} {}", if i > 0 { "," } else { "" }, show(&ids, v))?;
        }
        writeln!(f)
    }
}

impl Network {
    /// Reads the text form. Errors: a text that is none, a node that does not type, a constant given by its hash.
    pub fn parse(text: &str) -> Result<Network, TextError> {
        Network::parse_with(text, &|_| None)
    }

    /// [`Network::parse`] with the data of constants that the text only names by their hash.
    pub fn parse_with(text: &str, constants: ConstantSource<'_>) -> Result<Network, TextError> {
        let mut reader = Reader { net: Network::default(), ids: HashMap::new(), constants };
        for (i, line) in text.lines().enumerate() {
            let mut lexer = Lexer::new(line);
            if !lexer.at_end() {
                reader
                    .statement(&mut lexer)
                    .and_then(|()| lexer.end())
                    .map_err(|reason| TextError { line: i + 1, reason })?;
            }
        }
        reader.check_symbols().map_err(|reason| TextError { line: text.lines().count(), reason })?;
        Ok(reader.net)
    }
}

struct Reader<'a> {
    net: Network,
    /// Values by the number that the text gives them.
    ids: HashMap<u64, ValueId>,
    constants: ConstantSource<'a>,
}

impl Reader<'_> {
    fn statement(&mut self, l: &mut Lexer<'_>) -> Result<(), String> {
        if l.peek() == Some('%') {
            return self.node(l);
        }
        match l.word()? {
            "network" => self.net.name = l.string()?,
            "symbol" => self.symbol(l)?,
            "input" => {
                let (id, name, ty) = self.declared(l)?;
                let v = self.net.add_input(name, ty);
                self.define(id, v)?;
            }
            "const" => {
                let (id, name, ty) = self.declared(l)?;
                l.expect("=")?;
                let shape = ty.fixed_shape().ok_or_else(|| format!("a constant of type {ty}"))?;
                let tensor = constants::parse(l, ty.dtype, &shape, self.constants)?;
                let v = self.net.add_constant(name, tensor);
                self.define(id, v)?;
            }
            "output" => {
                let mut outputs = self.net.outputs().to_vec();
                while l.peek() == Some('%') {
                    outputs.push(self.value(l)?);
                    if !l.eat(",") {
                        break;
                    }
                }
                self.net.set_outputs(outputs);
            }
            other => return Err(format!("`{other}` starts no statement")),
        }
        Ok(())
    }

    fn define(&mut self, id: u64, v: ValueId) -> Result<(), String> {
        match self.ids.insert(id, v) {
            None => Ok(()),
            Some(_) => Err(format!("%{id} is defined twice")),
        }
    }

    fn value(&self, l: &mut Lexer<'_>) -> Result<ValueId, String> {
        l.expect("%")?;
        let id = l.number()?;
        self.ids.get(&id).copied().ok_or_else(|| format!("%{id} is not defined above"))
    }

    fn declared(&self, l: &mut Lexer<'_>) -> Result<(u64, String, TensorType), String> {
        l.expect("%")?;
        let id = l.number()?;
        let name = if l.peek() == Some('"') { l.string()? } else { format!("%{id}") };
        l.expect(":")?;
        Ok((id, name, self.ty(l)?))
    }

    fn ty(&self, l: &mut Lexer<'_>) -> Result<TensorType, String> {
        let ty = l.tensor_type()?;
        for d in &ty.shape {
            self.check_dim(d)?;
        }
        Ok(ty)
    }

    fn check_dim(&self, d: &Dim) -> Result<(), String> {
        let mut unknown = None;
        d.for_each_symbol(&mut |s| {
            if s.0 as usize >= self.net.symbols.len() {
                unknown = Some(s.0);
            }
        });
        unknown.map_or(Ok(()), |s| Err(format!("symbol s{s} is not declared")))
    }

    fn symbol(&mut self, l: &mut Lexer<'_>) -> Result<(), String> {
        let want = self.net.symbols.len();
        l.expect("s")?;
        if l.number()? != want as u64 {
            return Err(format!("symbols are numbered in order: this one is s{want}"));
        }
        let name = l.string()?;
        if self.net.symbols.iter().any(|s| s.name == name) {
            return Err(format!("two symbols are named {name:?}"));
        }
        l.expect("=")?;
        let source = match l.word()? {
            "input" => {
                let input = l.small()?;
                match l.word()? {
                    "axis" => SymbolSource::InputDim { input, axis: l.small()? },
                    "element" => SymbolSource::InputElement { input, index: l.small()? },
                    other => return Err(format!("`{other}` is neither axis nor element")),
                }
            }
            "node" => {
                // A symbol may outlive its node.
                let node = if l.eat("gone") {
                    NodeId(u32::MAX)
                } else {
                    l.expect("n")?;
                    NodeId(l.small()?)
                };
                l.expect("output")?;
                let output = l.small()?;
                match l.word()? {
                    "axis" => SymbolSource::Data { node, output, axis: l.small()? },
                    "element" => SymbolSource::DataElement { node, output, index: l.small()? },
                    other => return Err(format!("`{other}` is neither axis nor element")),
                }
            }
            other => return Err(format!("`{other}` is no source of a symbol")),
        };
        self.net.symbols.push(Symbol { name, source });
        Ok(())
    }

    fn node(&mut self, l: &mut Lexer<'_>) -> Result<(), String> {
        let mut results: Vec<(u64, Option<String>)> = Vec::new();
        loop {
            l.expect("%")?;
            let id = l.number()?;
            results.push((id, if l.peek() == Some('"') { Some(l.string()?) } else { None }));
            if !l.eat(",") {
                break;
            }
        }
        l.expect("=")?;
        let mnemonic = l.word()?.to_owned();
        l.expect("(")?;
        let mut inputs: SmallVec<[ValueId; 4]> = SmallVec::new();
        while !l.eat(")") {
            inputs.push(self.value(l)?);
            if l.peek() != Some(')') {
                l.expect(",")?;
            }
        }
        let mut attributes = Vec::new();
        while l.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            let name = l.word()?.to_owned();
            attributes.push((name, if l.eat("=") { l.raw_value()?.to_owned() } else { "true".to_owned() }));
        }
        let name = match l.peek() {
            Some('"') => l.string()?,
            _ => mnemonic.clone(),
        };
        let mut declared = Vec::new();
        if l.eat(":") {
            loop {
                declared.push(self.ty(l)?);
                if !l.eat(",") {
                    break;
                }
            }
        }
        let mut op = attributes::parse(&mnemonic, attributes)?;
        let mut bad = Ok(());
        op.map_dims(&mut |d| {
            if let Err(e) = self.check_dim(d) {
                bad = Err(e);
            }
            d.clone()
        });
        bad?;
        self.add(name, op, inputs, results, declared)
    }

    fn add(
        &mut self,
        name: String,
        op: Op,
        inputs: SmallVec<[ValueId; 4]>,
        results: Vec<(u64, Option<String>)>,
        declared: Vec<TensorType>,
    ) -> Result<(), String> {
        let id = NodeId(self.net.nodes.len() as u32);
        let operands: SmallVec<[TensorType; 4]> = inputs.iter().map(|v| self.net.ty(*v).clone()).collect();
        let operands: SmallVec<[&TensorType; 4]> = operands.iter().collect();
        let symbols = &mut self.net.symbols;
        let inferred = op
            .infer(&operands, &mut |output, axis| {
                let source = SymbolSource::Data { node: id, output, axis };
                let n = symbols.iter().position(|s| s.source == source).unwrap_or_else(|| {
                    symbols
                        .push(Symbol { name: format!("{name}.{output}.{axis}#{}", symbols.len()), source });
                    symbols.len() - 1
                });
                Dim::symbol(SymbolId(n as u32))
            })
            .map_err(|e| format!("{}: {e}", op.name()))?;
        if inferred.len() != results.len() {
            return Err(format!("{} gives {} values, not {}", op.name(), inferred.len(), results.len()));
        }
        if !declared.is_empty() && declared.len() != inferred.len() {
            return Err(format!("{} types for {} values", declared.len(), inferred.len()));
        }
        let mut node = Node { name, op, inputs, outputs: SmallVec::new() };
        let first = self.net.values.len() as u32;
        node.outputs.extend((0..inferred.len() as u32).map(|i| ValueId(first + i)));
        for (i, ((number, vname), ty)) in results.into_iter().zip(inferred).enumerate() {
            let stated = declared.get(i).unwrap_or(&ty);
            if !ty.may_equal(stated) {
                return Err(format!("%{number} is {ty}, not {stated}"));
            }
            self.net.values.push(Value {
                name: vname.unwrap_or_else(|| default_name(&node, i)),
                ty: stated.clone(),
                def: Def::Node { node: id, output: i as u32 },
            });
            self.define(number, ValueId(first + i as u32))?;
        }
        self.net.nodes.push(Some(node));
        self.net.order.push(id);
        Ok(())
    }

    /// Errors unless every symbol's source is there.
    fn check_symbols(&self) -> Result<(), String> {
        for (i, s) in self.net.symbols.iter().enumerate() {
            let known = match s.source {
                SymbolSource::InputDim { input, .. } | SymbolSource::InputElement { input, .. } => {
                    (input as usize) < self.net.inputs.len()
                }
                SymbolSource::Data { node, output, .. } | SymbolSource::DataElement { node, output, .. } => {
                    node.0 == u32::MAX
                        || self.net.node(node).is_some_and(|n| (output as usize) < n.outputs.len())
                }
            };
            if !known {
                return Err(format!("the source of s{i} does not exist"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
