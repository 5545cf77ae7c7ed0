//! The form of a site's watermark, and the watermarks of all sites.
//!
//! ```json
//! {"revision": 812, "except": ["CDS/shop/web:80"], "connected": true}
//! ```

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::model::{Revision, Watermark, Watermarks};

/// The value of `acked/<site>`.
pub fn encode(watermark: &Watermark) -> Bytes {
    let Watermark { revision, except, connected } = watermark;
    json!({ "revision": revision.0, "except": except, "connected": connected }).to_string().into()
}

/// Reads it tolerantly: fields that a later version writes are passed over, and all but the revision may be missing.
///
/// # Errors
/// In words, when there is no revision or a field is of another form.
pub fn decode(value: &[u8]) -> Result<Watermark, String> {
    let value: Value = serde_json::from_slice(value).map_err(|error| format!("a watermark is JSON: {error}"))?;
    let revision = value.get("revision").and_then(Value::as_u64);
    let revision = Revision(revision.ok_or("a watermark has a \"revision\", a whole number")?);
    let except = match value.get("except") {
        None | Some(Value::Null) => Vec::new(),
        Some(names) => {
            let words = "\"except\" is a list of resources, for example [\"CDS/shop/web:80\"]";
            let names = names.as_array().ok_or(words)?;
            names.iter().map(|name| name.as_str().map(str::to_owned).ok_or(words)).collect::<Result<Vec<_>, _>>()?
        }
    };
    let connected = match value.get("connected") {
        None | Some(Value::Null) => false,
        Some(connected) => connected.as_bool().ok_or("\"connected\" is true or false")?,
    };
    Ok(Watermark { revision, except: except.into_iter().collect(), connected })
}

/// Writes or (`None`) takes out the watermark of a site; what readers hold is left as it is.
pub(super) fn set(all: &mut Arc<Watermarks>, site: &str, watermark: Option<Watermark>) {
    if all.get(site) == watermark.as_ref() {
        return;
    }
    let all = Arc::make_mut(all);
    match watermark {
        Some(watermark) => drop(all.insert(site.into(), watermark)),
        None => drop(all.remove(site)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_gives_back_what_went_in() {
        let except = ["CDS/shop/web:80".to_owned()].into();
        for watermark in [Watermark { revision: Revision(7), except, connected: true }, Watermark::default()] {
            assert_eq!(decode(&encode(&watermark)), Ok(watermark));
        }
    }

    #[test]
    fn what_is_missing_or_new_is_tolerated_and_what_is_wrong_is_said() {
        let read = decode(br#"{"revision":7,"later":{}}"#);
        assert_eq!(read, Ok(Watermark { revision: Revision(7), ..Watermark::default() }));
        for bad in
            ["", "7", "{}", r#"{"revision":-1}"#, r#"{"revision":1,"except":"all"}"#, r#"{"revision":1,"except":[1]}"#]
        {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(decode(br#"{"revision":1,"connected":"yes"}"#).unwrap_err().contains("connected"));
    }
}
