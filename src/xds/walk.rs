//! Where a walk over a message is: the way there through its JSON form, `filterChains[0].filters[0].typedConfig`.

/// A walk that knows where it is.
pub(super) trait Walking: Sized {
    /// The way to where it is; empty at the message itself.
    fn path(&mut self) -> &mut String;

    /// Goes on with `segment` appended to the path: a field's JSON name, or an index or a key in brackets.
    fn under(&mut self, segment: &str, then: impl FnOnce(&mut Self)) {
        let path = self.path();
        let length = path.len();
        if !path.is_empty() && !segment.starts_with('[') {
            path.push('.');
        }
        path.push_str(segment);
        then(self);
        self.path().truncate(length);
    }
}
