//! The embedding of a text: hidden vectors of all its positions, pooled and projected as the model says. Of an encoder-decoder they are
//! those of the encoder.
//!
//! Means and lengths are sums in f64 over ascending positions and dimensions, so that embeddings have equal bits on every machine.

use super::check_context;
use crate::cache::Sequence;
use crate::error::{Error, Result};
use crate::model::{Engine, Hidden, Model, Source, Step, Wanted};
use quern_kernels::KvType;
use quern_models::spec::Pooling;

/// What to compute.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which hidden vectors count; none: as the model says, else the mean where tokens see what comes after them and the last where not.
    pub pooling: Option<Pooling>,
    /// Whether the embedding is divided by its Euclidean length.
    pub normalize: bool,
    /// Most positions.
    pub context: usize,
    /// Tokens per pass, unless the model reads a text as a whole.
    pub chunk: usize,
}

/// What became of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Hidden vectors of all positions one after another.
    pub hidden: Vec<f32>,
    /// Width of one of them.
    pub width: usize,
    /// The embedding.
    pub embedding: Vec<f32>,
    /// What the model's pooler makes of the first hidden vector.
    pub pooler: Option<Vec<f32>>,
}

/// Runs one text, with keys and values in f32: they live no longer than that.
///
/// # Errors
/// No ids (usage), more than the context holds (limit, before anything is run), an id beyond the vocabulary, values that are not finite
/// (invalid), a model file that changed.
pub fn embed(engine: &mut Engine, ids: &[u32], options: &Options) -> Result<Embedded> {
    if ids.is_empty() {
        return Err(Error::usage("there is nothing to embed: no tokens"));
    }
    check_context("the text", ids.len(), options.context)?;
    let model = engine.model().clone();
    let spec = model.spec();
    let one_pass = spec.encoder.is_some() || spec.one_pass();
    let chunk = if one_pass { ids.len() } else { options.chunk };
    let width = spec.hidden as usize;
    let mut sequence = model.new_sequence(KvType::F32);
    sequence.set_prompt_len(ids.len());
    let mut hidden = Vec::new();
    for tokens in ids.chunks(chunk.max(1)) {
        let states = states(engine, &model, &mut sequence, tokens)?;
        model.file().check_unchanged()?;
        hidden
            .try_reserve(states.rows() * width)
            .map_err(|_| Error::limit("not enough memory for the hidden vectors"))?;
        (0..states.rows()).for_each(|i| hidden.extend_from_slice(states.row(i)));
    }
    let own = spec.embedding.as_ref().and_then(|e| e.pooling);
    let usual = if one_pass {
        Pooling::Mean
    } else {
        Pooling::Last
    };
    let pooled = match options.pooling.or(own).unwrap_or(usual) {
        Pooling::Cls => hidden[..width].to_vec(),
        Pooling::Last => hidden[hidden.len() - width..].to_vec(),
        Pooling::Mean => mean(&hidden, width),
    };
    let mut embedding = engine.project(&pooled);
    if options.normalize {
        to_unit_length(&mut embedding);
    }
    if let Some(i) = embedding.iter().position(|x| !x.is_finite()) {
        return Err(Error::invalid(format_args!(
            "value {i} of the embedding is {}, expected a finite number",
            embedding[i]
        )));
    }
    let pooler = engine.pool(&hidden[..width]);
    Ok(Embedded {
        hidden,
        width,
        embedding,
        pooler,
    })
}

/// Hidden vectors of the next tokens.
fn states<'e>(
    engine: &'e mut Engine,
    model: &Model,
    seq: &mut Sequence,
    tokens: &[u32],
) -> Result<Hidden<'e>> {
    if model.spec().encoder.is_some() {
        return engine.encode(&mut [Source { seq, ids: tokens }]);
    }
    engine.hidden(&mut [Step {
        seq,
        tokens,
        wanted: Wanted::All,
    }])
}

fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    for row in rows.chunks_exact(width) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += f64::from(*x);
        }
    }
    let n = (rows.len() / width) as f64;
    sums.iter().map(|sum| (sum / n) as f32).collect()
}

/// Divides by the Euclidean length, or by 1e-12 if it is less (as PyTorch does).
fn to_unit_length(x: &mut [f32]) {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = squares.sqrt().max(1e-12);
    x.iter_mut()
        .for_each(|x| *x = (f64::from(*x) / length) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_lengths() {
        assert_eq!(mean(&[1.0, 2.0, 5.0, -2.0], 2), [3.0, 0.0]);
        let mut x = [3.0, -4.0];
        to_unit_length(&mut x);
        assert_eq!(x, [0.6, -0.8]);
        let mut zero = [0.0; 3];
        to_unit_length(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
