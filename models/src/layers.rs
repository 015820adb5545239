//! The stored form of a stack's layers: each kind of layer once, and which kind each layer is.
//!
//! ```text
//! {"kinds": [{"blocks": ...}, ...], "order": [0, 0, 1, 0, ...]}
//! ```
//!
//! Models repeat a few kinds of layers many times, and the Spec is read at every start: written out one by one, thousands of
//! layers would take longer to parse than the whole budget for opening a file. Since a small text can stand for many layers, what it
//! expands to is bounded here, before it is expanded.

use crate::spec::{Layer, bound};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize)]
struct Kinds<'a> {
    kinds: Vec<&'a Layer>,
    order: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKinds {
    kinds: Vec<Layer>,
    order: Vec<usize>,
}

/// For `serde(with)`.
pub fn serialize<S: Serializer>(layers: &[Layer], serializer: S) -> Result<S::Ok, S::Error> {
    let mut kinds: Vec<&Layer> = Vec::new();
    let mut order = Vec::with_capacity(layers.len());
    for layer in layers {
        let known = kinds.iter().position(|kind| *kind == layer);
        order.push(known.unwrap_or_else(|| {
            kinds.push(layer);
            kinds.len() - 1
        }));
    }
    Kinds { kinds, order }.serialize(serializer)
}

/// For `serde(with)`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Layer>, D::Error> {
    let StoredKinds { kinds, order } = StoredKinds::deserialize(deserializer)?;
    if order.len() > bound::LAYERS {
        return Err(D::Error::custom(format_args!(
            "{} layers, expected 1 to {}",
            order.len(),
            bound::LAYERS
        )));
    }
    let sizes: Vec<usize> = kinds
        .iter()
        .map(|kind| kind.blocks.iter().map(|b| 1 + b.branches.len()).sum())
        .collect();
    let mut total = 0_usize;
    for (l, kind) in order.iter().enumerate() {
        let Some(size) = sizes.get(*kind) else {
            return Err(D::Error::custom(format_args!(
                "layers.{l}: kind {kind}, but there are {} kinds",
                kinds.len()
            )));
        };
        total = total.saturating_add(*size);
    }
    if total > bound::PARTS {
        return Err(D::Error::custom(format_args!(
            "{total} blocks and branches in all layers, expected at most {}",
            bound::PARTS
        )));
    }
    Ok(order.iter().map(|kind| kinds[*kind].clone()).collect())
}

#[cfg(test)]
mod tests {
    use crate::spec::*;

    fn stack(inner: &[u32]) -> Stack {
        let layer = |inner: u32| Layer {
            blocks: vec![Block {
                pre: None,
                branches: vec![Branch::new(Op::Dense(Dense::gated(
                    inner,
                    Activation::Silu,
                )))],
                post: None,
                scale: 1.0,
                out: None,
                stream_scale: 1.0,
            }],
        };
        Stack {
            layers: inner.iter().map(|i| layer(*i)).collect(),
            streams: None,
            final_norm: None,
        }
    }

    #[test]
    fn layers_come_back_in_order_and_each_kind_is_stored_once() {
        let stack = stack(&[8, 8, 16, 8, 16, 32]);
        let json = serde_json::to_string(&stack).unwrap();
        assert_eq!(json.matches("blocks").count(), 3);
        assert!(json.contains(r#""order":[0,0,1,0,1,2]"#), "{json}");
        assert_eq!(serde_json::from_str::<Stack>(&json).unwrap(), stack);
    }

    #[test]
    fn what_a_short_text_expands_to_is_bounded() {
        let json = serde_json::to_string(&stack(&[8])).unwrap();
        let refused = |from: &str, to: &str| {
            let json = json.replace(from, to);
            serde_json::from_str::<Stack>(&json)
                .unwrap_err()
                .to_string()
        };
        let e = refused("[0]", "[1]");
        assert!(e.contains("layers.0: kind 1, but there are 1 kinds"), "{e}");
        let many = format!("[{}0]", "0,".repeat(4096));
        assert!(refused("[0]", &many).contains("4097 layers"));
        let blocks = json[json.find("[{\"pre").unwrap()..].to_string();
        let block = &blocks[1..=blocks.find("\"out\":null}").unwrap() + 10];
        let wide = format!("[{}{block}]", format!("{block},").repeat(99));
        let wide = json.replace(&format!("[{block}]"), &wide);
        assert!(serde_json::from_str::<Stack>(&wide).is_ok());
        let wide = wide.replace("[0]", &format!("[{}0]", "0,".repeat(999)));
        let e = serde_json::from_str::<Stack>(&wide)
            .unwrap_err()
            .to_string();
        assert!(e.contains("200000 blocks and branches"), "{e}");
    }
}
