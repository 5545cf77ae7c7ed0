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

#[test]
fn a_write_holds_only_while_both_keys_are_as_they_were_read() {
    let entry = |value: Bytes, at| KeyValue {
        key: String::new(),
        value,
        create_revision: Revision(3),
        mod_revision: Revision(at),
    };
    let standing = |object, accepted| Standing { object_key: "o".into(), object, accepted_key: "a".into(), accepted };
    let at = |o, a| [("o", o), ("a", a)].map(|(key, at)| Compare::ModRevision(key.into(), Revision(at)));
    assert_eq!(standing(None, None).compares(), at(0, 0));
    let copy = entry(accepted::encode(Some(Revision(2)), b"x"), 9);
    assert_eq!(standing(Some(entry("x".into(), 7)), Some(copy.clone())).compares(), at(7, 9));
    let age = |standing: Standing| match standing.put(&"x".into()) {
        [_, Op::Put { value, .. }] => accepted::decode(&entry(value, 5)).map(|(age, _)| age.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(age(standing(None, Some(copy.clone()))), Ok(2));
    assert_eq!(age(standing(Some(entry("x".into(), 7)), Some(copy))), Ok(2));
    assert_eq!(age(standing(Some(entry("x".into(), 7)), None)), Ok(3));
    let new = standing(None, None).put(&"x".into());
    assert!(matches!(&new[1], Op::Put { value, .. } if value.starts_with(b"# accepted; age new")));
}
