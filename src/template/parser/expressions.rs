//! Expressions, from the loosest operator to the tightest.

use super::{Ends, Parser};
use crate::error::Result;
use crate::template::lexer::Kind;
use crate::template::syntax::{Apply, BinaryOp, CallArgs, CompareOp, Const, Expr, ExprKind};
use std::sync::Arc;

impl Parser {
    /// One expression, or a tuple of several with commas between them.
    pub(super) fn tuple(&mut self, conditions: bool, ends: Ends, brackets: bool) -> Result<Expr> {
        let mut list = Vec::new();
        let mut is_tuple = false;
        loop {
            let at_end = matches!(self.peek(), Kind::VariableEnd | Kind::BlockEnd)
                || self.is_op(")")
                || ends.iter().any(|end| self.is_name(end));
            if at_end {
                break;
            }
            let e = match conditions {
                true => self.expression()?,
                false => self.deeper(Self::or)?,
            };
            list.push(e);
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match (is_tuple, list.pop()) {
            (false, Some(e)) => Ok(e),
            (false, None) if !brackets => self.unexpected("an expression"),
            (_, last) => {
                list.extend(last);
                self.node(ExprKind::Tuple(list))
            }
        }
    }

    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.deeper(Self::condition)
    }

    fn condition(&mut self) -> Result<Expr> {
        let mut e = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let other = match self.skip_name("else") {
                true => Some(self.expression()?),
                false => None,
            };
            e = self.node(ExprKind::Condition(Box::new((test, e, other))))?;
        }
        Ok(e)
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut list = vec![first];
        while self.skip_name("or") {
            list.push(self.and()?);
        }
        self.node(ExprKind::Or(list))
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut list = vec![first];
        while self.skip_name("and") {
            list.push(self.not()?);
        }
        self.node(ExprKind::And(list))
    }

    fn not(&mut self) -> Result<Expr> {
        if !self.skip_name("not") {
            return self.compare();
        }
        let e = self.deeper(Self::not)?;
        self.node(ExprKind::Not(Box::new(e)))
    }

    fn compare(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let op = match self.peek() {
                Kind::Op("==") => CompareOp::Eq,
                Kind::Op("!=") => CompareOp::Ne,
                Kind::Op("<") => CompareOp::Lt,
                Kind::Op("<=") => CompareOp::Le,
                Kind::Op(">") => CompareOp::Gt,
                Kind::Op(">=") => CompareOp::Ge,
                Kind::Name(name) if name == "in" => CompareOp::In,
                Kind::Name(name) if name == "not" => {
                    let next = self.tokens.get(self.at + 1).map(|t| &t.kind);
                    if !matches!(next, Some(Kind::Name(name)) if name == "in") {
                        break;
                    }
                    self.at += 1;
                    CompareOp::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((op, self.sum()?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => self.node(ExprKind::Compare(Box::new(first), rest)),
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut e = self.concat()?;
        loop {
            let op = match self.peek() {
                Kind::Op("+") => BinaryOp::Add,
                Kind::Op("-") => BinaryOp::Sub,
                _ => return Ok(e),
            };
            self.at += 1;
            let right = self.concat()?;
            e = self.node(ExprKind::Binary(op, Box::new((e, right))))?;
        }
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut list = vec![first];
        while self.skip_op("~") {
            list.push(self.product()?);
        }
        self.node(ExprKind::Concat(list))
    }

    fn product(&mut self) -> Result<Expr> {
        let mut e = self.power()?;
        loop {
            let op = match self.peek() {
                Kind::Op("*") => BinaryOp::Mul,
                Kind::Op("/") => BinaryOp::Div,
                Kind::Op("//") => BinaryOp::FloorDiv,
                Kind::Op("%") => BinaryOp::Rem,
                _ => return Ok(e),
            };
            self.at += 1;
            let right = self.power()?;
            e = self.node(ExprKind::Binary(op, Box::new((e, right))))?;
        }
    }

    fn power(&mut self) -> Result<Expr> {
        let mut e = self.unary(true)?;
        while self.skip_op("**") {
            let right = self.unary(true)?;
            e = self.node(ExprKind::Binary(BinaryOp::Pow, Box::new((e, right))))?;
        }
        Ok(e)
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let mut e = if self.skip_op("-") {
            let e = self.deeper(|p| p.unary(false))?;
            self.node(ExprKind::Negative(Box::new(e)))?
        } else if self.skip_op("+") {
            let e = self.deeper(|p| p.unary(false))?;
            self.node(ExprKind::Positive(Box::new(e)))?
        } else {
            self.primary()?
        };
        e = self.postfix(e)?;
        if !filters {
            return Ok(e);
        }
        loop {
            if self.skip_op("|") {
                let filter = self.filter_name()?;
                e = self.node(ExprKind::Filter(Box::new(e), Box::new(filter)))?;
            } else if self.skip_name("is") {
                e = self.test(e)?;
            } else if self.is_op("(") {
                e = self.call(e)?;
            } else {
                return Ok(e);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let kind = match self.peek().clone() {
            Kind::Name(name) => {
                self.at += 1;
                let constant = match name.as_str() {
                    "true" | "True" => Some(Const::Bool(true)),
                    "false" | "False" => Some(Const::Bool(false)),
                    "none" | "None" => Some(Const::None),
                    _ => None,
                };
                match constant {
                    Some(value) => ExprKind::Const(self.constant(value)),
                    None => ExprKind::Name(self.symbol(&name)),
                }
            }
            Kind::Str(mut text) => {
                self.at += 1;
                while let Kind::Str(more) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Const(self.constant(Const::Str(text)))
            }
            Kind::Int(n) => {
                self.at += 1;
                ExprKind::Const(self.constant(Const::Int(n)))
            }
            Kind::Float(f) => {
                self.at += 1;
                ExprKind::Const(self.constant(Const::Float(f)))
            }
            Kind::Op("(") => {
                self.at += 1;
                let e = self.deeper(|p| p.tuple(true, &[], true))?;
                self.expect_op(")")?;
                return Ok(e);
            }
            Kind::Op("[") => {
                self.at += 1;
                let mut list = Vec::new();
                while !self.skip_op("]") {
                    list.push(self.expression()?);
                    if !self.is_op("]") {
                        self.expect_op(",")?;
                    }
                }
                ExprKind::List(list)
            }
            Kind::Op("{") => {
                self.at += 1;
                let mut pairs = Vec::new();
                while !self.skip_op("}") {
                    let key = self.expression()?;
                    self.expect_op(":")?;
                    pairs.push((key, self.expression()?));
                    if !self.is_op("}") {
                        self.expect_op(",")?;
                    }
                }
                ExprKind::Dict(pairs)
            }
            _ => return self.unexpected("an expression"),
        };
        self.node(kind)
    }

    fn postfix(&mut self, mut e: Expr) -> Result<Expr> {
        loop {
            if self.skip_op(".") {
                let kind = match self.next() {
                    Kind::Name(name) => {
                        let name = self.constant(Const::Str(name));
                        ExprKind::Attribute(Box::new(e), name)
                    }
                    Kind::Int(n) => {
                        let index = self.constant(Const::Int(n));
                        let index = self.node(ExprKind::Const(index))?;
                        ExprKind::Item(Box::new(e), Box::new(index))
                    }
                    _ => {
                        self.at -= 1;
                        return self.unexpected("a name or a number");
                    }
                };
                e = self.node(kind)?;
            } else if self.skip_op("[") {
                e = self.subscript(e)?;
            } else if self.is_op("(") {
                e = self.call(e)?;
            } else {
                return Ok(e);
            }
        }
    }

    fn subscript(&mut self, of: Expr) -> Result<Expr> {
        let first = match self.is_op(":") {
            true => None,
            false => Some(self.expression()?),
        };
        if !self.skip_op(":") {
            let Some(mut index) = first else {
                return self.unexpected("an index");
            };
            if self.is_op(",") {
                let mut list = vec![index];
                while self.skip_op(",") {
                    list.push(self.expression()?);
                }
                index = self.node(ExprKind::Tuple(list))?;
            }
            self.expect_op("]")?;
            return self.node(ExprKind::Item(Box::new(of), Box::new(index)));
        }
        let mut parts = [first, None, None];
        if !self.is_op("]") && !self.is_op(":") {
            parts[1] = Some(self.expression()?);
        }
        if self.skip_op(":") && !self.is_op("]") {
            parts[2] = Some(self.expression()?);
        }
        self.expect_op("]")?;
        self.node(ExprKind::Slice(Box::new(of), Box::new(parts)))
    }

    fn call(&mut self, e: Expr) -> Result<Expr> {
        let args = self.call_args()?;
        self.node(ExprKind::Call(Box::new(e), Box::new(args)))
    }

    fn call_args(&mut self) -> Result<CallArgs> {
        let mut args = CallArgs::default();
        self.expect_op("(")?;
        while !self.is_op(")") {
            let named = matches!(self.peek(), Kind::Name(_))
                && matches!(
                    self.tokens.get(self.at + 1).map(|t| &t.kind),
                    Some(Kind::Op("="))
                );
            let positional_over = args.more.is_some() || args.more_named.is_some();
            if self.skip_op("*") {
                if positional_over {
                    return self.fail("a second * in a call");
                }
                args.more = Some(self.expression()?);
            } else if self.skip_op("**") {
                if args.more_named.is_some() {
                    return self.fail("a second ** in a call");
                }
                args.more_named = Some(self.expression()?);
            } else if named {
                let name = self.any_name()?;
                self.at += 1;
                args.named.push((name.into(), self.expression()?));
            } else if positional_over || !args.named.is_empty() {
                return self.unexpected("an argument with a name");
            } else {
                args.positional.push(self.expression()?);
            }
            if !self.is_op(")") {
                self.expect_op(",")?;
            }
        }
        self.expect_op(")")?;
        Ok(args)
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.any_name()?;
        while self.skip_op(".") {
            name.push('.');
            name.push_str(&self.any_name()?);
        }
        Ok(name.into())
    }

    /// A filter behind its `|`.
    pub(super) fn filter_name(&mut self) -> Result<Apply> {
        let name = self.dotted_name()?;
        let args = match self.is_op("(") {
            true => self.call_args()?,
            false => CallArgs::default(),
        };
        Ok(Apply { name, args })
    }

    /// Filters without a value before them.
    pub(super) fn filters(&mut self) -> Result<Vec<Apply>> {
        let mut out = Vec::new();
        while self.skip_op("|") {
            out.push(self.filter_name()?);
        }
        Ok(out)
    }

    fn test(&mut self, e: Expr) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut args = CallArgs::default();
        let argument = match self.peek() {
            Kind::Name(name) => !matches!(name.as_str(), "else" | "or" | "and" | "if" | "in"),
            Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Op("[" | "{") => true,
            _ => false,
        };
        if self.is_op("(") {
            args = self.call_args()?;
        } else if self.is_name("is") {
            return self.fail("tests with \"is\" cannot follow each other");
        } else if argument {
            let argument = self.deeper(|p| {
                let e = p.primary()?;
                p.postfix(e)
            })?;
            args.positional.push(argument);
        }
        let test = self.node(ExprKind::Test(Box::new(e), Box::new(Apply { name, args })))?;
        match negated {
            true => self.node(ExprKind::Not(Box::new(test))),
            false => Ok(test),
        }
    }
}
