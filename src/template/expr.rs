//! Evaluating expressions.

use super::args::{self, Args};
use super::checks;
use super::filters;
use super::lists;
use super::ops;
use super::printf;
use super::run::{Object, Run};
use super::show::write_str;
use super::strings;
use super::syntax::{BinaryOp, CallArgs, CompareOp, ConstIndex, Expr, ExprKind};
use super::text::Buffer;
use super::value::{Function, Loop, Method, Missing, Value};
use crate::error::{Error, Result};
use std::rc::Rc;

/// Longest `range`, as in jinja2's sandbox.
const MAX_RANGE: i128 = 100_000;

impl<'t> Run<'t> {
    /// The value of an expression.
    pub(super) fn eval(&mut self, e: &'t Expr) -> Result<Value> {
        self.budget.work(4)?;
        // Leaves are most of all expressions and need no depth.
        match &e.kind {
            ExprKind::Const(index) => return Ok(self.constant(*index)),
            ExprKind::Name(symbol) => return self.lookup(*symbol),
            _ => {}
        }
        self.budget.enter()?;
        let value = self.eval_inner(e);
        self.budget.leave();
        value
    }

    fn constant(&self, index: ConstIndex) -> Value {
        self.consts[index as usize].clone()
    }

    fn eval_inner(&mut self, e: &'t Expr) -> Result<Value> {
        match &e.kind {
            ExprKind::Const(index) => Ok(self.constant(*index)),
            ExprKind::Name(symbol) => self.lookup(*symbol),
            ExprKind::Tuple(list) => {
                let items = self.eval_all(list)?;
                Value::tuple(&self.budget, items)
            }
            ExprKind::List(list) => {
                let items = self.eval_all(list)?;
                Value::list(&self.budget, items)
            }
            ExprKind::Dict(pairs) => self.dict_literal(pairs),
            ExprKind::Attribute(of, name) => {
                let of = self.eval(of)?;
                self.attribute(&of, &self.constant(*name))
            }
            ExprKind::Item(of, key) => {
                let of = self.eval(of)?;
                let key = self.eval(key)?;
                self.item(&of, &key)
            }
            ExprKind::Slice(of, parts) => self.slice(of, parts),
            ExprKind::Call(..) => self.eval_call_with(e, None),
            ExprKind::Filter(of, apply) => {
                let value = self.eval(of)?;
                let args = self.args(&apply.args)?;
                filters::apply(&self.budget, &apply.name, value, args)
            }
            ExprKind::Test(of, apply) => {
                let value = self.eval(of)?;
                let args = self.args(&apply.args)?;
                checks::check(&self.budget, &value, &apply.name, args).map(Value::Bool)
            }
            ExprKind::Binary(op, both) => {
                let left = self.eval(&both.0)?;
                let right = self.eval(&both.1)?;
                if let (BinaryOp::Rem, Value::Str(format)) = (op, &left) {
                    return printf::percent(&self.budget, format, &right).map(Value::Str);
                }
                ops::binary(&self.budget, *op, &left, &right)
            }
            ExprKind::Concat(list) => self.concat(list),
            ExprKind::Compare(first, rest) => self.compare(first, rest),
            ExprKind::And(list) => self.first_that(list, false),
            ExprKind::Or(list) => self.first_that(list, true),
            ExprKind::Not(e) => Ok(Value::Bool(!self.eval(e)?.truth())),
            ExprKind::Negative(e) => ops::sign(&self.eval(e)?, true),
            ExprKind::Positive(e) => ops::sign(&self.eval(e)?, false),
            ExprKind::Condition(parts) => match (self.eval(&parts.0)?.truth(), &parts.2) {
                (true, _) => self.eval(&parts.1),
                (false, Some(other)) => self.eval(other),
                (false, None) => Ok(Value::Undefined(Missing::Other)),
            },
        }
    }

    fn eval_all(&mut self, list: &'t [Expr]) -> Result<Vec<Value>> {
        list.iter().map(|e| self.eval(e)).collect()
    }

    #[inline(never)]
    fn dict_literal(&mut self, pairs: &'t [(Expr, Expr)]) -> Result<Value> {
        let mut entries: Vec<(Value, Value)> = Vec::new();
        for (key, value) in pairs {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            self.insert(&mut entries, key, value)?;
        }
        Value::dict(&self.budget, entries)
    }

    /// Adds an entry, or replaces the value of a key that is there.
    fn insert(&self, entries: &mut Vec<(Value, Value)>, key: Value, value: Value) -> Result<()> {
        if matches!(key.defined()?, Value::List(_) | Value::Dict(_)) {
            return Err(Error::invalid(format_args!(
                "{} cannot be a key of a dict",
                key.type_name()
            )));
        }
        for entry in entries.iter_mut() {
            if ops::equal(&self.budget, &entry.0, &key)? {
                entry.1 = value;
                return Ok(());
            }
        }
        entries.push((key, value));
        Ok(())
    }

    #[inline(never)]
    fn slice(&mut self, of: &'t Expr, parts: &'t [Option<Expr>; 3]) -> Result<Value> {
        let of = self.eval(of)?;
        let mut values = [Value::None, Value::None, Value::None];
        for (value, part) in values.iter_mut().zip(parts) {
            if let Some(part) = part {
                *value = self.eval(part)?;
            }
        }
        ops::slice(&self.budget, &of, values)
    }

    #[inline(never)]
    fn concat(&mut self, list: &'t [Expr]) -> Result<Value> {
        let mut out = Buffer::new(&self.budget);
        for e in list {
            write_str(&mut out, &self.eval(e)?)?;
        }
        Ok(Value::Str(out.finish()?))
    }

    #[inline(never)]
    fn compare(&mut self, first: &'t Expr, rest: &'t [(CompareOp, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (op, e) in rest {
            let right = self.eval(e)?;
            if !ops::compare(&self.budget, *op, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// The first value whose truth is this, else the last one.
    fn first_that(&mut self, list: &'t [Expr], truth: bool) -> Result<Value> {
        let mut value = Value::None;
        for e in list {
            value = self.eval(e)?;
            if value.truth() == truth {
                break;
            }
        }
        Ok(value)
    }

    /// `of.name`: methods first, then items.
    #[inline(never)]
    fn attribute(&self, of: &Value, name: &Value) -> Result<Value> {
        let Value::Str(text) = name else {
            return ops::item(&self.budget, of, name);
        };
        if strings::is_method(of, text.as_str()) {
            return Ok(Value::Method(Rc::new(Method {
                of: of.clone(),
                name: text.clone(),
            })));
        }
        match of {
            Value::Loop(state) => self.loop_attribute(state, text.as_str()),
            Value::Object(number) => Ok(match self.objects.get(*number) {
                Some(Object::Namespace(vars)) => {
                    self.budget.work(1 + vars.len() / 4)?;
                    let found = vars.iter().find(|(n, _)| **n == *text.as_str());
                    let found = found.map(|(_, v)| v.clone());
                    found.unwrap_or_else(|| Value::Undefined(Missing::Item(text.clone())))
                }
                Some(Object::Cycler(items, at)) if text.as_str() == "current" => {
                    items.get(*at).cloned().unwrap_or(Value::None)
                }
                Some(Object::Cycler(..)) if matches!(text.as_str(), "next" | "reset") => {
                    Value::Method(Rc::new(Method {
                        of: of.clone(),
                        name: text.clone(),
                    }))
                }
                _ => Value::Undefined(Missing::Item(text.clone())),
            }),
            Value::Macro(made) if text.as_str() == "name" => {
                Value::plain(&self.budget, &self.program.macros[made.index].name)
            }
            of => ops::item(&self.budget, of, name),
        }
    }

    /// `of[key]`: items first, then attributes.
    fn item(&self, of: &Value, key: &Value) -> Result<Value> {
        match (ops::item(&self.budget, of, key)?, key) {
            (Value::Undefined(_), Value::Str(_)) => self.attribute(of, key),
            (found, _) => Ok(found),
        }
    }

    fn loop_attribute(&self, state: &Rc<Loop>, name: &str) -> Result<Value> {
        let (at, length) = (state.index.get(), state.items.items.len());
        let number = |n: usize| Value::Int(n as i128);
        let neighbour = |at: Option<usize>| {
            let item = at.and_then(|at| state.items.items.get(at)).cloned();
            item.unwrap_or(Value::Undefined(Missing::Other))
        };
        Ok(match name {
            "index" => number(at + 1),
            "index0" => number(at),
            "revindex" => number(length - at),
            "revindex0" => number(length - at - 1),
            "first" => Value::Bool(at == 0),
            "last" => Value::Bool(at + 1 == length),
            "length" => number(length),
            "depth" => number(state.depth0 as usize + 1),
            "depth0" => number(state.depth0 as usize),
            "previtem" => neighbour(at.checked_sub(1)),
            "nextitem" => neighbour(Some(at + 1)),
            "cycle" | "changed" => Value::Method(Rc::new(Method {
                of: Value::Loop(state.clone()),
                name: super::text::Text::plain(&self.budget, name)?,
            })),
            _ => Value::Undefined(Missing::Item(super::text::Text::plain(&self.budget, name)?)),
        })
    }

    /// The arguments of a call.
    pub(super) fn args(&mut self, args: &'t CallArgs) -> Result<Args> {
        let mut out = Args {
            positional: self.eval_all(&args.positional)?,
            named: Vec::new(),
        };
        for (name, e) in &args.named {
            let value = self.eval(e)?;
            out.named.push((name.clone(), value));
        }
        if let Some(e) = &args.more {
            let more = self.eval(e)?;
            let more = lists::items(&self.budget, &more)?;
            self.budget.work(more.items.len())?;
            out.positional.extend(more.items.iter().cloned());
        }
        if let Some(e) = &args.more_named {
            let Value::Dict(more) = self.eval(e)? else {
                return Err(Error::invalid("** of a call is no dict"));
            };
            for (key, value) in &more.entries {
                let key = args::text("a call", Some(key))?;
                self.budget.work(1)?;
                out.named.push((key.as_str().into(), value.clone()));
            }
        }
        Ok(out)
    }

    /// A call, perhaps with the block of `{% call %}`.
    #[inline(never)]
    pub(super) fn eval_call_with(&mut self, e: &'t Expr, caller: Option<Value>) -> Result<Value> {
        let ExprKind::Call(callee, args) = &e.kind else {
            return Err(Error::invalid("a call block has no call"));
        };
        let callee = self.eval(callee)?;
        let args = self.args(args)?;
        match &callee {
            Value::Macro(made) => self.call_macro(made, args, caller),
            Value::Method(method) => self.call_method(method, args),
            Value::Function(function) => self.call_function(*function, args),
            Value::Loop(state) => self.call_loop(state, args),
            Value::Object(number) => self.call_object(*number, args),
            Value::Undefined(missing) => Err(Value::undefined_error(missing)),
            other => Err(Error::invalid(format_args!(
                "{} cannot be called",
                other.type_name()
            ))),
        }
    }

    #[inline(never)]
    fn call_method(&mut self, method: &Method, args: Args) -> Result<Value> {
        let name = method.name.as_str();
        match &method.of {
            Value::Str(text) if name == "format" => {
                printf::braces(&self.budget, text, args).map(Value::Str)
            }
            Value::Str(text) => strings::call(&self.budget, text, name, args),
            Value::Loop(state) if name == "cycle" => {
                let n = args.positional.len();
                match args.positional.get(state.index.get() % n.max(1)) {
                    Some(value) => Ok(value.clone()),
                    None => Err(Error::invalid("loop.cycle has nothing to choose from")),
                }
            }
            Value::Loop(state) => {
                // A loop that held itself would never go away.
                let plain = |v: &Value| {
                    matches!(v, Value::Undefined(_) | Value::None | Value::Bool(_))
                        || matches!(v, Value::Int(_) | Value::Float(_) | Value::Str(_))
                };
                if !args.positional.iter().all(plain) {
                    return Err(Error::invalid(
                        "loop.changed compares texts and numbers only",
                    ));
                }
                let mut last = state.changed.borrow_mut();
                let mut same = last
                    .as_ref()
                    .is_some_and(|l| l.len() == args.positional.len());
                if let (true, Some(last)) = (same, last.as_ref()) {
                    for (a, b) in last.iter().zip(&args.positional) {
                        same = same && ops::equal(&self.budget, a, b)?;
                    }
                }
                if !same {
                    *last = Some(args.positional);
                }
                Ok(Value::Bool(!same))
            }
            Value::Object(number) => match self.objects.get_mut(*number) {
                Some(Object::Cycler(items, at)) => {
                    let current = items.get(*at).cloned().unwrap_or(Value::None);
                    *at = match name {
                        "next" => (*at + 1) % items.len().max(1),
                        _ => 0,
                    };
                    Ok(current)
                }
                _ => Err(Error::invalid("a namespace has no methods")),
            },
            of => strings::call_container(&self.budget, of, name, args),
        }
    }

    fn call_object(&mut self, number: usize, args: Args) -> Result<Value> {
        args.none("a joiner")?;
        match self.objects.get_mut(number) {
            Some(Object::Joiner(separator, used)) => match std::mem::replace(used, true) {
                true => Ok(separator.clone()),
                false => Value::plain(&self.budget, ""),
            },
            _ => Err(Error::invalid("a namespace cannot be called")),
        }
    }

    #[inline(never)]
    fn call_function(&mut self, function: Function, mut args: Args) -> Result<Value> {
        match function {
            Function::Raise => {
                let [message] = args.bind("raise_exception", ["message"])?;
                Err(self.raised(&message.unwrap_or(Value::None)))
            }
            Function::StrftimeNow => {
                let [format] = args.bind("strftime_now", ["format"])?;
                let format = args::text("strftime_now", format.as_ref())?;
                self.now.format(&self.budget, format).map(Value::Str)
            }
            Function::Range => {
                let [a, b, step] = args.bind("range", ["start", "stop", "step"])?;
                let number = |v: Option<&Value>, default| args::int("range", v, default);
                let (start, stop) = match &b {
                    None => (0, number(a.as_ref(), 0)?),
                    b => (number(a.as_ref(), 0)?, number(b.as_ref(), 0)?),
                };
                let step = number(step.as_ref(), 1)?;
                range(self, start, stop, step)
            }
            Function::Dict | Function::Namespace => {
                let mut entries = Vec::new();
                if let Some(first) = args.positional.pop() {
                    if !args.positional.is_empty() {
                        return Err(Error::invalid("dict has more than one value to begin with"));
                    }
                    self.dict_from(&mut entries, &first)?;
                }
                for (name, value) in args.named {
                    let key = Value::plain(&self.budget, &name)?;
                    self.insert(&mut entries, key, value)?;
                }
                if function == Function::Dict {
                    return Value::dict(&self.budget, entries);
                }
                let vars = entries.into_iter().map(|(key, value)| {
                    let name = args::text("namespace", Some(&key))?;
                    Ok((name.as_str().into(), value))
                });
                let vars = vars.collect::<Result<Vec<_>>>()?;
                self.object(Object::Namespace(vars))
            }
            Function::Cycler => {
                if args.positional.is_empty() {
                    return Err(Error::invalid("cycler has no items"));
                }
                self.object(Object::Cycler(args.positional, 0))
            }
            Function::Joiner => {
                let [separator] = args.bind("joiner", ["sep"])?;
                let separator = match separator {
                    Some(separator) => separator,
                    None => Value::plain(&self.budget, ", ")?,
                };
                self.object(Object::Joiner(separator, false))
            }
        }
    }

    /// The entries of a dict, or of a list of pairs.
    fn dict_from(&mut self, entries: &mut Vec<(Value, Value)>, from: &Value) -> Result<()> {
        if let Value::Dict(dict) = from {
            self.budget.work(dict.entries.len())?;
            entries.extend(dict.entries.iter().cloned());
            return Ok(());
        }
        for pair in &lists::items(&self.budget, from)?.items {
            match &lists::items(&self.budget, pair)?.items[..] {
                [key, value] => self.insert(entries, key.clone(), value.clone())?,
                _ => return Err(Error::invalid("dict is made of what are no pairs")),
            }
        }
        Ok(())
    }
}

fn range(run: &Run, start: i128, stop: i128, step: i128) -> Result<Value> {
    let count = match step {
        0 => return Err(Error::invalid("the step of range is 0")),
        1.. => stop.saturating_sub(start).max(0) as u128,
        _ => start.saturating_sub(stop).max(0) as u128,
    };
    let count = count.div_ceil(step.unsigned_abs());
    if count > MAX_RANGE as u128 {
        return Err(Error::limit(format_args!(
            "range has {count} numbers, expected at most {MAX_RANGE}"
        )));
    }
    let numbers = (0..count as i128).map(|i| Value::Int(start + i * step));
    Value::list(&run.budget, numbers.collect())
}
