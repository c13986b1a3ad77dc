//! Markdown as far as these tests read it: fenced blocks with the mark above each, and what is prose.
//!
//! A mark is an HTML comment, which no reader of the page sees. It stands right above its block:
//!
//! | mark | what becomes of the block |
//! |---|---|
//! | `<!-- test: run -->` | Every command is run, one after the other, and must end well. |
//! | `<!-- test: run, after` COMMANDS `-->` | The same, after commands that the page does not show, a line each. |
//! | `<!-- test: run until TEXT -->` | Ctrl-C ends the last command once it has printed TEXT. |
//! | `<!-- test: start until COMMAND -->` | The last command runs in the background until the page ends. |
//! | `<!-- test: restart until COMMAND -->` | The same, after Ctrl-C for what the page has started before. |
//! | `<!-- test: save as FILE, then COMMAND -->` | The block is a file, and the command takes it. |
//! | `<!-- test: output -->` | The last command has printed such lines, but for numbers. |
//! | `<!-- test: not run, REASON -->` | Only its words are checked. |

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Written from the programs, by other tests.
const GENERATED: [&str; 2] = ["docs/reference/grpc.md", "docs/reference/yard.md"];

/// One page of the documents.
pub struct Document {
    /// Below the repository, for messages.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Document {
    /// Every page of the repository that people read, in the order of their paths.
    pub fn all() -> Vec<Self> {
        let mut files = vec![PathBuf::from("ARCHITECTURE.md"), "CONTRIBUTING.md".into(), "README.md".into()];
        pages(Path::new("docs"), &mut files);
        pages(Path::new("deploy"), &mut files);
        files.sort();
        let read = |path: PathBuf| Self {
            text: fs::read_to_string(Path::new(ROOT).join(&path)).unwrap(),
            path: path.to_str().unwrap().to_owned(),
        };
        files.into_iter().map(read).collect()
    }

    /// Whether another test writes this page from a program.
    pub fn is_generated(&self) -> bool {
        GENERATED.contains(&self.path.as_str())
    }
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        if Path::new(ROOT).join(&path).is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// A fenced block.
pub struct Block {
    /// The page and the line of its fence, for messages.
    pub place: String,
    /// What stands after the fence: `sh`, `toml` …
    pub language: String,
    /// What the comment above it says; empty for none.
    pub mark: String,
    /// Its lines.
    pub text: String,
}

/// What becomes of a block.
pub enum Mark {
    /// Its commands are run after hidden ones; `until` is what the last one prints before Ctrl-C.
    Run { hidden: Vec<String>, until: Option<String> },
    /// Its last command stays in the background; `until` says that it is up.
    Start { again: bool, until: String },
    /// It is a file.
    Save { file: String, then: String },
    /// The last command has printed it.
    Output,
    /// It is only checked.
    NotRun,
}

impl Block {
    /// The mark, `None` for none that is known.
    pub fn mark(&self) -> Option<Mark> {
        let mark = self.mark.strip_prefix("test: ")?;
        if let Some(commands) = mark.strip_prefix("run, after\n") {
            return Some(Mark::Run { hidden: self::commands(commands), until: None });
        }
        if let Some(until) = mark.strip_prefix("run until ") {
            return Some(Mark::Run { hidden: Vec::new(), until: Some(until.to_owned()) });
        }
        for (words, again) in [("start until ", false), ("restart until ", true)] {
            if let Some(until) = mark.strip_prefix(words) {
                return Some(Mark::Start { again, until: until.to_owned() });
            }
        }
        if let Some((file, then)) = mark.strip_prefix("save as ").and_then(|rest| rest.split_once(", then "))
        {
            return Some(Mark::Save { file: file.to_owned(), then: then.to_owned() });
        }
        match mark {
            "run" => Some(Mark::Run { hidden: Vec::new(), until: None }),
            "output" => Some(Mark::Output),
            _ => mark.strip_prefix("not run, ").is_some_and(|why| !why.is_empty()).then_some(Mark::NotRun),
        }
    }

    /// Whether it is something that a person types or saves; the others are pictures and prints.
    pub fn is_typed(&self) -> bool {
        !matches!(self.language.as_str(), "" | "text")
    }
}

/// The blocks of a page.
pub fn blocks(document: &Document) -> Vec<Block> {
    let lines: Vec<&str> = document.text.lines().collect();
    let (mut blocks, mut at) = (Vec::new(), 0);
    while at < lines.len() {
        let Some(language) = lines[at].strip_prefix("```") else {
            at += 1;
            continue;
        };
        let end = (at + 1..lines.len()).find(|&line| lines[line] == "```");
        let end = end.unwrap_or_else(|| panic!("{}:{}: the block does not end", document.path, at + 1));
        blocks.push(Block {
            place: format!("{}:{}", document.path, at + 1),
            language: language.to_owned(),
            mark: comment_above(&lines[..at]),
            text: lines[at + 1..end].join("\n"),
        });
        at = end + 1;
    }
    blocks
}

/// The text of the comment that ends on the last of these lines.
fn comment_above(lines: &[&str]) -> String {
    if !lines.last().is_some_and(|last| last.ends_with("-->")) {
        return String::new();
    }
    let start = lines.iter().rposition(|line| line.starts_with("<!--")).unwrap();
    lines[start..].join("\n").replace("<!--", "").replace("-->", "").trim().to_owned()
}

/// The commands of a block: lines, joined where a quote is open or a backslash says that they go on.
pub fn commands(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match commands.last_mut().filter(|_| open) {
            Some(command) => {
                command.push('\n');
                command.push_str(line);
            }
            None if line.trim().is_empty() || line.trim_start().starts_with('#') => continue,
            None => commands.push(line.to_owned()),
        }
        let command = commands.last().unwrap();
        let words = command.split(" # ").next().unwrap();
        open = words.ends_with('\\') || words.matches('\'').count() % 2 == 1;
    }
    commands
}

/// The page without blocks and comments.
fn without_blocks(text: &str) -> Vec<&str> {
    let (mut fenced, mut comment) = (false, false);
    let mut lines = Vec::new();
    for line in text.lines() {
        let fence = line.starts_with("```");
        fenced ^= fence;
        comment |= line.starts_with("<!--");
        lines.push(if fenced || fence || comment { "" } else { line });
        comment &= !line.ends_with("-->");
    }
    lines
}

/// What stands between backticks in the prose, headings and tables of a page.
pub fn spans(text: &str) -> Vec<String> {
    let prose = without_blocks(text).join("\n");
    prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2)).map(one_line).collect()
}

/// The lines of prose of a page, with their numbers: no tables, no blocks.
pub fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = without_blocks(text).into_iter().enumerate();
    lines.map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.starts_with('|'))
}

/// The sentences of a page's paragraphs and lists. A span of code counts as a word, a link as its text.
pub fn sentences(text: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for (_, line) in prose_lines(text) {
        let line = line.trim();
        let item = line.strip_prefix("- ").or_else(|| {
            let (number, rest) = line.split_once(". ")?;
            number.parse::<u32>().ok().map(|_| rest)
        });
        if line.is_empty() || line.starts_with('#') || line.starts_with("![") || item.is_some() {
            paragraphs.push(String::new());
        }
        if !line.starts_with('#') && !line.starts_with("![") {
            let paragraph = paragraphs.last_mut().unwrap();
            paragraph.push_str(item.unwrap_or(line));
            paragraph.push(' ');
        }
    }
    let plain = paragraphs.iter().map(|paragraph| without_code(paragraph));
    plain.flat_map(|paragraph| split_sentences(&paragraph)).collect()
}

fn without_code(paragraph: &str) -> String {
    let parts = paragraph.split('`').enumerate();
    let plain: String = parts.map(|(at, part)| if at % 2 == 0 { part } else { "code" }).collect();
    // `[text](address)`: the address is no text.
    let mut rest = plain.as_str();
    let mut text = String::new();
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    text + rest
}

fn split_sentences(paragraph: &str) -> Vec<String> {
    let mut sentences = vec![String::new()];
    for word in paragraph.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)) {
        let sentence = sentences.last_mut().unwrap();
        sentence.push_str(word);
        sentence.push(' ');
        if word.trim_end_matches(['"', ')', '*']).ends_with(['.', '!', '?']) {
            sentences.push(String::new());
        }
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// Where a page's links lead.
pub fn links(text: &str) -> Vec<String> {
    let prose = without_blocks(text).join("\n");
    let after = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    after.map(|(address, _)| address.to_owned()).collect()
}

/// What a page's headings are called in links, as GitHub calls them.
pub fn anchors(text: &str) -> Vec<String> {
    let lines = without_blocks(text).into_iter().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    lines.map(anchor).collect()
}

/// Text that goes over the end of a line, on one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
