//! Beginnings that texts have in common: sequences that are kept for those to come, and how much of one another begins with.

use crate::cache::Sequence;
use quern_kernels::KvType;

/// Fewest ids that are worth sharing: below that, a copy of the last page costs about as much as computing them beside other tokens.
pub const FEWEST: usize = 32;

/// Where sequences whose past is lost as they go on are cut for others: at multiples of so many ids, so that texts which happen to begin a few ids
/// more alike use the same cut.
pub const CUT: usize = 16;

/// Most beginnings that are kept while no text uses them.
const KEPT: usize = 4;

/// A beginning that is kept.
pub struct Kept {
    /// The ids.
    pub ids: Vec<u32>,
    /// Element type of the caches.
    pub kv: KvType,
    /// They have gone through the model, and nothing else.
    pub sequence: Sequence,
}

/// Beginnings that are kept, the one that was used last at the end.
#[derive(Default)]
pub struct Store {
    kept: Vec<Kept>,
}

/// How many ids two texts begin with alike.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Store {
    /// Keeps one more; the one that was not used for the longest time may have to go.
    pub fn keep(&mut self, kept: Kept) {
        // Of no more use is one that the new one can stand for.
        self.kept.retain(|old| {
            let within = common(&old.ids, &kept.ids) == old.ids.len();
            let same = within && old.ids.len() == kept.ids.len();
            old.kv != kept.kv || !(same || within && !kept.sequence.moves_on())
        });
        self.kept.push(kept);
        if self.kept.len() > KEPT {
            self.kept.remove(0);
        }
    }

    /// Forgets the one that was not used for the longest time, but for the last `spared`; says whether there was one.
    pub fn forget(&mut self, spared: usize) -> bool {
        let any = self.kept.len() > spared;
        if any {
            self.kept.remove(0);
        }
        any
    }

    /// Bytes of their states.
    pub fn state_bytes(&self) -> usize {
        self.kept.iter().map(|k| k.sequence.bytes_for(0)).sum()
    }

    /// The one that was used last.
    pub fn last(&mut self) -> Option<&mut Sequence> {
        self.kept.last_mut().map(|kept| &mut kept.sequence)
    }

    /// Of how many of these ids a new sequence can be had, at most; the one that it can be had of becomes the one that was used last.
    pub fn find(&mut self, ids: &[u32], kv: KvType, alike: impl Fn(&Sequence) -> bool) -> usize {
        let mut best = (0, 0);
        for (i, kept) in self.kept.iter_mut().enumerate() {
            if kept.kv == kv && alike(&kept.sequence) {
                let n = kept.sequence.nearest(common(&kept.ids, ids));
                best = best.max((n, i));
            }
        }
        let (n, i) = best;
        if n > 0 {
            let kept = self.kept.remove(i);
            self.kept.push(kept);
        }
        n
    }
}
