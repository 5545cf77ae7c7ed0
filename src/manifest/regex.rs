//! Regular expressions in what RE2, as Envoy runs it, and Rust's `regex-syntax` share: what passes here compiles there.
//!
//! Envoy compares bytes: its RE2 reads pattern and text as Latin-1 (seen on 1.40: `é` has two `.`, `\x{4e00}` does not
//! compile, `\p{Greek}` never matches). So a pattern is ASCII here, without classes of Unicode.

use regex_syntax::ast::{
    AssertionKind, Ast, ClassSet, ClassSetBinaryOp, ClassSetBinaryOpKind, ClassSetItem, ClassUnicode, Flag, Flags,
    FlagsItemKind, GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionOp, RepetitionRange,
    Span, Visitor, parse::ParserBuilder, visit,
};

/// Longest pattern, in characters.
const MAX_CHARS: usize = 1024;
/// RE2's largest repeat; nested repeats multiply.
const MAX_REPEAT: u32 = 1000;
/// Largest estimated RE2 program, in instructions. RE2's own memory limit stands at some 87,000; the rest is left to
/// its automata. A proxy's `re2.max_program_size.error_level` must not be lower.
pub const MAX_PROGRAM: usize = 10_000;

/// Whether Envoy's RE2 takes `pattern` and reads it as Rust's crate would.
///
/// # Errors
/// What is wrong, where in the pattern (1-based), and what to do; completes a sentence that begins with the pattern.
pub fn check(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("is empty: write a pattern, or leave the match out".into());
    }
    if pattern.chars().count() > MAX_CHARS {
        return Err(format!("is longer than {MAX_CHARS} characters: split the rule"));
    }
    let ast = ParserBuilder::new()
        .nest_limit(100)
        .build()
        .parse(pattern)
        .map_err(|e| place(e.span(), &format!("is not a regular expression of RE2: {}", e.kind())))?;
    visit(&ast, Checker { pattern, repeats: Vec::new() })?;
    match program_size(&ast) {
        size if size > MAX_PROGRAM => Err(format!(
            "needs about {size} steps of an automaton, more than {MAX_PROGRAM}: use smaller repeats or classes"
        )),
        _ => Ok(()),
    }
}

fn place(span: &Span, why: &str) -> String {
    format!("{why} (at character {} of the pattern)", span.start.column)
}

/// Walks the syntax and refuses what RE2 lacks; holds the product of the repeats around the current node.
struct Checker<'p> {
    pattern: &'p str,
    repeats: Vec<u32>,
}

impl Checker<'_> {
    fn refuse(span: &Span, what: &str) -> Result<(), String> {
        Err(place(span, &format!("uses {what}, which RE2 does not have")))
    }

    fn literal(l: &Literal) -> Result<(), String> {
        if !l.c.is_ascii() {
            let why = "holds a character outside ASCII, but Envoy compares bytes: paths carry it as %XX, so write that";
            return Err(place(&l.span, why));
        }
        match &l.kind {
            LiteralKind::Verbatim | LiteralKind::Meta => Ok(()),
            // RE2 takes a backslash before every ASCII character that is not of a word.
            LiteralKind::Superfluous if l.c.is_ascii() && !l.c.is_ascii_alphanumeric() && l.c != '_' => Ok(()),
            LiteralKind::Superfluous => Self::refuse(&l.span, "this escape"),
            LiteralKind::Octal => Self::refuse(&l.span, "octal escapes"),
            LiteralKind::HexFixed(HexLiteralKind::X) | LiteralKind::HexBrace(HexLiteralKind::X) => Ok(()),
            LiteralKind::HexFixed(_) => Self::refuse(&l.span, "\\u and \\U (write \\x{…})"),
            LiteralKind::HexBrace(_) => Self::refuse(&l.span, "\\u{…} and \\U{…} (write \\x{…})"),
            LiteralKind::Special(_) => Ok(()),
        }
    }

    fn unicode(class: &ClassUnicode) -> Result<(), String> {
        let why = "uses a class of Unicode, but Envoy compares bytes: write a class of ASCII, for example [A-Za-z]";
        Err(place(&class.span, why))
    }

    fn flags(flags: &Flags) -> Result<(), String> {
        for item in &flags.items {
            if let FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace) = item.kind {
                return Self::refuse(&item.span, "this flag (it has i, m, s, U)");
            }
        }
        Ok(())
    }
}

impl Visitor for Checker<'_> {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Flags(set) => Self::flags(&set.flags),
            Ast::Literal(literal) => Self::literal(literal),
            Ast::ClassUnicode(class) => Self::unicode(class),
            Ast::Assertion(a) => match a.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(()),
                _ => Self::refuse(&a.span, "this boundary (it has \\b and \\B)"),
            },
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(flags) => Self::flags(flags),
                GroupKind::CaptureName { name, starts_with_p } => {
                    let word = name.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                    if !word || !starts_with_p {
                        return Self::refuse(&name.span, "this form of a group's name (write (?P<name>…))");
                    }
                    Ok(())
                }
                GroupKind::CaptureIndex(_) => Ok(()),
            },
            Ast::Repetition(r) => {
                // RE2 reads `**` as an error, and Rust's crate as nested.
                if let Ast::Repetition(inner) = &*r.ast {
                    return Self::refuse(&inner.op.span, "a repeat of a repeat (put the inner one in brackets)");
                }
                if let Ast::Flags(_) | Ast::Empty(_) = &*r.ast {
                    return Self::refuse(&r.op.span, "a repeat of nothing");
                }
                // RE2 reads `{ 2}` and `{02}` as plain text.
                let op = self.pattern.get(r.op.span.start.offset..r.op.span.end.offset).unwrap_or_default();
                let padded = |n: &str| n.len() > 1 && n.starts_with('0');
                if op.contains(char::is_whitespace) || op.split(|c: char| !c.is_ascii_digit()).any(padded) {
                    return Self::refuse(&r.op.span, "spaces or leading zeros in a repeat");
                }
                let product = self.repeats.last().copied().unwrap_or(1).saturating_mul(copies(&r.op));
                if product > MAX_REPEAT {
                    return Err(place(
                        &r.op.span,
                        &format!("repeats {product} times (nested repeats multiply), more than RE2's {MAX_REPEAT}"),
                    ));
                }
                self.repeats.push(product);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), String> {
        if let Ast::Repetition(_) = ast {
            self.repeats.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Literal(literal) => Self::literal(literal),
            ClassSetItem::Range(range) => Self::literal(&range.start).and_then(|()| Self::literal(&range.end)),
            ClassSetItem::Unicode(class) => Self::unicode(class),
            ClassSetItem::Bracketed(class) => {
                Self::refuse(&class.span, "a class in a class (write \\[ for the character)")
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, op: &ClassSetBinaryOp) -> Result<(), String> {
        let what = match op.kind {
            ClassSetBinaryOpKind::Intersection => "`&&` in a class",
            ClassSetBinaryOpKind::Difference => "`--` in a class",
            ClassSetBinaryOpKind::SymmetricDifference => "`~~` in a class",
        };
        Self::refuse(&op.span, &format!("{what} (escape the characters)"))
    }
}

/// How often RE2 writes out what is repeated, as it counts towards its limit.
fn copies(op: &RepetitionOp) -> u32 {
    match &op.kind {
        RepetitionKind::Range(RepetitionRange::Exactly(n) | RepetitionRange::AtLeast(n)) => (*n).max(1),
        RepetitionKind::Range(RepetitionRange::Bounded(_, n)) => (*n).max(1),
        _ => 1,
    }
}

/// Instructions of a class such as `.`, `\W` or a negation: some ranges of bytes.
const CLASS: usize = 6;

/// About how many instructions RE2 needs; rather too many than too few. The nest limit bounds the recursion.
fn program_size(ast: &Ast) -> usize {
    match ast {
        Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) | Ast::Literal(_) => 1,
        Ast::Dot(_) | Ast::ClassPerl(_) | Ast::ClassUnicode(_) => CLASS,
        Ast::ClassBracketed(class) if class.negated => CLASS + set_size(&class.kind),
        Ast::ClassBracketed(class) => set_size(&class.kind),
        Ast::Repetition(r) => {
            let copies = usize::try_from(copies(&r.op)).unwrap_or(usize::MAX).saturating_add(1);
            program_size(&r.ast).saturating_add(1).saturating_mul(copies)
        }
        Ast::Group(group) => program_size(&group.ast).saturating_add(2),
        Ast::Alternation(a) => a.asts.iter().map(program_size).fold(a.asts.len(), usize::saturating_add),
        Ast::Concat(c) => c.asts.iter().map(program_size).fold(0, usize::saturating_add),
    }
}

/// An item is at most two ranges, as in `(?i)[a-z]`, each with its branch.
fn set_size(set: &ClassSet) -> usize {
    match set {
        ClassSet::Item(ClassSetItem::Union(union)) => union.items.iter().map(item_size).sum(),
        ClassSet::Item(item) => item_size(item),
        ClassSet::BinaryOp(_) => CLASS,
    }
}

fn item_size(item: &ClassSetItem) -> usize {
    match item {
        ClassSetItem::Literal(_) | ClassSetItem::Range(_) => 4,
        _ => 2 * CLASS,
    }
}

#[cfg(test)]
mod tests;
