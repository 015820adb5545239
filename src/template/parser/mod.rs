//! From tokens to a program: the grammar of jinja2 with loop controls and the `generation` tag of transformers.

mod expressions;

use super::lexer::{Kind, Token, place, tokens};
use super::syntax::{
    Block, Const, ConstIndex, Expr, ExprKind, For, MacroDef, Program, Stmt, StmtKind, Symbol,
    Target,
};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Longest source; the longest published chat templates have some 30 KB.
const MAX_SOURCE: usize = 1 << 20;
/// Blocks and brackets inside each other. One level takes at most some 4 KiB of stack.
const MAX_DEPTH: u32 = 100;
/// Height of one expression as a tree: `a + b + ...` has one level per operator.
const MAX_HEIGHT: u16 = 300;

/// The program of a source.
///
/// # Errors
/// Invalid, naming the line; Limit for a source that is too long or too deep.
pub fn parse(source: &str) -> Result<Program> {
    if source.len() > MAX_SOURCE {
        return Err(Error::limit(format_args!(
            "the chat template has {} bytes, expected at most {MAX_SOURCE}",
            source.len()
        )));
    }
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        depth: 0,
        loops: 0,
        program: Program {
            body: Vec::new(),
            macros: Vec::new(),
            names: Vec::new(),
            consts: Vec::new(),
        },
        symbols: HashMap::new(),
        uses: Vec::new(),
    };
    let body = parser.block(&[]).map_err(|e| place(parser.line(), e))?;
    parser.program.body = body;
    Ok(parser.program)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: u32,
    /// Loops around this place, inside of the innermost macro.
    loops: u32,
    program: Program,
    symbols: HashMap<Arc<str>, Symbol>,
    /// For each macro around this place, whether it looks at `varargs` and `kwargs`.
    uses: Vec<(bool, bool)>,
}

/// Ends of a tuple besides brackets and ends of tags.
type Ends<'a> = &'a [&'a str];

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).map_or(0, |t| t.line)
    }

    fn peek(&self) -> &Kind {
        self.tokens.get(self.at).map_or(&Kind::End, |t| &t.kind)
    }

    fn next(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.at += 1;
        kind
    }

    fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(Error::invalid(message))
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            Kind::End => "the end of the template".to_owned(),
            Kind::Data(_) => "text".to_owned(),
            Kind::VariableBegin => "{{".to_owned(),
            Kind::VariableEnd => "}}".to_owned(),
            Kind::BlockBegin => "{%".to_owned(),
            Kind::BlockEnd => "%}".to_owned(),
            Kind::Name(name) => format!("{name:?}"),
            Kind::Str(text) => format!("the string {text:?}"),
            Kind::Int(n) => n.to_string(),
            Kind::Float(f) => f.to_string(),
            Kind::Op(op) => format!("{op:?}"),
        };
        self.fail(format_args!("found {found}, expected {expected}"))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Kind::Op(found) if *found == op)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    fn expect_op(&mut self, op: &str) -> Result<()> {
        match self.skip_op(op) {
            true => Ok(()),
            false => self.unexpected(&format!("{op:?}")),
        }
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Kind::Name(found) if found == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        match self.skip_name(name) {
            true => Ok(()),
            false => self.unexpected(&format!("{name:?}")),
        }
    }

    fn any_name(&mut self) -> Result<String> {
        match self.peek() {
            Kind::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn expect(&mut self, kind: Kind, shown: &str) -> Result<()> {
        match *self.peek() == kind {
            true => {
                self.at += 1;
                Ok(())
            }
            false => self.unexpected(shown),
        }
    }

    fn symbol(&mut self, name: &str) -> Symbol {
        if let Some(uses) = self.uses.last_mut() {
            uses.0 |= name == "varargs";
            uses.1 |= name == "kwargs";
        }
        if let Some(&symbol) = self.symbols.get(name) {
            return symbol;
        }
        let symbol = self.program.names.len() as Symbol;
        let name: Arc<str> = name.into();
        self.program.names.push(name.clone());
        self.symbols.insert(name, symbol);
        symbol
    }

    fn constant(&mut self, value: Const) -> ConstIndex {
        self.program.consts.push(value);
        (self.program.consts.len() - 1) as ConstIndex
    }

    fn node(&self, kind: ExprKind) -> Result<Expr> {
        let height = kind.tallest_part() + 1;
        if height > MAX_HEIGHT {
            return Err(Error::limit(format_args!(
                "an expression is more than {MAX_HEIGHT} levels deep"
            )));
        }
        Ok(Expr { kind, height })
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::limit(format_args!(
                "more than {MAX_DEPTH} blocks and brackets are inside each other"
            )));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Statements up to a tag with one of these names, which is next then; without names, up to the end.
    fn block(&mut self, ends: &[&str]) -> Result<Block> {
        self.deeper(|p| p.block_inside(ends))
    }

    fn block_inside(&mut self, ends: &[&str]) -> Result<Block> {
        let mut out = Vec::new();
        loop {
            let line = self.line();
            match self.next() {
                Kind::Data(text) => out.push(Stmt {
                    kind: StmtKind::Data(text),
                    line,
                }),
                Kind::VariableBegin => {
                    let e = self.tuple(true, &[], false)?;
                    out.push(Stmt {
                        kind: StmtKind::Print(e),
                        line,
                    });
                    self.expect(Kind::VariableEnd, "}}")?;
                }
                Kind::BlockBegin => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(out);
                    }
                    let kind = self.statement()?;
                    out.push(Stmt { kind, line });
                    self.expect(Kind::BlockEnd, "%}")?;
                }
                Kind::End if ends.is_empty() => return Ok(out),
                _ => {
                    self.at -= 1;
                    return self.unexpected(&format!("{{% {} %}}", ends.join(" or ")));
                }
            }
        }
    }

    /// The body of a block tag, from the end of its first tag to inside of its last one.
    fn body(&mut self, ends: &[&str]) -> Result<Block> {
        self.skip_op(":");
        self.expect(Kind::BlockEnd, "%}")?;
        self.block(ends)
    }

    /// The body of a block tag with one end.
    fn whole_body(&mut self, end: &str) -> Result<Block> {
        let body = self.body(&[end])?;
        self.expect_name(end)?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<StmtKind> {
        let name = self.any_name()?;
        match name.as_str() {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => self.macro_statement(),
            "call" => self.call_statement(),
            "with" => self.with_statement(),
            "filter" => {
                let mut filters = vec![self.filter_name()?];
                filters.append(&mut self.filters()?);
                Ok(StmtKind::FilterBlock(
                    filters,
                    self.whole_body("endfilter")?,
                ))
            }
            "generation" => Ok(StmtKind::Scope(self.whole_body("endgeneration")?)),
            "do" => Ok(StmtKind::Do(self.tuple(true, &[], false)?)),
            "break" | "continue" if self.loops == 0 => {
                self.fail(format_args!("{name:?} is not inside a loop"))
            }
            "break" => Ok(StmtKind::Break),
            "continue" => Ok(StmtKind::Continue),
            _ => self.fail(format_args!(
                "the tag {name:?} is not known, expected one of jinja2's"
            )),
        }
    }

    fn if_statement(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[], false)?;
            let body = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = match self.skip_name("else") {
                true => self.whole_body("endif")?,
                false => {
                    self.expect_name("endif")?;
                    Vec::new()
                }
            };
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    fn for_statement(&mut self) -> Result<StmtKind> {
        let target = self.target(&["in"])?;
        self.expect_name("in")?;
        let items = self.tuple(false, &["recursive"], false)?;
        let filter = match self.skip_name("if") {
            true => Some(self.expression()?),
            false => None,
        };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.body(&["endfor", "else"]);
        self.loops -= 1;
        let body = body?;
        let otherwise = match self.skip_name("else") {
            true => self.whole_body("endfor")?,
            false => {
                self.expect_name("endfor")?;
                Vec::new()
            }
        };
        Ok(StmtKind::For(Box::new(For {
            target,
            items,
            filter,
            recursive,
            body,
            otherwise,
        })))
    }

    fn set_statement(&mut self) -> Result<StmtKind> {
        let target = self.target(&[])?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple(true, &[], false)?));
        }
        let filters = self.filters()?;
        let body = self.whole_body("endset")?;
        Ok(StmtKind::SetBlock(target, filters, body))
    }

    fn with_statement(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while *self.peek() != Kind::BlockEnd {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.one_target()?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StmtKind::With(values, self.whole_body("endwith")?))
    }

    /// Parameters in brackets.
    fn signature(&mut self) -> Result<Vec<(Symbol, Option<Expr>)>> {
        let mut params: Vec<(Symbol, Option<Expr>)> = Vec::new();
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.any_name()?;
            let symbol = self.symbol(&name);
            let default = match self.skip_op("=") {
                true => Some(self.expression()?),
                false if params.last().is_some_and(|(_, d)| d.is_some()) => {
                    return self.fail(format_args!(
                        "the parameter {name:?} has no default but follows one that has"
                    ));
                }
                false => None,
            };
            params.push((symbol, default));
        }
        self.expect_op(")")?;
        Ok(params)
    }

    /// What follows the name of a macro: parameters and body. Returns its number.
    fn definition(
        &mut self,
        name: &str,
        params: Vec<(Symbol, Option<Expr>)>,
        end: &str,
    ) -> Result<usize> {
        let loops = std::mem::take(&mut self.loops);
        self.uses.push((false, false));
        let body = self.whole_body(end);
        let (varargs, kwargs) = self.uses.pop().unwrap_or_default();
        self.loops = loops;
        self.program.macros.push(MacroDef {
            name: name.into(),
            params,
            body: body?,
            varargs,
            kwargs,
        });
        Ok(self.program.macros.len() - 1)
    }

    fn macro_statement(&mut self) -> Result<StmtKind> {
        let name = self.any_name()?;
        let symbol = self.symbol(&name);
        let params = self.signature()?;
        let index = self.definition(&name, params, "endmacro")?;
        Ok(StmtKind::Macro(symbol, index))
    }

    fn call_statement(&mut self) -> Result<StmtKind> {
        let params = match self.is_op("(") {
            true => self.signature()?,
            false => Vec::new(),
        };
        let call = self.expression()?;
        if !matches!(call.kind, ExprKind::Call(..)) {
            return self.fail("the tag \"call\" has no call, expected one of a macro");
        }
        let index = self.definition("caller", params, "endcall")?;
        Ok(StmtKind::CallBlock(call, index))
    }

    /// What is assigned: names, tuples of them, or an attribute of a namespace.
    fn target(&mut self, ends: Ends) -> Result<Target> {
        let first = self.one_target()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut list = vec![first];
        while self.skip_op(",") {
            if ends.iter().any(|end| self.is_name(end)) || self.is_op("=") || self.is_op(")") {
                break;
            }
            list.push(self.one_target()?);
        }
        Ok(Target::Tuple(list))
    }

    fn one_target(&mut self) -> Result<Target> {
        if self.skip_op("(") {
            let target = self.deeper(|p| p.target(&[]))?;
            self.expect_op(")")?;
            return Ok(target);
        }
        let name = self.any_name()?;
        if matches!(
            name.as_str(),
            "true" | "false" | "none" | "True" | "False" | "None"
        ) {
            return self.fail(format_args!("cannot assign to {name:?}"));
        }
        let symbol = self.symbol(&name);
        match self.skip_op(".") {
            true => Ok(Target::Attribute(symbol, self.any_name()?.into())),
            false => Ok(Target::Name(symbol)),
        }
    }
}
