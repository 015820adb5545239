//! The layout of sentence-transformers: `modules.json` lists what comes after the model, each in a folder of its own.
//!
//! ```text
//! modules.json          [{"type": "...Transformer", "path": ""}, {"type": "...Pooling", "path": "1_Pooling"}, ...]
//! 1_Pooling/config.json which of the hidden vectors count
//! N_Dense/              config.json and model.safetensors of a projection
//! ```
//!
//! A module that normalises is left to whoever asks for embeddings; any other module is an error.

use super::folder::{inside, json};
use super::foreign::ForeignEmbedding;
use super::safetensors;
use super::source::{SourceFile, Tensors};
use crate::error::{Error, Result};
use quern_models::spec::{Embedding, Pooling, Projection, ProjectionActivation};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// The modules of a folder.
pub struct Modules {
    spec: Embedding,
    /// Folder and weights of every projection.
    dense: Vec<(String, PathBuf)>,
    /// Every file that they lie in, but for modules.json.
    pub files: Vec<PathBuf>,
}

impl Modules {
    /// Reads modules.json and the configurations that it leads to; none if there is no such file.
    ///
    /// # Errors
    /// I/O; Invalid, naming the file and what is wrong in it.
    pub fn find(folder: &Path) -> Result<Option<Modules>> {
        let list = folder.join("modules.json");
        let Some(modules) = json(&list)? else {
            return Ok(None);
        };
        let invalid = |m: String| Error::invalid(m).at(format_args!("{list:?}"));
        let Json::Array(modules) = modules else {
            return Err(invalid("no list, expected one of modules".into()));
        };
        let mut out = Modules {
            spec: Embedding::default(),
            dense: Vec::new(),
            files: Vec::new(),
        };
        for module in &modules {
            let (Some(kind), Some(path)) = (module["type"].as_str(), module["path"].as_str())
            else {
                return Err(invalid(format!(
                    "a module is {module}, expected an object with type and path"
                )));
            };
            let short = kind.rsplit('.').next().unwrap_or_default();
            let file = |name: &str| {
                inside(folder, &format!("{path}/{name}"))
                    .map_err(|m| invalid(format!("{short} is in {path:?}: {m}")))
            };
            match short {
                "Transformer" if path.is_empty() => {}
                "Normalize" => {}
                "Pooling" => {
                    let config = file("config.json")?;
                    out.spec.pooling = Some(pooling(&config)?);
                    out.files.push(config);
                }
                "Dense" => {
                    let (config, weights) = (file("config.json")?, file("model.safetensors")?);
                    out.spec.projections.push(projection(&config)?);
                    out.dense.push((path.to_owned(), weights.clone()));
                    out.files.extend([config, weights]);
                }
                _ => {
                    return Err(invalid(format!(
                        "a module has type {kind:?} and path {path:?}, expected Transformer (in the folder itself), Pooling, Dense or Normalize"
                    )));
                }
            }
        }
        Ok(Some(out))
    }

    /// Opens the weights of the projections, which join `tensors` under the names of their folders.
    ///
    /// # Errors
    /// I/O; Invalid.
    pub fn open(self, tensors: &mut Tensors) -> Result<ForeignEmbedding> {
        let mut names = Vec::new();
        for ((path, weights), projection) in self.dense.iter().zip(&self.spec.projections) {
            safetensors::read(SourceFile::open(weights)?, &format!("{path}/"), tensors)?;
            let mut own = vec![format!("{path}/linear.weight")];
            if projection.bias {
                own.push(format!("{path}/linear.bias"));
            }
            names.push(own);
        }
        Ok(ForeignEmbedding {
            spec: self.spec,
            names,
        })
    }
}

/// The object in a file that must be there.
fn config(path: &Path) -> Result<Json> {
    match json(path)? {
        Some(config @ Json::Object(_)) => Ok(config),
        _ => Err(Error::invalid(format_args!(
            "{path:?} is no JSON object, expected one"
        ))),
    }
}

/// Which of the ways of pooling is true.
fn pooling(path: &Path) -> Result<Pooling> {
    let config = config(path)?;
    let known = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_lasttoken", Pooling::Last),
    ];
    let chosen: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true))
        .map(|(key, _)| key.as_str())
        .collect();
    let mut found = known.iter().filter(|(key, _)| chosen == [*key]);
    // Later versions write one name.
    let named = match config["pooling_mode"].as_str() {
        Some("cls") => Some(Pooling::Cls),
        Some("mean") => Some(Pooling::Mean),
        Some("lasttoken") => Some(Pooling::Last),
        _ => None,
    };
    found.next().map(|(_, p)| *p).or(named).ok_or_else(|| {
        Error::invalid(format_args!(
            "{path:?}: pooling is {chosen:?}, expected one of pooling_mode_cls_token, pooling_mode_mean_tokens, pooling_mode_lasttoken"
        ))
    })
}

fn projection(path: &Path) -> Result<Projection> {
    let config = config(path)?;
    let wrong = |key: &str, expected: &str| {
        Error::invalid(format_args!(
            "{path:?}: {key} is {}, expected {expected}",
            config[key]
        ))
    };
    let width = config["out_features"].as_u64();
    let activation = config["activation_function"].as_str();
    Ok(Projection {
        width: width
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| wrong("out_features", "an integer"))?,
        bias: config["bias"].as_bool().unwrap_or(true),
        activation: match activation.and_then(|name| name.rsplit('.').next()) {
            Some("Identity") => None,
            Some("Tanh") | None => Some(ProjectionActivation::Tanh),
            Some(_) => return Err(wrong("activation_function", "Identity or Tanh")),
        },
    })
}
