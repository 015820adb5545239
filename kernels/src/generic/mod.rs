//! Kernels along vectors: one body over [`Vector`](crate::vector::Vector), compiled once for every
//! ISA.
//!
//! [`VectorKernels`] is the table of one ISA; the methods of [`Kernels`](crate::Kernels) in
//! `api.rs` check lengths and call into it. What a kernel computes, in which order, is fixed by its
//! body and so is the same on every ISA:
//! - Sums along a vector are 16 strided partial sums (element i goes to sum i mod 16, ascending,
//!   fused where the term is a product), then a fixed tree over the 16: distance 8, 4, 2, 1. A tail
//!   counts as padded with the neutral element.
//! - Everything else is elementwise, so the grouping cannot show.
//! - Greatest elements ignore NaN.

pub(crate) mod activation;
mod api;
pub(crate) mod attention;
pub(crate) mod delta_rule;
pub(crate) mod elementwise;
mod math;
pub(crate) mod norm;
pub(crate) mod recurrent;
pub(crate) mod rope;
pub(crate) mod softmax;

pub use activation::Activation;
pub use attention::{KV_BLOCK, KV_TILE, KvType};

/// Hands the list of all kernels, as `module::name(arguments) -> result`, to another macro.
macro_rules! with_every_kernel {
    ($then:ident! { $($args:tt)* }) => {
        $crate::generic::$then! { $($args)*
            norm::rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]);
            norm::layer_norm(
                x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, out: &mut [f32]);
            rope::rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
            activation::activation(a: crate::generic::Activation, x: &mut [f32]);
            activation::glu(a: crate::generic::Activation, gate: &[f32], up: &[f32], out: &mut [f32]);
            activation::glu_clamped(
                a: crate::generic::Activation, limit: f32, gate: &[f32], up: &[f32], out: &mut [f32]);
            activation::softcap(x: &mut [f32], cap: f32);
            activation::exp(x: &mut [f32]);
            activation::log(x: &mut [f32]);
            elementwise::add(x: &mut [f32], y: &[f32]);
            elementwise::add_scaled(x: &mut [f32], y: &[f32], s: f32);
            elementwise::scale(x: &mut [f32], s: f32);
            elementwise::mul(x: &mut [f32], y: &[f32]);
            elementwise::clamp(x: &mut [f32], lo: f32, hi: f32);
            elementwise::dot(a: &[f32], b: &[f32]) -> f32;
            elementwise::max(x: &[f32]) -> f32;
            elementwise::argmax(x: &[f32]) -> usize;
            elementwise::all_finite(x: &[f32]) -> bool;
            recurrent::convolve(
                window: &[f32], first: usize, weight: &[f32], stride: usize, bias: Option<&[f32]>,
                out: &mut [f32]);
            recurrent::selective_scan(
                state: &mut [f32], rate: &[f32], per_channel: (&[f32], &[f32]), x: &[f32],
                per_state: (&[f32], &[f32]), out: &mut [f32]);
            recurrent::head_scan(
                state: &mut [f32], h: crate::generic::recurrent::HeadStep, x: &[f32],
                per_state: (&[f32], &[f32]), out: &mut [f32]);
            softmax::softmax_exp(s: &mut [f32]) -> (f32, f32);
            softmax::softmax(s: &mut [f32]);
            attention::scores(kv: crate::generic::KvType, a: crate::generic::attention::Scores);
            attention::values(kv: crate::generic::KvType, a: crate::generic::attention::Values);
            attention::store_k(kv: crate::generic::KvType, k: &[f32], tile: &mut [u8], lane: usize);
            attention::store_v(kv: crate::generic::KvType, v: &[f32], row: &mut [u8]);
            delta_rule::delta_rule(a: crate::generic::delta_rule::Steps);
        }
    };
}
pub(crate) use with_every_kernel;

/// Defines [`VectorKernels`].
macro_rules! define_table {
    ($($module:ident::$name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// The kernels along vectors of one ISA. Calling one is sound where the CPU has the
        /// features of the ISA and the lengths are as the methods of [`Kernels`](crate::Kernels)
        /// check them.
        pub(crate) struct VectorKernels {
            $(pub(crate) $name: unsafe fn($($ty),*) $(-> $ret)?,)*
        }
    };
}
pub(crate) use define_table;

with_every_kernel!(define_table! {});

/// Compiles every kernel over a [`Vector`](crate::vector::Vector) type with the attributes that
/// enable its features, and collects them in `VECTOR`.
macro_rules! fill_table {
    ($v:ty, $features:tt,
     $($module:ident::$name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        $($crate::generic::kernel_of_isa! {
            $v, $features, $module::$name($($arg: $ty),*) $(-> $ret)?
        })*
        /// The kernels along vectors of this ISA.
        pub(crate) static VECTOR: $crate::generic::VectorKernels =
            $crate::generic::VectorKernels { $($name,)* };
    };
}
pub(crate) use fill_table;

/// One kernel of [`fill_table`].
macro_rules! kernel_of_isa {
    ($v:ty, [$(#[$feature:meta])*],
     $module:ident::$name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$feature])*
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller of a table entry runs on a CPU with the features and vouches for
            // the lengths.
            unsafe { $crate::generic::$module::$name::<$v>($($arg),*) }
        }
    };
}
pub(crate) use kernel_of_isa;
