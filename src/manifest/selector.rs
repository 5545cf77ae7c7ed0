//! Label selectors, in the form of a manifest and in kubectl's string syntax.

use std::collections::BTreeMap;

use super::{text, walk::At};
use crate::model::{LabelSelector, MatchExpression, MatchOperator};

/// `matchLabels` and `matchExpressions`.
pub(super) fn read(at: &At<'_>) -> LabelSelector {
    let mut selector = LabelSelector::default();
    let Some(fields) = at.fields(&["matchLabels", "matchExpressions"]) else { return selector };
    if let Some(labels) = fields.get("matchLabels") {
        selector.match_labels = read_labels(&labels);
    }
    for item in fields.items("matchExpressions", 64) {
        let Some(fields) = item.fields(&["key", "operator", "values"]) else { continue };
        let key = fields.need("key").and_then(|at| at.checked(text::label_key));
        let operator = fields.need("operator").and_then(|at| {
            at.word(&[
                ("In", MatchOperator::In),
                ("NotIn", MatchOperator::NotIn),
                ("Exists", MatchOperator::Exists),
                ("DoesNotExist", MatchOperator::DoesNotExist),
            ])
        });
        let values: Vec<String> = fields
            .items("values", 64)
            .iter()
            .filter_map(|at| at.checked(text::label_value).map(str::to_owned))
            .collect();
        let (Some(key), Some(operator)) = (key, operator) else { continue };
        let wants_values = matches!(operator, MatchOperator::In | MatchOperator::NotIn);
        if wants_values == values.is_empty() {
            item.fault(if wants_values {
                "In and NotIn need values"
            } else {
                "Exists and DoesNotExist take no values"
            });
        }
        selector.match_expressions.push(MatchExpression { key: key.to_owned(), operator, values });
    }
    selector
}

/// A mapping of label keys to label values.
pub(super) fn read_labels(at: &At<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in at.entries() {
        if let Err(why) = text::label_key(key) {
            value.fault(format!("{key:?} {why}"));
        }
        if let Some(text) = value.checked(text::label_value) {
            labels.insert(key.to_owned(), text.to_owned());
        }
    }
    labels
}

/// kubectl's syntax: `region=eu,kind in (own,cloud),tier!=test,gpu,!old`.
///
/// # Errors
/// What is wrong; completes a sentence that begins with the text.
pub(super) fn parse(selector: &str) -> Result<LabelSelector, String> {
    let mut out = LabelSelector::default();
    for part in split(selector)? {
        let part = part.trim();
        if part.is_empty() {
            return Err("has an empty part: write for example region=eu,kind in (own,cloud),!old".into());
        }
        let (key, operator, values) = requirement(part)?;
        text::label_key(key).map_err(|why| format!("has the key {key:?}, which {why}"))?;
        for value in &values {
            text::label_value(value).map_err(|why| format!("has the value {value:?}, which {why}"))?;
        }
        let values = values.into_iter().map(str::to_owned).collect();
        out.match_expressions.push(MatchExpression { key: key.to_owned(), operator, values });
    }
    Ok(out)
}

/// At the commas outside brackets.
fn split(selector: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (i, c) in selector.char_indices() {
        match c {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err("has a bracket too many".into()),
            ',' if !inside => {
                parts.push(selector.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("lacks a closing bracket".into());
    }
    parts.push(selector.get(start..).unwrap_or_default());
    Ok(parts)
}

fn requirement(part: &str) -> Result<(&str, MatchOperator, Vec<&str>), String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok((key.trim(), MatchOperator::DoesNotExist, Vec::new()));
    }
    if let Some((head, list)) = part.split_once('(') {
        let list = list.trim_end().strip_suffix(')').ok_or("has text after a closing bracket")?;
        let mut words = head.split_whitespace();
        let (key, operator) = match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => (key, MatchOperator::In),
            (Some(key), Some("notin"), None) => (key, MatchOperator::NotIn),
            _ => return Err(format!("has the part {part:?}: write `key in (a,b)` or `key notin (a,b)`")),
        };
        return Ok((key, operator, list.split(',').map(str::trim).collect()));
    }
    for (sign, operator) in [("!=", MatchOperator::NotIn), ("==", MatchOperator::In), ("=", MatchOperator::In)] {
        if let Some((key, value)) = part.split_once(sign) {
            return Ok((key.trim(), operator, vec![value.trim()]));
        }
    }
    Ok((part, MatchOperator::Exists, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}")).matches(&labels)
    }

    #[test]
    fn kubectls_syntax_selects_as_kubectl_does() {
        let eu = [("region", "eu"), ("kind", "own")];
        assert!(matches("region=eu,kind in (own, cloud),!old", &eu));
        assert!(matches("region == eu", &eu));
        assert!(matches("region", &eu));
        assert!(matches("tier!=test,tier notin (a,b)", &eu));
        assert!(!matches("region=us", &eu));
        assert!(!matches("!region", &eu));
        assert!(!matches("kind notin (own)", &eu));
        assert!(!matches("gpu", &eu));
    }

    #[test]
    fn a_broken_selector_is_refused() {
        for bad in ["", "a=b,", "a in (b", "a in b)", "a at (b)", "a in (b) c", "-a=b", "a=b c", "a=(b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
