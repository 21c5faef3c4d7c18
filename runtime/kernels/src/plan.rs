//! How a blocked product is cut: along k for the first-level cache, along n for the second, along m and n for threads.

use crate::isa::l2_bytes;

/// What the choice depends on.
pub(crate) struct Shape {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Rows of the largest tile, its columns, and the elements of a vector.
    pub mr: usize,
    pub nr: usize,
    pub lanes: usize,
    /// Bytes of an element in the type of the sum.
    pub bytes: usize,
    /// Distinct left matrices among the batch.
    pub left_slots: usize,
    /// Cycles to pack one row's element on the left and one vector's on the right; the right may be read in place.
    pub left_cost: f64,
    pub right_cost: f64,
    pub right_in_place: bool,
    /// Whether sums are kept beside C until they are complete.
    pub scratch: bool,
    pub threads: usize,
}

/// A way to cut a product.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocking {
    pub mr: usize,
    pub nr: usize,
    /// Steps of the sum in one block.
    pub kc: usize,
    /// Row panels of the whole product; their heights differ by one at most.
    pub row_panels: usize,
    /// Column panels of the whole product, each of `nr` columns but the last.
    pub column_panels: usize,
    /// Row panels and column panels in one task.
    pub task_rows: usize,
    pub task_columns: usize,
    /// Whether the left operand is packed whole before the tasks begin, rather than panel by panel within them.
    pub left_ahead: bool,
    pub workers: usize,
    /// Tasks taken at a time.
    pub grain: usize,
}

/// The largest left operand that is packed whole.
const AHEAD_LIMIT: usize = 64 << 20;
/// Work below which a second thread costs more than it brings, in cycles.
const THREAD_WORTH: f64 = 15_000.0;

impl Blocking {
    /// The cheapest way by a count of cycles: arithmetic, packing, traffic of C, and the wait for the last thread.
    pub(crate) fn choose(shape: &Shape) -> Blocking {
        let &Shape { m, n, k, mr, nr, lanes, bytes, .. } = shape;
        if shape.batch == 0 || m == 0 || n == 0 {
            return Blocking { mr, nr, kc: 1, workers: 1, grain: 1, ..Blocking::default() };
        }
        // A left panel of one block stays in the first-level cache beside the streams of B and C.
        let deepest = (18 * 1024 / (mr * bytes)).clamp(64, 384);
        let k_blocks = if k * 3 <= deepest * 4 { 1 } else { k.div_ceil(deepest) };
        let kc = k.div_ceil(k_blocks).max(1);
        let row_panels = m.div_ceil(mr);
        let column_panels = n.div_ceil(nr);
        // Half of the second-level cache for the right block; the rest is for the left panels and C that pass through.
        let widest = (l2_bytes() / 2 / (kc * nr * bytes)).clamp(1, 64).min(column_panels);
        let mut best = (f64::INFINITY, Blocking::default());
        let mut threads = shape.threads.max(1);
        loop {
            for task_columns in 1..=widest {
                let n_blocks = column_panels.div_ceil(task_columns);
                let mut m_blocks = 1;
                while m_blocks <= row_panels && m_blocks <= 16 * threads {
                    let task_rows = row_panels.div_ceil(m_blocks);
                    let scratch = task_rows * mr * task_columns * nr * bytes;
                    if !(shape.scratch && scratch > l2_bytes() / 4 && task_rows > 4) {
                        let tasks = shape.batch * n_blocks * row_panels.div_ceil(task_rows);
                        let reuse = (n_blocks * shape.batch) as f64 / shape.left_slots.max(1) as f64;
                        let left_ahead = reuse >= 3.0 && shape.left_slots * m * k * bytes <= AHEAD_LIMIT;
                        let left =
                            if left_ahead { 0.1 + shape.left_cost * 1.5 / reuse } else { shape.left_cost };
                        let right = if shape.right_in_place { 0.5 } else { shape.right_cost };
                        let rows = (task_rows * mr).min(m) as f64;
                        let vectors = (task_columns * nr).min(n).div_ceil(lanes) as f64;
                        let tiles = (task_rows * task_columns) as f64;
                        let cycles = k as f64 * (rows * vectors + vectors * right + rows * left)
                            + tiles * k_blocks as f64 * (30.0 + 2.0 * mr as f64)
                            + 200.0;
                        let rounds = tasks.div_ceil(threads) as f64 + if threads > 1 { 0.15 } else { 0.0 };
                        let total = rounds * cycles;
                        if total < best.0 {
                            let grain =
                                ((THREAD_WORTH / cycles) as usize).clamp(1, (tasks / (4 * threads)).max(1));
                            let blocking = Blocking {
                                mr,
                                nr,
                                kc,
                                row_panels,
                                column_panels,
                                task_rows,
                                task_columns,
                                left_ahead,
                                workers: threads.min(tasks),
                                grain,
                            };
                            best = (total, blocking);
                        }
                    }
                    m_blocks += 1;
                }
            }
            let worth = (best.0 * threads as f64 / THREAD_WORTH).ceil() as usize;
            if worth >= threads {
                return best.1;
            }
            threads = worth.max(1);
            best.0 = f64::INFINITY;
        }
    }

    /// The first row of row panel `panel` of a product with `m` rows; for the panel past the last, `m`.
    #[inline(always)]
    pub(crate) fn row(&self, m: usize, panel: usize) -> usize {
        let (height, taller) = (m / self.row_panels, m % self.row_panels);
        panel * height + panel.min(taller)
    }

    /// Tasks of one batch element: column blocks times row blocks.
    pub(crate) fn tasks(&self) -> (usize, usize) {
        if self.row_panels == 0 || self.column_panels == 0 {
            return (0, 0);
        }
        (self.column_panels.div_ceil(self.task_columns), self.row_panels.div_ceil(self.task_rows))
    }
}
