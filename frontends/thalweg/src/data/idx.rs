//! IDX files, the format of MNIST and its relatives (yann.lecun.com/exdb/mnist): a dtype, sizes, and unsigned bytes.
//!
//! `data.x` is the pictures, times `scale` where it is a float, `data.y` the labels. With `test_images` and `test_labels` the
//! rows of these are the test split.

use super::{Read, Request, Table, meanings, read_bytes};
use crate::error::{Error, Result};
use std::path::Path;

/// Where Debian's package `dataset-fashion-mnist` puts its files.
const PACKAGE_FOLDER: &str = "/usr/share/datasets/fashion-mnist";

/// One file: sizes and bytes.
struct Idx {
    sizes: Vec<usize>,
    bytes: Vec<u8>,
}

pub(super) fn read(request: &mut Request) -> Result<Read> {
    let mut images = file(request, "images")?;
    let mut labels = file(request, "labels")?;
    pair(&images, &labels, "images", "labels")?;
    let mut test_rows = 0;
    let given = |name: &str| request.option(name).is_some();
    match (given("test_images"), given("test_labels")) {
        (false, false) => {}
        (true, true) => {
            let (test_images, test_labels) = (file(request, "test_images")?, file(request, "test_labels")?);
            pair(&test_images, &test_labels, "test_images", "test_labels")?;
            if test_images.sizes[1..] != images.sizes[1..] {
                let message = format!(
                    "pictures to train on are {:?}, those to test on {:?}",
                    &images.sizes[1..],
                    &test_images.sizes[1..]
                );
                return Err(Error::Data(message));
            }
            test_rows = test_images.sizes[0];
            images.append(test_images);
            labels.append(test_labels);
        }
        (true, false) | (false, true) => {
            return Err(Error::Data("`test_images` and `test_labels` come together".into()));
        }
    }
    let rows = images.sizes[0];
    let scale = request.number("scale")?;
    let mut tables = Vec::new();
    for column in request.columns {
        let (from, scale) = match column.name.as_str() {
            "x" => (&images, scale),
            "y" => (&labels, None),
            name => {
                return Err(Error::Data(format!(
                    "`idx` gives `data.x` and `data.y`; there is no `data.{name}`"
                )));
            }
        };
        let row_shape = request.row_shape(column, &from.sizes[1..])?;
        let dtype = column.ty.dtype;
        tables.push(Table::coded(dtype, row_shape, from.bytes.clone(), meanings(dtype, scale)));
    }
    Ok(Read { tables, rows, test_rows })
}

fn file(request: &Request, option: &str) -> Result<Idx> {
    let name = request.needed_string(option)?;
    let hint = match name.contains("-ubyte") {
        true => Some(format!(
            "Fashion-MNIST is in Debian's package `dataset-fashion-mnist` (`apt-get install dataset-fashion-mnist`), \
             which puts it in {PACKAGE_FOLDER}, where it is found"
        )),
        false => None,
    };
    let path = request.locate(name, &[PACKAGE_FOLDER], hint)?;
    parse(&path, &read_bytes(&path)?)
}

fn pair(images: &Idx, labels: &Idx, images_name: &str, labels_name: &str) -> Result<()> {
    match labels.sizes.len() == 1 && images.sizes[0] == labels.sizes[0] {
        true => Ok(()),
        false => Err(Error::Data(format!(
            "`{images_name}` has sizes {:?} and `{labels_name}` {:?}; one label for each picture was expected",
            images.sizes, labels.sizes
        ))),
    }
}

impl Idx {
    fn append(&mut self, other: Idx) {
        self.sizes[0] += other.sizes[0];
        self.bytes.extend(other.bytes);
    }
}

/// Two zeros, the dtype (8 for unsigned bytes), the number of dims, each size as four bytes with the highest first, data.
fn parse(path: &Path, bytes: &[u8]) -> Result<Idx> {
    let [0, 0, kind, rank, rest @ ..] = bytes else {
        return Err(Error::file(path, "this is no IDX file"));
    };
    if *kind != 8 {
        return Err(Error::file(
            path,
            format!("elements of kind {kind} cannot be read, unsigned bytes (8) only"),
        ));
    }
    let rank = *rank as usize;
    if rank == 0 || rest.len() < 4 * rank {
        return Err(Error::file(path, "the IDX file ends within its header"));
    }
    let size = |four: &[u8]| u32::from_be_bytes(four.try_into().expect("four bytes")) as usize;
    let sizes: Vec<usize> = rest[..4 * rank].chunks_exact(4).map(size).collect();
    let data = &rest[4 * rank..];
    let expected = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    match expected == Some(data.len()) {
        true => Ok(Idx { sizes, bytes: data.to_vec() }),
        false => Err(Error::file(
            path,
            format!("{} bytes of data are there, but the sizes are {sizes:?}", data.len()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_damage() {
        let whole = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        let path = Path::new("t");
        let idx = parse(path, &whole).unwrap();
        assert_eq!((idx.sizes, idx.bytes), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        for end in 0..whole.len() {
            assert!(parse(path, &whole[..end]).is_err());
        }
        let mut floats = whole;
        floats[2] = 13;
        assert!(parse(path, &floats).is_err());
    }
}
