//! Objects and their accepted copies, as the API writes and shows them.

use super::*;
use crate::{catalog::accepted, model::Kind};

const OBJECT: &str = "/tidegate/v1/objects/services/shop/web";
const COPY: &str = "/tidegate/v1/accepted/services/shop/web";

/// Past admission.
async fn write(plane: &Plane, ops: Vec<Op>) {
    plane.context.store.txn(Transaction { compares: vec![], ops }).await.unwrap();
}

fn put(key: &str, value: impl Into<bytes::Bytes>) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

/// The Service `shop/web` once it has this problem (or, without, none).
async fn shown(plane: &Plane, problem: Option<&str>) -> rpc::Object {
    let shown = tokio::time::timeout(LIMIT, async {
        loop {
            if let [object] = plane.get("service", "web").await.as_slice()
                && object.problems.first().map(|p| p.split(':').next().unwrap()) == problem
            {
                return object.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    shown.await.unwrap_or_else(|_| panic!("{problem:?} is not shown"))
}

async fn copy(plane: &Plane) -> Option<(Revision, bytes::Bytes)> {
    let entry = plane.context.store.get(COPY).await.unwrap()?;
    Some(accepted::decode(&entry).unwrap())
}

fn outcome(response: &rpc::ApplyResponse) -> Outcome {
    assert_eq!(response.applied.len(), 1);
    response.applied[0].outcome()
}

#[tokio::test]
async fn an_apply_writes_object_and_accepted_copy_at_one_revision_with_head_and_audit_and_a_delete_takes_both() {
    let plane = plane();
    let applied = plane.apply(&[&a_service("web", 80)]).await;
    let object = plane.context.store.get(OBJECT).await.unwrap().unwrap();
    assert_eq!(copy(&plane).await, Some((object.create_revision, object.value)));
    let mut written = plane.context.store.list("/tidegate/v1/").await.unwrap().entries;
    written.extend(plane.context.store.list("/tidegate/observed/v1/audit/").await.unwrap().entries);
    assert_eq!(written.len(), 4, "object, copy, head, audit");
    assert!(written.iter().all(|entry| entry.mod_revision.0 == applied.revision), "{written:?}");
    assert!(plane.context.state().unagreed.is_empty());
    plane.delete(vec![named("Service", "shop", "web")]).await.unwrap();
    assert_eq!(plane.keys("/tidegate/v1/objects/").await.len() + plane.keys("/tidegate/v1/accepted/").await.len(), 0);
}

#[tokio::test]
async fn unchanged_means_that_both_are_as_wished_and_the_age_is_kept() {
    let plane = plane();
    let web = a_service("web", 80);
    plane.apply(&[&web]).await;
    let (age, bytes) = copy(&plane).await.unwrap();
    assert_eq!(outcome(&plane.apply(&[&web]).await), Outcome::Unchanged);
    write(&plane, vec![delete(COPY)]).await;
    assert_eq!(outcome(&plane.apply(&[&web]).await), Outcome::Configured);
    assert_eq!(copy(&plane).await, Some((age, bytes.clone())), "of the object, where no copy stood");
    write(&plane, vec![put(COPY, accepted::encode(Some(Revision(1)), b"other"))]).await;
    assert_eq!(outcome(&plane.apply(&[&web]).await), Outcome::Configured);
    assert_eq!(copy(&plane).await, Some((Revision(1), bytes)), "of the copy, where one stood");
    write(&plane, vec![put(COPY, "nonsense")]).await;
    assert_eq!(outcome(&plane.apply(&[&web]).await), Outcome::Configured);
    assert_eq!(copy(&plane).await.unwrap().0, age, "of the object, where the copy says none");
}

#[tokio::test]
async fn garbage_over_a_good_object_is_shown_with_its_fault_and_what_is_served_instead() {
    let plane = plane();
    plane.apply(&[&a_service("web", 80)]).await;
    write(&plane, vec![put(OBJECT, "garbage: [")]).await;
    let object = shown(&plane, Some("InvalidObject")).await;
    assert!(object.problems[0].contains("accepted copy") && object.problems[0].contains("1:"), "{object:?}");
    let status: Value = serde_json::from_str(&object.status_json).unwrap();
    assert_eq!(status["conditions"][0]["reason"], "InvalidObject");
    let web = ObjectRef::new(Kind::Service, "shop", "web");
    let state = plane.context.state();
    assert!(state.configuration.get(&web).is_some() && state.unagreed.is_empty());
    assert_eq!(outcome(&plane.apply(&[&a_service("web", 80)]).await), Outcome::Configured);
    shown(&plane, None).await;
}

#[tokio::test]
async fn a_deletion_that_is_not_agreed_to_is_shown_and_may_be_completed_or_undone() {
    let plane = plane();
    let web = a_service("web", 80);
    plane.apply(&[&web]).await;
    let age = copy(&plane).await.unwrap().0;
    write(&plane, vec![delete(OBJECT)]).await;
    let object = shown(&plane, Some("DeletionNotAgreed")).await;
    assert!(object.problems[0].contains("deletion not yet agreed"), "{object:?}");
    assert_eq!((object.key.as_str(), object.create_revision), (OBJECT, age.0));
    let manifest: Value = serde_json::from_str(&object.manifest_json).unwrap();
    assert_eq!(manifest["spec"]["ports"][0]["port"], 80);

    assert_eq!(outcome(&plane.apply(&[&web]).await), Outcome::Configured);
    assert_eq!(copy(&plane).await.unwrap().0, age);
    shown(&plane, None).await;

    write(&plane, vec![delete(OBJECT)]).await;
    let deleted = plane.delete(vec![named("Service", "shop", "web")]).await.unwrap();
    assert_eq!((deleted.deleted.len(), deleted.missing.len()), (1, 0));
    assert_eq!(plane.get("service", "web").await, []);
}

#[tokio::test]
async fn a_full_transaction_fits_though_each_object_is_stored_twice() {
    let plane = plane();
    let pad = "x".repeat(9_900);
    let services: Vec<String> = (0..60)
        .map(|n| a_service(&format!("s{n:02}"), 80).replace("spec:", &format!("  annotations:\n    pad: {pad}\nspec:")))
        .collect();
    let texts: Vec<&str> = services.iter().map(String::as_str).collect();
    let applied = plane.apply(&texts).await;
    assert_eq!((applied.applied.len(), applied.transactions), (60, 1));
    let all = (0..60).map(|n| named("Service", "shop", &format!("s{n:02}"))).collect();
    assert_eq!(plane.delete(all).await.unwrap().deleted.len(), 60);
}
