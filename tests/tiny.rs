//! A model that is constructed and not trained does what it was constructed for: a check of the whole way from text to logits that no random
//! model gives, because here it is known which word must come next.

#[path = "chain/chain.rs"]
mod chain;

use chain::{Chain, STORY};
use quern::bytes::AlignedBytes;
use quern::file::{ModelFile, Writer};
use quern::model::{Engine, Model, Step, Wanted};
use quern::par::Team;
use quern::tokenizer::{EncodeOptions, Tokenizer};
use quern_kernels::{Format, KvType};
use std::collections::BTreeMap;
use std::sync::Arc;

#[test]
fn words_that_followed_a_pair_of_words_come_first() {
    for format in [Format::F32, Format::Q8] {
        let writer = Chain::new().write(format, Writer::in_memory).unwrap();
        let bytes = AlignedBytes::copy_of(&writer.finish().unwrap()).unwrap();
        let file = Arc::new(ModelFile::from_bytes(Arc::new(bytes)).unwrap());
        let tokenizer = Tokenizer::from_prepared(file.tokenizer().unwrap().unwrap()).unwrap();
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        let ids = tokenizer.encode(STORY.trim_end(), options).unwrap();
        assert_eq!(ids[0], tokenizer.bos().unwrap());
        let is_word = |id: &u32| *id >= chain::tokenizer::FIRST_WORD;
        assert!(ids.iter().all(is_word), "the story is made of whole words");

        let mut followers: BTreeMap<&[u32], Vec<u32>> = BTreeMap::new();
        for three in ids.windows(3) {
            followers.entry(&three[..2]).or_default().push(three[2]);
        }
        let last = &ids[ids.len() - 2..];
        followers.entry(last).or_default().extend(tokenizer.eos());

        let model = Arc::new(Model::bind(file).unwrap());
        let mut sequence = model.new_sequence(KvType::F16);
        let mut engine = Engine::new(model, quern_kernels::best(), Team::new(2).unwrap());
        let step = Step {
            seq: &mut sequence,
            tokens: &ids,
            wanted: Wanted::All,
        };
        let logits = engine.forward(&mut [step]).unwrap();
        for at in 1..ids.len() {
            let expected = &followers[&ids[at - 1..=at]];
            let is_expected = |id: usize| expected.contains(&(id as u32));
            let row = logits.row(at);
            let lowest = expected.iter().map(|id| row[*id as usize]);
            let lowest = lowest.fold(f32::INFINITY, f32::min);
            let other = (0..row.len()).filter(|id| !is_expected(*id));
            let other = other.map(|id| row[id]).fold(f32::NEG_INFINITY, f32::max);
            assert!(
                lowest > other,
                "{format:?}, position {at}: {lowest} for a word of the story, {other} for another"
            );
        }
    }
}
