//! Speed of single operations, every one beside what the machine allows.
//!
//! A call is timed in batches of about a third of a millisecond; batches of all instruction sets and sizes of an operation take turns, so that a
//! disturbance hits all of them. The limit of a call is the time that reading its bytes takes at the rate of the level that holds them, or that its
//! multiply-adds take at the peak, whichever is longer.

use super::machine::{Limits, Meter};
use super::operations::{self, Case, MatrixShape, Op};
use super::rows::{Limit, Row};
use crate::error::{Error, Result};
use quern_kernels::{Format, Kernels};
use quern_models::Spec;
use quern_models::spec::{Role, Shape};
use std::path::Path;
use std::time::Duration;

/// What to measure.
pub struct Selection {
    /// Kinds of operations.
    pub ops: Vec<Op>,
    /// Formats of the weights in products.
    pub formats: Vec<Format>,
    /// Tables of kernels.
    pub kernels: Vec<&'static Kernels>,
    /// Matrices of products.
    pub matrices: Vec<MatrixShape>,
    /// Tokens of products whose matrix does not say it.
    pub tokens: Vec<usize>,
    /// Numbers of threads of products and barriers.
    pub threads: Vec<usize>,
    /// Rounds; the median counts.
    pub runs: usize,
    /// Bytes that the weights of successive products cover; 0: those of one matrix.
    pub beyond: usize,
    /// Ids that a sampler chooses from.
    pub vocabulary: usize,
}

/// A batch of calls takes about so long.
const BATCH: Duration = Duration::from_micros(300);

/// A single call that would take longer is left out: the scalar kernels take minutes for what others do in a moment.
const LONGEST: f64 = 3.0;

/// What came out.
#[derive(Debug, Default)]
pub struct Measured {
    /// The figures.
    pub rows: Vec<Row>,
    /// What was left out because it takes too long.
    pub skipped: Vec<String>,
}

/// Measures everything that is selected; `progress` is told how many of how many groups are done.
///
/// # Errors
/// Not enough memory, threads that cannot be started.
pub fn measure(
    selection: &Selection,
    meter: &mut Meter,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measured> {
    let groups = groups(selection);
    let mut out = Measured::default();
    // Limits of the nearest numbers of threads, in the order of the rows.
    let mut bounds = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        progress(i, groups.len());
        meter.run();
        let mut cases = group.cases(selection)?;
        measure_group(selection, &mut cases, &mut out, &mut bounds);
    }
    // As many as of everything else, so that limits can be compared from run to run too.
    for _ in groups.len()..selection.runs {
        meter.run();
    }
    // All runs of the meter count for all rows.
    for (row, bound) in out.rows.iter_mut().zip(bounds) {
        row.limit = bound.limit(&meter.limits(row.threads));
    }
    Ok(out)
}

/// Cases that take turns.
enum Group {
    Vectors(Op),
    Sampling,
    Barriers(usize),
    Products(Format, MatrixShape, usize),
}

fn groups(s: &Selection) -> Vec<Group> {
    let mut groups = Vec::new();
    for op in &s.ops {
        match op {
            Op::Matmul => {
                for &format in &s.formats {
                    for shape in &s.matrices {
                        let threads = s.threads.iter();
                        groups.extend(threads.map(|t| Group::Products(format, shape.clone(), *t)));
                    }
                }
            }
            Op::Sample => groups.push(Group::Sampling),
            Op::Barrier => groups.extend(s.threads.iter().map(|t| Group::Barriers(*t))),
            _ => groups.push(Group::Vectors(*op)),
        }
    }
    groups
}

impl Group {
    fn cases(&self, s: &Selection) -> Result<Vec<Case>> {
        match self {
            Group::Vectors(op) => Ok(operations::along_vectors(*op)),
            Group::Sampling => operations::sampling(s.vocabulary),
            Group::Barriers(threads) => operations::barriers(*threads),
            Group::Products(format, shape, threads) => {
                let own: Vec<usize> = shape.tokens.into_iter().collect();
                let tokens = if own.is_empty() { &s.tokens } else { &own };
                operations::products(*format, shape, tokens, *threads, s.beyond)
            }
        }
    }
}

/// What bounds a call, before the machine's rates are known.
struct Bound {
    bytes: usize,
    working_set: usize,
    macs: Option<(usize, super::peaks::Kind)>,
}

impl Bound {
    /// The least time of a call in microseconds.
    fn limit(&self, limits: &Limits) -> Option<Limit> {
        if self.bytes == 0 {
            return None;
        }
        let (level, rate) = limits.read_of(self.working_set)?;
        let read = self.bytes as f64 / rate / 1e9;
        let mut bound = (format!("read {level}"), read);
        if let Some((macs, kind)) = self.macs
            && let Some(peak) = limits.peak(kind)
        {
            let seconds = macs as f64 / peak / 1e9;
            if seconds > read {
                bound = (format!("{} {}", kind.name(), super::peaks::NOUN), seconds);
            }
        }
        Some(Limit {
            what: bound.0,
            value: bound.1 * MICROS,
        })
    }
}

/// Microseconds of a second: the unit of every time, so that runs can be compared.
const MICROS: f64 = 1e6;

fn measure_group(s: &Selection, cases: &mut [Case], out: &mut Measured, bounds: &mut Vec<Bound>) {
    // Every case with every table, but for one that needs none: with the first.
    let tables = |case: &Case| if case.kernels { s.kernels.len() } else { 1 };
    let mut timed: Vec<(usize, usize, usize, Vec<f64>)> = Vec::new();
    for table in 0..s.kernels.len() {
        // Multiply-adds per second of the case before, which was smaller.
        let mut rate: Option<f64> = None;
        for (i, case) in cases.iter_mut().enumerate() {
            if table >= tables(case) {
                continue;
            }
            let kernels = s.kernels[table];
            if let (Some((macs, _)), Some(rate)) = (case.macs, rate)
                && macs as f64 / rate > LONGEST
            {
                let seconds = macs as f64 / rate;
                out.skipped.push(format!(
                    "{} on {}: about {seconds:.0} s a call",
                    case.name,
                    kernels.name()
                ));
                continue;
            }
            let once = (case.run)(kernels, 1).max(Duration::from_nanos(1));
            rate = case.macs.map(|(macs, _)| macs as f64 / once.as_secs_f64());
            let calls = BATCH.as_nanos() / once.as_nanos();
            timed.push((i, table, calls.clamp(1, 100_000) as usize, Vec::new()));
        }
    }
    for _ in 0..s.runs.max(1) {
        for (i, table, calls, seconds) in &mut timed {
            let took = (cases[*i].run)(s.kernels[*table], *calls);
            seconds.push(took.as_secs_f64() / *calls as f64);
        }
    }
    timed.sort_by_key(|(i, table, ..)| (*i, *table));
    for (i, table, _, seconds) in timed {
        let case = &cases[i];
        let median = super::stats::median(&seconds);
        let per_second = |amount: usize| (amount > 0).then(|| amount as f64 / median / 1e9);
        out.rows.push(Row {
            group: "kernels".into(),
            name: case.name.clone(),
            isa: match case.kernels {
                true => s.kernels[table].name().into(),
                false => String::new(),
            },
            threads: case.threads,
            samples: seconds.iter().map(|s| s * MICROS).collect(),
            unit: "us".into(),
            gb_per_s: per_second(case.bytes),
            gmac_per_s: case.macs.and_then(|(macs, _)| per_second(macs)),
            ..Row::default()
        });
        bounds.push(Bound {
            bytes: case.bytes,
            working_set: case.working_set,
            macs: case
                .macs
                .map(|(macs, format)| (macs, s.kernels[table].arithmetic(format))),
        });
    }
}

/// The matrices of a model, each shape once, the largest first.
pub fn matrices_of(spec: &Spec) -> Vec<MatrixShape> {
    let mut found: Vec<MatrixShape> = Vec::new();
    let tied = spec.head.as_ref().is_some_and(|head| head.tied);
    for tensor in spec.tensors() {
        let Shape::Matrix { rows, cols, .. } = tensor.shape else {
            continue;
        };
        let looked_up = match tensor.key.role {
            Role::TokenEmbedding => !tied,
            Role::PositionEmbedding | Role::PerLayerEmbedding => true,
            _ => false,
        };
        let shape = MatrixShape {
            rows: rows as usize,
            cols: cols as usize,
            tokens: None,
        };
        if !looked_up && !found.contains(&shape) {
            found.push(shape);
        }
    }
    found.sort_by_key(|s| std::cmp::Reverse((s.rows * s.cols, s.rows)));
    found
}

/// Longest file of shapes that is read, and the most shapes in it.
const MOST: (u64, usize) = (1 << 20, 1000);

/// Matrices in a file: lines of `M N K`, that is outputs, tokens, inputs; what follows a `#` is a comment.
///
/// # Errors
/// Io; Invalid, naming the line.
pub fn matrices_in(path: &Path) -> Result<Vec<MatrixShape>> {
    let io = |e: &std::io::Error| Error::io("read", path, e);
    let length = std::fs::metadata(path).map_err(|e| io(&e))?.len();
    if length > MOST.0 {
        return Err(Error::limit(format_args!(
            "{path:?} has {length} bytes, expected at most {} of lines of M N K",
            MOST.0
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| io(&e))?;
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let numbers: Option<Vec<usize>> = line
            .split_whitespace()
            .map(|word| word.parse().ok().filter(|n| (1..=1 << 24).contains(n)))
            .collect();
        let Some([rows, tokens, cols]) = numbers.as_deref() else {
            return Err(Error::invalid(format_args!(
                "{path:?}: line {}: {line:?}, expected M N K, three numbers from 1 to 16777216",
                i + 1
            )));
        };
        found.push(MatrixShape {
            rows: *rows,
            cols: *cols,
            tokens: Some(*tokens),
        });
    }
    if found.is_empty() || found.len() > MOST.1 {
        return Err(Error::invalid(format_args!(
            "{path:?} has {} shapes, expected 1 to {}",
            found.len(),
            MOST.1
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::peaks::Kind;
    use super::*;

    #[test]
    fn the_longer_of_reading_and_computing_bounds_a_call() {
        let limits = Limits {
            threads: 1,
            read: vec![("L1".into(), 1000, 100.0), ("memory".into(), 9000, 10.0)],
            peaks: vec![(Kind::Int8, 1000.0)],
        };
        let bound = |bytes, working_set, macs| Bound {
            bytes,
            working_set,
            macs: Some((macs, Kind::Int8)),
        };
        let near = |found: &Limit, value: f64| (found.value - value).abs() < 1e-9;
        let found = bound(1000, 1000, 1).limit(&limits).unwrap();
        assert!(found.what == "read L1" && near(&found, 0.01), "{found:?}");
        let found = bound(1000, 5000, 1).limit(&limits).unwrap();
        assert!(
            found.what == "read memory" && near(&found, 0.1),
            "{found:?}"
        );
        let found = bound(1000, 1000, 1_000_000).limit(&limits).unwrap();
        assert!(
            found.what.starts_with("int8") && near(&found, 1.0),
            "{found:?}"
        );
        assert!(bound(0, 0, 5).limit(&limits).is_none());
    }

    #[test]
    fn matrices_of_a_model_come_once() {
        let known = quern_models::shapes::Known::by_name("llama-1b").unwrap();
        let found = matrices_of(&known.spec().unwrap());
        let sizes: Vec<_> = found.iter().map(|s| (s.rows, s.cols)).collect();
        let expected = [
            (128256, 2048),
            (8192, 2048),
            (2048, 8192),
            (2048, 2048),
            (512, 2048),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn files_of_shapes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shapes.txt");
        std::fs::write(&path, "# M N K\n2048 1 8192 # down\n\n16 512 64\n").unwrap();
        let found = matrices_in(&path).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].rows, found[0].tokens, found[0].cols),
            (2048, Some(1), 8192)
        );
        for (text, part) in [
            ("", "0 shapes"),
            ("1 2\n", "line 1"),
            ("1 2 3\n1 2 x\n", "line 2"),
            ("0 1 1", "line 1"),
            ("99999999 1 1", "line 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let e = matrices_in(&path).unwrap_err();
            assert_eq!(e.exit_code(), 3);
            assert!(e.to_string().contains(part), "{e}");
        }
    }

    #[test]
    fn every_operation_has_cases_that_run() {
        let kernels = quern_kernels::by_name("scalar").unwrap();
        for op in Op::ALL {
            let small = MatrixShape {
                rows: 20,
                cols: 70,
                tokens: None,
            };
            let mut cases = match op {
                Op::Matmul => Format::ALL
                    .into_iter()
                    .flat_map(|f| operations::products(f, &small, &[1, 3], 2, 4096).unwrap())
                    .collect(),
                Op::Sample => operations::sampling(300).unwrap(),
                Op::Barrier => operations::barriers(2).unwrap(),
                _ => operations::along_vectors(op),
            };
            assert!(!cases.is_empty(), "{}", op.name());
            for case in &mut cases {
                assert!((case.run)(kernels, 2) > Duration::ZERO, "{}", case.name);
                assert!(
                    case.working_set >= case.bytes || case.macs.is_some(),
                    "{}",
                    case.name
                );
            }
        }
    }
}
