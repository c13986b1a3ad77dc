//! What browsers need not load of the page's JavaScript and style sheets: comments, indentation, empty lines.
//!
//! Strings, templates and regular expressions stay as they are, byte by byte, and each line that says something stays a
//! line. Must not know: what any of it does.

/// The languages, which differ in what begins a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    JavaScript,
    Css,
}

/// Words after which a slash begins a regular expression.
const BEFORE_EXPRESSIONS: &[&str] = &[
    "return", "typeof", "case", "in", "of", "do", "else", "void", "delete", "throw", "new", "await", "yield",
];

/// `text` without what only its readers need.
pub fn without_comments(text: &str, language: Language) -> String {
    let mut reader = Reader { rest: text, written: String::with_capacity(text.len()), language };
    let mut open_braces = Vec::new();
    while let Some(next) = reader.rest.chars().next() {
        match next {
            '"' | '\'' => reader.copy_string(next),
            '`' if language == Language::JavaScript && reader.copy_template() => open_braces.push(0_usize),
            '`' if language == Language::JavaScript => {}
            '/' if reader.rest.starts_with("/*") => reader.skip_block(),
            '/' if language == Language::JavaScript && reader.rest.starts_with("//") => reader.skip_line(),
            '/' if language == Language::JavaScript && reader.expects_value() => reader.copy_expression(),
            '\n' => reader.end_line(),
            ' ' | '\t' if reader.is_at_start_of_line() => reader.skip(1),
            '{' => {
                reader.copy(1);
                open_braces.last_mut().into_iter().for_each(|open| *open += 1);
            }
            '}' if open_braces.last() == Some(&0) => {
                // The end of what stands in a template, which goes on.
                open_braces.pop();
                if reader.copy_template() {
                    open_braces.push(0);
                }
            }
            '}' => {
                reader.copy(1);
                open_braces.last_mut().into_iter().for_each(|open| *open -= 1);
            }
            other => reader.copy(other.len_utf8()),
        }
    }
    reader.written
}

struct Reader<'a> {
    rest: &'a str,
    written: String,
    language: Language,
}

impl Reader<'_> {
    fn copy(&mut self, bytes: usize) {
        let (now, later) = self.rest.split_at(bytes.min(self.rest.len()));
        self.written.push_str(now);
        self.rest = later;
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes.min(self.rest.len())..];
    }

    fn is_at_start_of_line(&self) -> bool {
        self.written.is_empty() || self.written.ends_with('\n')
    }

    /// Copies up to and with what `is_end` says is the end. A character after a backslash ends nothing.
    fn copy_until(&mut self, mut is_end: impl FnMut(&str) -> Option<usize>) {
        let mut at = 1;
        while let Some(next) = self.rest[at..].chars().next() {
            if next == '\\' {
                let escaped = self.rest[at + 1..].chars().next().map_or(0, char::len_utf8);
                at += 1 + escaped;
            } else if let Some(length) = is_end(&self.rest[at..]) {
                at += length;
                break;
            } else {
                at += next.len_utf8();
            }
        }
        self.copy(at);
    }

    fn copy_string(&mut self, quote: char) {
        self.copy_until(|rest| rest.starts_with(quote).then_some(1));
    }

    /// Copies a template, or the rest of one, to its end or to something that is put into it. Tells whether it is that.
    fn copy_template(&mut self) -> bool {
        let mut is_code = false;
        self.copy_until(|rest| {
            is_code = rest.starts_with("${");
            if is_code { Some(2) } else { rest.starts_with('`').then_some(1) }
        });
        is_code
    }

    /// Copies a regular expression. A slash within brackets does not end it.
    fn copy_expression(&mut self) {
        let mut is_in_class = false;
        self.copy_until(|rest| {
            match rest.chars().next() {
                Some('[') => is_in_class = true,
                Some(']') => is_in_class = false,
                _ => {}
            }
            (!is_in_class && rest.starts_with('/')).then_some(1)
        });
    }

    /// Whether a slash here begins a regular expression rather than divides.
    fn expects_value(&self) -> bool {
        let before = self.written.trim_end();
        let word_start = before
            .rfind(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '$')
            .map_or(0, |at| at + 1);
        let word = &before[word_start..];
        if word.is_empty() {
            return !before.ends_with([')', ']', '}', '"', '\'', '`']);
        }
        BEFORE_EXPRESSIONS.contains(&word)
    }

    fn skip_line(&mut self) {
        self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        self.written.truncate(self.written.trim_end_matches([' ', '\t']).len());
    }

    /// What stood on two sides of a comment stays apart.
    fn skip_block(&mut self) {
        let length = self.rest[2..].find("*/").map_or(self.rest.len(), |end| end + 4);
        let has_lines = self.rest[..length].contains('\n');
        self.skip(length);
        if has_lines {
            return self.end_line();
        }
        let is_apart = |last: char| last.is_whitespace() || "([{".contains(last);
        if !self.written.is_empty() && !self.written.ends_with(is_apart) {
            if self.language == Language::Css {
                return;
            }
            self.written.push(' ');
        }
        self.skip(self.rest.len() - self.rest.trim_start_matches(' ').len());
    }

    /// Ends a line, unless nothing is on it.
    fn end_line(&mut self) {
        if self.rest.starts_with('\n') {
            self.skip(1);
        }
        self.written.truncate(self.written.trim_end_matches([' ', '\t']).len());
        if !self.is_at_start_of_line() {
            self.written.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_what_looks_like_one_stays() {
        let table = [
            ("// a\nlet x = 1; // b\n\n\n/** c */\nlet y;\n", "let x = 1;\nlet y;\n"),
            ("/** a\n * b */\nf(/** @type {any} */ (x), 1);", "f((x), 1);"),
            ("const a = /* b */ 1 /* c */;\n", "const a = 1 ;\n"),
            ("x = a/**/in/**/b", "x = a in b"),
            ("let u = \"http://a\" + '/*' + \"\\\"//\"; // b", "let u = \"http://a\" + '/*' + \"\\\"//\";"),
            (
                "let t = `// ${f(`/* ${{ a: 1 }.a} */`)}\n    // b`; // c",
                "let t = `// ${f(`/* ${{ a: 1 }.a} */`)}\n    // b`;",
            ),
            ("s.split(/[/\\]]\\/*/); // b", "s.split(/[/\\]]\\/*/);"),
            ("return /\\/\\//.test(s) // b", "return /\\/\\//.test(s)"),
            ("let h = w / 2 / h; // b / c", "let h = w / 2 / h;"),
            ("let h = (a) / 2 // b\n/ 3", "let h = (a) / 2\n/ 3"),
            ("  if (a) {\n    b();\n  }\n", "if (a) {\nb();\n}\n"),
            ("`${a ? `b` : \"}\"} // c`", "`${a ? `b` : \"}\"} // c`"),
            ("return /* a\n*/ 1", "return\n1"),
        ];
        for (written, loaded) in table {
            assert_eq!(without_comments(written, Language::JavaScript), loaded, "{written}");
        }
        let style = "/* a */\n.b {\n  background: url(http://c); /* d */\n}\n";
        assert_eq!(without_comments(style, Language::Css), ".b {\nbackground: url(http://c);\n}\n");
    }
}
