//! Running a program: statements, scopes, loops, macros.
//!
//! Scopes are numbers, each with the number of the one around it; a macro remembers the scope in which it was made and sees later
//! assignments in it, as in jinja2. An assignment writes to the innermost scope; bodies of loops, macros and `with` have scopes of their own.

use super::args::Args;
use super::budget::{Budget, Hold};
use super::clock::DateTime;
use super::filters;
use super::lexer::place;
use super::lists;
use super::show::{text_of, write_str};
use super::syntax::{Apply, Block, Const, Expr, For, Program, Stmt, StmtKind, Symbol, Target};
use super::text::Buffer;
use super::value::{Function, Loop, Macro, Missing, Value};
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// What a scope or an object takes at least.
const SMALL: usize = 64;

/// What stands behind a number of [`Value::Object`].
pub(super) enum Object {
    /// `namespace(...)`.
    Namespace(Vec<(Arc<str>, Value)>),
    /// `cycler(...)`: its items, and the next one.
    Cycler(Vec<Value>, usize),
    /// `joiner(...)`: its separator, and whether it was used.
    Joiner(Value, bool),
}

struct Scope {
    vars: Vec<(Symbol, Value)>,
    parent: usize,
    /// A macro was made here and may be called later.
    captured: bool,
}

/// How a block ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// A rendering.
pub(super) struct Run<'t> {
    pub(super) program: &'t Program,
    pub(super) budget: Rc<Budget>,
    pub(super) now: DateTime,
    /// The constants as values.
    pub(super) consts: Vec<Value>,
    pub(super) objects: Vec<Object>,
    /// Memory of objects and scopes that stay.
    holds: Vec<Hold>,
    scopes: Vec<Scope>,
    scope: usize,
    out: Buffer,
    /// The line of the statement that runs.
    line: u32,
    loops: Vec<(u64, &'t For, usize)>,
    next_loop: u64,
    loop_symbol: Option<Symbol>,
    caller_symbol: Option<Symbol>,
}

impl<'t> Run<'t> {
    /// Renders a program with these variables.
    ///
    /// # Errors
    /// Invalid or Limit, with the line.
    pub(super) fn render(
        program: &'t Program,
        budget: &Rc<Budget>,
        now: DateTime,
        variables: Vec<(&str, Value)>,
    ) -> Result<Buffer> {
        let consts = program.consts.iter().map(|c| {
            Ok(match c {
                Const::None => Value::None,
                Const::Bool(b) => Value::Bool(*b),
                Const::Int(n) => Value::Int(*n),
                Const::Float(f) => Value::Float(*f),
                Const::Str(text) => Value::plain(budget, text)?,
            })
        });
        let symbol = |name: &str| {
            let at = program.names.iter().position(|n| **n == *name)?;
            Some(at as Symbol)
        };
        let functions = [
            ("range", Function::Range),
            ("dict", Function::Dict),
            ("namespace", Function::Namespace),
            ("cycler", Function::Cycler),
            ("joiner", Function::Joiner),
            ("raise_exception", Function::Raise),
            ("strftime_now", Function::StrftimeNow),
        ];
        let functions = functions.map(|(name, f)| (name, Value::Function(f)));
        // Later ones count: variables of the conversation hide functions.
        let mut vars: Vec<(Symbol, Value)> = Vec::new();
        for (name, value) in functions.into_iter().chain(variables) {
            if let Some(symbol) = symbol(name) {
                vars.retain(|(s, _)| *s != symbol);
                vars.push((symbol, value));
            }
        }
        let scope = |vars| Scope {
            vars,
            parent: 0,
            captured: true,
        };
        let mut run = Run {
            program,
            budget: budget.clone(),
            now,
            consts: consts.collect::<Result<_>>()?,
            objects: Vec::new(),
            holds: Vec::new(),
            scopes: vec![scope(vars), scope(Vec::new())],
            scope: 1,
            out: Buffer::new(budget),
            line: 1,
            loops: Vec::new(),
            next_loop: 0,
            loop_symbol: symbol("loop"),
            caller_symbol: symbol("caller"),
        };
        match run.block(&program.body) {
            Ok(_) => Ok(run.out),
            Err(e) => Err(place(run.line, e)),
        }
    }

    /// The value of a variable.
    pub(super) fn lookup(&self, symbol: Symbol) -> Result<Value> {
        let mut at = self.scope;
        loop {
            let scope = &self.scopes[at];
            self.budget.work(1 + scope.vars.len() / 4)?;
            if let Some((_, value)) = scope.vars.iter().find(|(s, _)| *s == symbol) {
                return Ok(value.clone());
            }
            if at == 0 {
                let name = self.program.names[symbol as usize].clone();
                return Ok(Value::Undefined(Missing::Name(name)));
            }
            at = scope.parent;
        }
    }

    fn assign(&mut self, symbol: Symbol, value: Value) -> Result<()> {
        let vars = &mut self.scopes[self.scope].vars;
        self.budget.work(1 + vars.len() / 4)?;
        match vars.iter_mut().find(|(s, _)| *s == symbol) {
            Some(var) => var.1 = value,
            None => vars.push((symbol, value)),
        }
        Ok(())
    }

    /// Runs something in a new scope inside of `parent`.
    fn scoped<T>(
        &mut self,
        parent: usize,
        inner: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let before = self.scope;
        let hold = self.budget.hold(SMALL)?;
        self.scopes.push(Scope {
            vars: Vec::new(),
            parent,
            captured: false,
        });
        self.scope = self.scopes.len() - 1;
        let result = inner(self);
        if self.scope + 1 == self.scopes.len() && !self.scopes[self.scope].captured {
            self.scopes.pop();
        } else {
            self.holds.push(hold);
        }
        self.scope = before;
        result
    }

    /// A new object.
    pub(super) fn object(&mut self, object: Object) -> Result<Value> {
        self.holds.push(self.budget.hold(SMALL)?);
        self.objects.push(object);
        Ok(Value::Object(self.objects.len() - 1))
    }

    /// What something writes, apart from the rest of the output.
    fn captured(&mut self, inner: impl FnOnce(&mut Self) -> Result<()>) -> Result<Value> {
        let before = std::mem::replace(&mut self.out, Buffer::new(&self.budget));
        let result = inner(self);
        let written = std::mem::replace(&mut self.out, before);
        result?;
        Ok(Value::Str(written.finish()?))
    }

    fn block(&mut self, block: &'t Block) -> Result<Flow> {
        self.budget.enter()?;
        for stmt in block {
            let flow = self.statement(stmt)?;
            if flow != Flow::On {
                self.budget.leave();
                return Ok(flow);
            }
        }
        self.budget.leave();
        Ok(Flow::On)
    }

    fn statement(&mut self, stmt: &'t Stmt) -> Result<Flow> {
        self.budget.work(4)?;
        self.line = stmt.line;
        match &stmt.kind {
            StmtKind::Data(text) => self.out.plain(text)?,
            StmtKind::Print(e) => {
                let value = self.eval(e)?;
                write_str(&mut self.out, &value)?;
            }
            StmtKind::If(branches, otherwise) => {
                for (test, block) in branches {
                    if self.eval(test)?.truth() {
                        return self.block(block);
                    }
                }
                return self.block(otherwise);
            }
            StmtKind::For(f) => self.for_loop(f)?,
            StmtKind::Set(target, e) => {
                let value = self.eval(e)?;
                self.set(target, value)?;
            }
            StmtKind::SetBlock(target, filters, block) => self.set_block(target, filters, block)?,
            StmtKind::With(values, block) => return self.with(values, block),
            StmtKind::Macro(symbol, index) => {
                let made = self.make_macro(*index);
                self.assign(*symbol, made)?;
            }
            StmtKind::CallBlock(call, index) => self.call_block(call, *index)?,
            StmtKind::FilterBlock(filters, block) => self.filter_block(filters, block)?,
            StmtKind::Scope(block) => return self.scoped(self.scope, |run| run.block(block)),
            StmtKind::Do(e) => {
                self.eval(e)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn make_macro(&mut self, index: usize) -> Value {
        self.scopes[self.scope].captured = true;
        Value::Macro(Rc::new(Macro {
            index,
            scope: self.scope,
        }))
    }

    fn set_block(
        &mut self,
        target: &'t Target,
        filters: &'t [Apply],
        block: &'t Block,
    ) -> Result<()> {
        let parent = self.scope;
        let mut value =
            self.captured(|run| run.scoped(parent, |run| run.block(block)).map(|_| ()))?;
        for filter in filters {
            value = self.filtered(value, filter)?;
        }
        self.set(target, value)
    }

    fn filter_block(&mut self, filters: &'t [Apply], block: &'t Block) -> Result<()> {
        let parent = self.scope;
        let mut value =
            self.captured(|run| run.scoped(parent, |run| run.block(block)).map(|_| ()))?;
        for filter in filters {
            value = self.filtered(value, filter)?;
        }
        write_str(&mut self.out, &value)
    }

    fn filtered(&mut self, value: Value, filter: &'t Apply) -> Result<Value> {
        let args = self.args(&filter.args)?;
        filters::apply(&self.budget, &filter.name, value, args)
    }

    fn with(&mut self, values: &'t [(Target, Expr)], block: &'t Block) -> Result<Flow> {
        let mut made = Vec::new();
        for (_, e) in values {
            made.push(self.eval(e)?);
        }
        self.scoped(self.scope, |run| {
            for ((target, _), value) in values.iter().zip(made) {
                run.set(target, value)?;
            }
            run.block(block)
        })
    }

    fn call_block(&mut self, call: &'t Expr, index: usize) -> Result<()> {
        let caller = self.make_macro(index);
        let value = self.eval_call_with(call, Some(caller))?;
        write_str(&mut self.out, &value)
    }

    fn set(&mut self, target: &'t Target, value: Value) -> Result<()> {
        match target {
            Target::Name(symbol) => self.assign(*symbol, value),
            Target::Tuple(targets) => {
                let items = lists::items(&self.budget, &value)?;
                if items.items.len() != targets.len() {
                    return Err(Error::invalid(format_args!(
                        "{} values are assigned to {} names",
                        items.items.len(),
                        targets.len()
                    )));
                }
                for (target, item) in targets.iter().zip(&items.items) {
                    self.set(target, item.clone())?;
                }
                Ok(())
            }
            Target::Attribute(symbol, name) => {
                let of = self.lookup(*symbol)?;
                if let Value::Object(number) = of
                    && let Some(Object::Namespace(vars)) = self.objects.get_mut(number)
                {
                    self.budget.work(1 + vars.len() / 4)?;
                    match vars.iter_mut().find(|(n, _)| n == name) {
                        Some(var) => var.1 = value,
                        None => {
                            self.holds.push(self.budget.hold(SMALL)?);
                            vars.push((name.clone(), value));
                        }
                    }
                    return Ok(());
                }
                Err(Error::invalid(format_args!(
                    "the attribute {name:?} of {} cannot be set, expected a namespace",
                    of.defined()?.type_name()
                )))
            }
        }
    }

    fn for_loop(&mut self, f: &'t For) -> Result<()> {
        let value = self.eval(&f.items)?;
        self.loop_over(f, &value, 0)
    }

    fn loop_over(&mut self, f: &'t For, value: &Value, depth0: u32) -> Result<()> {
        let parent = self.scope;
        let mut items = lists::items(&self.budget, value)?;
        if let Some(filter) = &f.filter {
            let mut kept = Vec::new();
            for item in &items.items {
                let keep = self.scoped(parent, |run| {
                    run.set(&f.target, item.clone())?;
                    Ok(run.eval(filter)?.truth())
                })?;
                if keep {
                    kept.push(item.clone());
                }
            }
            items = Value::seq(&self.budget, kept)?;
        }
        if items.items.is_empty() {
            return self
                .scoped(parent, |run| run.block(&f.otherwise))
                .map(|_| ());
        }
        let state = Rc::new(Loop {
            id: self.next_loop,
            items: items.clone(),
            index: Cell::new(0),
            depth0,
            changed: RefCell::new(None),
        });
        self.next_loop += 1;
        self.loops.push((state.id, f, parent));
        for (i, item) in items.items.iter().enumerate() {
            state.index.set(i);
            let flow = self.scoped(parent, |run| {
                run.set(&f.target, item.clone())?;
                if let Some(symbol) = run.loop_symbol {
                    run.assign(symbol, Value::Loop(state.clone()))?;
                }
                run.block(&f.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        self.loops.pop();
        Ok(())
    }

    /// `loop(items)` of a recursive loop.
    pub(super) fn call_loop(&mut self, state: &Loop, args: Args) -> Result<Value> {
        let [value] = args.bind("loop", ["items"])?;
        let value = value.ok_or_else(|| Error::invalid("loop lacks its items"))?;
        let found = self.loops.iter().find(|(id, ..)| *id == state.id).copied();
        let Some((_, f, parent)) = found.filter(|(_, f, _)| f.recursive) else {
            return Err(Error::invalid("a loop that is not recursive is called"));
        };
        self.budget.enter()?;
        let before = std::mem::replace(&mut self.scope, parent);
        let depth = state.depth0 + 1;
        let made = self.captured(|run| run.loop_over(f, &value, depth));
        self.scope = before;
        self.budget.leave();
        made
    }

    /// Calls a macro; what it writes is its value.
    pub(super) fn call_macro(
        &mut self,
        called: &Macro,
        mut args: Args,
        caller: Option<Value>,
    ) -> Result<Value> {
        let def = &self.program.macros[called.index];
        let caller = caller.or_else(|| args.take("caller"));
        let line = self.line;
        let value = self.captured(|run| {
            run.scoped(called.scope, |run| {
                if let (Some(symbol), Some(caller)) = (run.caller_symbol, caller) {
                    run.assign(symbol, caller)?;
                }
                let mut positional = std::mem::take(&mut args.positional).into_iter();
                for (symbol, default) in &def.params {
                    let name = &run.program.names[*symbol as usize];
                    let value = match (positional.next(), args.take(name), default) {
                        (Some(_), Some(_), _) => {
                            return Err(Error::invalid(format_args!(
                                "the macro {:?} has two values for {name:?}",
                                def.name
                            )));
                        }
                        (Some(value), ..) | (None, Some(value), _) => value,
                        (None, None, Some(default)) => run.eval(default)?,
                        (None, None, None) => Value::Undefined(Missing::Name(name.clone())),
                    };
                    run.assign(*symbol, value)?;
                }
                run.other_args(called.index, positional.collect(), args)?;
                run.block(&def.body).map(|_| ())
            })
        });
        if value.is_ok() {
            self.line = line;
        }
        value
    }

    /// Arguments beyond the parameters: an error unless the macro looks at `varargs` or `kwargs`.
    fn other_args(&mut self, index: usize, positional: Vec<Value>, args: Args) -> Result<()> {
        let def = &self.program.macros[index];
        let name = &def.name;
        let symbol = |run: &Self, name: &str| {
            let at = run.program.names.iter().position(|n| **n == *name);
            at.map(|at| at as Symbol)
        };
        if def.varargs {
            let list = Value::tuple(&self.budget, positional)?;
            if let Some(symbol) = symbol(self, "varargs") {
                self.assign(symbol, list)?;
            }
        } else if !positional.is_empty() {
            return Err(Error::invalid(format_args!(
                "the macro {name:?} is given {} arguments too many",
                positional.len()
            )));
        }
        if def.kwargs {
            let entries = args.named.into_iter();
            let entries = entries.map(|(k, v)| Ok((Value::plain(&self.budget, &k)?, v)));
            let dict = Value::dict(&self.budget, entries.collect::<Result<_>>()?)?;
            if let Some(symbol) = symbol(self, "kwargs") {
                self.assign(symbol, dict)?;
            }
        } else if let Some((unknown, _)) = args.named.first() {
            return Err(Error::invalid(format_args!(
                "the macro {name:?} has no parameter {unknown:?}"
            )));
        }
        Ok(())
    }

    /// The message of `raise_exception`.
    pub(super) fn raised(&self, message: &Value) -> Error {
        match text_of(&self.budget, message) {
            Ok(text) => {
                let shown: String = text.as_str().chars().take(2000).collect();
                Error::invalid(format_args!("the template raised: {shown}"))
            }
            Err(e) => e,
        }
    }
}
