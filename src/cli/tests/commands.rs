//! What commands do with the answers of a control plane: exit codes and words.

use std::{collections::VecDeque, time::Duration};

use tokio::{net::TcpListener, sync::oneshot};
use tonic::Status;

use super::{fake::Answers, *};
use crate::{
    cli::register,
    rpc::{self, applied::Outcome},
};

const SITE: &str = "apiVersion: tidegate.dev/v1alpha1\nkind: Site\nmetadata:\n  name: fra1\nspec:\n  role: edge\n";

fn applied(outcome: Outcome) -> rpc::ApplyResponse {
    let object = Some(object_ref("Site", "", "fra1"));
    rpc::ApplyResponse {
        applied: vec![rpc::Applied { object, outcome: outcome.into() }],
        revision: 5,
        transactions: 1,
        ..Default::default()
    }
}

fn applying(apply: rpc::ApplyResponse) -> Answers {
    Answers { apply: Some(Ok(apply)), ..Default::default() }
}

fn laggard(error: &str) -> rpc::Laggard {
    rpc::Laggard {
        proxy: "e1".into(),
        site: "fra1".into(),
        r#type: "RDS".into(),
        resource: "http/80".into(),
        error: error.into(),
    }
}

#[tokio::test]
async fn apply_says_what_became_of_each_object() {
    let (done, asked) = against(applying(applied(Outcome::Created)), &["apply", "-f", "-"], SITE).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "site/fra1 created\n", ""));
    assert!(asked[0].contains(r#"name: "-""#) && asked[0].contains("dry_run: false"), "{asked:?}");

    let (done, asked) = against(applying(applied(Outcome::Configured)), &["apply", "-f", "-", "--dry-run"], SITE).await;
    assert_eq!(done.out, "site/fra1 configured (dry run)\n");
    assert!(asked[0].contains("dry_run: true"), "{asked:?}");

    let answer =
        rpc::ApplyResponse { warnings: vec!["33 groups".into()], transactions: 2, ..applied(Outcome::Unchanged) };
    let (done, _) = against(applying(answer), &["apply", "-f", "-", "-o", "name"], SITE).await;
    assert_eq!(done.out, "site/fra1\n");
    assert_eq!(done.err, "warning: 33 groups\nwritten in 2 transactions, what is referred to first\n");
}

#[tokio::test]
async fn faults_are_printed_one_per_line_and_fail() {
    let fault =
        |line, column, message: &str| rpc::Fault { source: "a.yaml".into(), line, column, message: message.into() };
    let faults = vec![fault(3, 7, "unknown field \"rol\""), fault(9, 0, "two"), fault(0, 0, "three")];
    let answer = rpc::ApplyResponse { faults: faults.clone(), ..Default::default() };
    let told = "a.yaml:3:7: unknown field \"rol\"\na.yaml:9: two\na.yaml: three\n";
    let (done, _) = against(applying(answer.clone()), &["apply", "-f", "-"], SITE).await;
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert_eq!(done.err, format!("{told}error: 3 faults in the input; nothing was stored\n"));

    let partial = rpc::ApplyResponse { faults, ..applied(Outcome::Created) };
    let (done, _) = against(applying(partial), &["apply", "-f", "-", "--wait"], SITE).await;
    assert_eq!((done.code, done.out.as_str()), (1, "site/fra1 created\n"));
    assert_eq!(done.err, format!("{told}error: stopped after 1 transaction; apply again to go on\n"));
}

#[tokio::test]
async fn apply_waits_for_its_own_revision() {
    let waiting = |wait| Answers { wait: Some(wait), ..applying(applied(Outcome::Configured)) };
    let words = ["apply", "-f", "-", "--wait", "--timeout", "1s"];

    let live = rpc::WaitResponse { programmed: true, elapsed_ms: 42, proxies: 3, ..Default::default() };
    let (done, asked) = against(waiting(live), &words, SITE).await;
    assert_eq!((done.code, done.err.as_str()), (0, "live on 3 proxies in 42 ms\n"));
    assert!(asked[1].contains("revision: 5, timeout_ms: 1000") && asked[1].contains("fra1"), "{asked:?}");

    let nobody = rpc::WaitResponse { no_proxies: true, ..Default::default() };
    let (done, _) = against(waiting(nobody), &words, SITE).await;
    assert_eq!((done.code, done.err.as_str()), (0, "no connected proxy sees it: there is nothing to wait for\n"));

    let late =
        rpc::WaitResponse { laggards: vec![laggard(""), laggard("bad regex")], elapsed_ms: 1000, ..Default::default() };
    let (done, _) = against(waiting(late), &words, SITE).await;
    let told = "e1 (fra1): RDS http/80 pending\ne1 (fra1): RDS http/80 refused: bad regex\n";
    assert_eq!((done.code, done.err), (5, format!("{told}error: not live after 1000 ms on 1 proxy\n")));
}

#[tokio::test]
async fn wait_tells_not_ready_from_out_of_time() {
    let wait = rpc::WaitResponse { problems: vec!["Site fra1: deleted".into()], elapsed_ms: 3, ..Default::default() };
    let answers = Answers { wait: Some(wait), ..Default::default() };
    let (done, asked) = against(answers, &["wait", "site/fra1", "--for", "programmed"], "").await;
    assert_eq!((done.code, done.err.as_str()), (3, "Site fra1: deleted\nerror: not live after 3 ms\n"));
    assert!(asked[0].contains("timeout_ms: 30000"), "{asked:?}");
}

#[tokio::test]
async fn errors_of_the_control_plane_become_exit_codes() {
    for (status, code, words) in [
        (Status::aborted("head moved"), 4, "head moved; read it again and repeat the command"),
        (Status::deadline_exceeded("the store is slow"), 5, "the store is slow"),
        (Status::invalid_argument("too large"), 1, "too large"),
        (Status::permission_denied("no operator"), 1, "--ca, --cert and --key"),
        (Status::unavailable("the store is away"), 1, "cannot do it now: the store is away"),
        (Status::internal("oops"), 1, "Internal: oops"),
    ] {
        let answers = Answers { apply: Some(Err(status)), ..Default::default() };
        let (done, _) = against(answers, &["apply", "-f", "-"], SITE).await;
        assert_eq!(done.code, code, "{}", done.err);
        assert!(done.err.starts_with("error: ") && done.err.contains(words), "{}", done.err);
    }
}

#[tokio::test]
async fn a_control_plane_that_does_not_answer_costs_the_request_timeout() {
    let answers = Answers { hang: true, ..Default::default() };
    let (done, _) = against(answers, &["apply", "-f", "-", "--request-timeout", "100ms"], SITE).await;
    assert_eq!(done.code, 5, "{}", done.err);
    assert!(done.err.contains("did not answer within 100ms"), "{}", done.err);
}

#[tokio::test]
async fn nobody_at_the_address_is_said_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let done = run_with(&["get", "sites", "--server", &address], "").await;
    assert_eq!(done.code, 1);
    assert!(done.err.contains(&format!("no control plane answers at {address}")), "{}", done.err);
    assert!(done.err.contains("start one with `tidegate serve` or name it with --server"), "{}", done.err);

    let version = run_with(&["version", "--server", &address], "").await;
    assert_eq!((version.code, version.out), (0, format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))));
    let https = run_with(&["get", "sites", "--server", "https://127.0.0.1:1"], "").await;
    assert!(https.code == 2 && https.err.contains("--ca"), "{}", https.err);
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_like_one_that_never_was() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let words = ["get", "sites", "--server", &address];
    let breaking = async move {
        let (connection, _) = listener.accept().await.expect("the command connects");
        drop((listener, connection));
    };
    let (done, ()) = tokio::join!(run_with(&words, ""), breaking);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("no control plane answers at"), "{}", done.err);
}

#[tokio::test]
async fn version_names_both_ends() {
    let (done, _) = against(Answers::default(), &["version"], "").await;
    assert!(done.out.contains("\ncontrol plane 9.9.9 (cp1) at http://127.0.0.1:"), "{}", done.out);
}

#[tokio::test]
async fn delete_reports_what_is_gone_and_what_was_not_there() {
    let deleting = || {
        let deleted = vec![object_ref("Service", "shop", "a")];
        let missing = vec![object_ref("Service", "shop", "b")];
        Answers { delete: Some(rpc::DeleteResponse { deleted, missing, revision: 3 }), ..Default::default() }
    };
    let (done, asked) = against(deleting(), &["delete", "svc", "a", "b", "-n", "shop"], "").await;
    assert_eq!((done.code, done.out.as_str()), (1, "service/shop/a deleted\n"));
    assert_eq!(done.err, "error: not found: service/shop/b\n");
    assert_eq!(asked[0].matches("Service").count(), 2, "{asked:?}");

    let (done, asked) = against(deleting(), &["delete", "-f", "-", "--ignore-not-found"], SITE).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(asked[0].contains(r#"kind: "Site", namespace: "", name: "fra1""#), "{asked:?}");
}

#[tokio::test]
async fn diff_shows_what_would_change_and_exits_3() {
    let stored = |manifest: &str| rpc::Object {
        r#ref: Some(object_ref("Site", "", "fra1")),
        manifest_json: manifest.into(),
        ..Default::default()
    };
    let diffing = |outcome, objects| Answers {
        get: VecDeque::from([rpc::GetResponse { objects, revision: 5, ..Default::default() }]),
        ..applying(applied(outcome))
    };
    let (done, asked) = against(diffing(Outcome::Unchanged, vec![]), &["diff", "-f", "-"], SITE).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str(), asked.len()), (0, "", "", 1));
    assert!(asked[0].contains("dry_run: true"), "a diff stores nothing: {asked:?}");

    let old =
        r#"{"apiVersion":"tidegate.dev/v1alpha1","kind":"Site","metadata":{"name":"fra1"},"spec":{"role":"core"}}"#;
    let (done, _) = against(diffing(Outcome::Configured, vec![stored(old)]), &["diff", "-f", "-"], SITE).await;
    let expected = "\
--- stored/site/fra1
+++ applied/site/fra1
@@ -3,4 +3,4 @@
 metadata:
   name: fra1
 spec:
-  role: core
+  role: edge
";
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (3, expected, ""));

    let (done, _) = against(diffing(Outcome::Created, vec![]), &["diff", "-f", "-"], SITE).await;
    assert!(done.code == 3 && done.out.starts_with("--- /dev/null\n+++ applied/site/fra1\n"), "{}", done.out);
}

#[tokio::test]
async fn a_diff_of_a_certificate_shows_no_private_key() {
    let manifest = "apiVersion: tidegate.dev/v1alpha1\nkind: Certificate\nmetadata: {name: c}\nspec: {certificate: PEM, privateKey: SECRET-1}\n";
    let object = Some(object_ref("Certificate", "default", "c"));
    let answer = rpc::ApplyResponse {
        applied: vec![rpc::Applied { object, outcome: Outcome::Created.into() }],
        ..Default::default()
    };
    let answers = Answers { get: VecDeque::from([rpc::GetResponse::default()]), ..applying(answer) };
    let (done, _) = against(answers, &["diff", "-f", "-"], manifest).await;
    assert_eq!(done.code, 3, "{}", done.err);
    assert!(done.out.contains("certificate: PEM") && !done.out.contains("SECRET"), "{}", done.out);
}

#[tokio::test]
async fn mutual_tls_names_the_operator_and_checks_the_server() {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("an authority").pem();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (params.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
    };
    let (server, client) = (signed("cp1.tidegate.local"), signed("ann.tidegate.local"));
    let tls = tonic::transport::ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&server.0, &server.1))
        .client_ca_root(tonic::transport::Certificate::from_pem(&ca));
    let builder = tonic::transport::Server::builder().tls_config(tls).expect("certificates");
    let fake = fake::start_on(builder, "https", Answers::default()).await;

    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (ca, cert, key) = (file("ca.pem", &ca), file("c.pem", &client.0), file("c.key", &client.1));
    let url = fake.url.as_str();
    let operator = ["version", "--server", url, "--ca", &ca, "--cert", &cert, "--key", &key];
    let done = run_with(&[&operator[..], &["--server-name", "cp1.tidegate.local"]].concat(), "").await;
    assert!(done.out.contains("control plane 9.9.9 (cp1)"), "{done:?}");

    let done = run_with(&operator, "").await;
    assert!(!done.out.contains("control plane") && done.err.contains("no control plane"), "another name: {done:?}");
    let nobody = ["version", "--server", url, "--ca", &ca, "--server-name", "cp1.tidegate.local"];
    let done = run_with(&nobody, "").await;
    assert!(!done.out.contains("control plane"), "no certificate: {done:?}");
    let done = run_with(&["get", "sites", "--server", url, "--ca", &ca, "--cert", &cert], "").await;
    assert_eq!((done.code, done.err.as_str()), (2, "error: --cert and --key belong together\n"));
}

#[tokio::test]
async fn a_closed_pipe_is_no_news() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let cli = Cli::try_parse_from(["tidegate", "completion", "bash"]).expect("a command");
    let mut err = Vec::new();
    let code = run(cli, &Handed, &mut Io { out: &mut Closed, err: &mut err, input: &mut "".as_bytes() }).await;
    assert_eq!((code, err), (1, Vec::new()));
}

const REGISTER: [&str; 11] =
    ["register", "--service", "shop/web", "--site", "core1", "--id", "w1", "--address", "10.0.0.7:8080", "--ttl", "2s"];

#[tokio::test]
async fn register_comes_back_after_a_break_and_takes_the_endpoint_out_at_its_end() {
    let server = fake::start(Answers { register: VecDeque::from([1, 100]), ..Default::default() }).await;
    let words = [&["tidegate", "--server", &server.url][..], &REGISTER].concat();
    let Cli { global, command: Command::Register(args) } = Cli::try_parse_from(words).expect("register") else {
        panic!("another command");
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let asked = server.asked.clone();
    let watcher = async {
        // The first stream breaks after one answer, so the second message is another stream's.
        while asked.lock().expect("no panic holds it").len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send(()).expect("the command still runs");
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, input: &mut "".as_bytes() };
    let until = async {
        let _ = stopped.await;
        Ok(())
    };
    let both = async { tokio::join!(register::until(until, &global, &args, &mut io), watcher) };
    let (result, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time");
    result.expect("stopped in good order");
    let err = String::from_utf8(err).expect("text");
    let told = "registered 10.0.0.7:8080 as w1 of shop/web at core1 (revision 7)\n";
    assert_eq!(err.matches(told).count(), 2, "{err}");
    assert!(err.contains("going away") && err.contains("trying again"), "{err}");
    let asked = server.asked.lock().expect("no panic holds it").clone();
    assert!(asked[0].contains("ttl_seconds: 2") && asked[0].contains("weight: 1"), "{asked:?}");
    assert_eq!(asked.last().map(String::as_str), Some("ended in good order"));
}

#[tokio::test]
async fn register_gives_up_on_what_no_retry_can_mend() {
    let (done, _) = against(Answers::default(), &REGISTER, "").await;
    assert_eq!(done.code, 1);
    assert!(done.err.contains("does not know this call"), "{}", done.err);
    let mut short = REGISTER;
    short[10] = "1s";
    let (done, _) = against(Answers::default(), &short, "").await;
    assert_eq!((done.code, done.err.as_str()), (2, "error: --ttl is at least 2s\n"));
}

#[tokio::test]
async fn a_store_is_accepted_by_the_replica_that_is_asked() {
    let accepted = rpc::AcceptStoreResponse { replica: "cp1".into(), store: "cafe".into(), revision: 7 };
    let answers = Answers { accept_store: Some(Ok(accepted)), ..Default::default() };
    let (done, asked) = against(answers, &["store", "accept"], "").await;
    assert_eq!(asked, ["AcceptStoreRequest"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.starts_with("cp1 goes on with the store cafe from revision 7"), "{}", done.out);

    let nothing = Err(Status::failed_precondition("cp1: there is nothing to accept"));
    let (done, _) =
        against(Answers { accept_store: Some(nothing), ..Default::default() }, &["store", "accept"], "").await;
    assert_eq!((done.code, done.err.as_str()), (1, "error: cp1: there is nothing to accept\n"));
    let away = Err(Status::unavailable("cp1: the store cannot be reached"));
    let (done, _) = against(Answers { accept_store: Some(away), ..Default::default() }, &["store", "accept"], "").await;
    assert!(done.code == 1 && done.err.contains("try again later"), "{}", done.err);
}
