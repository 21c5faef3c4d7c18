//! Plans of whole models, by hand, for any number of devices.

use crate::plans::{at, launch, matrices, plan, step};
use thalweg_base::{DType, Initializer, Layout, Mesh, ReduceFn, Scalar};
use thalweg_plan::{CollectiveKind, CollectiveStep, Plan, Port, Step, StepKind};

pub(crate) fn port(name: &str, shape: &[usize], cuts: &[(&str, usize)], places: Vec<usize>) -> Port {
    Port {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        layout: Layout { cuts: cuts.iter().map(|(axis, dim)| (axis.to_string(), *dim)).collect() },
        initial: None,
        places,
    }
}

pub(crate) fn collective(
    label: &str,
    kind: CollectiveKind,
    axis: &str,
    elements: usize,
    from: usize,
    to: usize,
) -> Step {
    let (operand, result) = (at(from), at(to));
    let dtype = DType::F32;
    step(
        label,
        StepKind::Collective(CollectiveStep { kind, axis: axis.into(), dtype, elements, operand, result }),
    )
}

/// `h = relu(x w + bias)` with rows of `x` over the devices, `total = the sum over devices of the local h`, and a counter
/// that goes up by one: `x` [12, 8], `w` [8, 6], `bias` [6].
pub(crate) fn linear(devices: usize) -> Plan {
    assert!(devices == 1 || devices == 2 || devices == 4);
    let rows = 12 / devices;
    let kernel = match devices {
        1 => crate::kernels::bias_relu::<12, 6>(1),
        2 => crate::kernels::bias_relu::<6, 6>(1),
        _ => crate::kernels::bias_relu::<3, 6>(1),
    };
    // x, w, bias, h, total, counter, one.
    let [x, w, bias, h, total, counter, one] = [0, 512, 768, 1024, 1536, 2048, 2112];
    let contract = StepKind::Contract {
        contraction: matrices(1, rows, 6, 8, DType::F32),
        a: at(x),
        b: at(w),
        c: at(h),
        epilogue: Some(launch(0, 1, vec![at(h), at(bias)])),
        b_constant: true,
    };
    let steps = vec![
        step("linear", contract),
        collective("total", CollectiveKind::AllReduce(ReduceFn::Sum), "data", rows * 6, h, total),
        step("count", StepKind::Launch(launch(1, 1, vec![at(counter), at(one)]))),
    ];
    let mut plan = plan(2176, vec![kernel, crate::kernels::advance()], steps);
    plan.programs[0].constants = vec![(one, thalweg_base::Literal::scalar(DType::I32, Scalar::Int(1)))];
    plan.programs = vec![plan.programs[0].clone(); devices];
    plan.mesh = Mesh::line("data", devices);
    let everywhere = |place: usize| vec![place; devices];
    plan.inputs = vec![port("x", &[12, 8], &[("data", 0)], everywhere(x))];
    plan.parameters = vec![
        Port {
            initial: Some(Initializer::Normal { mean: Scalar::Float(0.0), deviation: Scalar::Float(0.5) }),
            ..port("w", &[8, 6], &[], everywhere(w))
        },
        Port {
            initial: Some(Initializer::Uniform { low: Scalar::Float(-1.0), high: Scalar::Float(1.0) }),
            ..port("bias", &[6], &[], everywhere(bias))
        },
    ];
    plan.states = vec![Port {
        dtype: DType::I32,
        initial: Some(Initializer::Constant(Scalar::Int(7))),
        ..port("counter", &[], &[], everywhere(counter))
    }];
    plan.outputs = vec![
        port("h", &[12, 6], &[("data", 0)], everywhere(h)),
        port("total", &[rows, 6], &[], everywhere(total)),
    ];
    plan
}
