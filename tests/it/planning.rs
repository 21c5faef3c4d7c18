//! Plans of trainings: searches beside enumeration, memory as a limit, unlike devices, and predictions beside runs on paper.

use thalweg::planning::{self, Cluster, Constants, Limits, PlanOptions, Recompute, Schedule, Subject, Zero};
use thalweg::{DType, Model, Settings};
use thalweg_partition::planner::{Found, Planner, PlannerOptions};

fn gpt(settings: &[(&str, usize)]) -> Subject {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/gpt.tw");
    let settings: Settings =
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let options = PlanOptions { model: None, settings, working: DType::F16 };
    Model::from_file(path).unwrap().plan_subject(&options).unwrap()
}

fn small() -> Subject {
    gpt(&[("hidden", 512), ("layers", 4), ("heads", 8), ("vocab", 8192), ("context", 256), ("batch", 64)])
}

fn cluster(text: &str) -> Cluster {
    planning::cluster(text).unwrap()
}

/// Every plan of the space, one at a time.
fn enumerated(planner: &Planner, batch: usize, devices: usize) -> Vec<Found> {
    let divisors = |of: usize| (1..=of).filter(move |size| of.is_multiple_of(*size));
    let mut found = Vec::new();
    for used in [1, devices] {
        for tensor in divisors(used) {
            for pipeline in divisors(used / tensor) {
                let data = used / tensor / pipeline;
                for microbatches in divisors(batch / data) {
                    for zero in Zero::ALL {
                        for recompute in [Recompute::None, Recompute::Full] {
                            for schedule in [
                                Schedule::GPipe,
                                Schedule::OneForwardOneBackward,
                                Schedule::Interleaved { chunks: 2 },
                            ] {
                                let limits = Limits {
                                    data: Some(data),
                                    tensor: Some(tensor),
                                    pipeline: Some(pipeline),
                                    microbatches: Some(microbatches),
                                    schedule: Some(schedule),
                                    zero: Some(zero),
                                    recompute: Some(recompute),
                                };
                                found.extend(planner.search(&limits));
                            }
                        }
                    }
                }
            }
        }
    }
    found
}

#[test]
fn no_plan_of_the_space_is_faster_than_the_one_found() {
    let subject = small();
    for text in ["v100-16gb:1x4", "v100-16gb:2x2@10gbps", "k80:1x4"] {
        let cluster = cluster(text);
        let options =
            PlannerOptions { global_batch: 64, working: DType::F16, constants: Constants::default() };
        let planner = Planner::new(&subject.summary, &cluster, options);
        let found = planner.search(&Limits::default()).unwrap();
        let all = enumerated(&planner, 64, cluster.devices());
        assert!(all.len() > 300, "{}", all.len());
        let fits: Vec<&Found> = all.iter().filter(|own| own.prediction.feasible).collect();
        let best = fits.iter().map(|own| own.prediction.step_s).fold(f64::INFINITY, f64::min);
        let step = found.prediction.step_s;
        assert!(found.prediction.feasible && step <= best * (1.0 + 1e-9), "{text}: {step} is not {best}");
        assert_eq!(found, planner.search(&Limits::default()).unwrap());
    }
}

#[test]
fn stages_are_cut_where_no_other_cut_is_better() {
    let subject = small();
    let cluster = cluster("v100-16gb:1x2");
    let limits = planning::manual("pp=2,microbatches=16").unwrap();
    let found = subject.search(&cluster, &limits).unwrap();
    let blocks = subject.summary.blocks.len();
    assert_eq!(blocks, 2 * 4 + 2);
    for at in 1..blocks {
        let mut plan = found.plan.clone();
        plan.stages[0].blocks = at;
        plan.stages[1].first_block = at;
        plan.stages[1].blocks = blocks - at;
        let other = subject.predict(&cluster, &plan).unwrap();
        assert!(found.prediction.step_s <= other.prediction.step_s * (1.0 + 1e-9), "cut after {at}");
    }
}

#[test]
fn memory_is_a_limit() {
    // Seven thousand million parameters take more than a hundred gigabytes with their gradients and the optimizer's state.
    let subject = gpt(&[("hidden", 4096), ("layers", 32), ("heads", 32), ("batch", 64)]);
    let alone = subject.search(&cluster("a100-80gb"), &Limits::default()).unwrap();
    assert!(!alone.prediction.feasible);
    assert!(alone.prediction.memory_bytes_max() > 80e9);
    let eight = subject.search(&cluster("a100-80gb:1x8"), &Limits::default()).unwrap();
    assert!(eight.prediction.feasible && eight.prediction.memory_bytes_max() < 80e9);
    // Replicas that share nothing need as much as one device alone.
    let plain =
        subject.search(&cluster("a100-80gb:1x8"), &planning::manual("dp=8,recompute=full").unwrap()).unwrap();
    assert!(!plain.prediction.feasible);
}

#[test]
fn tensor_parallel_blocks_are_cut_by_columns_and_rows() {
    let subject = gpt(&[("hidden", 2048), ("layers", 2), ("heads", 16), ("batch", 8)]);
    let cluster = cluster("a100-80gb:1x4");
    let planned = subject.search(&cluster, &planning::manual("tp=4").unwrap()).unwrap();
    let costs = subject.block_costs(&cluster, &planned.plan).unwrap();
    let mut cuts = std::collections::BTreeMap::new();
    for (block, cost) in subject.summary.blocks.iter().zip(&costs) {
        for (name, (_, dim)) in block.parameters.iter().zip(&cost.parameters) {
            cuts.insert(name.as_str(), *dim);
        }
    }
    // Shoeybi et al. 2019: the first product of each pair by columns, the second by rows.
    assert_eq!(cuts["block.1.attention.qkv.weight"], Some(1));
    assert_eq!(cuts["block.1.attention.out.weight"], Some(0));
    assert_eq!(cuts["block.1.mlp.up.weight"], Some(1));
    assert_eq!(cuts["block.1.mlp.down.weight"], Some(0));
}

#[test]
fn unlike_devices_get_unlike_stages() {
    let subject = small();
    let mixed = cluster("v100-16gb:1x2+k80:1x2");
    let found = subject.search(&mixed, &Limits::default()).unwrap();
    let fast_alone = subject.search(&cluster("v100-16gb:1x2"), &Limits::default()).unwrap();
    assert!(found.prediction.step_s <= fast_alone.prediction.step_s * (1.0 + 1e-9));
    let line = subject.search(&mixed, &planning::manual("pp=4,microbatches=16").unwrap()).unwrap();
    let blocks: Vec<usize> = line.plan.stages.iter().map(|stage| stage.blocks).collect();
    assert!(blocks[0] + blocks[1] > blocks[2] + blocks[3], "{blocks:?}");
}

#[test]
fn predictions_are_what_runs_on_paper_take() {
    let mut subject = small();
    subject.constants = Constants { overlap_cost: 0.0, ..subject.constants };
    for (text, plan) in [
        ("v100-16gb:1x1", "microbatches=4"),
        ("v100-16gb:1x4", "dp=4,microbatches=2"),
        ("v100-16gb:1x4", "tp=4,microbatches=2"),
        ("v100-16gb:1x4", "pp=4,microbatches=16"),
        ("v100-16gb:1x4", "pp=4,microbatches=16,schedule=gpipe"),
        ("v100-16gb:1x4", "dp=2,pp=2,microbatches=16,zero=1,recompute=full"),
        ("v100-16gb:1x4", "pp=2,tp=2,microbatches=16,schedule=interleaved:2"),
    ] {
        let planned = subject.search(&cluster(text), &planning::manual(plan).unwrap()).unwrap();
        let run = subject.simulate(&planned, 0.0, 1);
        let ratio = run.step_s / planned.prediction.step_s;
        assert!((ratio - 1.0).abs() < 0.06, "{plan}: {ratio}");
    }
}

#[test]
fn large_models_are_planned_as_blocks() {
    let subject =
        gpt(&[("hidden", 12288), ("layers", 96), ("heads", 96), ("batch", 1536), ("context", 2048)]);
    assert_eq!(subject.summary.blocks.len(), 2 * 96 + 2);
    assert!(subject.summary.kinds.len() <= 5, "{}", subject.summary.kinds.len());
    let billions = subject.summary.parameters() / 1e9;
    assert!((174.0..176.0).contains(&billions), "{billions}");
    // Adam keeps two means of each parameter.
    assert_eq!(subject.summary.state_bytes_per_element, 8.0);
}

#[test]
fn every_model_of_the_examples_can_be_planned() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    for name in ["bert", "moe", "resnet_imagenet", "wide_resnet", "inception_v3", "vgg", "alexnet", "dlrm"] {
        let model = Model::from_file(folder.join(format!("{name}.tw"))).unwrap();
        let subject = model.plan_subject(&PlanOptions::default()).unwrap();
        let planned = subject.search(&cluster("a100-80gb:1x4"), &Limits::default()).unwrap();
        assert!(planned.prediction.feasible && planned.prediction.step_s > 0.0, "{name}");
        assert!(planned.prediction.tflops_per_device(planned.plan.devices()) < 156.0, "{name}");
    }
}

#[test]
fn the_cluster_file_of_the_documentation_is_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/planning.md");
    let text = std::fs::read_to_string(path).unwrap();
    let file = text.split("```ron").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let cluster = thalweg_cost::library::parse(file).unwrap();
    assert_eq!((cluster.devices(), cluster.host_count(), cluster.is_uniform()), (20, 3, false));
    let planned = small().search(&cluster, &Limits::default()).unwrap();
    assert!(planned.prediction.feasible);
}
