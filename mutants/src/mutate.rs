//! What can be changed in a source file. Every change wraps a piece of the text and is switched on at run time, so that
//! all of them live in one build: `a < b` becomes `(if on { (a) <= (b) } else { a < b })`.

use std::ops::Range;

use proc_macro2::Span;
use quote::ToTokens;
use syn::{
    Attribute, BinOp, Block, Expr, GenericArgument, Item, PathArguments, ReturnType, Signature, Stmt, Type, UnOp,
    spanned::Spanned,
    visit::{self, Visit},
};

/// Stands in the texts for the question whether the mutant is switched on.
pub const SWITCH: &str = "__switch__";

/// One change.
#[derive(Clone, Debug)]
pub struct Mutant {
    pub file: String,
    pub line: usize,
    pub function: String,
    /// In words.
    pub what: String,
    /// The piece of the text that it wraps, and what it puts around it.
    pub span: Range<usize>,
    pub open: String,
    pub close: String,
}

impl Mutant {
    /// The same as long as the code of its function is: lines move.
    pub fn key(&self) -> String {
        format!("{}\t{}\t{}", self.file, self.function, self.what)
    }
}

/// All changes of a file; the modules that it declares for tests are added to `tests`.
pub fn mutants(file: &str, text: &str, tests: &mut Vec<String>) -> syn::Result<Vec<Mutant>> {
    let mut visitor = Visitor { file, text, scope: Vec::new(), mutants: Vec::new(), tests };
    visitor.visit_file(&syn::parse_file(text)?);
    Ok(visitor.mutants)
}

struct Visitor<'a> {
    file: &'a str,
    text: &'a str,
    scope: Vec<String>,
    mutants: Vec<Mutant>,
    tests: &'a mut Vec<String>,
}

impl Visitor<'_> {
    fn add(&mut self, span: Span, open: impl Into<String>, close: &str, what: impl Into<String>) {
        let (file, function, what) = (self.file.to_owned(), self.scope.join("::"), what.into());
        let (open, close) = (open.into(), close.to_owned());
        let range = span.byte_range();
        self.mutants.push(Mutant { file, line: span.start().line, function, what, span: range, open, close });
    }

    /// A change of nothing but what is put in, before or behind a span.
    fn insert(&mut self, at: usize, span: Span, open: String, what: String) {
        self.add(span, open, "", what);
        if let Some(mutant) = self.mutants.last_mut() {
            mutant.span = at..at;
        }
    }

    /// A piece of the text on one line, shortened.
    fn quote(&self, node: &impl Spanned) -> String {
        let text = self.text.get(node.span().byte_range()).unwrap_or_default();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let cut = line.char_indices().nth(70).map_or(line.len(), |(at, _)| at);
        let dots = if cut < line.len() { "…" } else { "" };
        format!("`{}{dots}`", &line[..cut])
    }

    fn function(&mut self, attributes: &[Attribute], signature: &Signature, body: Option<&Block>) {
        let Some(body) = body.filter(|_| signature.constness.is_none() && !is_test(attributes)) else { return };
        self.scope.push(signature.ident.to_string());
        let whole = body.stmts.iter().map(|stmt| stmt.to_token_stream().to_string()).collect::<String>();
        let start = body.brace_token.span.open().byte_range().end;
        if !body.stmts.is_empty() && signature.ident != "default" {
            for constant in constants(&signature.output) {
                let open = format!("if {SWITCH} {{ return {constant}; }}");
                if constant.replace(' ', "") != whole.replace(' ', "") {
                    self.insert(start, signature.ident.span(), open, format!("body → `{constant}`"));
                }
            }
        }
        match (&signature.output, body.stmts.last()) {
            (ReturnType::Type(_, output), Some(Stmt::Expr(tail, None))) if is_iterator(output) => {
                self.add(tail.span(), "(", &format!(").filter(move |_| !{SWITCH})"), "yields nothing");
            }
            _ => {}
        }
        self.block(body, matches!(signature.output, ReturnType::Default));
        self.scope.pop();
    }

    /// `unit`: nobody takes its value.
    fn block(&mut self, block: &Block, unit: bool) {
        for (at, stmt) in block.stmts.iter().enumerate() {
            let last = at + 1 == block.stmts.len();
            if let Stmt::Expr(expr, semicolon) = stmt
                && (semicolon.is_some() || !last || unit)
            {
                self.unused(expr);
            }
            self.visit_stmt(stmt);
        }
    }

    /// An expression whose value nobody takes: calls in it can be left out.
    fn unused(&mut self, expr: &Expr) {
        let tails = |block: &Block| match block.stmts.last() {
            Some(Stmt::Expr(tail, None)) => Some(tail.clone()),
            _ => None,
        };
        match expr {
            Expr::Call(_) | Expr::MethodCall(_) | Expr::Await(_) | Expr::Try(_) => {
                let what = format!("without {}", self.quote(expr));
                self.add(expr.span(), format!("if !{SWITCH} {{ "), "; }", what);
            }
            Expr::If(branch) => {
                tails(&branch.then_branch).iter().for_each(|tail| self.unused(tail));
                branch.else_branch.iter().for_each(|(_, other)| self.unused(other));
            }
            Expr::Match(choice) => choice.arms.iter().for_each(|arm| self.unused(&arm.body)),
            Expr::Block(inner) => tails(&inner.block).iter().for_each(|tail| self.unused(tail)),
            _ => {}
        }
    }

    /// A condition, or each part of one that binds names.
    fn condition(&mut self, expr: &Expr, loops: bool) {
        match expr {
            Expr::Let(_) => {}
            Expr::Binary(chain) if binds(expr) => {
                self.condition(&chain.left, loops);
                self.condition(&chain.right, loops);
            }
            _ => {
                let quoted = self.quote(expr);
                if !loops {
                    self.add(expr.span(), format!("({SWITCH} || ("), "))", format!("if {quoted} → true"));
                }
                self.add(expr.span(), format!("(!{SWITCH} && ("), "))", format!("if {quoted} → false"));
            }
        }
    }

    fn binary(&mut self, expr: &syn::ExprBinary) {
        let quoted = self.quote(expr);
        let Some((from, to)) = swapped(&expr.op) else { return };
        let what = format!("{from} → {to} in {quoted}");
        let (left, right) = (expr.left.to_token_stream(), expr.right.to_token_stream());
        match from {
            "&&" | "||" if binds(&expr.left) || binds(&expr.right) => {}
            _ => {
                let open = format!("(if {SWITCH} {{ ({left}) {to} ({right}) }} else {{ ");
                self.add(expr.span(), open, " })", what);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Const(_) | Item::Static(_) | Item::Macro(_) => {}
            Item::Mod(module) if is_test(&module.attrs) => self.tests.push(module.ident.to_string()),
            Item::Fn(function) => self.function(&function.attrs, &function.sig, Some(&function.block)),
            Item::Impl(whole) => {
                let debug = whole
                    .trait_
                    .as_ref()
                    .is_some_and(|(_, path, _)| path.segments.last().is_some_and(|s| s.ident == "Debug"));
                if !debug && !is_test(&whole.attrs) {
                    let name = whole.self_ty.to_token_stream().to_string();
                    self.scope.push(name.chars().take_while(|c| c.is_alphanumeric()).collect());
                    visit::visit_item_impl(self, whole);
                    self.scope.pop();
                }
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(&function.attrs, &function.sig, Some(&function.block));
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.function(&function.attrs, &function.sig, function.default.as_ref());
    }

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_type(&mut self, _: &'ast Type) {}
    fn visit_path(&mut self, _: &'ast syn::Path) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_block(&mut self, block: &'ast Block) {
        self.block(block, false);
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            Expr::Const(_) => return,
            Expr::Repeat(repeat) => return self.visit_expr(&repeat.expr),
            Expr::Binary(binary) => {
                self.binary(binary);
                if is_assignment(&binary.op) {
                    let what = format!("without {}", self.quote(expr));
                    self.add(expr.span(), format!("(if !{SWITCH} {{ "), " })", what);
                }
            }
            Expr::Assign(_) => {
                let what = format!("without {}", self.quote(expr));
                self.add(expr.span(), format!("(if !{SWITCH} {{ "), " })", what);
            }
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let what = format!("without ! in {}", self.quote(expr));
                self.add(expr.span(), format!("({SWITCH} != ("), "))", what);
            }
            Expr::If(branch) => self.condition(&branch.cond, false),
            Expr::While(repeated) => {
                self.condition(&repeated.cond, true);
                self.visit_expr(&repeated.cond);
                return self.block(&repeated.body, true);
            }
            Expr::ForLoop(repeated) => {
                self.visit_expr(&repeated.expr);
                return self.block(&repeated.body, true);
            }
            Expr::Loop(repeated) => return self.block(&repeated.body, true),
            Expr::Match(choice) => {
                let rest =
                    choice.arms.last().is_some_and(|arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none());
                for arm in &choice.arms {
                    let quoted = self.quote(&arm.pat);
                    match &arm.guard {
                        Some((_, guard)) if !binds(guard) => {
                            let guarded = self.quote(guard);
                            let mut add = |open: String, to: &str| {
                                self.add(guard.span(), open, "))", format!("guard {guarded} of {quoted} → {to}"));
                            };
                            add(format!("({SWITCH} || ("), "true");
                            add(format!("(!{SWITCH} && ("), "false");
                        }
                        None if rest && !matches!(arm.pat, syn::Pat::Wild(_)) => {
                            let end = arm.pat.span().byte_range().end;
                            self.insert(end, arm.pat.span(), format!(" if !{SWITCH}"), format!("without arm {quoted}"));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().segments.last().is_some_and(|name| name.ident == "test")
            || (attribute.path().is_ident("cfg") && attribute.to_token_stream().to_string().contains("test"))
    })
}

fn is_iterator(output: &Type) -> bool {
    let Type::ImplTrait(bounds) = output else { return false };
    bounds.bounds.to_token_stream().to_string().starts_with("Iterator")
}

/// A chain of conditions with a `let` in it.
fn binds(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(chain) if matches!(chain.op, BinOp::And(_)) => binds(&chain.left) || binds(&chain.right),
        _ => false,
    }
}

fn is_assignment(op: &BinOp) -> bool {
    op.to_token_stream().to_string().len() > 1
        && op.to_token_stream().to_string().ends_with('=')
        && swapped(op).is_none()
}

fn swapped(op: &BinOp) -> Option<(&'static str, &'static str)> {
    Some(match op {
        BinOp::Eq(_) => ("==", "!="),
        BinOp::Ne(_) => ("!=", "=="),
        BinOp::Lt(_) => ("<", "<="),
        BinOp::Le(_) => ("<=", "<"),
        BinOp::Gt(_) => (">", ">="),
        BinOp::Ge(_) => (">=", ">"),
        BinOp::And(_) => ("&&", "||"),
        BinOp::Or(_) => ("||", "&&"),
        BinOp::Add(_) => ("+", "-"),
        BinOp::Sub(_) => ("-", "+"),
        BinOp::Mul(_) => ("*", "/"),
        BinOp::Div(_) => ("/", "*"),
        BinOp::Rem(_) => ("%", "/"),
        BinOp::BitAnd(_) => ("&", "|"),
        BinOp::BitOr(_) => ("|", "&"),
        _ => return None,
    })
}

/// What a function could return without looking.
fn constants(output: &ReturnType) -> Vec<String> {
    match output {
        ReturnType::Default => vec!["()".to_owned()],
        ReturnType::Type(_, output) => values(output),
    }
}

fn values(of: &Type) -> Vec<String> {
    match of {
        Type::Tuple(tuple) => {
            let parts: Option<Vec<_>> = tuple.elems.iter().map(|part| values(part).into_iter().next()).collect();
            parts.map(|parts| format!("({})", parts.join(", "))).into_iter().collect()
        }
        Type::Reference(reference) => match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => vec!["\"\"".to_owned(), "\"xyzzy\"".to_owned()],
            Type::Slice(_) => vec!["&[]".to_owned()],
            _ => Vec::new(),
        },
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return Vec::new() };
            let inner = || match &last.arguments {
                PathArguments::AngleBracketed(list) => match list.args.first() {
                    Some(GenericArgument::Type(inner)) => values(inner),
                    _ => Vec::new(),
                },
                _ => Vec::new(),
            };
            let wrapped = |name: &str| inner().iter().map(|value| format!("{name}({value})")).collect::<Vec<_>>();
            match last.ident.to_string().as_str() {
                "bool" => vec!["true".to_owned(), "false".to_owned()],
                "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => vec!["0".to_owned(), "1".to_owned()],
                "String" => vec!["String::new()".to_owned(), "\"xyzzy\".to_owned()".to_owned()],
                "Option" => [vec!["None".to_owned()], wrapped("Some")].concat(),
                "Result" => wrapped("Ok"),
                "Poll" => [vec!["std::task::Poll::Pending".to_owned()], wrapped("std::task::Poll::Ready")].concat(),
                "Cow" | "Box" => Vec::new(),
                _ => vec!["Default::default()".to_owned()],
            }
        }
        _ => Vec::new(),
    }
}
