//! A Rust file as tokens: comments, string and character literals are blanked, test items can be cut. Textual, so a
//! macro could fool it; it is there to catch slips, not to resist.

/// A piece of code with the line that it stands on, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The code with comments and literals overwritten by spaces; lines stay where they are.
pub(super) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut output = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if let Some(end) = end {
            output.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else if is_word(chars[at]) {
            // A whole word at once, so that the `r` of `var"` opens no raw string.
            let end = (at..chars.len()).find(|&i| !is_word(chars[i])).unwrap_or(chars.len());
            output.extend(&chars[at..end]);
            at = end;
        } else {
            output.push(chars[at]);
            at += 1;
        }
    }
    output
}

/// Where the comment or literal that begins here ends; `None` where none begins.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let starts = |prefix: &str| prefix.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    if starts("//") {
        return Some(rest.iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length));
    }
    if starts("/*") {
        return Some(at + block_comment(rest));
    }
    for prefix in ["r", "br", "cr"] {
        let hashes = rest.iter().skip(prefix.len()).take_while(|&&c| c == '#').count();
        if starts(prefix) && rest.get(prefix.len() + hashes) == Some(&'"') {
            return Some(at + raw_string(rest, prefix.len() + hashes + 1, hashes));
        }
    }
    for prefix in ["\"", "b\"", "c\""] {
        if starts(prefix) {
            return Some(at + quoted(rest, prefix.len(), '"'));
        }
    }
    // A quote opens a character when it is escaped or closed at once; otherwise it is a lifetime.
    let open = if starts("b'") { 2 } else { 1 };
    if (starts("'") || starts("b'")) && (rest.get(open) == Some(&'\\') || rest.get(open + 1) == Some(&'\'')) {
        return Some(at + quoted(rest, open, '\''));
    }
    None
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

fn raw_string(rest: &[char], start: usize, hashes: usize) -> usize {
    let closes = |i: usize| rest[i] == '"' && (1..=hashes).all(|n| rest.get(i + n) == Some(&'#'));
    (start..rest.len()).find(|&i| closes(i)).map_or(rest.len(), |i| i + 1 + hashes)
}

fn quoted(rest: &[char], start: usize, quote: char) -> usize {
    let mut at = start;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Words, `::`, and single marks.
pub(super) fn tokens(blanked: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (index, line) in blanked.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (text, after) = rest.split_at(length);
            found.push(Token { line: index + 1, text: text.to_owned() });
            rest = after.trim_start();
        }
    }
    found
}

/// The tokens without the items under `#[cfg(test)]`, and the number of lines that those take.
pub(super) fn without_tests(tokens: &[Token]) -> (Vec<Token>, usize) {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut lines, mut at) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        let here = &tokens[at..];
        if here.len() > ATTRIBUTE.len() && ATTRIBUTE.iter().zip(here).all(|(text, token)| token.text == *text) {
            let end = item_end(here);
            lines += here[end - 1].line - here[0].line + 1;
            at += end;
        } else {
            kept.push(here[0].clone());
            at += 1;
        }
    }
    (kept, lines)
}

/// The number of tokens up to the `;` or the closing brace that ends the item which begins here.
fn item_end(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(token.text.as_str(), ";" | "}") {
            return index + 1;
        }
    }
    tokens.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
