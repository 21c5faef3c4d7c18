//! Steps of every kind.

use crate::kernels;
use crate::plans::{at, launch, matrices, numbers, plan, step};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use thalweg_base::{Buffer, DType, Layout, Literal, Mesh, ReduceFn, Scalar};
use thalweg_device::{
    Alone, CheckedPlan, CpuDevice, Device, Lent, LoadedProgram, ReferenceDevice, RunContext, RunError,
    StepTime, steps_in_order,
};
use thalweg_plan::{
    Address, ArgSort, CollectiveKind, CollectiveStep, Convolution, ConvolveDirection, LoopId, Plan, Port,
    Precision, Scatter, StepKind,
};

fn devices() -> Vec<(&'static str, Box<dyn Device>)> {
    vec![
        ("reference", Box::new(ReferenceDevice)),
        ("one thread", Box::new(CpuDevice::new(1))),
        ("three threads", Box::new(CpuDevice::new(3))),
    ]
}

fn load(device: &dyn Device, plan: &Plan) -> Box<dyn LoadedProgram> {
    let plan = CheckedPlan::new(Arc::new(plan.clone())).unwrap_or_else(|error| panic!("{error}"));
    device.load(&plan, 0).unwrap_or_else(|error| panic!("{error}"))
}

fn run(program: &mut dyn LoadedProgram) {
    program.run(&mut RunContext::new(&mut Alone), &mut []).unwrap_or_else(|error| panic!("{error}"));
}

fn read(program: &dyn LoadedProgram, dtype: DType, offset: usize, count: usize) -> Literal {
    let mut bytes = vec![0; count * dtype.size_bytes()];
    program.read(offset, &mut bytes).expect("within the arena");
    Literal::from_bytes(dtype, &[count], bytes).expect("as many bytes")
}

fn floats(literal: &Literal) -> Vec<f64> {
    literal.scalars().map(Scalar::to_f64).collect()
}

/// Runs the plan on every device, twice in a row, with values written first; what is at `offset` must be the same on all,
/// and is returned. All numbers are small integers, so sums are exact in any order.
fn check(plan: &Plan, writes: &[(usize, &Literal)], dtype: DType, offset: usize, count: usize) -> Vec<f64> {
    let mut expected: Option<Vec<f64>> = None;
    for (name, device) in devices() {
        let mut program = load(&*device, plan);
        for _ in 0..2 {
            for (offset, value) in writes {
                program.write(*offset, value.bytes()).expect("within the arena");
            }
            run(&mut *program);
            let found = floats(&read(&*program, dtype, offset, count));
            match &expected {
                None => expected = Some(found),
                Some(expected) => assert_eq!(expected, &found, "{name}"),
            }
        }
    }
    let expected = expected.expect("there are devices");
    check_lent(plan, writes, (dtype, offset, count), &expected);
    expected
}

/// The same with what is written as inputs and what is read as an output, lent for the run: at good alignment, at a bad one,
/// and not lent after it was.
fn check_lent(
    plan: &Plan,
    writes: &[(usize, &Literal)],
    (dtype, offset, count): (DType, usize, usize),
    expected: &[f64],
) {
    let port = |name: String, dtype: DType, count: usize, place: usize| Port {
        name,
        dtype,
        shape: vec![count],
        layout: Layout::default(),
        initial: None,
        places: vec![place],
    };
    let mut plan = plan.clone();
    let inputs = writes.iter().enumerate();
    plan.inputs = inputs
        .map(|(at, (place, value))| port(format!("x{at}"), value.dtype(), value.len(), *place))
        .collect();
    plan.outputs = vec![port("y".into(), dtype, count, offset)];
    for (name, device) in devices() {
        let mut program = load(&*device, &plan);
        for shift in [0, 8, 0, 64] {
            let inputs: Vec<Buffer> = writes
                .iter()
                .map(|(_, value)| Buffer::copy_of(&[&vec![0; shift][..], value.bytes()].concat()))
                .collect();
            let mut output = Buffer::zeroed(shift + count * dtype.size_bytes());
            let mut lent: Vec<Lent<'_>> = writes
                .iter()
                .zip(&inputs)
                .map(|((offset, _), input)| Lent::Input { offset: *offset, bytes: &input.as_ref()[shift..] })
                .collect();
            lent.push(Lent::Output { offset, bytes: &mut output.as_mut()[shift..] });
            let ran = program.run(&mut RunContext::new(&mut Alone), &mut lent);
            ran.unwrap_or_else(|error| panic!("{name}: {error}"));
            let found = Literal::from_bytes(dtype, &[count], output.as_ref()[shift..].to_vec());
            assert_eq!(expected, floats(&found.expect("as many bytes")), "{name}, shifted by {shift}");
        }
        for (offset, value) in writes {
            program.write(*offset, value.bytes()).expect("within the arena");
        }
        run(&mut *program);
        assert_eq!(expected, floats(&read(&*program, dtype, offset, count)), "{name}, not lent");
    }
}

#[test]
fn launches_split_into_parts() {
    // 37 is no multiple of the lanes, and more parts are asked for than there are vectors.
    for parts in [1, 2, 3, 5, 64] {
        let steps = vec![step("double", StepKind::Launch(launch(0, parts, vec![at(0), at(256)])))];
        let plan = plan(512, vec![kernels::double(37)], steps);
        let x = numbers(DType::F32, 37, 1);
        let found = check(&plan, &[(0, &x)], DType::F32, 256, 37);
        assert_eq!(found, floats(&x).iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    }
}

#[test]
fn helpers_are_behind_the_buffers() {
    let steps = vec![step("exp", StepKind::Launch(launch(0, 2, vec![at(0), at(64)])))];
    let plan = plan(128, vec![kernels::exponential(4)], steps);
    let x = Literal::from_scalars(DType::F64, &[4], [0.0, 1.0, -2.0, 3.5].map(Scalar::Float));
    let found = check(&plan, &[(0, &x)], DType::F64, 64, 4);
    assert_eq!(found, floats(&x).iter().map(|x| x.exp()).collect::<Vec<_>>());
}

#[test]
fn contractions_of_every_dtype() {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool) {
        for b_constant in [false, true] {
            let (a, b) = (numbers(dtype, 2 * 9 * 5, 1), numbers(dtype, 2 * 5 * 7, 2));
            let contract = StepKind::Contract {
                contraction: matrices(2, 9, 7, 5, dtype),
                a: at(0),
                b: at(1024),
                c: at(2048),
                epilogue: None,
                b_constant,
            };
            let plan = plan(4096, vec![], vec![step("contract", contract)]);
            let found = check(&plan, &[(0, &a), (1024, &b)], dtype, 2048, 2 * 9 * 7);
            let first: f64 = (0..5).map(|k| floats(&a)[k] * floats(&b)[7 * k]).sum();
            if dtype.is_float() {
                assert_eq!(found[0], first, "{dtype}");
            }
        }
    }
}

#[test]
fn epilogues_run_on_every_tile_once() {
    let (a, b) = (numbers(DType::F32, 33 * 20, 3), numbers(DType::F32, 20 * 40, 4));
    let bias = numbers(DType::F32, 40, 5);
    let contract = StepKind::Contract {
        contraction: matrices(1, 33, 40, 20, DType::F32),
        a: at(0),
        b: at(4096),
        c: at(8192),
        epilogue: Some(launch(0, 1, vec![at(8192), at(16384)])),
        b_constant: false,
    };
    let plan = plan(20480, vec![kernels::bias_relu::<33, 40>(1)], vec![step("linear", contract)]);
    let found = check(&plan, &[(0, &a), (4096, &b), (16384, &bias)], DType::F32, 8192, 33 * 40);
    assert!(found.iter().any(|x| *x > 0.0) && found.contains(&0.0));
}

#[test]
fn packed_operands_follow_what_is_written() {
    let contract = StepKind::Contract {
        contraction: matrices(1, 16, 24, 8, DType::F32),
        a: at(0),
        b: at(1024),
        c: at(2048),
        epilogue: None,
        b_constant: true,
    };
    let plan = plan(4096, vec![], vec![step("contract", contract)]);
    let mut program = load(&CpuDevice::new(2), &plan);
    assert!(program.workspace_bytes() >= 8 * 24 * 4, "the right operand is packed");
    let mut results = Vec::new();
    for seed in [2, 3] {
        program.write(0, numbers(DType::F32, 16 * 8, 1).bytes()).expect("within the arena");
        program.write(1024, numbers(DType::F32, 8 * 24, seed).bytes()).expect("within the arena");
        run(&mut *program);
        results.push(floats(&read(&*program, DType::F32, 2048, 16 * 24)));
        let mut reference = load(&ReferenceDevice, &plan);
        reference.write(0, numbers(DType::F32, 16 * 8, 1).bytes()).expect("within the arena");
        reference.write(1024, numbers(DType::F32, 8 * 24, seed).bytes()).expect("within the arena");
        run(&mut *reference);
        assert_eq!(results.last(), Some(&floats(&read(&*reference, DType::F32, 2048, 16 * 24))));
    }
    assert_ne!(results[0], results[1]);
}

/// Bytes that are shared are kept where steps read them packed only: what is read back, later writes and results are the same.
#[test]
fn shared_operands_are_kept_where_they_are_only_read_packed() {
    let contract = |c| StepKind::Contract {
        contraction: matrices(1, 16, 24, 8, DType::F32),
        a: at(0),
        b: at(1024),
        c: at(c),
        epilogue: None,
        b_constant: true,
    };
    let a = numbers(DType::F32, 16 * 8, 1);
    let weights = [2, 3].map(|seed| numbers(DType::F32, 8 * 24, seed));
    let expected = weights.each_ref().map(|b| {
        let plan = plan(8192, vec![], vec![step("contract", contract(2048))]);
        let mut reference = load(&ReferenceDevice, &plan);
        reference.write(0, a.bytes()).expect("within the arena");
        reference.write_shared(1024, &b.shared_bytes()).expect("within the arena");
        assert_eq!(reference.shared(1024, 8 * 24 * 4), None);
        run(&mut *reference);
        floats(&read(&*reference, DType::F32, 2048, 16 * 24))
    });
    let copy = StepKind::Copy { from: at(1024), to: at(6144), bytes: 8 };
    for (steps, kept) in [
        (vec![step("one", contract(2048))], true),
        (vec![step("one", contract(2048)), step("two", contract(4096))], true),
        (vec![step("one", contract(2048)), step("copy", copy)], false),
    ] {
        let several = steps.len() > 1 && kept;
        let plan = plan(8192, vec![], steps);
        let mut program = load(&CpuDevice::new(2), &plan);
        program.write(0, a.bytes()).expect("within the arena");
        let shared = weights[0].shared_bytes();
        program.write_shared(1024, &shared).expect("within the arena");
        assert_eq!(program.shared(1024, 8 * 24 * 4), kept.then(|| shared.clone()));
        assert_eq!(program.shared(1024, 8), None, "only the whole is shared");
        assert_eq!(read(&*program, DType::F32, 1024, 8 * 24).bytes(), &shared[..]);
        assert_eq!(read(&*program, DType::F32, 1020, 10).bytes()[4..], shared[..36]);
        run(&mut *program);
        assert_eq!(floats(&read(&*program, DType::F32, 2048, 16 * 24)), expected[0]);
        if several {
            assert_eq!(floats(&read(&*program, DType::F32, 4096, 16 * 24)), expected[0]);
        }
        // A write to a part of it brings the rest back.
        program.write(1024 + 96, &weights[1].bytes()[96..]).expect("within the arena");
        assert_eq!(program.shared(1024, 8 * 24 * 4), None);
        program.write(1024, &weights[1].bytes()[..96]).expect("within the arena");
        run(&mut *program);
        assert_eq!(floats(&read(&*program, DType::F32, 2048, 16 * 24)), expected[1]);
        program.write_shared(1024, &shared).expect("within the arena");
        program.write(1024 + 96, &shared[96..]).expect("within the arena");
        assert_eq!(read(&*program, DType::F32, 1024, 8 * 24).bytes(), &shared[..]);
        run(&mut *program);
        assert_eq!(floats(&read(&*program, DType::F32, 2048, 16 * 24)), expected[0]);
    }
}

/// Products whose operands may be rounded, of one row and of several, the weights packed or not: the numbers are small integers,
/// which a bfloat16 holds, so the results are exact; with others the results are near.
#[test]
fn products_may_round_their_operands() {
    for (m, b_constant) in [(1, true), (1, false), (16, true), (16, false)] {
        let mut contraction = matrices(1, m, 40, 27, DType::F32);
        contraction.precision = Precision::Bf16;
        let contract = StepKind::Contract {
            contraction,
            a: at(0),
            b: at(2048),
            c: at(8192),
            epilogue: None,
            b_constant,
        };
        let plan = plan(12288, vec![], vec![step("contract", contract)]);
        let (a, b) = (numbers(DType::F32, m * 27, 1), numbers(DType::F32, 27 * 40, 2));
        check(&plan, &[(0, &a), (2048, &b)], DType::F32, 8192, m * 40);
        let thirds = |x: &Literal| {
            let values = floats(x).into_iter().map(|x| Scalar::Float(x / 3.0));
            Literal::from_scalars(DType::F32, x.shape(), values)
        };
        let (a, b) = (thirds(&a), thirds(&b));
        let results = [load(&CpuDevice::new(2), &plan), load(&ReferenceDevice, &plan)].map(|mut program| {
            program.write(0, a.bytes()).expect("within the arena");
            program.write(2048, b.bytes()).expect("within the arena");
            run(&mut *program);
            floats(&read(&*program, DType::F32, 8192, m * 40))
        });
        let size = |x: &Literal| floats(x).into_iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let allowed = 27.0 * size(&a) * size(&b) / 256.0;
        for (got, want) in results[0].iter().zip(&results[1]) {
            assert!((got - want).abs() <= allowed, "{got} for {want}");
        }
    }
}

/// Two layers in a loop, whose weights are packed one by one; a write to one of them is seen.
#[test]
fn packed_operands_in_loops() {
    let id = LoopId(0);
    let contract = StepKind::Contract {
        contraction: matrices(1, 8, 8, 8, DType::F32),
        a: at(0),
        b: Address { offset: 1024, per_turn: vec![(id, -256)] },
        c: Address { offset: 2048, per_turn: vec![(id, 256)] },
        epilogue: None,
        b_constant: true,
    };
    let body = vec![step("contract", contract)];
    let plan = plan(4096, vec![], vec![step("layers", StepKind::Loop { id, turns: 2, body })]);
    let (packing, plain) = (CpuDevice::new(2), CpuDevice::new(2).with_packing_bytes(0));
    let mut programs = [load(&packing, &plan), load(&plain, &plan), load(&ReferenceDevice, &plan)];
    assert!(programs[0].workspace_bytes() >= programs[1].workspace_bytes() + 2 * 256);
    for (offset, seed) in [(0, 1), (768, 2), (1024, 3), (768, 4), (1024, 5), (0, 6)] {
        let results = programs.each_mut().map(|program| {
            program.write(offset, numbers(DType::F32, 64, seed).bytes()).expect("within the arena");
            run(&mut **program);
            floats(&read(&**program, DType::F32, 2048, 128))
        });
        assert_eq!(results[0], results[2]);
        assert_eq!(results[1], results[2]);
    }
}

#[test]
fn convolutions_in_every_direction() {
    let directions =
        [ConvolveDirection::Forward, ConvolveDirection::InputGradient, ConvolveDirection::WeightGradient];
    for (groups, stride) in [(1, 1), (2, 2), (4, 1)] {
        let output = if stride == 1 { 6 } else { 3 };
        let (x, w, y) = (2 * groups * 3 * 6 * 6, groups * 5 * 3 * 3 * 3, 2 * groups * 5 * output * output);
        for direction in directions {
            let convolution = Convolution {
                direction,
                dtype: DType::F32,
                batch: 2,
                groups,
                in_channels: 3,
                out_channels: 5,
                input: vec![6, 6],
                kernel: vec![3, 3],
                output: vec![output, output],
                stride: vec![stride, stride],
                dilation: vec![1, 1],
                pad_low: vec![1, 1],
            };
            let [a, b, c] = match direction {
                ConvolveDirection::Forward => [x, w, y],
                ConvolveDirection::InputGradient => [w, y, x],
                ConvolveDirection::WeightGradient => [x, y, w],
            };
            let (place_b, place_c) = (4 * a, 4 * (a + b));
            for weights_constant in [false, true] {
                let kind = StepKind::Convolve {
                    convolution: convolution.clone(),
                    a: at(0),
                    b: at(place_b),
                    c: at(place_c),
                    epilogue: None,
                    weights_constant,
                };
                let plan = plan(4 * (a + b + c), vec![], vec![step("convolve", kind)]);
                let (left, right) = (numbers(DType::F32, a, 1), numbers(DType::F32, b, 2));
                let found = check(&plan, &[(0, &left), (place_b, &right)], DType::F32, place_c, c);
                assert!(found.iter().any(|value| *value != 0.0));
            }
        }
    }
}

#[test]
fn convolutions_with_epilogues() {
    // In one group the epilogue sees tiles; in two its ranges span the groups, so that it runs afterwards.
    for groups in [1, 2] {
        let convolution = Convolution {
            direction: ConvolveDirection::Forward,
            dtype: DType::F32,
            batch: 2,
            groups,
            in_channels: 4 / groups,
            out_channels: 6 / groups,
            input: vec![10],
            kernel: vec![3],
            output: vec![8],
            stride: vec![1],
            dilation: vec![1],
            pad_low: vec![0],
        };
        let epilogue = Some(launch(0, 1, vec![at(2048), at(4096)]));
        let kind = StepKind::Convolve {
            convolution,
            a: at(0),
            b: at(1024),
            c: at(2048),
            epilogue,
            weights_constant: groups == 1,
        };
        let plan = plan(5120, vec![kernels::bias_relu::<6, 8>(2)], vec![step("convolve", kind)]);
        let (x, w) = (numbers(DType::F32, 80, 1), numbers(DType::F32, 72 / groups, 2));
        let bias = numbers(DType::F32, 8, 3);
        let found = check(&plan, &[(0, &x), (1024, &w), (4096, &bias)], DType::F32, 2048, 96);
        assert!(found.contains(&0.0) && found.iter().all(|value| *value >= 0.0));
    }
}

#[test]
fn scatters_sum_and_drop() {
    for dtype in DType::ALL {
        for (index_dtype, after) in [
            (DType::I32, 3),
            (DType::I64, 70),
            (DType::U8, 1),
            (DType::I16, 2),
            (DType::U16, 1),
            (DType::U32, 3),
            (DType::U64, 1),
        ] {
            let scatter = Scatter { dtype, index_dtype, batch: 2, before: 2, size: 4, indices: 5, after };
            // 4 and 9 are outside.
            let indices = [0, 3, 0, 4, 1, 2, 2, 2, 9, 0].map(Scalar::Int);
            let indices = Literal::from_scalars(index_dtype, &[10], indices);
            let updates = numbers(dtype, 2 * 2 * 5 * after, 1);
            let kind = StepKind::Scatter { scatter, indices: at(0), updates: at(128), result: at(16384) };
            let plan = plan(32768, vec![], vec![step("scatter", kind)]);
            let count = 2 * 2 * 4 * after;
            // What was there before is not added to.
            let garbage = numbers(dtype, count, 9);
            let writes = [(0, &indices), (128, &updates), (16384, &garbage)];
            let found = check(&plan, &writes, dtype, 16384, count);
            if dtype == DType::F32 {
                assert_eq!(found[0], floats(&updates)[0] + floats(&updates)[2 * after]);
                assert_eq!(found[2 * after], 0.0, "nothing has index 2 in the first batch element");
            }
        }
    }
}

#[test]
fn sorts_are_stable_with_nan_last() {
    let values = [3.0, f64::NAN, -0.0, 1.0, 0.0, f64::NEG_INFINITY, 1.0, f64::INFINITY].map(Scalar::Float);
    for (descending, order) in [(false, [5, 2, 4, 3, 6, 0, 7, 1]), (true, [7, 0, 3, 6, 2, 4, 5, 1])] {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let sort = ArgSort { dtype, outer: 1, length: 8, inner: 1, descending };
            let kind = StepKind::ArgSort { sort, operand: at(0), result: at(64) };
            let plan = plan(128, vec![], vec![step("sort", kind)]);
            let values = Literal::from_scalars(dtype, &[8], values);
            assert_eq!(check(&plan, &[(0, &values)], DType::I32, 64, 8), order.map(f64::from));
        }
    }
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
        let sort = ArgSort { dtype, outer: 3, length: 5, inner: 4, descending: true };
        let kind = StepKind::ArgSort { sort, operand: at(0), result: at(512) };
        let plan = plan(1024, vec![], vec![step("sort", kind)]);
        check(&plan, &[(0, &numbers(dtype, 60, 1))], DType::I32, 512, 60);
    }
}

#[test]
fn copies_small_and_large() {
    for count in [3, 1_000_003] {
        let x = numbers(DType::F32, count, 1);
        let to = x.bytes().len().next_multiple_of(64);
        let copy = StepKind::Copy { from: at(0), to: at(to), bytes: x.bytes().len() - 4 };
        let plan = plan(2 * to, vec![], vec![step("copy", copy)]);
        for (name, device) in devices() {
            let mut program = load(&*device, &plan);
            program.write(0, x.bytes()).expect("within the arena");
            run(&mut *program);
            let found = floats(&read(&*program, DType::F32, to, count));
            assert_eq!(found[..count - 1], floats(&x)[..count - 1], "{name}");
            assert_eq!(found[count - 1], 0.0, "{name}: the arena begins with zeros");
        }
    }
}

/// `layers` vectors of 16 floats side by side, each doubled into the next, by a loop.
fn chain(layers: usize) -> Plan {
    let (id, size) = (LoopId(0), 64);
    let shifted = |offset: usize| Address { offset, per_turn: vec![(id, size)] };
    let double = StepKind::Launch(launch(0, 2, vec![shifted(0), shifted(64)]));
    let body = vec![step("double", double)];
    plan(
        64 * (layers + 1),
        vec![kernels::double(16)],
        vec![step("layers", StepKind::Loop { id, turns: layers, body })],
    )
}

#[test]
fn loops_shift_addresses() {
    let x = numbers(DType::F32, 16, 1);
    let found = check(&chain(5), &[(0, &x)], DType::F32, 5 * 64, 16);
    assert_eq!(found, floats(&x).iter().map(|x| 32.0 * x).collect::<Vec<_>>());
}

#[test]
fn nested_loops_shift_by_both_turns_and_backwards() {
    let (outer, inner) = (LoopId(0), LoopId(1));
    // Copies a 3 by 4 matrix of i32, rows in reverse, by single elements; contracts of one row inside the same loops.
    let from = Address { offset: 0, per_turn: vec![(outer, 16), (inner, 4)] };
    let to = Address { offset: 64 + 2 * 16, per_turn: vec![(outer, -16), (inner, 4)] };
    let copy = step("element", StepKind::Copy { from, to, bytes: 4 });
    let rows = step("row", StepKind::Loop { id: inner, turns: 4, body: vec![copy] });
    let plan =
        plan(128, vec![], vec![step("rows", StepKind::Loop { id: outer, turns: 3, body: vec![rows] })]);
    let x = numbers(DType::I32, 12, 1);
    let found = check(&plan, &[(0, &x)], DType::I32, 64, 12);
    let x = floats(&x);
    assert_eq!(found, [&x[8..], &x[4..8], &x[..4]].concat());
}

#[test]
fn contractions_inside_loops_use_shifted_weights() {
    // h = h W[turn], h in two places that alternate by copying back.
    let id = LoopId(3);
    let weights = Address { offset: 256, per_turn: vec![(id, 64)] };
    let contract = StepKind::Contract {
        contraction: matrices(1, 2, 4, 4, DType::F32),
        a: at(0),
        b: weights,
        c: at(64),
        epilogue: Some(launch(0, 1, vec![at(64), at(128)])),
        b_constant: true,
    };
    let body =
        vec![step("linear", contract), step("back", StepKind::Copy { from: at(64), to: at(0), bytes: 32 })];
    let steps = vec![step("layers", StepKind::Loop { id, turns: 3, body })];
    let plan = plan(512, vec![kernels::bias_relu::<2, 4>(1)], steps);
    let (h, w, bias) = (numbers(DType::F32, 8, 1), numbers(DType::F32, 48, 2), numbers(DType::F32, 4, 3));
    let found = check(&plan, &[(0, &h), (256, &w), (128, &bias)], DType::F32, 0, 8);
    assert!(found.iter().any(|value| *value != 0.0));
}

/// While x < limit: x += step, with x at 0, limit at 4, step at 8, the flag at 12; then a branch on the flag of `x < step`,
/// which sets what is at 16.
fn counting() -> Plan {
    let less = |limit: usize| step("less", StepKind::Launch(launch(1, 1, vec![at(0), at(limit), at(12)])));
    let advance = step("advance", StepKind::Launch(launch(0, 1, vec![at(0), at(8)])));
    let set = |from: usize| vec![step("set", StepKind::Copy { from: at(from), to: at(16), bytes: 4 })];
    let steps = vec![
        step("while", StepKind::While { condition: vec![less(4)], flag: at(12), body: vec![advance] }),
        less(8),
        step("branch", StepKind::Branch { flag: at(12), then: set(20), otherwise: set(24) }),
    ];
    let mut plan = plan(64, vec![kernels::advance(), kernels::less()], steps);
    let constant = |at: usize, value| (at, Literal::scalar(DType::I32, Scalar::Int(value)));
    plan.programs[0].constants = vec![constant(20, 7), constant(24, 9)];
    plan
}

#[test]
fn while_and_branch_follow_flags() {
    let run = |x: i64, limit: i64, by: i64| {
        let values =
            Literal::from_scalars(DType::I32, &[3], [x, limit, by].map(|value| Scalar::Int(value.into())));
        let found = check(&counting(), &[(0, &values)], DType::I32, 0, 5);
        (found[0], found[4])
    };
    assert_eq!(run(0, 10, 3), (12.0, 9.0));
    assert_eq!(run(0, 0, 3), (0.0, 7.0), "no turn when the condition fails at once");
}

#[test]
fn collectives_of_one_device_are_copies() {
    let kind = StepKind::Collective(CollectiveStep {
        kind: CollectiveKind::AllReduce(ReduceFn::Sum),
        axis: "data".into(),
        dtype: DType::F32,
        elements: 4,
        operand: at(0),
        result: at(64),
    });
    let mut plan = plan(128, vec![], vec![step("sum", kind)]);
    plan.mesh = Mesh::line("data", 1);
    let x = numbers(DType::F32, 4, 1);
    assert_eq!(check(&plan, &[(0, &x)], DType::F32, 64, 4), floats(&x));
}

#[test]
fn constants_are_there_from_the_beginning() {
    let mut plan = chain(1);
    plan.programs[0].constants = vec![(0, numbers(DType::F32, 16, 4))];
    let found = check(&plan, &[], DType::F32, 64, 16);
    assert_eq!(found, floats(&numbers(DType::F32, 16, 4)).iter().map(|x| 2.0 * x).collect::<Vec<_>>());
}

#[test]
fn times_count_every_run_of_every_step() {
    for (name, device) in devices() {
        let plan = counting();
        let mut program = load(&*device, &plan);
        let values = Literal::from_scalars(DType::I32, &[3], [0, 10, 3].map(Scalar::Int));
        program.write(0, values.bytes()).expect("within the arena");
        let labels: Vec<_> = steps_in_order(&plan.programs[0].steps)
            .iter()
            .map(|(_, step)| step.origin.label.clone())
            .collect();
        let (mut times, position) = (vec![StepTime::default(); labels.len()], AtomicUsize::new(99));
        let mut alone = Alone;
        let mut context =
            RunContext::new(&mut alone).with_clock(Instant::now(), &mut times).with_position(&position);
        program.run(&mut context, &mut []).expect("it runs");
        assert_eq!(labels, ["while", "less", "advance", "less", "branch", "set", "set"]);
        let runs: Vec<u64> = times.iter().map(|time| time.runs).collect();
        assert_eq!(runs, [1, 5, 4, 1, 1, 0, 1], "{name}");
        assert_eq!(position.load(Ordering::Relaxed), 6, "{name}");
        assert!(times[0].total_ns >= times[1].total_ns + times[2].total_ns, "{name}");
        assert!(times[3].start_ns >= times[0].start_ns + times[0].total_ns, "{name}");
    }
}

#[test]
fn a_run_can_be_cancelled() {
    for (name, device) in devices() {
        let mut program = load(&*device, &chain(3));
        let cancel = AtomicBool::new(true);
        let error = program
            .run(&mut RunContext::new(&mut Alone).with_cancel(&cancel), &mut [])
            .expect_err("cancelled");
        assert!(matches!(&error, RunError::Cancelled { step } if step == "layers"), "{name}: {error}");
    }
}
