//! Interprets a pickle without executing anything: what it would import, call or build becomes data.
//!
//! A pickle is a program for a small stack machine. Python runs it by importing and calling whatever the
//! file names; here every name stays a name, and every call a node that remembers its arguments. Nodes live
//! in one list and refer to each other by number, so that neither reading nor dropping recurses.

use std::collections::HashMap;

use super::PtError;

/// Bytes of a pickle; those of YOLOv8 checkpoints have some hundred thousand.
pub const MAX_BYTES: usize = 8 << 20;
/// Values in a pickle; those of YOLOv8 checkpoints have some ten thousand.
const MAX_NODES: usize = 2_000_000;

/// Number of a value in its [`Pickle`].
pub type Id = u32;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of up to 64 bits.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes, or a number of more than 64 bits; nothing here needs what they say.
    Opaque,
    /// A sequence of a fixed length.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// Keys and values, in order.
    Dict(Vec<(Id, Id)>),
    /// A class or a function, by its full name.
    Global(String),
    /// What Python would have got by calling `what` with `args`.
    Object {
        /// The class or function.
        what: Id,
        /// A tuple.
        args: Id,
        /// The object's attributes, if any were given.
        state: Option<Id>,
        /// What was put in, as into a dictionary.
        pairs: Vec<(Id, Id)>,
    },
    /// A reference to something beside the pickle: a storage.
    External(Id),
}

/// Everything that a pickle holds.
#[derive(Debug)]
pub struct Pickle {
    nodes: Vec<Node>,
    top: Id,
}

impl Pickle {
    /// What the program in `bytes` would leave.
    ///
    /// # Errors
    /// When it is damaged, too large, uses what `torch.save` does not, or names something that has no place
    /// in weights ([`PtError::Refused`]).
    pub fn parse(bytes: &[u8]) -> Result<Self, PtError> {
        if bytes.len() > MAX_BYTES {
            return Err(PtError::TooLarge { what: "bytes of pickled objects", limit: MAX_BYTES as u64 });
        }
        Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
        .run()
    }

    /// The outermost value.
    pub const fn top(&self) -> Id {
        self.top
    }

    /// The value with that number, which is one of this pickle's.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// A whole number.
    pub fn int(&self, id: Id) -> Option<i64> {
        if let Node::Int(value) = self.node(id) { Some(*value) } else { None }
    }

    /// A text.
    pub fn text(&self, id: Id) -> Option<&str> {
        if let Node::Text(text) = self.node(id) { Some(text) } else { None }
    }

    /// The members of a tuple or list. A `torch.Size` is the tuple that it is made of.
    pub fn members(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(members) | Node::List(members) => Some(members),
            Node::Object { args, .. } if self.callee(id) == Some("torch.Size") => {
                let [inner] = self.tuple(*args)? else { return None };
                self.tuple(*inner)
            }
            _ => None,
        }
    }

    /// The members of a tuple.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        if let Node::Tuple(members) = self.node(id) { Some(members) } else { None }
    }

    /// Keys and values of a dictionary, an `OrderedDict` included.
    pub fn pairs(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(pairs) => Some(pairs),
            Node::Object { pairs, .. } if self.callee(id) == Some("collections.OrderedDict") => Some(pairs),
            _ => None,
        }
    }

    /// The value under `key` in a dictionary.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        let mut pairs = self.pairs(dict)?.iter().rev();
        pairs.find(|(name, _)| self.text(*name) == Some(key)).map(|&(_, value)| value)
    }

    /// The value of an object's attribute.
    pub fn attribute(&self, object: Id, name: &str) -> Option<Id> {
        if let Node::Object { state: Some(state), .. } = self.node(object) {
            self.get(*state, name)
        } else {
            None
        }
    }

    /// The name of what Python would have called to make that object.
    pub fn callee(&self, id: Id) -> Option<&str> {
        let Node::Object { what, .. } = self.node(id) else { return None };
        if let Node::Global(name) = self.node(*what) { Some(name) } else { None }
    }

    /// The arguments of that call.
    pub fn arguments(&self, id: Id) -> Option<&[Id]> {
        if let Node::Object { args, .. } = self.node(id) { self.tuple(*args) } else { None }
    }
}

/// Packages whose classes are found in checkpoints. Nothing of them is called either.
const PACKAGES: [&str; 12] = [
    "argparse",
    "collections",
    "copyreg",
    "copy_reg",
    "datetime",
    "models",
    "numpy",
    "pathlib",
    "torch",
    "torchvision",
    "ultralytics",
    "utils",
];

/// Built-in classes and functions that are found in checkpoints.
const BUILTINS: [&str; 14] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "getattr",
    "int",
    "list",
    "object",
    "set",
    "slice",
    "tuple",
];

/// Whether checkpoints of detectors name such a thing.
fn is_expected(module: &str, name: &str) -> bool {
    match module {
        "builtins" | "__builtin__" => BUILTINS.contains(&name),
        "_codecs" => name == "encode",
        _ => PACKAGES.contains(&module.split('.').next().unwrap_or_default()),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle, PtError> {
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                let top = self.pop()?;
                return Ok(Pickle { nodes: self.nodes, top });
            }
            self.execute(opcode)?;
        }
    }

    fn execute(&mut self, opcode: u8) -> Result<(), PtError> {
        match opcode {
            // Protocol and frame length.
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Node::None),
            0x88 | 0x89 => self.push(Node::Bool(opcode == 0x88)),
            b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.number(opcode),
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e => self.text(opcode),
            b')' | 0x85 | 0x86 | 0x87 | b't' => self.make_tuple(opcode),
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'l' | 0x91 => {
                let members = self.pop_mark()?;
                self.push(Node::List(members))
            }
            b'd' => {
                let members = self.pop_mark()?;
                let pairs = self.paired(&members)?;
                self.push(Node::Dict(pairs))
            }
            b'a' | b'e' | 0x90 | b's' | b'u' => self.fill(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'R' | 0x81 | 0x92 | b'b' | b'Q' => self.call(opcode),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(opcode),
            _ => Err(self.wrong("an instruction that torch.save does not write")),
        }
    }

    fn number(&mut self, opcode: u8) -> Result<(), PtError> {
        let node = match opcode {
            b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Node::Int(u8::from_le_bytes(self.array()?).into()),
            b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
            b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let length = if opcode == 0x8a { self.length(1)? } else { self.length(4)? };
                long(self.take(length)?)
            }
        };
        self.push(node)
    }

    fn text(&mut self, opcode: u8) -> Result<(), PtError> {
        let width = match opcode {
            0x8c | b'U' | b'C' => 1,
            0x8d | 0x8e => 8,
            _ => 4,
        };
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        if matches!(opcode, b'C' | b'B' | 0x8e) {
            return self.push(Node::Opaque);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong("a text that is not UTF-8"))?.to_owned();
        self.push(Node::Text(text))
    }

    fn make_tuple(&mut self, opcode: u8) -> Result<(), PtError> {
        let members = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_mark()?,
            _ => {
                let length = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(length).filter(|start| *start >= self.floor());
                let start = start.ok_or_else(|| self.wrong("a value that was never put on the stack"))?;
                self.stack.split_off(start)
            }
        };
        self.push(Node::Tuple(members))
    }

    /// Puts members into the list or dictionary below them.
    fn fill(&mut self, opcode: u8) -> Result<(), PtError> {
        let members = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let pairs = if matches!(opcode, b's' | b'u') { Some(self.paired(&members)?) } else { None };
        let target = self.top()? as usize;
        match (&mut self.nodes[target], pairs) {
            (Node::List(list), None) => list.extend(members),
            (Node::Dict(dict) | Node::Object { pairs: dict, .. }, Some(pairs)) => dict.extend(pairs),
            // A list subclass: what it holds is of no interest, but it is no error.
            (Node::Object { .. }, None) => {}
            _ => return Err(self.wrong("members for something that takes none")),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<(), PtError> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let mut part = || {
                let id = self.pop()? as usize;
                let Node::Text(text) = &self.nodes[id] else {
                    return Err(self.wrong("a name that is not a text"));
                };
                Ok(text.clone())
            };
            let name = part()?;
            (part()?, name)
        };
        if !is_expected(&module, &name) {
            let global: String = format!("{module}.{name}").chars().take(100).collect();
            return Err(PtError::Refused { global: global.escape_debug().to_string() });
        }
        self.push(Node::Global(format!("{module}.{name}")))
    }

    fn call(&mut self, opcode: u8) -> Result<(), PtError> {
        match opcode {
            b'b' => {
                let state = self.pop()?;
                let target = self.top()? as usize;
                if let Node::Object { state: place, .. } = &mut self.nodes[target] {
                    *place = Some(state);
                    return Ok(());
                }
                Err(self.wrong("attributes for something that has none"))
            }
            b'Q' => {
                let what = self.pop()?;
                self.push(Node::External(what))
            }
            _ => {
                if opcode == 0x92 {
                    // Keyword arguments.
                    self.pop()?;
                }
                let args = self.pop()?;
                let what = self.pop()?;
                self.push(Node::Object { what, args, state: None, pairs: Vec::new() })
            }
        }
    }

    fn remember(&mut self, opcode: u8) -> Result<(), PtError> {
        let place = match opcode {
            b'q' | b'h' => u8::from_le_bytes(self.array()?).into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len()).unwrap_or(u32::MAX),
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(&place).copied();
            self.stack.push(id.ok_or_else(|| self.wrong("a value that was never remembered"))?);
        } else {
            let top = self.top()?;
            self.memo.insert(place, top);
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), PtError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(PtError::TooLarge { what: "pickled values", limit: MAX_NODES as u64 });
        }
        let id = u32::try_from(self.nodes.len()).expect("MAX_NODES fits in 32 bits");
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    /// The height of the stack at the newest mark; what is below belongs to what is outside.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, PtError> {
        let above = self.stack.len() > self.floor();
        self.stack
            .last()
            .copied()
            .filter(|_| above)
            .ok_or_else(|| self.wrong("a value that was never put on the stack"))
    }

    fn pop(&mut self) -> Result<Id, PtError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Everything above the newest mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, PtError> {
        let start = self.marks.pop().ok_or_else(|| self.wrong("an end without a beginning"))?;
        Ok(self.stack.split_off(start))
    }

    fn paired(&self, members: &[Id]) -> Result<Vec<(Id, Id)>, PtError> {
        if !members.len().is_multiple_of(2) {
            return Err(self.wrong("a key without a value"));
        }
        Ok(members.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PtError> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.wrong("an end in the middle of a value"))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PtError> {
        let taken = self.take(N)?;
        Ok(std::array::from_fn(|at| taken[at]))
    }

    /// A length that is written in `width` bytes.
    fn length(&mut self, width: usize) -> Result<usize, PtError> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| self.wrong("a length beyond all memory"))
    }

    /// Up to the next line break.
    fn line(&mut self) -> Result<String, PtError> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n');
        let length = length.ok_or_else(|| self.wrong("a name without an end"))?;
        let name =
            std::str::from_utf8(&rest[..length]).map_err(|_| self.wrong("a name that is not UTF-8"))?;
        self.at += length + 1;
        Ok(name.to_owned())
    }

    const fn wrong(&self, what: &'static str) -> PtError {
        PtError::Pickle { at: self.at, what }
    }
}

/// A whole number of so many bytes, little end first, two's complement.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Opaque;
    }
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [fill; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}
