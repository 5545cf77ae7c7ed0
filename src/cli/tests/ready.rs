//! `tidegate ready` against a port that answers as it is told.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;

/// What the command comes to when the port gives this answer to its request, or none.
async fn asked(answer: Option<&str>) -> (Done, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let words = ["--request-timeout", "300ms", "ready", "--address", &address];
    let serving = async {
        let (mut stream, _) = listener.accept().await.expect("it connects");
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).await.expect("it asks");
        request.truncate(length);
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.expect("it listens"),
            // The end of the connection is awaited, for the answer never comes.
            None => drop(stream.read(&mut [0]).await),
        }
        String::from_utf8(request).expect("text")
    };
    let both = async { tokio::join!(run_with(&words, ""), serving) };
    timeout(std::time::Duration::from_secs(10), both).await.expect("both end")
}

#[tokio::test]
async fn ready_prints_the_page_and_exits_by_its_status() {
    let (done, request) = asked(Some("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n")).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "ok\n", ""));
    assert!(request.starts_with("GET /readyz?verbose HTTP/1.1\r\n"), "{request}");

    let (done, _) = asked(Some("HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\nstore: denied\n")).await;
    assert_eq!((done.code, done.out.as_str()), (3, "starting\nstore: denied\n"));
    assert!(done.err.contains("not ready") && done.err.contains("503"), "{}", done.err);

    let (done, _) = asked(Some("what?")).await;
    assert_eq!(done.code, 3, "{done:?}");
}

#[tokio::test]
async fn who_does_not_answer_is_not_ready_either() {
    let (done, _) = asked(None).await;
    assert_eq!(done.code, 5, "{done:?}");
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound").to_string()
    };
    let done = run_with(&["ready", "--address", &nobody], "").await;
    assert!(done.code == 1 && done.err.contains("no replica answers at"), "{done:?}");
}
