//! The program that a template's source becomes.

use std::sync::Arc;

/// A number for a name, the same for the same name.
pub type Symbol = u32;
/// A number for a constant.
pub type ConstIndex = u32;

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Const {
    /// `none`.
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A float.
    Float(f64),
    /// A string.
    Str(String),
}

/// An expression and its height as a tree, which bounds all recursion over it.
#[derive(Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// 1 for a leaf.
    pub height: u16,
}

/// What an expression is.
#[derive(Debug)]
pub enum ExprKind {
    /// A constant.
    Const(ConstIndex),
    /// A variable.
    Name(Symbol),
    /// `(a, b)`
    Tuple(Vec<Expr>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `{a: b}`
    Dict(Vec<(Expr, Expr)>),
    /// `a.b`; the name is a constant.
    Attribute(Box<Expr>, ConstIndex),
    /// `a[b]`
    Item(Box<Expr>, Box<Expr>),
    /// `a[b:c:d]`
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    /// `a(b)`
    Call(Box<Expr>, Box<CallArgs>),
    /// `a|f(b)`
    Filter(Box<Expr>, Box<Apply>),
    /// `a is t(b)`
    Test(Box<Expr>, Box<Apply>),
    /// Two operands.
    Binary(BinaryOp, Box<(Expr, Expr)>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    /// `a < b <= c`
    Compare(Box<Expr>, Vec<(CompareOp, Expr)>),
    /// `a and b and c`
    And(Vec<Expr>),
    /// `a or b or c`
    Or(Vec<Expr>),
    /// `not a`
    Not(Box<Expr>),
    /// `-a`
    Negative(Box<Expr>),
    /// `+a`
    Positive(Box<Expr>),
    /// `a if b else c`: b, a, c.
    Condition(Box<(Expr, Expr, Option<Expr>)>),
}

/// A filter or test: its name and arguments.
#[derive(Debug)]
pub struct Apply {
    /// The name.
    pub name: Arc<str>,
    /// The arguments.
    pub args: CallArgs,
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub struct CallArgs {
    /// Positional ones.
    pub positional: Vec<Expr>,
    /// Named ones.
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*a`
    pub more: Option<Expr>,
    /// `**a`
    pub more_named: Option<Expr>,
}

/// Operators with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `//`
    FloorDiv,
    /// `%`
    Rem,
    /// `**`
    Pow,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `in`
    In,
    /// `not in`
    NotIn,
}

/// What an assignment writes to.
#[derive(Debug)]
pub enum Target {
    /// A variable.
    Name(Symbol),
    /// Several, from the items of a value.
    Tuple(Vec<Target>),
    /// An attribute of a namespace.
    Attribute(Symbol, Arc<str>),
}

/// Statements one after another.
pub type Block = Vec<Stmt>;

/// A statement and its line.
#[derive(Debug)]
pub struct Stmt {
    /// What it is.
    pub kind: StmtKind,
    /// Counted from 1.
    pub line: u32,
}

/// What a statement is.
#[derive(Debug)]
pub enum StmtKind {
    /// Text as it stands in the source.
    Data(String),
    /// `{{ a }}`
    Print(Expr),
    /// Conditions with their blocks, and the block of `else`.
    If(Vec<(Expr, Block)>, Block),
    /// A loop.
    For(Box<For>),
    /// `{% set a = b %}`
    Set(Target, Expr),
    /// `{% set a %}...{% endset %}` with filters.
    SetBlock(Target, Vec<Apply>, Block),
    /// `{% with a = b %}`
    With(Vec<(Target, Expr)>, Block),
    /// A macro: its name and number.
    Macro(Symbol, usize),
    /// `{% call(x) f() %}...{% endcall %}`: the call, and the number of the block as a macro.
    CallBlock(Expr, usize),
    /// `{% filter f %}...{% endfilter %}`
    FilterBlock(Vec<Apply>, Block),
    /// `{% generation %}...{% endgeneration %}`: a scope of its own.
    Scope(Block),
    /// `{% do a %}`
    Do(Expr),
    /// `{% break %}`
    Break,
    /// `{% continue %}`
    Continue,
}

/// A loop.
#[derive(Debug)]
pub struct For {
    /// What is assigned.
    pub target: Target,
    /// What is gone through.
    pub items: Expr,
    /// `if` behind it.
    pub filter: Option<Expr>,
    /// Whether `loop(...)` may be called.
    pub recursive: bool,
    /// The block.
    pub body: Block,
    /// For no items at all.
    pub otherwise: Block,
}

/// A macro, or the block of a call.
#[derive(Debug)]
pub struct MacroDef {
    /// Its name; `caller` for the block of a call.
    pub name: Arc<str>,
    /// Parameters with their defaults.
    pub params: Vec<(Symbol, Option<Expr>)>,
    /// Its block.
    pub body: Block,
    /// Whether it looks at `varargs`.
    pub varargs: bool,
    /// Whether it looks at `kwargs`.
    pub kwargs: bool,
}

/// A template's program.
#[derive(Debug)]
pub struct Program {
    /// The statements.
    pub body: Block,
    /// Macros and blocks of calls.
    pub macros: Vec<MacroDef>,
    /// The names of the symbols.
    pub names: Vec<Arc<str>>,
    /// The constants.
    pub consts: Vec<Const>,
}

impl ExprKind {
    /// The height of the tallest part.
    pub fn tallest_part(&self) -> u16 {
        let most = |list: &[Expr]| list.iter().map(|e| e.height).max().unwrap_or(0);
        match self {
            ExprKind::Const(_) | ExprKind::Name(_) => 0,
            ExprKind::Tuple(list)
            | ExprKind::List(list)
            | ExprKind::Concat(list)
            | ExprKind::And(list)
            | ExprKind::Or(list) => most(list),
            ExprKind::Dict(pairs) => {
                let heights = pairs.iter().map(|(k, v)| k.height.max(v.height));
                heights.max().unwrap_or(0)
            }
            ExprKind::Attribute(e, _)
            | ExprKind::Not(e)
            | ExprKind::Negative(e)
            | ExprKind::Positive(e) => e.height,
            ExprKind::Item(a, b) => a.height.max(b.height),
            ExprKind::Slice(e, parts) => {
                let parts = parts.iter().flatten().map(|e| e.height);
                parts.max().unwrap_or(0).max(e.height)
            }
            ExprKind::Call(e, args) => e.height.max(args.tallest()),
            ExprKind::Filter(e, apply) | ExprKind::Test(e, apply) => {
                e.height.max(apply.args.tallest())
            }
            ExprKind::Binary(_, both) => both.0.height.max(both.1.height),
            ExprKind::Compare(e, rest) => {
                let rest = rest.iter().map(|(_, e)| e.height);
                rest.max().unwrap_or(0).max(e.height)
            }
            ExprKind::Condition(parts) => {
                let other = parts.2.as_ref().map_or(0, |e| e.height);
                parts.0.height.max(parts.1.height).max(other)
            }
        }
    }
}

impl CallArgs {
    fn tallest(&self) -> u16 {
        let named = self.named.iter().map(|(_, e)| e);
        let all = self.positional.iter().chain(named);
        let all = all.chain(&self.more).chain(&self.more_named);
        all.map(|e| e.height).max().unwrap_or(0)
    }
}
