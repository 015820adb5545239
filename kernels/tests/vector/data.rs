//! Deterministic test data.

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Values that kernels trip over.
pub const SPECIAL: [f32; 22] = [
    0.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    1e-40,
    1.0,
    -1.0,
    88.8,
    -103.9,
    -104.1,
    1e19,
    -1e19,
    65504.0,
    65520.0,
    9.01,
];

/// What a test vector is made of.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Ordinary values, some of them equal.
    Plain,
    /// Any magnitude, no NaN.
    Wide,
    /// One in eight is special.
    Special,
    /// Only minus infinity.
    Masked,
}

/// All of them.
pub const KINDS: [Kind; 4] = [Kind::Plain, Kind::Wide, Kind::Special, Kind::Masked];

/// `n` values.
pub fn vector(r: &mut Random, n: usize, kind: Kind) -> Vec<f32> {
    (0..n)
        .map(|_| match kind {
            Kind::Plain if r.below(16) == 0 => 3.0,
            Kind::Plain => 3.0 * r.unit(),
            Kind::Wide => loop {
                let x = f32::from_bits(r.next() as u32);
                if x.is_finite() {
                    break x;
                }
            },
            Kind::Special if r.below(8) == 0 => SPECIAL[r.below(SPECIAL.len())],
            Kind::Special => 10.0 * r.unit(),
            Kind::Masked => f32::NEG_INFINITY,
        })
        .collect()
}
