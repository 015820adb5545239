//! The tensors of a weight file: what each is for, where in the [`Spec`](super::Spec) it belongs, its shape.

/// What a stored tensor is for. The numbers are part of the file format: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(missing_docs)] // the names are the documentation
pub enum Role {
    TokenEmbedding = 1,
    Head = 2,
    HeadBias = 3,
    FinalNorm = 4,
    FinalNormBias = 5,
    PreNorm = 16,
    PreNormBias = 17,
    PostNorm = 18,
    PostNormBias = 19,
    AttnQ = 32,
    AttnK = 33,
    AttnV = 34,
    AttnO = 35,
    AttnQBias = 36,
    AttnKBias = 37,
    AttnVBias = 38,
    AttnOBias = 39,
    MlpGate = 64,
    MlpUp = 65,
    MlpDown = 66,
    MlpGateBias = 67,
    MlpUpBias = 68,
    MlpDownBias = 69,
    PositionEmbedding = 100,
    EmbedNorm = 101,
    EmbedNormBias = 102,
    EmbedProjection = 103,
    HeadProjection = 104,
    AttnQNorm = 105,
    AttnQNormBias = 106,
    AttnKNorm = 107,
    AttnKNormBias = 108,
    StreamNorm = 109,
    StreamNormBias = 110,
    EmbedBias = 220,
    Pooler = 221,
    PoolerBias = 222,
    Projection = 223,
    ProjectionBias = 224,
    AttnSinks = 140,
    MlpOutputGate = 141,
    Router = 142,
    RouterBias = 143,
    RouterCorrection = 144,
    ExpertGate = 145,
    ExpertUp = 146,
    ExpertDown = 147,
    ExpertGateBias = 148,
    ExpertUpBias = 149,
    ExpertDownBias = 150,
    LatentQueryDown = 160,
    LatentQueryDownBias = 161,
    LatentQueryNorm = 162,
    LatentQueryNormBias = 163,
    LatentQuery = 164,
    LatentKvDown = 165,
    LatentKvDownBias = 166,
    LatentKvNorm = 167,
    LatentKvNormBias = 168,
    LatentKey = 169,
    LatentValue = 170,
    AttnGate = 200,
    DeltaQkv = 201,
    DeltaGate = 202,
    DeltaBeta = 203,
    DeltaDecay = 204,
    DeltaDecayBias = 205,
    MixerIn = 180,
    MixerInBias = 181,
    MixerOut = 182,
    MixerOutBias = 183,
    ConvWeight = 184,
    ConvBias = 185,
    ScanIn = 186,
    StepProjection = 187,
    StepBias = 188,
    Rate = 189,
    Skip = 190,
    GateNorm = 191,
    GateNormBias = 192,
    RouterNorm = 230,
    RouterNormBias = 231,
    RouterExpertScales = 232,
    PerLayerEmbedding = 233,
    PerLayerProjection = 234,
    PerLayerNorm = 235,
    PerLayerNormBias = 236,
    PerLayerGate = 237,
    PerLayerOutput = 238,
    StreamProjection = 240,
    StreamUnprojection = 241,
    StreamRouterNorm = 242,
    StreamRouterNormBias = 243,
    StreamRouter = 244,
    StreamPrediction = 245,
    StreamCorrection = 246,
    StreamWeight = 247,
    AttnRelativeBias = 260,
}

impl Role {
    /// Every role, for look-ups by number and for printing.
    pub const ALL: &'static [Role] = &[
        Role::TokenEmbedding,
        Role::Head,
        Role::HeadBias,
        Role::FinalNorm,
        Role::FinalNormBias,
        Role::PreNorm,
        Role::PreNormBias,
        Role::PostNorm,
        Role::PostNormBias,
        Role::AttnQ,
        Role::AttnK,
        Role::AttnV,
        Role::AttnO,
        Role::AttnQBias,
        Role::AttnKBias,
        Role::AttnVBias,
        Role::AttnOBias,
        Role::MlpGate,
        Role::MlpUp,
        Role::MlpDown,
        Role::MlpGateBias,
        Role::MlpUpBias,
        Role::MlpDownBias,
        Role::PositionEmbedding,
        Role::EmbedNorm,
        Role::EmbedNormBias,
        Role::EmbedProjection,
        Role::HeadProjection,
        Role::AttnQNorm,
        Role::AttnQNormBias,
        Role::AttnKNorm,
        Role::AttnKNormBias,
        Role::StreamNorm,
        Role::StreamNormBias,
        Role::EmbedBias,
        Role::Pooler,
        Role::PoolerBias,
        Role::Projection,
        Role::ProjectionBias,
        Role::AttnSinks,
        Role::MlpOutputGate,
        Role::Router,
        Role::RouterBias,
        Role::RouterCorrection,
        Role::ExpertGate,
        Role::ExpertUp,
        Role::ExpertDown,
        Role::ExpertGateBias,
        Role::ExpertUpBias,
        Role::ExpertDownBias,
        Role::LatentQueryDown,
        Role::LatentQueryDownBias,
        Role::LatentQueryNorm,
        Role::LatentQueryNormBias,
        Role::LatentQuery,
        Role::LatentKvDown,
        Role::LatentKvDownBias,
        Role::LatentKvNorm,
        Role::LatentKvNormBias,
        Role::LatentKey,
        Role::LatentValue,
        Role::AttnGate,
        Role::DeltaQkv,
        Role::DeltaGate,
        Role::DeltaBeta,
        Role::DeltaDecay,
        Role::DeltaDecayBias,
        Role::MixerIn,
        Role::MixerInBias,
        Role::MixerOut,
        Role::MixerOutBias,
        Role::ConvWeight,
        Role::ConvBias,
        Role::ScanIn,
        Role::StepProjection,
        Role::StepBias,
        Role::Rate,
        Role::Skip,
        Role::GateNorm,
        Role::GateNormBias,
        Role::RouterNorm,
        Role::RouterNormBias,
        Role::RouterExpertScales,
        Role::PerLayerEmbedding,
        Role::PerLayerProjection,
        Role::PerLayerNorm,
        Role::PerLayerNormBias,
        Role::PerLayerGate,
        Role::PerLayerOutput,
        Role::StreamProjection,
        Role::StreamUnprojection,
        Role::StreamRouterNorm,
        Role::StreamRouterNormBias,
        Role::StreamRouter,
        Role::StreamPrediction,
        Role::StreamCorrection,
        Role::StreamWeight,
        Role::AttnRelativeBias,
    ];

    /// The number in the file.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The role of a number in a file.
    pub fn from_code(code: u16) -> Option<Role> {
        Self::ALL.iter().copied().find(|r| r.code() == code)
    }
}

/// Marks a key that belongs to a whole block, layer or stack and not to one part of it.
pub const WHOLE: u8 = 0xff;
/// Marks a key that belongs to a whole stack.
pub const WHOLE_STACK: u32 = u32::MAX;

/// The identity of a stored tensor: where in the [`Spec`](super::Spec) it belongs, and its role there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorKey {
    /// 0 is the decoder (or only) stack, 1 the encoder.
    pub stack: u8,
    /// Layer index, or [`WHOLE_STACK`].
    pub layer: u32,
    /// Block index within the layer, or [`WHOLE`].
    pub block: u8,
    /// Branch index within the block, or [`WHOLE`].
    pub branch: u8,
    /// The role.
    pub role: Role,
}

impl TensorKey {
    /// A tensor of the whole model.
    pub fn model(role: Role) -> Self {
        TensorKey {
            stack: 0,
            layer: WHOLE_STACK,
            block: WHOLE,
            branch: WHOLE,
            role,
        }
    }

    /// A tensor of one of the projections of an embedding.
    pub fn projection(index: usize, role: Role) -> Self {
        Self::layer(index, role)
    }

    /// A tensor of a whole layer of the decoder stack.
    pub fn layer(layer: usize, role: Role) -> Self {
        TensorKey {
            layer: layer as u32,
            ..Self::model(role)
        }
    }

    /// The same place in the encoder.
    pub fn in_encoder(self) -> Self {
        TensorKey { stack: 1, ..self }
    }

    /// A tensor of one branch of the decoder stack.
    pub fn branch(layer: usize, block: usize, branch: usize, role: Role) -> Self {
        TensorKey {
            stack: 0,
            layer: layer as u32,
            block: block as u8,
            branch: branch as u8,
            role,
        }
    }

    /// A tensor of one block of the decoder stack.
    pub fn block(layer: usize, block: usize, role: Role) -> Self {
        TensorKey {
            stack: 0,
            layer: layer as u32,
            block: block as u8,
            branch: WHOLE,
            role,
        }
    }
}

impl std::fmt::Display for TensorKey {
    /// `layers.3.blocks.0.branches.0.attn_q` in the terms of the Spec.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.stack != 0 {
            write!(f, "stacks.{}.", self.stack)?;
        }
        if self.layer != WHOLE_STACK {
            write!(f, "layers.{}.", self.layer)?;
        }
        if self.block != WHOLE {
            write!(f, "blocks.{}.", self.block)?;
        }
        if self.branch != WHOLE {
            write!(f, "branches.{}.", self.branch)?;
        }
        let camel = format!("{:?}", self.role);
        for (i, c) in camel.chars().enumerate() {
            if c.is_uppercase() && i > 0 {
                write!(f, "_")?;
            }
            write!(f, "{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// The shape of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A vector of f32 values: norm weights, biases.
    Vector(u32),
    /// `count` matrices of `rows` x `cols` one after another (count is 1 but for experts and heads); `rows` outputs, `cols` inputs.
    Matrix {
        /// Matrices one after another.
        count: u32,
        /// Outputs.
        rows: u32,
        /// Inputs.
        cols: u32,
    },
}

impl Shape {
    /// One matrix.
    pub(super) fn matrix(rows: u32, cols: u32) -> Shape {
        Shape::Matrix {
            count: 1,
            rows,
            cols,
        }
    }
}

/// One tensor that the file of a [`Spec`](super::Spec) must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is.
    pub key: TensorKey,
    /// Its exact shape.
    pub shape: Shape,
}
