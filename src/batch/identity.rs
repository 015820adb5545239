//! What names a record and what its choices are drawn with: functions of the record alone, so that order, interruption and shards cannot matter.

/// Seeds have so many bits: every reader of JSON keeps them.
const SEED_BITS: u32 = 53;

/// The name of a record: a hash of what it calls itself, or else of its place in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; 12]);

impl Identity {
    /// A record that calls itself so.
    pub fn of_name(name: &str) -> Identity {
        Identity::hash(b"i", name.as_bytes())
    }

    /// The record at `index` of the input, from 0.
    pub fn of_place(index: u64) -> Identity {
        Identity::hash(b"n", &index.to_le_bytes())
    }

    /// A plain record at `index`, whatever it calls itself besides.
    pub fn of_plain(index: u64, name: Option<&str>) -> Identity {
        let name = name.unwrap_or_default();
        Identity::hash(b"p", &[&index.to_le_bytes(), name.as_bytes()].concat())
    }

    fn hash(kind: &[u8], bytes: &[u8]) -> Identity {
        let mut hasher = blake3::Hasher::new_derive_key("quern batch: name of a record");
        hasher.update(kind);
        hasher.update(bytes);
        let mut out = [0; 12];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..12]);
        Identity(out)
    }

    /// The name that has these digits.
    pub fn from_hex(text: &str) -> Option<Identity> {
        let mut out = [0; 12];
        if text.len() != 24 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Identity(out))
    }

    /// As 24 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// What a text hashes to where only equality matters.
pub fn short_hash(text: &str) -> u128 {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    u128::from_le_bytes(out)
}

/// The seed of a record that does not say one: from that of the run, and the record's id, else its index.
pub fn record_seed(run: u64, index: u64, id: Option<&str>) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("quern batch: seed of a record");
    hasher.update(&run.to_le_bytes());
    match id {
        Some(id) => hasher.update(b"i").update(id.as_bytes()),
        None => hasher.update(b"n").update(&index.to_le_bytes()),
    };
    first_bits(&hasher)
}

/// The seed of one of a record's choices: the first has the record's.
pub fn choice_seed(record: u64, choice: u32) -> u64 {
    if choice == 0 {
        return record;
    }
    let mut hasher = blake3::Hasher::new_derive_key("quern batch: seed of a choice");
    hasher.update(&record.to_le_bytes());
    hasher.update(&choice.to_le_bytes());
    first_bits(&hasher)
}

fn first_bits(hasher: &blake3::Hasher) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(out) >> (u64::BITS - SEED_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn seeds_differ_by_run_record_and_choice_and_fit_into_a_double() {
        let mut seen = HashSet::new();
        for run in 0..3 {
            for id in [None, Some("a"), Some("b"), Some("")] {
                for choice in 0..3 {
                    let seed = choice_seed(record_seed(run, 7, id), choice);
                    assert!(seen.insert(seed));
                    assert_eq!(seed as f64 as u64, seed);
                }
            }
        }
        assert_eq!(record_seed(1, 7, Some("a")), record_seed(1, 8, Some("a")));
        assert_ne!(record_seed(1, 7, None), record_seed(1, 8, None));
    }

    /// Outputs of earlier versions are gone on with: these never change.
    #[test]
    fn names_and_seeds_stay_what_they_are() {
        let name = Identity::of_name("a").hex();
        assert_eq!(name, "5113ac1cda581c9454af812f");
        assert_eq!(Identity::from_hex(&name), Some(Identity::of_name("a")));
        assert_eq!(Identity::from_hex("a"), None);
        assert_eq!(Identity::of_place(3).hex(), "7b6154f764fb4a66e0c5563c");
        assert_eq!(record_seed(0, 0, None), 4_022_230_992_674_197);
        assert_eq!(record_seed(0, 0, Some("a")), 8_619_339_575_876_532);
    }
}
