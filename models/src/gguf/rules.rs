//! What the tables of architectures are written with: names of the file, names of the folder, and what the converter did.

/// A line of an architecture's table: a tensor of the file, and what a folder calls it.
pub(super) struct Rule {
    /// The file's name, without the block's prefix; see `exact` for its end.
    pub from: &'static str,
    /// The folder's, without the layer's prefix; `{e}` stands for the number of an expert and `{h}` for that of a head, whose tensors are one stack.
    pub to: &'static str,
    /// Whether both names are whole; else each stands for one with `.weight` and one with `.bias`.
    pub exact: bool,
    /// What the converter did.
    pub how: How,
}

/// What a converter did to a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// Nothing but the name, and perhaps dimensions of 1.
    Same,
    /// The shape gained or lost dimensions of 1: it had these, 0 standing for the next one of the file.
    Shaped(&'static [u64]),
    /// Rows of query heads became interleaved pairs.
    PairedQ,
    /// Rows of key heads became interleaved pairs.
    PairedK,
    /// One was added to a norm's weight.
    PlusOne,
    /// A matrix, or every matrix of a stack, was transposed.
    Turned,
    /// A vector got another shape.
    Flat,
    /// One matrix (or a stack of them) was cut into parts by rows; the folder's has this one at this place of so many.
    Piece(Piece),
    /// Of the matrix from a latent vector to keys and values: the matrix of each head's keys, transposed.
    LatentKeys,
    /// The matrix of each head's values.
    LatentValues,
    /// Rows of q, k and v, grouped by key-value head, were sorted into all of q, all of k, all of v.
    Sorted,
}

/// A part of a matrix that was cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Which part.
    pub index: usize,
    /// Of how many.
    pub of: usize,
    /// Rows of all parts took turns; else each part's lay together.
    pub alternating: bool,
    /// The folder's matrix has inputs as rows.
    pub turned: bool,
}

/// The first and the second half of a matrix's rows.
pub(super) const fn half(index: usize) -> How {
    How::Piece(Piece {
        index,
        of: 2,
        alternating: false,
        turned: false,
    })
}

/// `.weight` and `.bias` of these names.
pub(super) const fn rule(from: &'static str, to: &'static str, how: How) -> Rule {
    Rule {
        from,
        to,
        exact: false,
        how,
    }
}

/// The same, unchanged.
pub(super) const fn same(from: &'static str, to: &'static str) -> Rule {
    rule(from, to, How::Same)
}

/// Exactly these names.
pub(super) const fn exact(from: &'static str, to: &'static str, how: How) -> Rule {
    Rule {
        from,
        to,
        exact: true,
        how,
    }
}

/// Tables of names.
pub(super) struct Tables<'t> {
    /// Tensors outside the layers.
    pub model: &'t [&'t [Rule]],
    /// For each stack of layers: prefix of the file's names, prefix of the folder's, the tables of a layer.
    pub stacks: &'t [(&'static str, &'static str, &'t [&'t [Rule]])],
}

/// What the tables need to know of the model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadSizes {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Rotated dimensions of a head.
    pub rotated: u32,
}

/// The folder's name of a tensor of the file, and what was done to it.
pub(super) fn find(tables: &Tables, name: &str) -> Option<(String, How)> {
    if let Some(found) = tables.model.iter().find_map(|t| apply(t, name)) {
        return Some(found);
    }
    tables.stacks.iter().find_map(|(from, to, rules)| {
        let (layer, rest) = name.strip_prefix(from)?.split_once('.')?;
        let index: u32 = layer.parse().ok()?;
        // "blk.007" is not the name of block 7.
        if index.to_string() != layer {
            return None;
        }
        let (rest, how) = rules.iter().find_map(|t| apply(t, rest))?;
        Some((format!("{to}{index}.{rest}"), how))
    })
}

fn apply(rules: &[Rule], name: &str) -> Option<(String, How)> {
    rules.iter().find_map(|rule| {
        if rule.exact {
            return (rule.from == name).then(|| (rule.to.to_owned(), rule.how));
        }
        let kind = name.strip_prefix(rule.from)?;
        matches!(kind, ".weight" | ".bias").then(|| (format!("{}{kind}", rule.to), rule.how))
    })
}
