//! The arrays that a model is run on: read from files, or generated.

use std::collections::BTreeMap;
use std::path::Path;

use engraft::{DType, HostDim, Tensor};
use half::{bf16, f16};

use crate::arguments::InputArguments;
use crate::error::CliError;
use crate::npy;
use crate::random::Random;

/// What a model says about one of its inputs.
#[derive(Debug, Clone)]
pub struct InputDeclaration {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<HostDim>,
    /// Sizes to generate, for dims that nobody states.
    pub representative: Vec<usize>,
}

/// One array for each declared input, in order.
pub fn gather(arguments: &InputArguments, declared: &[InputDeclaration]) -> Result<Vec<Tensor>, CliError> {
    let mut given = read_files(&arguments.files, declared)?;
    let mut shapes = parse_shapes(&arguments.shapes)?;
    let mut dims = parse_dims(&arguments.dims)?;
    check_names("--input", given.keys(), declared.iter().map(|d| d.name.as_str()))?;
    check_names("--shape", shapes.keys(), declared.iter().map(|d| d.name.as_str()))?;
    check_names("--dim", dims.keys(), symbols(declared))?;
    learn_dims(declared, &given, &mut dims);
    declared
        .iter()
        .enumerate()
        .map(|(index, declaration)| {
            if let Some(tensor) = given.remove(&declaration.name) {
                check_fit(declaration, &tensor)?;
                return Ok(tensor);
            }
            let shape = match shapes.remove(&declaration.name) {
                Some(shape) => shape,
                None => concrete_shape(declaration, &dims)?,
            };
            let tensor = generate(declaration, &shape, arguments.seed.wrapping_add(index as u64))?;
            check_fit(declaration, &tensor)?;
            Ok(tensor)
        })
        .collect()
}

fn read_files(files: &[String], declared: &[InputDeclaration]) -> Result<BTreeMap<String, Tensor>, CliError> {
    let mut arrays = BTreeMap::new();
    for text in files {
        // A name may hold '=' itself; a file that exists as it stands is no pair.
        let (name, file) = match text.rsplit_once('=') {
            Some((name, file)) if !Path::new(text).exists() => (Some(name), Path::new(file)),
            _ => (None, Path::new(text)),
        };
        let archive = file.extension().is_some_and(|extension| extension == "npz");
        match (name, archive) {
            (None, true) => arrays.extend(npy::read_npz(file).map_err(CliError::array(file))?),
            (Some(name), false) => {
                arrays.insert(name.to_owned(), npy::read_npy(file).map_err(CliError::array(file))?);
            }
            (None, false) if declared.len() == 1 => {
                let array = npy::read_npy(file).map_err(CliError::array(file))?;
                arrays.insert(declared[0].name.clone(), array);
            }
            (None, false) => {
                return Err(CliError::Usage(format!(
                    "--input {text}: say which input it is, as in NAME={text}; there are {}",
                    list(declared.iter().map(|d| d.name.as_str()))
                )));
            }
            (Some(_), true) => {
                return Err(CliError::Usage(format!("--input {text}: an archive names its inputs itself")));
            }
        }
    }
    Ok(arrays)
}

fn parse_shapes(texts: &[String]) -> Result<BTreeMap<String, Vec<usize>>, CliError> {
    let parse = |text: &String| {
        let (name, shape) = text.rsplit_once(':')?;
        let dims = shape.split('x').filter(|_| !shape.is_empty()).map(|dim| dim.parse().ok());
        Some((name.to_owned(), dims.collect::<Option<Vec<usize>>>()?))
    };
    texts
        .iter()
        .map(|text| {
            parse(text).ok_or_else(|| CliError::Usage(format!("--shape {text}: expected NAME:1x3x224x224")))
        })
        .collect()
}

fn parse_dims(texts: &[String]) -> Result<BTreeMap<String, usize>, CliError> {
    let parse = |text: &String| {
        let (name, size) = text.rsplit_once('=')?;
        Some((name.to_owned(), size.parse().ok()?))
    };
    texts
        .iter()
        .map(|text| parse(text).ok_or_else(|| CliError::Usage(format!("--dim {text}: expected NAME=SIZE"))))
        .collect()
}

fn symbols(declared: &[InputDeclaration]) -> impl Iterator<Item = &str> {
    declared.iter().flat_map(|d| &d.shape).filter_map(|dim| match dim {
        HostDim::Symbol(name) => Some(name.as_str()),
        _ => None,
    })
}

fn check_names<'a, 'b>(
    argument: &str,
    given: impl Iterator<Item = &'a String>,
    known: impl Iterator<Item = &'b str>,
) -> Result<(), CliError> {
    let known: Vec<&str> = known.collect();
    for name in given {
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "none".to_owned() } else { list(known.into_iter()) };
            return Err(CliError::Usage(format!("{argument}: the model has no `{name}`; there are {known}")));
        }
    }
    Ok(())
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Takes the sizes of symbolic dims over from arrays that were read, for inputs that are generated beside them.
fn learn_dims(
    declared: &[InputDeclaration],
    given: &BTreeMap<String, Tensor>,
    dims: &mut BTreeMap<String, usize>,
) {
    for declaration in declared {
        let Some(tensor) = given.get(&declaration.name) else { continue };
        for (dim, size) in declaration.shape.iter().zip(tensor.shape()) {
            if let HostDim::Symbol(name) = dim {
                dims.entry(name.clone()).or_insert(*size);
            }
        }
    }
}

fn concrete_shape(
    declaration: &InputDeclaration,
    dims: &BTreeMap<String, usize>,
) -> Result<Vec<usize>, CliError> {
    let name = &declaration.name;
    let sizes = declaration.shape.iter().zip(&declaration.representative);
    sizes
        .map(|(dim, representative)| match dim {
            HostDim::Fixed(size) => usize::try_from(*size)
                .map_err(|_| CliError::Usage(format!("input `{name}` has a dim of {size}, too large"))),
            HostDim::Symbol(symbol) => Ok(dims.get(symbol).copied().unwrap_or(*representative)),
            HostDim::Unknown => Ok(*representative),
        })
        .collect()
}

/// Whether an array has the type and shape that the model declares.
fn check_fit(declaration: &InputDeclaration, tensor: &Tensor) -> Result<(), CliError> {
    let InputDeclaration { name, dtype, shape, .. } = declaration;
    if tensor.dtype() != *dtype {
        return Err(CliError::Usage(format!("input `{name}` is {dtype}, its array {}", tensor.dtype())));
    }
    let fits = shape.len() == tensor.shape().len()
        && shape.iter().zip(tensor.shape()).all(|(dim, size)| match dim {
            HostDim::Fixed(fixed) => *fixed == *size as u64,
            _ => true,
        });
    if fits {
        return Ok(());
    }
    let text: Vec<String> = shape
        .iter()
        .map(|dim| match dim {
            HostDim::Fixed(size) => size.to_string(),
            HostDim::Symbol(name) => name.clone(),
            HostDim::Unknown => "?".to_owned(),
        })
        .collect();
    Err(CliError::Usage(format!(
        "input `{name}` has the shape [{}], its array {:?}",
        text.join(", "),
        tensor.shape()
    )))
}

/// Values that depend on the seed alone: standard normal floats, integers and booleans of 0 and 1.
fn generate(declaration: &InputDeclaration, shape: &[usize], seed: u64) -> Result<Tensor, CliError> {
    let mut random = Random::new(seed);
    let count = shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim)).unwrap_or(usize::MAX);
    let limit = 1 << 34;
    if count > limit {
        return Err(CliError::Usage(format!(
            "input `{}` of shape {shape:?} has more than {limit} elements",
            declaration.name
        )));
    }
    let floats = |random: &mut Random| -> Vec<f64> { (0..count).map(|_| random.normal()).collect() };
    let bits = |random: &mut Random| -> Vec<u8> { (0..count).map(|_| (random.next() & 1) as u8).collect() };
    macro_rules! of {
        ($values:expr, $type:ty, $convert:expr) => {{
            let values: Vec<$type> = $values.into_iter().map($convert).collect();
            Tensor::from_slice(shape, &values)
        }};
    }
    let tensor = match declaration.dtype {
        DType::F32 => of!(floats(&mut random), f32, |v| v as f32),
        DType::F64 => of!(floats(&mut random), f64, |v| v),
        DType::F16 => of!(floats(&mut random), f16, f16::from_f64),
        DType::BF16 => of!(floats(&mut random), bf16, bf16::from_f64),
        DType::I8 => of!(bits(&mut random), i8, |v| v as i8),
        DType::U8 => of!(bits(&mut random), u8, |v| v),
        DType::I16 => of!(bits(&mut random), i16, i16::from),
        DType::U16 => of!(bits(&mut random), u16, u16::from),
        DType::I32 => of!(bits(&mut random), i32, i32::from),
        DType::U32 => of!(bits(&mut random), u32, u32::from),
        DType::I64 => of!(bits(&mut random), i64, i64::from),
        DType::U64 => of!(bits(&mut random), u64, u64::from),
        DType::Bool => Tensor::from_bytes(DType::Bool, shape, &bits(&mut random)),
        // Every bit pattern of these is a value; zero is the same in all.
        DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 => Tensor::zeros(declaration.dtype, shape),
    };
    tensor.map_err(|error| CliError::Usage(format!("input `{}`: {error}", declaration.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Vec<InputDeclaration> {
        let symbol = |name: &str| HostDim::Symbol(name.to_owned());
        vec![
            InputDeclaration {
                name: "image".to_owned(),
                dtype: DType::F32,
                shape: vec![symbol("batch"), HostDim::Fixed(3)],
                representative: vec![1, 3],
            },
            InputDeclaration {
                name: "ids".to_owned(),
                dtype: DType::I64,
                shape: vec![symbol("batch"), symbol("length")],
                representative: vec![1, 9],
            },
        ]
    }

    fn arguments() -> InputArguments {
        InputArguments { files: vec![], shapes: vec![], dims: vec![], seed: 0 }
    }

    fn shapes(arguments: &InputArguments) -> Vec<Vec<usize>> {
        gather(arguments, &declared()).unwrap().iter().map(|t| t.shape().to_vec()).collect()
    }

    fn refusal(arguments: &InputArguments) -> String {
        gather(arguments, &declared()).unwrap_err().to_string()
    }

    #[test]
    fn symbolic_dims_are_representative_unless_told() {
        assert_eq!(shapes(&arguments()), [[1, 3], [1, 9]]);
        let told = InputArguments { dims: vec!["batch=2".to_owned()], ..arguments() };
        assert_eq!(shapes(&told), [[2, 3], [2, 9]]);
        let told = InputArguments { shapes: vec!["ids:4x5".to_owned()], ..arguments() };
        assert_eq!(shapes(&told), [[1, 3], [4, 5]]);
    }

    #[test]
    fn dims_are_learnt_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a=b.npy");
        npy::write_npy(&path, &Tensor::zeros(DType::F32, &[7, 3]).unwrap()).unwrap();
        let with = |text: String| InputArguments { files: vec![text], ..arguments() };
        let renamed = folder.path().join("image.npy");
        std::fs::copy(&path, &renamed).unwrap();
        assert_eq!(shapes(&with(format!("image={}", renamed.display()))), [[7, 3], [7, 9]]);
        assert!(refusal(&with(path.display().to_string())).contains("say which input"));
        let archive = folder.path().join("all.npz");
        let ids = Tensor::zeros(DType::I64, &[2, 6]).unwrap();
        npy::write_npz(&archive, [("ids", &ids)]).unwrap();
        assert_eq!(shapes(&with(archive.display().to_string())), [[2, 3], [2, 6]]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_names() {
        let told = InputArguments { shapes: vec!["img:1x3".to_owned()], ..arguments() };
        assert!(refusal(&told).contains("no `img`; there are ids, image"), "{}", refusal(&told));
        let told = InputArguments { dims: vec!["b=1".to_owned()], ..arguments() };
        assert!(refusal(&told).contains("no `b`; there are batch, length"));
        let told = InputArguments { shapes: vec!["image:1x4".to_owned()], ..arguments() };
        assert!(refusal(&told).contains("[batch, 3]"), "{}", refusal(&told));
    }

    #[test]
    fn generated_values_depend_on_the_seed_alone() {
        let with = |seed| gather(&InputArguments { seed, ..arguments() }, &declared()).unwrap();
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
    }
}
