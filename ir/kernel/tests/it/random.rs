//! Random numbers in kernels are those of the base crate.

use thalweg_base::{DType, Scalar, random};
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_kernel::expand::expand;
use thalweg_kernel::{Access, Index, KernelBuilder};

#[test]
fn the_same_numbers() {
    const COUNT: usize = 300;
    let mut b = KernelBuilder::new("random");
    let [words, uniforms, normals] =
        [DType::I32, DType::F32, DType::F32].map(|dtype| b.buffer(dtype, COUNT, Access::Write));
    let i = b.range(COUNT, 8);
    let key = [b.i32(0x1319_8a2e), b.i32(-7)];
    let counter = [b.index(DType::I32, Index::var(i)), b.i32(3)];
    let drawn = b.threefry(key, counter);
    let uniform = b.uniform(drawn[0]);
    let normal = b.normal(drawn);
    b.store(words, Index::var(i), drawn[1]);
    b.store(uniforms, Index::var(i), uniform);
    b.store(normals, Index::var(i), normal);
    let kernel = b.finish();
    for kernel in [expand(&kernel), kernel] {
        let mut buffers = [DType::I32, DType::F32, DType::F32].map(|dtype| Array::zeros(dtype, COUNT));
        evaluate(&kernel, &mut buffers, &[(0, COUNT)]);
        for position in 0..COUNT {
            let expected = random::threefry2x32([0x1319_8a2e, -7i32 as u32], [position as u32, 3]);
            assert_eq!(buffers[0].values[position], Scalar::Int(expected[1] as i32 as i128));
            assert_eq!(buffers[1].values[position], Scalar::Float(random::uniform(expected[0])));
            let (normal, exact) = (buffers[2].values[position].to_f64(), random::normal(expected));
            assert!((normal - exact).abs() <= 8.0 * f32::EPSILON as f64 * exact.abs(), "{normal} {exact}");
        }
    }
}
