//! Checkpoints of models that also see or hear: their text part has a configuration and names of its own.

use crate::prelude::*;

/// Prefixes of tensors that are no part of the text model.
const OTHER_PARTS: [&str; 7] = [
    "vision_tower.",
    "vision_model.",
    "visual.",
    "audio_tower.",
    "multi_modal_projector.",
    "embed_audio.",
    "embed_vision.",
];

/// The plan of the text part: `decoder` gets `text_config`, and the names below `language_model`. `keys` are those of the outer
/// configuration that only matter to other parts.
///
/// # Errors
/// No `text_config`, an unknown key in either configuration, and whatever `decoder` returns.
pub fn plan<'t>(
    config: &Config,
    keys: &[&'static str],
    tensors: &'t dyn Tensors,
    decoder: impl FnOnce(&Config, Builder<'t>, &DecoderNames) -> Result<Plan>,
) -> Result<Plan> {
    config.ignore(keys);
    config.ignore(&["vision_config", "audio_config"]);
    let Some(text) = config.opt_object("text_config")? else {
        return Err(config.missing("text_config"));
    };
    let mut b = Builder::new(config, tensors);
    for part in OTHER_PARTS {
        for root in ["", "model."] {
            b.skip(format!("{root}{part}*"), "not part of the text model");
        }
    }
    // Files of version 5 have the root in front, older ones behind.
    let (root, head) = if b.has("model.language_model.embed_tokens.weight") {
        ("model.language_model.", "lm_head")
    } else {
        ("language_model.model.", "language_model.lm_head")
    };
    let names = DecoderNames {
        root,
        head,
        ..LLAMA
    };
    let plan = decoder(&text, b, &names)?;
    text.finish()?;
    Ok(plan)
}
