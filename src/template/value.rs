//! The values of templates: Python's, as far as templates see them.
//!
//! Nothing that a list or a dictionary holds changes after it was made (jinja2's sandbox forbids it too), so values cannot contain
//! themselves. What changes (namespaces, cyclers) lies in the renderer and is a number here.

use super::budget::{Budget, Hold, MAX_NESTING};
use super::text::Text;
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// What an undefined value would have been, for errors.
#[derive(Clone, Debug)]
pub enum Missing {
    /// A variable.
    Name(Arc<str>),
    /// An attribute or item.
    Item(Text),
    /// Something without a name.
    Other,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// What is not there: empty when printed, an error when used.
    Undefined(Missing),
    /// `none`.
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; one that does not fit is an error.
    Int(i128),
    /// A float.
    Float(f64),
    /// Text.
    Str(Text),
    /// A list.
    List(Rc<Seq>),
    /// A tuple.
    Tuple(Rc<Seq>),
    /// What `map`, `select` and their like give: can be gone through once.
    Iter(Rc<Iter>),
    /// A dictionary in the order of insertion.
    Dict(Rc<Dict>),
    /// A namespace, cycler or joiner: its number in the renderer.
    Object(usize),
    /// `loop`.
    Loop(Rc<Loop>),
    /// A macro or `caller`.
    Macro(Rc<Macro>),
    /// A method of a value that is not called yet.
    Method(Rc<Method>),
    /// A function that every template has.
    Function(Function),
}

/// The functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `range`.
    Range,
    /// `dict`.
    Dict,
    /// `namespace`.
    Namespace,
    /// `cycler`.
    Cycler,
    /// `joiner`.
    Joiner,
    /// `raise_exception`.
    Raise,
    /// `strftime_now`.
    StrftimeNow,
}

/// The items of a list or tuple.
#[derive(Debug)]
pub struct Seq {
    /// The items.
    pub items: Vec<Value>,
    depth: u32,
    _hold: Hold,
}

/// Items that are gone through once.
#[derive(Debug)]
pub struct Iter {
    items: Vec<Value>,
    at: Cell<usize>,
    depth: u32,
    _hold: Hold,
}

impl Iter {
    /// All that are left.
    pub fn rest(&self) -> &[Value] {
        let from = self.at.replace(self.items.len());
        &self.items[from.min(self.items.len())..]
    }

    /// The next one.
    pub fn next(&self) -> Option<Value> {
        let item = self.items.get(self.at.get())?;
        self.at.set(self.at.get() + 1);
        Some(item.clone())
    }
}

/// The entries of a dictionary.
#[derive(Debug)]
pub struct Dict {
    /// Keys and values; no key comes twice.
    pub entries: Vec<(Value, Value)>,
    depth: u32,
    hold: Hold,
}

impl Dict {
    /// The value of a text key.
    ///
    /// # Errors
    /// Limit: work.
    pub fn get(&self, key: &str) -> Result<Option<&Value>> {
        self.hold.budget().work(1 + self.entries.len() / 4)?;
        let found = self.entries.iter().find(|(k, _)| match k {
            Value::Str(text) => text.as_str() == key,
            _ => false,
        });
        Ok(found.map(|(_, v)| v))
    }
}

/// A loop that runs.
#[derive(Debug)]
pub struct Loop {
    /// Which one, for calls of recursive loops.
    pub id: u64,
    /// What it goes through.
    pub items: Rc<Seq>,
    /// Where it is.
    pub index: Cell<usize>,
    /// Recursive loops around it.
    pub depth0: u32,
    /// What `loop.changed` saw last.
    pub changed: RefCell<Option<Vec<Value>>>,
}

/// A macro: its number in the program, and the scope in which it was made.
#[derive(Debug)]
pub struct Macro {
    /// Its number.
    pub index: usize,
    /// Number of the scope.
    pub scope: usize,
}

/// A method of a value.
#[derive(Debug)]
pub struct Method {
    /// Whose.
    pub of: Value,
    /// Its name.
    pub name: Text,
}

fn nested(depth: u32) -> Result<u32> {
    match depth < MAX_NESTING {
        true => Ok(depth + 1),
        false => Err(Error::limit(format_args!(
            "the template builds values that are more than {MAX_NESTING} levels deep"
        ))),
    }
}

const EACH: usize = std::mem::size_of::<Value>();
const CONTAINER: usize = 64;

fn seq(budget: &Rc<Budget>, items: Vec<Value>) -> Result<Seq> {
    budget.work(items.len())?;
    Ok(Seq {
        depth: nested(items.iter().map(Value::depth).max().unwrap_or(0))?,
        _hold: budget.hold(CONTAINER + items.len() * EACH)?,
        items,
    })
}

impl Value {
    /// A text of the template.
    ///
    /// # Errors
    /// Limit: memory or work; so have the other constructors.
    pub fn plain(budget: &Rc<Budget>, text: &str) -> Result<Value> {
        Text::plain(budget, text).map(Value::Str)
    }

    /// A list.
    ///
    /// # Errors
    /// Limit: memory, work or nesting.
    pub fn list(budget: &Rc<Budget>, items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(Rc::new(seq(budget, items)?)))
    }

    /// A tuple.
    ///
    /// # Errors
    /// Limit: memory, work or nesting.
    pub fn tuple(budget: &Rc<Budget>, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(Rc::new(seq(budget, items)?)))
    }

    /// Items that are gone through once.
    ///
    /// # Errors
    /// Limit: memory, work or nesting.
    pub fn iter(budget: &Rc<Budget>, items: Vec<Value>) -> Result<Value> {
        let Seq {
            items,
            depth,
            _hold,
        } = seq(budget, items)?;
        Ok(Value::Iter(Rc::new(Iter {
            items,
            at: Cell::new(0),
            depth,
            _hold,
        })))
    }

    /// The items of a loop or call, as a sequence.
    ///
    /// # Errors
    /// Limit: memory, work or nesting.
    pub fn seq(budget: &Rc<Budget>, items: Vec<Value>) -> Result<Rc<Seq>> {
        Ok(Rc::new(seq(budget, items)?))
    }

    /// A dictionary; the entries have different keys.
    ///
    /// # Errors
    /// Limit: memory, work or nesting.
    pub fn dict(budget: &Rc<Budget>, entries: Vec<(Value, Value)>) -> Result<Value> {
        budget.work(entries.len())?;
        let depths = entries.iter().map(|(k, v)| k.depth().max(v.depth()));
        Ok(Value::Dict(Rc::new(Dict {
            depth: nested(depths.max().unwrap_or(0))?,
            hold: budget.hold(CONTAINER + entries.len() * 2 * EACH)?,
            entries,
        })))
    }

    /// How deep containers in it are inside each other.
    fn depth(&self) -> u32 {
        match self {
            Value::List(s) | Value::Tuple(s) => s.depth,
            Value::Iter(i) => i.depth,
            Value::Dict(d) => d.depth,
            Value::Loop(l) => l.items.depth + 1,
            Value::Method(m) => m.of.depth() + 1,
            _ => 0,
        }
    }

    /// Whether Python takes it as true.
    pub fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(f) => *f != 0.0,
            Value::Str(t) => !t.is_empty(),
            Value::List(s) | Value::Tuple(s) => !s.items.is_empty(),
            Value::Dict(d) => !d.entries.is_empty(),
            _ => true,
        }
    }

    /// What Python calls its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Iter(_) => "generator",
            Value::Dict(_) => "dict",
            Value::Object(_) => "namespace",
            Value::Loop(_) => "LoopContext",
            Value::Macro(_) => "Macro",
            Value::Method(_) => "method",
            Value::Function(_) => "function",
        }
    }

    /// The error of using an undefined value.
    pub fn undefined_error(missing: &Missing) -> Error {
        match missing {
            Missing::Name(name) => Error::invalid(format_args!("{name:?} is undefined")),
            Missing::Item(key) => {
                let key: String = key.as_str().chars().take(80).collect();
                Error::invalid(format_args!("there is no attribute or item {key:?}"))
            }
            Missing::Other => Error::invalid("an undefined value is used"),
        }
    }

    /// The value itself, unless it is undefined.
    ///
    /// # Errors
    /// Invalid: names what is not there.
    pub fn defined(&self) -> Result<&Value> {
        match self {
            Value::Undefined(missing) => Err(Value::undefined_error(missing)),
            other => Ok(other),
        }
    }

    /// It as a whole number; booleans count, as in Python.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    /// It as a float, if it is a number.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            other => other.as_int().map(|n| n as f64),
        }
    }
}
