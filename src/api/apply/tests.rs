//! How a large apply is cut.

use super::*;

fn write(kind: Kind, name: &str, bytes: usize) -> Write {
    let reference = ObjectRef::new(kind, "a", name);
    Write { reference, value: vec![b'x'; bytes].into() }
}

fn parts(writes: &[Write]) -> Vec<Vec<String>> {
    let name = |(write, _): &(&Write, Standing)| format!("{:?} {}", write.reference.kind, write.reference.name);
    let new = |write| {
        let none = Standing { object_key: String::new(), object: None, accepted_key: String::new(), accepted: None };
        (write, none)
    };
    split(writes.iter().map(new).collect()).iter().map(|part| part.iter().map(name).collect()).collect()
}

#[test]
fn what_fits_stays_one_part_in_the_order_of_the_input() {
    let writes = [write(Kind::HttpRoute, "r", 1), write(Kind::Service, "s", BYTES_MAX - 1)];
    assert_eq!(parts(&writes), [["HttpRoute r", "Service s"]]);
    let writes: Vec<Write> = (0..OBJECTS_MAX).map(|n| write(Kind::Service, &n.to_string(), 1)).collect();
    assert_eq!(parts(&writes).len(), 1);
}

#[test]
fn no_part_is_above_the_limits_and_what_is_referred_to_comes_first() {
    let half = BYTES_MAX / 2;
    let writes = [
        write(Kind::HttpRoute, "r", half),
        write(Kind::Gateway, "g", half + 1),
        write(Kind::EndpointSet, "e", half),
        write(Kind::Service, "s", half),
    ];
    assert_eq!(parts(&writes), [vec!["Service s", "EndpointSet e"], vec!["Gateway g"], vec!["HttpRoute r"]]);
    let mut writes: Vec<Write> = (0..=OBJECTS_MAX).map(|n| write(Kind::Service, &format!("{n:03}"), 1)).collect();
    writes.insert(0, write(Kind::HttpRoute, "r", 1));
    let parts = parts(&writes);
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [OBJECTS_MAX, 2]);
    assert_eq!(parts.last().and_then(|part| part.last()).map(String::as_str), Some("HttpRoute r"));
}
