use crate::{DType, Dim, SymbolId, TensorType};

/// Reads one line of the text form from left to right. Errors are reasons; the caller knows the line.
#[derive(Clone)]
pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(line: &'a str) -> Lexer<'a> {
        let mut l = Lexer { rest: line };
        l.skip();
        l
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with("//") {
            self.rest = "";
        }
    }

    fn advance(&mut self, n: usize) -> &'a str {
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        self.skip();
        head
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), String> {
        if self.at_end() { Ok(()) } else { Err(format!("`{}` is too much", self.rest)) }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// True if the given text stood here.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let there = self.rest.starts_with(text);
        if there {
            self.advance(text.len());
        }
        there
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.eat(text) { Ok(()) } else { Err(format!("wants `{text}` before `{}`", self.rest)) }
    }

    fn run(&mut self, what: &str, member: impl Fn(char) -> bool) -> Result<&'a str, String> {
        let n = self.rest.find(|c| !member(c)).unwrap_or(self.rest.len());
        if n == 0 { Err(format!("wants {what} before `{}`", self.rest)) } else { Ok(self.advance(n)) }
    }

    pub(super) fn word(&mut self) -> Result<&'a str, String> {
        self.run("a word", |c| c.is_ascii_alphanumeric() || c == '_')
    }

    pub(super) fn number(&mut self) -> Result<u64, String> {
        let digits = self.run("a number", |c| c.is_ascii_digit())?;
        digits.parse().map_err(|_| format!("{digits} is too large"))
    }

    pub(super) fn small(&mut self) -> Result<u32, String> {
        let n = self.number()?;
        u32::try_from(n).map_err(|_| format!("{n} is too large"))
    }

    /// The text of a literal number, with its sign: `-1.5e-3`, `inf`, `nan`, `12`, with letters behind it if any.
    pub(super) fn literal(&mut self) -> Result<&'a str, String> {
        let mut previous = ' ';
        let mut n = 0;
        for c in self.rest.chars() {
            let sign = matches!(c, '-' | '+') && (n == 0 || matches!(previous, 'e' | 'E'));
            if !(sign || c.is_ascii_alphanumeric() || c == '.') {
                break;
            }
            previous = c;
            n += c.len_utf8();
        }
        if n == 0 { Err(format!("wants a number before `{}`", self.rest)) } else { Ok(self.advance(n)) }
    }

    /// A quoted string with Rust's escapes.
    pub(super) fn string(&mut self) -> Result<String, String> {
        let mut chars = self.rest.char_indices();
        if chars.next().map(|c| c.1) != Some('"') {
            return Err(format!("wants a quoted name before `{}`", self.rest));
        }
        let mut out = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(at + 1);
                    return Ok(out);
                }
                '\\' => out.push(match chars.next().map(|c| c.1) {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('0') => '\0',
                    Some(c @ ('"' | '\'' | '\\')) => c,
                    Some('u') => {
                        let hex: String = chars
                            .by_ref()
                            .map(|c| c.1)
                            .skip_while(|c| *c == '{')
                            .take_while(|c| *c != '}')
                            .collect();
                        u32::from_str_radix(&hex, 16)
                            .ok()
                            .and_then(char::from_u32)
                            .ok_or_else(|| format!("`\\u{{{hex}}}` is no character"))?
                    }
                    _ => return Err("an unknown escape in a string".to_owned()),
                }),
                c => out.push(c),
            }
        }
        Err("a string without end".to_owned())
    }

    /// Everything up to white space outside of brackets.
    pub(super) fn raw_value(&mut self) -> Result<&'a str, String> {
        let mut depth = 0i32;
        let mut n = self.rest.len();
        for (at, c) in self.rest.char_indices() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                c if c.is_whitespace() && depth <= 0 => {
                    n = at;
                    break;
                }
                _ => {}
            }
        }
        if n == 0 { Err("wants a value at the end of the line".to_owned()) } else { Ok(self.advance(n)) }
    }

    /// `f32[s0,3,224]`.
    pub(super) fn tensor_type(&mut self) -> Result<TensorType, String> {
        let name = self.word()?;
        let dtype = DType::from_name(name).ok_or_else(|| format!("`{name}` is no type"))?;
        self.expect("[")?;
        let mut shape = Vec::new();
        while !self.eat("]") {
            shape.push(self.dim()?);
            if self.peek() != Some(']') {
                self.expect(",")?;
            }
        }
        Ok(TensorType::new(dtype, shape))
    }

    /// A dim as [`Dim`] prints it: sums and products of numbers, symbols, `floor(a/b)`, `ceil(a/b)`, `min`, `max`,
    /// `broadcast`, `if_equal`.
    pub(super) fn dim(&mut self) -> Result<Dim, String> {
        self.sum(0)
    }

    fn sum(&mut self, depth: usize) -> Result<Dim, String> {
        if depth > 64 {
            return Err("a dimension is nested too deeply".to_owned());
        }
        let mut total = if self.eat("-") { self.term(depth)?.neg() } else { self.term(depth)? };
        loop {
            if self.eat("+") {
                total = total.add(&self.term(depth)?);
            } else if self.eat("-") {
                total = total.sub(&self.term(depth)?);
            } else {
                return Ok(total);
            }
        }
    }

    fn term(&mut self, depth: usize) -> Result<Dim, String> {
        let mut product = self.factor(depth)?;
        while self.eat("*") {
            product = product.mul(&self.factor(depth)?);
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Result<Dim, String> {
        match self.peek() {
            Some('(') => {
                self.expect("(")?;
                let d = self.sum(depth + 1)?;
                self.expect(")")?;
                Ok(d)
            }
            Some('-') => {
                self.expect("-")?;
                Ok(self.factor(depth + 1)?.neg())
            }
            Some(c) if c.is_ascii_digit() => {
                let n = self.number()?;
                i64::try_from(n).map(Dim::Fixed).map_err(|_| format!("{n} is too large"))
            }
            _ => {
                let word = self.word()?;
                if let Some(n) = word.strip_prefix('s').and_then(|n| n.parse().ok()) {
                    return Ok(Dim::symbol(SymbolId(n)));
                }
                self.expect("(")?;
                let first = self.sum(depth + 1)?;
                let result = match word {
                    "floor" | "ceil" => {
                        self.expect("/")?;
                        let divisor = self.sum(depth + 1)?;
                        if word == "floor" { first.floor_div(&divisor) } else { first.ceil_div(&divisor) }
                    }
                    "min" | "max" | "broadcast" => {
                        let mut result = first;
                        while self.eat(",") {
                            let next = self.sum(depth + 1)?;
                            result = match word {
                                "min" => result.minimum(&next),
                                "max" => result.maximum(&next),
                                _ => result.broadcast(&next),
                            };
                        }
                        result
                    }
                    "if_equal" => {
                        let mut rest = [Dim::Fixed(0), Dim::Fixed(0), Dim::Fixed(0)];
                        for d in &mut rest {
                            self.expect(",")?;
                            *d = self.sum(depth + 1)?;
                        }
                        Dim::if_equal(&first, &rest[0], &rest[1], &rest[2])
                    }
                    other => return Err(format!("`{other}` is no function of dimensions")),
                };
                self.expect(")")?;
                Ok(result)
            }
        }
    }
}
