//! One layer in the making: its blocks, and at the same time the foreign tensors behind them.
//!
//! Names are relative to the layer and end before `.weight` or `.bias`.

use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::plan::{Layout, Rows, Source, interleaved_to_half_split};
use crate::source::Origin;
use crate::spec::{
    Activation, Attention, Block, Branch, Dense, Experts, Norm, NormSpan, Op, PerLayer, QkNorm,
    Role, TensorKey,
};

/// Where q, k and v come from.
#[derive(Clone, Copy, Debug)]
pub enum Qkv<'n> {
    /// Three matrices.
    Split([&'n str; 3]),
    /// One matrix: all rows of q, then of k, then of v.
    Fused(&'n str),
    /// One matrix: for every kv head its query heads, its key, its value.
    Grouped(&'n str),
}

/// Names of the tensors of an attention. With [`Attention::output_gate`] the matrix of q has for every head the rows of its query, then
/// those of its gate.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames<'n> {
    /// The three input projections.
    pub qkv: Qkv<'n>,
    /// The output projection.
    pub o: &'n str,
    /// Norms of q and k. With [`NormSpan::EachHead`], `{h}` stands for the head if every head has a tensor of its own.
    pub norms: [&'n str; 2],
}

/// The names of llama, with the usual ones for norms of q and k.
pub const LLAMA_ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    o: "self_attn.o_proj",
    norms: ["self_attn.q_norm", "self_attn.k_norm"],
};

/// Names of the tensors of a feed-forward network.
#[derive(Clone, Copy, Debug)]
pub enum DenseNames<'n> {
    /// Gate, up, down.
    Gated([&'n str; 3]),
    /// Rows of gate, then of up in one matrix; down.
    Fused([&'n str; 2]),
    /// Up, down.
    Plain([&'n str; 2]),
}

/// The names of llama.
pub const LLAMA_MLP: DenseNames<'static> =
    DenseNames::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);

/// Names of the tensors of a mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct ExpertNames<'n> {
    /// The router.
    pub router: &'n str,
    /// The full name of the values that are added for the choice.
    pub correction: &'n str,
    /// The experts.
    pub experts: ExpertMatrices<'n>,
}

/// How the matrices of experts are stored.
#[derive(Clone, Copy, Debug)]
pub enum ExpertMatrices<'n> {
    /// Gate, up and down of every expert, for which `{e}` stands.
    Split([&'n str; 3]),
    /// Full names of two stacks: gate and up of every expert in one matrix, and down.
    Fused {
        /// Both of them.
        names: [&'n str; 2],
        /// Whether inputs come as rows.
        transposed: bool,
        /// Whether rows of gate and up alternate; else those of gate come first.
        alternating: bool,
        /// Names of the biases.
        biases: [&'n str; 2],
    },
    /// The same in blocks of 4-bit floats, outputs as rows: every name stands for two tensors, `_blocks` and `_scales`.
    Mxfp4 {
        /// Both of them.
        names: [&'n str; 2],
        /// Whether rows of gate and up alternate; else those of gate come first.
        alternating: bool,
        /// Names of the biases.
        biases: [&'n str; 2],
    },
}

/// Values of a block of MXFP4, two to a byte.
const MXFP4_BLOCK: u64 = 32;

/// The usual names: a router called gate, experts by their numbers, a correction beside the router.
pub const MLP_EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "mlp.gate",
    correction: "mlp.gate.e_score_correction_bias",
    experts: ExpertMatrices::Split([
        "mlp.experts.{e}.gate_proj",
        "mlp.experts.{e}.up_proj",
        "mlp.experts.{e}.down_proj",
    ]),
};

/// The usual names of experts that always run.
pub const SHARED_EXPERTS: DenseNames<'static> = DenseNames::Gated([
    "mlp.shared_experts.gate_proj",
    "mlp.shared_experts.up_proj",
    "mlp.shared_experts.down_proj",
]);

/// A layer that grows block by block, and a block branch by branch.
pub struct LayerBuilder<'b, 'a> {
    /// The plan that it belongs to.
    pub plan: &'b mut Builder<'a>,
    prefix: String,
    pub(crate) hidden: u32,
    index: usize,
    /// Whether it is one of the encoder's.
    pub(crate) encoder: bool,
    blocks: Vec<Block>,
    /// Norm of the next branch alone.
    branch_pre: Option<(Norm, String)>,
    /// Norm of the next branch's output alone.
    branch_post: Option<(Norm, String)>,
}

impl<'b, 'a> LayerBuilder<'b, 'a> {
    pub(crate) fn new(
        plan: &'b mut Builder<'a>,
        prefix: String,
        hidden: u32,
        index: usize,
    ) -> Self {
        LayerBuilder {
            plan,
            prefix,
            hidden,
            index,
            encoder: false,
            blocks: Vec::new(),
            branch_pre: None,
            branch_post: None,
        }
    }

    /// The full name of something in this layer.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Leaves a foreign tensor of this layer out.
    pub fn skip(&mut self, name: &str, reason: &'static str) {
        let name = self.name(name);
        self.plan.skip(name, reason);
    }

    /// Width of the stream.
    pub(crate) fn hidden(&self) -> u32 {
        self.hidden
    }

    fn in_stack(&self, key: TensorKey) -> TensorKey {
        match self.encoder {
            true => key.in_encoder(),
            false => key,
        }
    }

    fn block_key(&self, role: Role) -> TensorKey {
        self.in_stack(TensorKey::block(self.index, self.blocks.len() - 1, role))
    }

    /// The key of a tensor of the branch that comes next.
    pub fn branch_key(&self, role: Role) -> TensorKey {
        let block = self.blocks.len() - 1;
        let branch = self.blocks[block].branches.len();
        self.in_stack(TensorKey::branch(self.index, block, branch, role))
    }

    /// The block that was begun last.
    ///
    /// # Panics
    /// If there is none yet.
    pub fn last(&mut self) -> &mut Block {
        self.blocks.last_mut().expect("a block was begun")
    }

    /// Begins a block whose branches read the stream itself.
    pub fn bare_block(&mut self) {
        self.blocks.push(Block {
            pre: None,
            branches: Vec::new(),
            post: None,
            scale: 1.0,
            out: None,
            stream_scale: 1.0,
        });
    }

    /// Begins a block whose branches read the stream behind this norm.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn block(&mut self, norm: &Norm, name: &str) -> Result<()> {
        self.bare_block();
        let key = (self.block_key(Role::PreNorm), Role::PreNormBias);
        let name = self.name(name);
        self.plan.norm(key, &name, norm, self.hidden)?;
        self.last().pre = Some(norm.clone());
        Ok(())
    }

    /// Norms the sum of the block's branches.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn post(&mut self, norm: &Norm, name: &str) -> Result<()> {
        let key = (self.block_key(Role::PostNorm), Role::PostNormBias);
        let name = self.name(name);
        self.plan.norm(key, &name, norm, self.hidden)?;
        self.last().post = Some(norm.clone());
        Ok(())
    }

    /// Norms the stream after the block.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn out(&mut self, norm: &Norm, name: &str) -> Result<()> {
        let key = (self.block_key(Role::StreamNorm), Role::StreamNormBias);
        let name = self.name(name);
        self.plan.norm(key, &name, norm, self.hidden)?;
        self.last().out = Some(norm.clone());
        Ok(())
    }

    /// Norms the input of the next branch alone.
    pub fn branch_norm(&mut self, norm: &Norm, name: &str) {
        self.branch_pre = Some((norm.clone(), self.name(name)));
    }

    /// Norms the output of the next branch alone.
    pub fn branch_post(&mut self, norm: &Norm, name: &str) {
        self.branch_post = Some((norm.clone(), self.name(name)));
    }

    /// Adds an operation whose tensors have been planned under [`LayerBuilder::branch_key`].
    ///
    /// # Errors
    /// As [`Builder::expect`], about the branch's own norms.
    pub fn branch(&mut self, op: Op) -> Result<()> {
        let (pre, post) = (self.branch_pre.take(), self.branch_post.take());
        let pre = self.own_norm(pre, [Role::PreNorm, Role::PreNormBias])?;
        let post = self.own_norm(post, [Role::PostNorm, Role::PostNormBias])?;
        self.last().branches.push(Branch {
            pre,
            post,
            ..Branch::new(op)
        });
        Ok(())
    }

    /// Plans a norm of the branch that comes next.
    fn own_norm(
        &mut self,
        norm: Option<(Norm, String)>,
        [role, bias]: [Role; 2],
    ) -> Result<Option<Norm>> {
        let Some((norm, name)) = norm else {
            return Ok(None);
        };
        let key = (self.branch_key(role), bias);
        self.plan.norm(key, &name, &norm, self.hidden)?;
        Ok(Some(norm))
    }

    /// The finished blocks.
    pub fn finish(self) -> Vec<Block> {
        self.blocks
    }

    /// Whether a linear layer has a bias: a GGUF says it by the tensor's presence, a configuration by a key.
    fn has_bias(&self, key: bool, name: &str) -> bool {
        match self.plan.origin {
            Origin::Gguf => self.plan.has(&format!("{}.bias", self.name(name))),
            _ => key,
        }
    }

    /// Plans a linear layer of the next branch, and its bias.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn linear(
        &mut self,
        roles: [Role; 2],
        name: &str,
        shape: [u32; 2],
        bias: bool,
        rows: Option<Vec<u32>>,
    ) -> Result<()> {
        let key = (self.branch_key(roles[0]), bias.then_some(roles[1]));
        let name = self.name(name);
        self.plan.linear(key, &name, shape, rows)
    }

    /// Adds an attention.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn attention(&mut self, mut a: Attention, names: &AttentionNames) -> Result<()> {
        let [q_name, k_name, v_name] = match names.qkv {
            Qkv::Split(names) => names,
            Qkv::Fused(name) | Qkv::Grouped(name) => [name; 3],
        };
        a.q_bias = self.has_bias(a.q_bias, q_name);
        a.kv_bias = self.has_bias(a.kv_bias, v_name);
        a.o_bias = self.has_bias(a.o_bias, names.o);
        let (heads, kv_heads, hd) = (a.n_heads, a.n_kv_heads, a.head_dim);
        let (q, kv, group) = (a.q_width(), a.kv_width(), heads / kv_heads);
        let gated = a.output_gate;
        if gated && (!matches!(names.qkv, Qkv::Split(_)) || a.q_bias) {
            return Err(Error::new(
                "an attention whose outputs are gated has a fused qkv matrix or a bias of q, expected neither",
            ));
        }
        let rotated = if self.plan.interleaved {
            self.plan.rotated(a.rope).min(hd)
        } else {
            0
        };
        // Keys and values of an earlier layer leave only q.
        let own = a.shared.is_none();
        let parts = [
            (Role::AttnQ, Role::AttnQBias, q_name, 0, heads),
            (Role::AttnK, Role::AttnKBias, k_name, 1, kv_heads),
            (Role::AttnV, Role::AttnVBias, v_name, 2, kv_heads),
        ];
        for (role, bias_role, name, part, n) in parts.into_iter().take(if own { 3 } else { 1 }) {
            let rotated = if part < 2 { rotated } else { 0 };
            // First foreign row of a head.
            let paired = gated && part == 0;
            let start = |head: u32| match (names.qkv, part) {
                (Qkv::Split(_), _) if paired => head * 2 * hd,
                (Qkv::Split(_), _) => head * hd,
                (Qkv::Fused(_), part) => [0, q, q + kv][part] + head * hd,
                (Qkv::Grouped(_), 0) => (head / group * (group + 2) + head % group) * hd,
                (Qkv::Grouped(_), part) => (head * (group + 2) + group + part as u32 - 1) * hd,
            };
            let split = matches!(names.qkv, Qkv::Split(_));
            let total = match split {
                true if paired => 2 * q,
                true => n * hd,
                false => q + 2 * kv,
            };
            let bias = if part == 0 { a.q_bias } else { a.kv_bias };
            let key = (self.branch_key(role), bias.then_some(bias_role));
            let name = self.name(name);
            // The shape is checked before a list of that length is made.
            let shape = [total, self.hidden];
            self.plan.expect_linear(&name, shape)?;
            let rows = (!split || paired || rotated > 0).then(|| head_rows(n, hd, rotated, start));
            self.plan.linear(key, &name, shape, rows)?;
            if paired {
                let key = (self.branch_key(Role::AttnGate), None);
                let rows = head_rows(n, hd, 0, |head| (2 * head + 1) * hd);
                self.plan.linear(key, &name, shape, Some(rows))?;
            }
        }
        let o = [Role::AttnO, Role::AttnOBias];
        self.linear(o, names.o, [self.hidden, q], a.o_bias, None)?;
        if a.sinks {
            let name = self.name("self_attn.sinks");
            self.plan
                .take(self.branch_key(Role::AttnSinks), &name, &[heads])?;
        }
        if let Some(qk) = &a.qk_norm {
            let both = [
                (0, (Role::AttnQNorm, Role::AttnQNormBias), heads),
                (1, (Role::AttnKNorm, Role::AttnKNormBias), kv_heads),
            ];
            for (i, roles, n) in both.into_iter().take(1 + usize::from(own)) {
                self.head_norm(qk, roles, names.norms[i], n, hd, rotated)?;
            }
        }
        self.branch(Op::Attention(a))
    }

    /// How many rows a matrix of this layer has, for widths that configurations do not say.
    ///
    /// # Errors
    /// There is no such matrix.
    pub fn rows(&self, name: &str) -> Result<u32> {
        self.plan.rows(&format!("{}.weight", self.name(name)))
    }

    /// Plans the norm of q or k; its values are permuted like the rows that they belong to.
    fn head_norm(
        &mut self,
        qk: &QkNorm,
        (role, bias_role): (Role, Role),
        name: &str,
        heads: u32,
        head_dim: u32,
        rotated: u32,
    ) -> Result<()> {
        let name = self.name(name);
        let norm = &qk.norm;
        let stored = [
            (norm.weight, role, "weight"),
            (norm.bias, bias_role, "bias"),
        ];
        for (there, role, kind) in stored {
            if !there {
                continue;
            }
            let add = if kind == "weight" {
                self.plan.norm_offset
            } else {
                0.0
            };
            let source = |name: String, heads: u32| Source {
                rows: if rotated > 0 {
                    Rows::List(interleaved_to_half_split(heads, head_dim, rotated))
                } else {
                    Rows::All
                },
                add,
                ..Source::all(name)
            };
            let (hd, n) = (u64::from(head_dim), u64::from(heads));
            let mut sources = Vec::new();
            // Some files keep one stack under the name that stands for all.
            let apart = name.contains("{h}") && !self.plan.has(&format!("{name}.{kind}"));
            if qk.span == NormSpan::EachHead && apart {
                for h in 0..heads {
                    let name = format!("{}.{kind}", name.replace("{h}", &h.to_string()));
                    self.plan.expect(&name, &[hd])?;
                    sources.push(source(name, 1));
                }
            } else {
                let (shape, heads) = match qk.span {
                    NormSpan::Head => (vec![hd], 1),
                    NormSpan::EachHead => (vec![n, hd], heads),
                    NormSpan::Whole => (vec![n * hd], heads),
                };
                let name = format!("{name}.{kind}");
                self.plan.expect(&name, &shape)?;
                sources.push(source(name, heads));
            }
            let key = self.branch_key(role);
            self.plan.put(key, sources);
        }
        Ok(())
    }

    /// Adds a feed-forward network; whether it has a gate is seen from the names.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn dense(&mut self, d: Dense, names: &DenseNames) -> Result<()> {
        self.dense_gated_by(d, names, "")
    }

    /// The same with the name of the vector that gates the output.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn dense_gated_by(
        &mut self,
        mut d: Dense,
        names: &DenseNames,
        output_gate: &str,
    ) -> Result<()> {
        let (inner, hidden) = (d.inner, self.hidden);
        let (up, down) = match names {
            DenseNames::Gated([_, up, down]) => (up, down),
            DenseNames::Fused([up, down]) | DenseNames::Plain([up, down]) => (up, down),
        };
        d.gated = !matches!(names, DenseNames::Plain(_));
        d.up_bias = self.has_bias(d.up_bias, up);
        d.down_bias = self.has_bias(d.down_bias, down);
        let gate_roles = [Role::MlpGate, Role::MlpGateBias];
        let up_roles = [Role::MlpUp, Role::MlpUpBias];
        let (one, two) = ([inner, hidden], [inner.saturating_mul(2), hidden]);
        match names {
            DenseNames::Gated([gate, up, _]) => {
                self.linear(gate_roles, gate, one, d.up_bias, None)?;
                self.linear(up_roles, up, one, d.up_bias, None)?;
            }
            DenseNames::Fused([both, _]) => {
                self.plan.expect_linear(&self.name(both), two)?;
                let (gate, up) = ((0..inner).collect(), (inner..2 * inner).collect());
                self.linear(gate_roles, both, two, d.up_bias, Some(gate))?;
                self.linear(up_roles, both, two, d.up_bias, Some(up))?;
            }
            DenseNames::Plain([up, _]) => self.linear(up_roles, up, one, d.up_bias, None)?,
        }
        let down_roles = [Role::MlpDown, Role::MlpDownBias];
        self.linear(down_roles, down, [hidden, inner], d.down_bias, None)?;
        if d.output_gate {
            let name = format!("{}.weight", self.name(output_gate));
            let key = self.branch_key(Role::MlpOutputGate);
            self.plan.take(key, &name, &[1, hidden])?;
        }
        self.branch(Op::Dense(d))
    }

    /// Adds what the layer makes of its own vector of `width` values.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn per_layer(&mut self, width: u32, activation: Activation) -> Result<()> {
        let (hidden, none) = (self.hidden, Role::PerLayerNormBias);
        let gate = [Role::PerLayerGate, none];
        self.linear(gate, "per_layer_input_gate", [width, hidden], false, None)?;
        let output = [Role::PerLayerOutput, none];
        self.linear(output, "per_layer_projection", [hidden, width], false, None)?;
        self.branch(Op::PerLayer(PerLayer { activation }))
    }

    /// Adds a mixture of experts. A norm of the router and multipliers of single experts must have been planned.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn experts(&mut self, e: Experts, names: &ExpertNames) -> Result<()> {
        let (count, inner, hidden) = (e.count, e.inner, self.hidden);
        let router = self.name(names.router);
        let weight = format!("{router}.weight");
        self.plan
            .take(self.branch_key(Role::Router), &weight, &[count, hidden])?;
        if e.router.bias {
            let name = format!("{router}.bias");
            self.plan
                .take(self.branch_key(Role::RouterBias), &name, &[count])?;
        }
        if e.router.correction {
            let name = self.name(names.correction);
            // Some families keep it as one row.
            let n = u64::from(count);
            if self.plan.expect(&name, &[1, n]).is_err() {
                self.plan.expect(&name, &[n])?;
            }
            let key = self.branch_key(Role::RouterCorrection);
            self.plan.put(key, vec![Source::all(name)]);
        }
        let roles = [Role::ExpertGate, Role::ExpertUp, Role::ExpertDown];
        match names.experts {
            ExpertMatrices::Split(parts) => {
                for (i, (role, part)) in roles.into_iter().zip(parts).enumerate() {
                    let shape = if i < 2 {
                        [inner, hidden]
                    } else {
                        [hidden, inner]
                    };
                    let mut sources = Vec::new();
                    // Some files keep one stack under the name that stands for all.
                    let stack = format!("{}.weight", self.name(part));
                    if self.plan.has(&stack) {
                        let [rows, cols] = shape;
                        self.plan
                            .expect(&stack, &[count, rows, cols].map(u64::from))?;
                        self.plan
                            .put(self.branch_key(role), vec![Source::all(stack)]);
                        continue;
                    }
                    for expert in 0..count {
                        let name = part.replace("{e}", &expert.to_string());
                        let name = format!("{}.weight", self.name(&name));
                        self.plan.expect(&name, &shape.map(u64::from))?;
                        sources.push(Source::all(name));
                    }
                    self.plan.put(self.branch_key(role), sources);
                }
            }
            ExpertMatrices::Fused {
                names,
                transposed,
                alternating,
                biases,
            } => {
                let stacks = self.expert_stacks(&e, names, transposed)?;
                self.fused_experts(&e, stacks, alternating, biases)?;
            }
            ExpertMatrices::Mxfp4 {
                names,
                alternating,
                biases,
            } => {
                let stacks = self.expert_blocks(&e, names)?;
                self.fused_experts(&e, stacks, alternating, biases)?;
            }
        }
        self.branch(Op::Experts(e))
    }

    /// The whole stacks of gate and up, and of down.
    fn expert_stacks(
        &self,
        e: &Experts,
        names: [&str; 2],
        transposed: bool,
    ) -> Result<[Source; 2]> {
        let [count, inner, hidden] = [e.count, e.inner, self.hidden].map(u64::from);
        let stack = |name: &str, rows, cols| {
            let name = self.name(name);
            let (shape, layout) = match transposed {
                true => ([count, cols, rows], Layout::Transposed),
                false => ([count, rows, cols], Layout::Rows),
            };
            self.plan.expect(&name, &shape)?;
            Ok(Source {
                layout,
                ..Source::all(name)
            })
        };
        Ok([
            stack(names[0], 2 * inner, hidden)?,
            stack(names[1], hidden, inner)?,
        ])
    }

    /// The same in blocks with scales.
    fn expert_blocks(&self, e: &Experts, names: [&str; 2]) -> Result<[Source; 2]> {
        let [count, inner, hidden] = [e.count, e.inner, self.hidden].map(u64::from);
        let stack = |name: &str, rows, cols: u64| {
            let [blocks, scales] = ["blocks", "scales"].map(|s| format!("{}_{s}", self.name(name)));
            let per_row = cols.div_ceil(MXFP4_BLOCK);
            self.plan
                .expect(&blocks, &[count, rows, per_row, MXFP4_BLOCK / 2])?;
            self.plan.expect(&scales, &[count, rows, per_row])?;
            Ok(Source {
                layout: Layout::Mxfp4 { scales },
                ..Source::all(blocks)
            })
        };
        Ok([
            stack(names[0], 2 * inner, hidden)?,
            stack(names[1], hidden, inner)?,
        ])
    }

    /// Plans experts whose gate and up are one matrix each; the shapes of the stacks have been checked.
    fn fused_experts(
        &mut self,
        e: &Experts,
        [both, down]: [Source; 2],
        alternating: bool,
        biases: [&str; 2],
    ) -> Result<()> {
        let (count, inner, hidden) = (e.count, e.inner, self.hidden);
        let rows = |part: u32| {
            let row = move |i| match alternating {
                true => 2 * i + part,
                false => part * inner + i,
            };
            let of = move |e| (0..inner).map(move |i| e * 2 * inner + row(i));
            Rows::List((0..count).flat_map(of).collect())
        };
        for (part, role) in [(0, Role::ExpertGate), (1, Role::ExpertUp)] {
            let source = Source {
                rows: rows(part),
                ..both.clone()
            };
            self.plan.put(self.branch_key(role), vec![source]);
        }
        self.plan.put(self.branch_key(Role::ExpertDown), vec![down]);
        if e.up_bias {
            let name = self.name(biases[0]);
            let n = [count, inner].map(u64::from);
            self.plan.expect(&name, &[n[0], 2 * n[1]])?;
            for (part, role) in [(0, Role::ExpertGateBias), (1, Role::ExpertUpBias)] {
                let source = Source {
                    rows: rows(part),
                    ..Source::all(name.clone())
                };
                self.plan.put(self.branch_key(role), vec![source]);
            }
        }
        if e.down_bias {
            let name = self.name(biases[1]);
            let key = self.branch_key(Role::ExpertDownBias);
            self.plan.take(key, &name, &[count, hidden])?;
        }
        Ok(())
    }
}

/// The foreign rows of `heads` heads in stored order; a head begins at `start`, and its first `rotated` rows are interleaved pairs.
fn head_rows(heads: u32, head_dim: u32, rotated: u32, start: impl Fn(u32) -> u32) -> Vec<u32> {
    let within = interleaved_to_half_split(1, head_dim, rotated);
    let rows = |h| within.iter().map(move |r| (h, *r));
    (0..heads)
        .flat_map(rows)
        .map(|(h, row)| start(h) + row)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_heads() {
        // Two heads of four in one matrix of three heads each, pairs interleaved.
        assert_eq!(head_rows(2, 4, 4, |h| 12 * h), [0, 2, 1, 3, 12, 14, 13, 15]);
        assert_eq!(head_rows(1, 4, 2, |_| 8), [8, 9, 10, 11]);
        assert_eq!(head_rows(1, 6, 4, |_| 0), [0, 2, 1, 3, 4, 5]);
    }
}
