//! Says what a photo shows, by a classifier of the ONNX format, or one in the `.tw` language with its weights.
//!
//! ```text
//! cargo run --release -p thalweg-examples --features image --example classify -- MODEL.onnx PHOTO [LABELS.txt]
//! ```
//!
//! The model takes one picture `f32[1, 3, height, width]`, red, green and blue, and gives a score for each class: most
//! classifiers trained on ImageNet do, with the defaults of the options. LABELS.txt has the name of a class on each line.
//!
//! A small model to try is the one that tells whether a line of text is upside down, in the PyPI package
//! rapidocr-onnxruntime 1.4.4:
//!
//! ```text
//! pip install --no-deps --ignore-requires-python --target models rapidocr-onnxruntime==1.4.4
//! printf '0 degrees\n180 degrees\n' >labels.txt
//! cargo run --release -p thalweg-examples --features image --example classify -- \
//!     models/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx line.png labels.txt --size 48x192 --scale 0.5/0.5
//! ```

use anyhow::{Context, bail, ensure};
use clap::Parser;
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use ndarray::Array4;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thalweg::{CompileOptions, DType, Dim, Model, Outputs, Signature, Tensor};

/// The side of the picture that a model takes when it leaves that open, as most models trained on ImageNet do.
const SIDE: usize = 224;

/// How many classes are shown.
const SHOWN: usize = 5;

/// Says what a photo shows.
#[derive(Parser)]
struct Args {
    /// The model: an ONNX file, or a program in the .tw language.
    model: PathBuf,
    /// The picture: PNG or JPEG.
    photo: PathBuf,
    /// A text file with the name of a class on each line; otherwise classes are numbers from 0.
    labels: Option<PathBuf>,
    /// A safetensors file with the parameters, which a program needs and an ONNX model has itself.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The size of the picture that the model gets, where the model leaves it open.
    #[arg(long, value_name = "HxW")]
    size: Option<Size>,
    /// The part of the resized picture's height and width that is kept, from its middle. Accuracies of ImageNet models are
    /// often measured with 0.875.
    #[arg(long, default_value_t = 1.0)]
    crop: f64,
    /// What is subtracted from red, green and blue, which are between 0 and 1; one number stands for all three.
    #[arg(long, allow_hyphen_values = true, default_value = "0.485,0.456,0.406")]
    mean: Channels,
    /// What they are then divided by.
    #[arg(long, default_value = "0.229,0.224,0.225")]
    std: Channels,
    /// Mean and deviation at once, such as 0.5/0.5 for many models that read text, or 0/1.
    #[arg(long, value_name = "MEAN/STD", allow_hyphen_values = true, conflicts_with_all = ["mean", "std"])]
    scale: Option<Scale>,
}

/// Height and width in pixels.
#[derive(Clone, Copy)]
struct Size {
    height: usize,
    width: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=1 << 14).contains(side));
        let sides = text.split_once('x').and_then(|(height, width)| Some((side(height)?, side(width)?)));
        let (height, width) = sides.ok_or("this is not height and width in pixels, such as 48x192")?;
        Ok(Size { height, width })
    }
}

/// A number for each of red, green and blue.
#[derive(Clone, Copy)]
struct Channels([f32; 3]);

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Channels, String> {
        let numbers: Result<Vec<f32>, _> = text.split(',').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([all]) => Ok(Channels([*all; 3])),
            Ok([red, green, blue]) => Ok(Channels([*red, *green, *blue])),
            Ok(_) | Err(_) => Err("this is neither one number nor three with commas between".into()),
        }
    }
}

/// How colours between 0 and 1 become what a model takes.
#[derive(Clone, Copy)]
struct Scale {
    mean: Channels,
    std: Channels,
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Scale, String> {
        let (mean, std) = text.split_once('/').ok_or("this is not mean and deviation, such as 0.5/0.5")?;
        Ok(Scale { mean: mean.parse()?, std: std.parse()? })
    }
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let scale = args.scale.unwrap_or(Scale { mean: args.mean, std: args.std });
    ensure!(scale.std.0.iter().all(|std| *std > 0.0), "a deviation is more than 0");
    ensure!(
        args.crop > 0.0 && args.crop <= 1.0,
        "--crop is a part of the picture, more than 0 and at most 1"
    );

    let options = CompileOptions::default();
    let model = Model::from_file(&args.model)?;
    let signature = model.signature(&options)?;
    let (input, size) = picture_input(&signature, args.size)?;
    let photo = read_photo(&args.photo).with_context(|| format!("cannot read {}", args.photo.display()))?;
    let pixels = normalized(&fitted(&photo, size, args.crop), scale);

    let session = model.compile(&options)?;
    match &args.weights {
        Some(weights) => session.load_weights(weights)?,
        None => ensure!(
            is_onnx(&args.model) || signature.parameters.is_empty(),
            "the model is a program; give its --weights"
        ),
    }
    let outputs = session.run(&[(input, pixels.into())])?;
    let chances = probabilities(scores(&outputs)?)?;

    let labels = args.labels.map(|path| read_labels(&path, chances.len())).transpose()?;
    let mut order: Vec<usize> = (0..chances.len()).collect();
    order.sort_by(|a, b| chances[*b].total_cmp(&chances[*a]));
    for class in order.into_iter().take(SHOWN) {
        let name = labels.as_ref().map_or_else(|| class.to_string(), |labels| labels[class].clone());
        println!("{:.4}  {name}", chances[class]);
    }
    Ok(())
}

/// The name of the model's only input, and the size of the picture that it takes. `asked` is taken where the model leaves
/// that open.
fn picture_input(signature: &Signature, asked: Option<Size>) -> anyhow::Result<(&str, Size)> {
    let [input] = &signature.inputs[..] else {
        bail!("the model takes {} inputs, but a photo is one", signature.inputs.len());
    };
    let may_be = |dim: &Dim, size: i64| dim.as_constant().is_none_or(|fixed| fixed == size);
    let (height, width) = match &input.ty.shape[..] {
        [batch, channels, height, width] if may_be(batch, 1) && may_be(channels, 3) => (height, width),
        _ => bail!("the model takes `{}: {}`, no picture f32[1, 3, height, width]", input.name, input.ty),
    };
    ensure!(input.ty.dtype == DType::F32, "the model takes pictures of {}, not f32", input.ty.dtype);
    let side = |dim: &Dim, asked: Option<usize>| match dim.as_constant() {
        Some(fixed) => fixed as usize,
        None => asked.unwrap_or(SIDE),
    };
    let height = side(height, asked.map(|size| size.height));
    let width = side(width, asked.map(|size| size.width));
    if let Some(asked) = asked {
        let same = (asked.height, asked.width) == (height, width);
        ensure!(same, "the model takes pictures of {height}x{width}, not {}x{}", asked.height, asked.width);
    }
    Ok((&input.name, Size { height, width }))
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"))
}

/// A picture, turned as the camera says that it was held.
fn read_photo(path: &Path) -> anyhow::Result<DynamicImage> {
    let mut decoder = ImageReader::open(path)?.with_guessed_format()?.into_decoder()?;
    // Damaged notes of a camera do not make the picture unreadable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut photo = DynamicImage::from_decoder(decoder)?;
    photo.apply_orientation(orientation);
    Ok(photo)
}

/// The middle of a photo in the given size, its proportions unchanged: it is made as small as still fills the size when only
/// the part `crop` of each side is kept.
fn fitted(photo: &DynamicImage, size: Size, crop: f64) -> RgbImage {
    let [height, width] = [size.height, size.width].map(|side| (side as f64 / crop).round() as u32);
    let filled = photo.resize_to_fill(width, height, FilterType::Triangle);
    let (left, top) = ((width - size.width as u32) / 2, (height - size.height as u32) / 2);
    filled.crop_imm(left, top, size.width as u32, size.height as u32).to_rgb8()
}

/// The colours as `f32[1, 3, height, width]`: between 0 and 1, then minus the mean and divided by the deviation of each.
fn normalized(picture: &RgbImage, scale: Scale) -> Array4<f32> {
    let (width, height) = picture.dimensions();
    Array4::from_shape_fn((1, 3, height as usize, width as usize), |(_, channel, y, x)| {
        let colour = f32::from(picture.get_pixel(x as u32, y as u32)[channel]) / 255.0;
        (colour - scale.mean.0[channel]) / scale.std.0[channel]
    })
}

/// The first output of real numbers, which has one for each class.
fn scores(outputs: &Outputs) -> anyhow::Result<Vec<f64>> {
    let real = |(_, tensor): &(&str, &Tensor)| tensor.dtype().is_float();
    let (name, tensor) = outputs.iter().find(real).context("the model gives no real numbers")?;
    // Some models keep the dims of the picture, of size 1.
    let classes = tensor.shape().get(1) == Some(&tensor.len()) && !tensor.is_empty();
    ensure!(classes, "the output `{name}` has the shape {:?}, not [1, classes]", tensor.shape());
    Ok(tensor.to_f64())
}

/// Probabilities from what a model gives, which are probabilities already or their logarithms up to a constant.
fn probabilities(scores: Vec<f64>) -> anyhow::Result<Vec<f64>> {
    ensure!(scores.iter().all(|score| score.is_finite()), "the model gives numbers that are not finite");
    let total: f64 = scores.iter().sum();
    if scores.iter().all(|score| *score >= 0.0) && (total - 1.0).abs() < 1e-3 {
        return Ok(scores);
    }
    // The largest is subtracted so that no exponential is infinite.
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    Ok(powers.into_iter().map(|power| power / total).collect())
}

/// The name of each class. Fails when there are not as many as classes.
fn read_labels(path: &Path, classes: usize) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    let found = labels.len();
    ensure!(found == classes, "{} has {found} lines, but the model knows {classes} classes", path.display());
    Ok(labels)
}
