//! A foreign model as a whole: what it is, its configuration, its tensors, and everything beside them that a weight file keeps.

use super::gguf;
use super::source::Tensors;
use crate::error::{Error, Result};
use quern_models::gguf::Names;
use quern_models::plan::{Plan, Source, TensorPlan};
use quern_models::source::Origin;
use quern_models::spec::{Embedding, Role, TensorKey};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A foreign model whose headers were read and checked; the weights are still in their files.
pub struct Foreign {
    /// Where it comes from.
    pub origin: Origin,
    /// The file or folder that the configuration's keys belong to, for errors.
    pub place: String,
    /// The configuration in the keys of transformers.
    pub config: Map<String, Json>,
    /// The tensors, under the names of transformers unless `names` has others for them.
    pub tensors: Tensors,
    /// What the tensors would be in a folder, where they lie otherwise in their file.
    pub names: Option<Names>,
    /// What to call the model.
    pub name: String,
    /// Where its tokenizer is.
    pub tokenizer: TokenizerSource,
    /// What belongs to the chat template.
    pub chat: Chat,
    /// What comes after the model, if it is one for embeddings.
    pub embedding: Option<ForeignEmbedding>,
    /// Special ids that the model declares.
    pub ids: SpecialIds,
    /// Defaults for sampling that the model declares.
    pub sampling: Sampling,
    /// Every file that was read, tensors or not: paths in a fixed order.
    pub files: Vec<PathBuf>,
}

/// How a model's hidden vectors become one, and the tensors of its projections.
pub struct ForeignEmbedding {
    /// The description.
    pub spec: Embedding,
    /// Names of the tensors of each projection: the matrix, then its bias if it has one.
    pub names: Vec<Vec<String>>,
}

impl ForeignEmbedding {
    /// Adds it to the plan of the model.
    pub fn join(&self, plan: &mut Plan) {
        let pooler = plan.spec.embedding.as_ref().is_some_and(|e| e.pooler);
        plan.spec.embedding = Some(Embedding {
            pooler,
            ..self.spec.clone()
        });
        for (i, names) in self.names.iter().enumerate() {
            let roles = [Role::Projection, Role::ProjectionBias];
            for (name, role) in names.iter().zip(roles) {
                plan.tensors.push(TensorPlan {
                    key: TensorKey::projection(i, role),
                    sources: vec![Source::all(name)],
                });
            }
        }
    }
}

/// Where a model's tokenizer is.
pub enum TokenizerSource {
    /// There is none.
    None,
    /// A folder with tokenizer.json or tokenizer.model.
    Folder(PathBuf),
    /// The metadata of a GGUF.
    Gguf(BTreeMap<String, gguf::Value>),
}

/// The chat template of a model, and what it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// The template.
    pub template: Option<String>,
    /// Another one for conversations with tools.
    pub tools: Option<String>,
    /// Texts of special tokens by the names that templates know them under, where the source has such names.
    pub special: Vec<(String, String)>,
}

/// Ids with a meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// End a generation, in ascending order.
    pub eos: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Begins what the decoder of an encoder-decoder writes.
    pub decoder_start: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
}

/// Defaults for sampling.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// `temperature`.
    pub temperature: Option<f32>,
    /// `top_k`.
    pub top_k: Option<u32>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `min_p`.
    pub min_p: Option<f32>,
    /// `repetition_penalty`.
    pub repeat_penalty: Option<f32>,
}

impl Foreign {
    /// Checks the special ids against the vocabulary.
    ///
    /// # Errors
    /// Names the id.
    pub fn check_ids(&self, vocab_size: u32) -> Result<()> {
        let ids = &self.ids;
        let named = [
            ("bos", ids.bos),
            ("decoder start", ids.decoder_start),
            ("pad", ids.pad),
            ("unk", ids.unk),
        ];
        let eos = ids.eos.iter().map(|&id| ("eos", Some(id)));
        for (what, id) in named.into_iter().chain(eos) {
            if let Some(id) = id.filter(|&id| id >= vocab_size) {
                return Err(Error::invalid(format_args!(
                    "{}: the {what} token is {id}, expected an id below the vocabulary's {vocab_size}",
                    self.place
                )));
            }
        }
        Ok(())
    }
}
