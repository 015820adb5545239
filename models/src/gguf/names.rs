//! The tensors of a GGUF under the names, shapes and row orders of a Hugging Face folder.
//!
//! A family plans what it would find in a folder. Every tensor of the file stands in a table under the name it would have there, together with
//! what the converter did to it; [`Names::plan`] shows the family that table, and then rewrites the plan into rows of the file. So no
//! family knows of GGUF, and nothing is computed: each change is a choice of rows, a transposition or a sum.

use super::rules::{HeadSizes, How, Piece, Tables, find};
use crate::error::{Error, Result};
use crate::plan::{Function, Layout, Plan, Rows, Skip, Source};
use crate::source::{Config, Tensors};
use crate::spec::bound;
use std::collections::{BTreeMap, HashMap};

/// One tensor of the folder.
#[derive(Clone, Debug)]
struct Entry {
    shape: Vec<u64>,
    /// Tensors of the file, and how many rows (of a vector: values) each has.
    parts: Vec<(String, u64)>,
    order: Order,
    /// The rows of the file are columns of the folder's matrix.
    turned: bool,
    /// Added to the file's values.
    add: f32,
    /// Values that the file keeps in its metadata.
    constant: Option<Vec<f32>>,
}

/// Where the rows of a folder's tensor are.
#[derive(Clone, Copy, Debug)]
enum Order {
    Same,
    /// Halves in the folder, interleaved pairs in the file.
    Paired {
        head_dim: u32,
        rotated: u32,
    },
    /// The pieces, each with so many rows for every matrix of a stack.
    Pieces {
        rows: u32,
        alternating: bool,
    },
    /// Of every head so many rows that are columns of the first part, and so many rows of the second.
    Latent {
        keys: u32,
        values: u32,
    },
    /// Grouped in the folder, sorted in the file.
    Sorted {
        kv_heads: u32,
        group: u32,
        head_dim: u32,
    },
}

impl Entry {
    fn new(name: &str, shape: &[u64]) -> Entry {
        Entry {
            parts: vec![(name.to_owned(), units(shape, false))],
            shape: shape.to_vec(),
            order: Order::Same,
            turned: false,
            add: 0.0,
            constant: None,
        }
    }

    /// Part and row of the file for a row of the folder, if it is one there.
    fn locate(&self, row: u32) -> Option<(usize, u32)> {
        Some(match self.order {
            Order::Same => (0, row),
            Order::Paired { head_dim, rotated } => {
                let (head, d) = (row / head_dim * head_dim, row % head_dim);
                let half = rotated / 2;
                let d = match d {
                    d if d < half => 2 * d,
                    d if d < 2 * half => 2 * (d - half) + 1,
                    d => d,
                };
                (0, head + d)
            }
            Order::Pieces { rows, alternating } => {
                let of = self.parts.len() as u32;
                let (matrix, within) = (row / (rows * of), row % (rows * of));
                let (part, row) = match alternating {
                    true => (within % of, within / of),
                    false => (within / rows, within % rows),
                };
                (part as usize, matrix * rows + row)
            }
            Order::Sorted {
                kv_heads,
                group,
                head_dim,
            } => {
                let (head, d) = (row / head_dim, row % head_dim);
                let (kv, member) = (head / (group + 2), head % (group + 2));
                let head = match member {
                    m if m < group => kv * group + m,
                    m => kv_heads * m + kv,
                };
                (0, head * head_dim + d)
            }
            Order::Latent { keys, values } => {
                let (head, d) = (row / (keys + values), row % (keys + values));
                (1, head * values + d.checked_sub(keys)?)
            }
        })
    }
}

/// A tensor of the file: its name and shape.
type Listed<'t> = (&'t str, &'t [u64]);

/// Parts of a tensor of the folder by their places: names in the file, and shapes.
type Parts = BTreeMap<usize, (String, Vec<u64>)>;

/// Rows of a matrix or of a stack (of a transposed one: columns), values of a vector.
fn units(shape: &[u64], turned: bool) -> u64 {
    match *shape {
        [] => 1,
        [n] => n,
        [ref outer @ .., rows, cols] => {
            outer.iter().product::<u64>() * if turned { cols } else { rows }
        }
    }
}

/// The tensors of a file as a folder has them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    entries: HashMap<String, Entry>,
    /// Tensors of the file that the family does not get, and why.
    folded: Vec<(String, &'static str)>,
}

impl Names {
    /// Reads all tensors of a file, names and shapes, through the tables; one that no table knows keeps its name.
    ///
    /// # Errors
    /// Two tensors get the same name.
    pub(super) fn new<'t>(
        tables: &Tables,
        sizes: HeadSizes,
        tensors: impl Iterator<Item = (&'t str, &'t [u64])>,
    ) -> Result<Names> {
        let mut names = Names::default();
        let mut pieces: BTreeMap<String, (Piece, Parts)> = BTreeMap::new();
        let mut latents: BTreeMap<String, [Option<Listed>; 2]> = BTreeMap::new();
        for (name, shape) in tensors {
            let Some((to, how)) = find(tables, name) else {
                names.insert(name.to_owned(), Entry::new(name, shape))?;
                continue;
            };
            match how {
                How::Piece(piece) => {
                    let cut = pieces.entry(to).or_insert((piece, BTreeMap::new()));
                    cut.1.insert(piece.index, (name.to_owned(), shape.to_vec()));
                }
                How::LatentKeys => latents.entry(to).or_default()[0] = Some((name, shape)),
                How::LatentValues => latents.entry(to).or_default()[1] = Some((name, shape)),
                how => names.add(name, shape, &to, how, sizes)?,
            }
        }
        for (to, (piece, parts)) in pieces {
            names.join(to, piece, parts)?;
        }
        for (to, parts) in latents {
            names.join_latent(to, parts)?;
        }
        Ok(names)
    }

    /// The matrix from a latent vector to keys and values, which the file has apart.
    fn join_latent(&mut self, to: String, parts: [Option<Listed>; 2]) -> Result<()> {
        if let [
            Some((k, &[heads, rank, keys])),
            Some((v, &[also, values, again])),
        ] = parts
            && (heads, rank) == (also, again)
            && keys.max(values) <= u64::from(bound::HEAD_DIM)
            && heads <= u64::from(bound::HEADS)
        {
            let entry = Entry {
                parts: vec![(k.to_owned(), heads * rank), (v.to_owned(), heads * values)],
                order: Order::Latent {
                    keys: keys as u32,
                    values: values as u32,
                },
                ..Entry::new("", &[heads * (keys + values), rank])
            };
            return self.insert(to, entry);
        }
        for (name, shape) in parts.into_iter().flatten() {
            self.insert(name.to_owned(), Entry::new(name, shape))?;
        }
        Ok(())
    }

    /// Adds a tensor whose values are known.
    ///
    /// # Errors
    /// There is one of that name.
    pub(super) fn constant(&mut self, name: String, values: Vec<f32>) -> Result<()> {
        let entry = Entry {
            parts: Vec::new(),
            constant: Some(values.clone()),
            ..Entry::new("", &[values.len() as u64])
        };
        self.insert(name, entry)
    }

    /// Marks a tensor of the file as one whose values went into the configuration.
    pub(super) fn fold(&mut self, name: &str) {
        self.entries.remove(name);
        self.folded
            .push((name.to_owned(), "read into the configuration"));
    }

    /// Leaves out what the file has in blocks behind the last layer of the model.
    pub(super) fn further_blocks<'t>(
        &mut self,
        tensors: impl Iterator<Item = &'t str>,
        layers: u32,
    ) {
        for name in tensors {
            let index = name.strip_prefix("blk.").and_then(|n| n.split_once('.'));
            let index = index.and_then(|(n, _)| n.parse::<u32>().ok());
            if index.is_some_and(|n| n >= layers) {
                self.folded
                    .push((name.to_owned(), "predicts further tokens"));
            }
        }
    }

    fn insert(&mut self, name: String, entry: Entry) -> Result<()> {
        let clash = self.entries.get(&name).map(|e| e.parts.clone());
        if let Some(other) = clash {
            let other = other.first().map_or("", |p| p.0.as_str());
            return Err(Error::new(format_args!(
                "tensor {name:?} is there twice (also as {other:?})"
            )));
        }
        self.entries.insert(name, entry);
        Ok(())
    }

    fn add(&mut self, name: &str, shape: &[u64], to: &str, how: How, s: HeadSizes) -> Result<()> {
        let mut entry = Entry::new(name, shape);
        let rows = units(shape, false);
        let paired = |heads: u32| {
            // Where the shape is another one, the family says so.
            let fits = rows == u64::from(heads) * u64::from(s.head_dim);
            (fits && s.head_dim > 0 && s.rotated <= s.head_dim).then_some(Order::Paired {
                head_dim: s.head_dim,
                rotated: s.rotated,
            })
        };
        match how {
            How::Same => {}
            How::Shaped(dims) => {
                let mut own = shape.iter().copied().filter(|&d| d != 1);
                let next = |&d: &u64| if d == 0 { own.next().unwrap_or(1) } else { d };
                entry.shape = dims.iter().map(next).collect();
            }
            How::Flat => entry.shape = vec![shape.iter().product()],
            How::PairedQ => entry.order = paired(s.heads).unwrap_or(Order::Same),
            How::PairedK => entry.order = paired(s.kv_heads).unwrap_or(Order::Same),
            How::PlusOne => {
                if to.ends_with(".weight") {
                    entry.add = -1.0;
                }
            }
            How::Turned => {
                if let [ref outer @ .., rows, cols] = *shape {
                    entry.shape = [outer, &[cols, rows]].concat();
                    entry.turned = true;
                }
            }
            How::Sorted => {
                let (kv, all) = (s.kv_heads.max(1), s.heads);
                let total = u64::from(all + 2 * kv) * u64::from(s.head_dim);
                if rows == total && s.head_dim > 0 {
                    entry.order = Order::Sorted {
                        kv_heads: kv,
                        group: all / kv,
                        head_dim: s.head_dim,
                    };
                }
            }
            How::Piece(_) | How::LatentKeys | How::LatentValues => {
                unreachable!("joined when all parts are there")
            }
        }
        self.insert(to.to_owned(), entry)
    }

    /// A matrix or stack of which the file has the parts.
    fn join(&mut self, to: String, piece: Piece, parts: Parts) -> Result<()> {
        let shape = parts.values().next().map_or(&[][..], |p| &p.1);
        let alike = parts.len() == piece.of && parts.values().all(|p| p.1 == shape);
        let (outer, rows, cols) = match *shape {
            [rows] => (&[][..], rows, None),
            // A bias has one row of values for every matrix of a stack.
            [ref outer @ .., rows] if to.ends_with("bias") => (outer, rows, None),
            [ref outer @ .., rows, cols] => (outer, rows, Some(cols)),
            [] => (&[][..], 1, None),
        };
        let all = rows.saturating_mul(piece.of as u64);
        let total = outer.iter().fold(all, |n, &d| n.saturating_mul(d));
        if !alike || rows == 0 || total > u64::from(u32::MAX) {
            for (name, shape) in parts.into_values() {
                self.insert(name.clone(), Entry::new(&name, &shape))?;
            }
            return Ok(());
        }
        let mut joined = outer.to_vec();
        match cols {
            Some(cols) if piece.turned => joined.extend([cols, all]),
            cols => joined.extend([Some(all), cols].into_iter().flatten()),
        }
        let each = total / piece.of as u64;
        let entry = Entry {
            parts: parts.into_values().map(|(name, _)| (name, each)).collect(),
            order: Order::Pieces {
                rows: rows as u32,
                alternating: piece.alternating,
            },
            turned: piece.turned && cols.is_some(),
            ..Entry::new("", &joined)
        };
        self.insert(to, entry)
    }

    /// The plan that the family of `config` makes of these tensors, in the names and rows of the file.
    ///
    /// # Errors
    /// Whatever the family refuses; a tensor that it would have to compute with before it can be stored.
    pub fn plan(&self, config: &Config, file: &dyn Tensors) -> Result<Plan> {
        let mut plan = crate::family::plan(config, &Folder { names: self, file })?;
        for tensor in &mut plan.tensors {
            let sources = std::mem::take(&mut tensor.sources);
            for source in &sources {
                self.rewrite(source, &mut tensor.sources)?;
            }
        }
        plan.skipped = self.skips(&plan.skipped);
        Ok(plan)
    }

    fn rewrite(&self, source: &Source, out: &mut Vec<Source>) -> Result<()> {
        let Some(entry) = self.entries.get(&source.name) else {
            out.push(source.clone());
            return Ok(());
        };
        let refused = |what: &str| {
            Err(Error::new(format_args!(
                "tensor {:?} cannot be taken as this file has it: {what}",
                source.name
            )))
        };
        if entry.constant.is_some() {
            return refused("its values are in the metadata");
        }
        if entry.add != 0.0 && source.function != Function::Identity {
            return refused("something was added to its values");
        }
        let layout = match (&source.layout, entry.order, &source.rows) {
            (Layout::Rows, ..) => turned(entry.turned),
            (Layout::Transposed, ..) => turned(!entry.turned),
            (
                &Layout::TransposedPart {
                    period,
                    first: 0,
                    count,
                },
                Order::Latent { keys, values },
                Rows::All,
            ) if (period, count) == (keys + values, keys) => Layout::Rows,
            (Layout::TransposedPart { .. }, Order::Same, _) if !entry.turned => {
                source.layout.clone()
            }
            _ => return refused("it lies in another way"),
        };
        let kind = Source {
            name: String::new(),
            layout,
            rows: Rows::All,
            function: source.function,
            scale: source.scale,
            add: source.add + source.scale * entry.add,
        };
        // What is one tensor of the file as a whole; so are the keys of a latent vector.
        let part = matches!(source.layout, Layout::TransposedPart { .. });
        if part || matches!(entry.order, Order::Same) {
            out.push(Source {
                name: entry.parts[0].0.clone(),
                rows: source.rows.clone(),
                ..kind
            });
            return Ok(());
        }
        if kind.layout != Layout::Rows {
            return refused("its rows are columns");
        }
        let all;
        let rows: &mut dyn Iterator<Item = u32> = match &source.rows {
            Rows::All => {
                all = units(&entry.shape, entry.turned);
                &mut (0..all as u32)
            }
            Rows::List(list) => &mut list.iter().copied(),
        };
        let mut runs: Vec<(usize, Vec<u32>)> = Vec::new();
        for row in rows {
            let Some((part, row)) = entry.locate(row) else {
                return refused("some of its rows are columns");
            };
            match runs.last_mut() {
                Some((last, list)) if *last == part => list.push(row),
                _ => runs.push((part, vec![row])),
            }
        }
        for (part, list) in runs {
            let (name, total) = &entry.parts[part];
            // A list of all rows in order is none.
            let ordered = list.iter().enumerate().all(|(i, &r)| i as u32 == r);
            let rows = match ordered && list.len() as u64 == *total {
                true => Rows::All,
                false => Rows::List(list),
            };
            out.push(Source {
                name: name.clone(),
                rows,
                ..kind.clone()
            });
        }
        Ok(())
    }

    /// What is left out, in the names of the file.
    fn skips(&self, skipped: &[Skip]) -> Vec<Skip> {
        let skip = |pattern: &str, reason| Skip {
            pattern: pattern.to_owned(),
            reason,
        };
        let mut out: Vec<Skip> = Vec::new();
        for s in skipped {
            let named: Vec<&Entry> = match s.pattern.ends_with('*') {
                false => self.entries.get(&s.pattern).into_iter().collect(),
                true => {
                    let covered = self.entries.iter().filter(|(name, _)| s.covers(name));
                    covered.map(|(_, entry)| entry).collect()
                }
            };
            let parts = named.iter().flat_map(|e| &e.parts);
            out.extend(parts.map(|(name, _)| skip(name, s.reason)));
        }
        let folded = self.folded.iter();
        out.extend(folded.map(|(name, reason)| skip(name, reason)));
        out
    }
}

/// Outputs in rows or in columns.
fn turned(turned: bool) -> Layout {
    match turned {
        true => Layout::Transposed,
        false => Layout::Rows,
    }
}

/// What a family sees.
struct Folder<'a> {
    names: &'a Names,
    file: &'a dyn Tensors,
}

impl Folder<'_> {
    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.names.entries.get(name);
        entry.ok_or_else(|| Error::new(format_args!("tensor {name:?} is missing")))
    }
}

impl Tensors for Folder<'_> {
    fn shape(&self, name: &str) -> Option<&[u64]> {
        self.names.entries.get(name).map(|e| e.shape.as_slice())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        if let Some(values) = &entry.constant {
            return Ok(values.clone());
        }
        let mut parts = Vec::new();
        for (part, rows) in &entry.parts {
            let values = self.file.values(part)?;
            let width = values.len().checked_div(*rows as usize).unwrap_or(0);
            parts.push((values, width));
        }
        let mut out = Vec::new();
        match entry.order {
            Order::Same if !entry.turned => out.append(&mut parts[0].0),
            _ if entry.turned => {
                return Err(Error::new(format_args!(
                    "tensor {name:?} is transposed in this file"
                )));
            }
            _ => {
                for row in 0..units(&entry.shape, false) as u32 {
                    let Some((part, row)) = entry.locate(row) else {
                        return Err(Error::new(format_args!(
                            "tensor {name:?} is transposed in this file"
                        )));
                    };
                    let (values, width) = &parts[part];
                    let first = row as usize * width;
                    out.extend_from_slice(values.get(first..first + width).unwrap_or(&[]));
                }
            }
        }
        out.iter_mut().for_each(|x| *x += entry.add);
        Ok(out)
    }

    fn same(&self, a: &str, b: &str) -> Result<bool> {
        let (a, b) = (self.entry(a)?, self.entry(b)?);
        let whole = |e: &Entry| matches!(e.order, Order::Same) && e.constant.is_none();
        if !whole(a) || !whole(b) || a.add != b.add || a.turned != b.turned {
            return Ok(false);
        }
        self.file.same(&a.parts[0].0, &b.parts[0].0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Rule, exact, half, rule};
    use super::*;

    const SIZES: HeadSizes = HeadSizes {
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        rotated: 4,
    };

    const RULES: &[Rule] = &[
        rule("k", "key", How::PairedK),
        rule("qkv", "grouped", How::Sorted),
        rule("norm", "norm", How::PlusOne),
        exact(
            "even.weight",
            "both",
            How::Piece(Piece {
                index: 0,
                of: 2,
                alternating: true,
                turned: false,
            }),
        ),
        exact(
            "odd.weight",
            "both",
            How::Piece(Piece {
                index: 1,
                of: 2,
                alternating: true,
                turned: false,
            }),
        ),
        rule("gate", "half", half(0)),
        rule("up", "half", half(1)),
        rule("turned", "turned", How::Turned),
        rule("k_b", "kv", How::LatentKeys),
        rule("v_b", "kv", How::LatentValues),
    ];

    fn names(tensors: &[Listed]) -> Names {
        let tables = Tables {
            model: &[],
            stacks: &[("blk.", "layers.", &[RULES])],
        };
        Names::new(&tables, SIZES, tensors.iter().copied()).unwrap()
    }

    fn rewritten(names: &Names, source: Source) -> Result<Vec<Source>> {
        let mut out = Vec::new();
        names.rewrite(&source, &mut out).map(|()| out)
    }

    #[test]
    fn rows_of_the_folder_are_found_in_the_file() {
        let n = names(&[
            ("blk.0.k.weight", &[8, 16]),
            ("blk.0.qkv.weight", &[32, 16]),
            ("blk.0.even.weight", &[2, 3]),
            ("blk.0.odd.weight", &[2, 3]),
        ]);
        let all = rewritten(&n, Source::all("layers.0.key.weight")).unwrap();
        let expected = vec![0, 2, 1, 3, 4, 6, 5, 7];
        assert_eq!(all, [Source::rows("blk.0.k.weight", expected)]);
        // The second key: the first row of the second group's.
        let key = Source::rows("layers.0.grouped.weight", vec![(4 + 2) * 4]);
        let found = rewritten(&n, key).unwrap();
        assert_eq!(found, [Source::rows("blk.0.qkv.weight", vec![(4 + 1) * 4])]);
        let even = Source::rows("layers.0.both", vec![0, 2]);
        let found = rewritten(&n, even).unwrap();
        assert_eq!(found, [Source::all("blk.0.even.weight")]);
        let both = rewritten(&n, Source::rows("layers.0.both", vec![0, 1])).unwrap();
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn what_was_added_is_taken_away() {
        let n = names(&[("blk.0.norm.weight", &[8]), ("blk.0.norm.bias", &[8])]);
        let add = |name: &str, add| {
            let source = Source {
                add,
                ..Source::all(name)
            };
            rewritten(&n, source).unwrap()[0].add
        };
        assert_eq!(add("layers.0.norm.weight", 1.0), 0.0);
        assert_eq!(add("layers.0.norm.weight", 0.0), -1.0);
        assert_eq!(add("layers.0.norm.bias", 0.0), 0.0);
    }

    #[test]
    fn turned_matrices() {
        let n = names(&[("blk.0.turned.weight", &[2, 3, 5])]);
        let turned = Source {
            layout: Layout::Transposed,
            ..Source::all("layers.0.turned.weight")
        };
        let found = rewritten(&n, turned).unwrap();
        assert_eq!(found, [Source::all("blk.0.turned.weight")]);
        let entry = &n.entries["layers.0.turned.weight"];
        assert_eq!(entry.shape, [2, 5, 3]);
    }

    #[test]
    fn keys_and_values_of_a_latent_vector() {
        let n = names(&[
            ("blk.0.k_b.weight", &[2, 6, 3]),
            ("blk.0.v_b.weight", &[2, 4, 6]),
        ]);
        assert_eq!(n.entries["layers.0.kv.weight"].shape, [14, 6]);
        let keys = |period, count| Source {
            layout: Layout::TransposedPart {
                period,
                first: 0,
                count,
            },
            ..Source::all("layers.0.kv.weight")
        };
        let found = rewritten(&n, keys(7, 3)).unwrap();
        assert_eq!(found, [Source::all("blk.0.k_b.weight")]);
        assert!(rewritten(&n, keys(7, 4)).is_err());
        let values = Source::rows("layers.0.kv.weight", vec![3, 6, 10]);
        let found = rewritten(&n, values).unwrap();
        assert_eq!(found, [Source::rows("blk.0.v_b.weight", vec![0, 3, 4])]);
        assert!(rewritten(&n, Source::all("layers.0.kv.weight")).is_err());
    }

    #[test]
    fn what_does_not_fit_keeps_its_name_or_order() {
        // A half without the other, halves of different shapes, keys of another number of heads, a layer that is not written as numbers are.
        let tensors: &[Listed] = &[
            ("blk.0.gate.weight", &[4, 8]),
            ("blk.1.gate.weight", &[4, 8]),
            ("blk.1.up.weight", &[5, 8]),
            ("blk.0.k_b.weight", &[2, 6, 3]),
            ("blk.1.k_b.weight", &[2, 6, 3]),
            ("blk.1.v_b.weight", &[3, 4, 6]),
            ("blk.03.k.weight", &[8, 16]),
            ("blk.x.k.weight", &[8, 16]),
            ("blk.0.k.scale", &[8]),
        ];
        let n = names(tensors);
        for (name, shape) in tensors {
            assert_eq!(n.entries[*name].shape, *shape, "{name}");
        }
        let n = names(&[("blk.0.k.weight", &[7, 16])]);
        let found = rewritten(&n, Source::all("layers.0.key.weight")).unwrap();
        assert_eq!(found, [Source::all("blk.0.k.weight")]);
    }
}
