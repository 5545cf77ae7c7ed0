//! What can be written on the command line.

use std::{fs, path::PathBuf, time::Duration};

use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::cli::{local, target};

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"tidegate").chain(words))
}

#[test]
fn the_arguments_are_well_formed_and_every_command_shows_examples_before_usage() {
    Cli::command().debug_assert();
    let commands = [
        "apply",
        "get",
        "describe",
        "delete",
        "diff",
        "translate",
        "wait",
        "top",
        "ready",
        "register",
        "serve",
        "demo",
    ];
    for words in commands.map(|command| vec![command]).into_iter().chain([vec!["store", "accept"]]) {
        let help = parse(&[&words[..], &["--help"]].concat()).expect_err("help is an early end").to_string();
        let (examples, usage) = (help.find("Examples:"), help.find("Usage:"));
        assert!(examples.is_some() && examples < usage, "{help}");
    }
}

#[test]
fn serve_reads_its_store_in_three_forms() {
    let store = |text: &str| text.parse::<StoreUrl>();
    assert_eq!(store("memory"), Ok(StoreUrl::Memory));
    assert_eq!(store("embedded:/var/lib/t.redb"), Ok(StoreUrl::Embedded(PathBuf::from("/var/lib/t.redb"))));
    let urls = vec!["http://10.0.0.5:2379".to_owned(), "https://b:2379".to_owned()];
    assert_eq!(store("etcd:10.0.0.5:2379,https://b:2379"), Ok(StoreUrl::Etcd(urls)));
    for wrong in ["", "etcd:", "embedded:", "redis:x", "etcd:ftp://x", "etcd:http://a,,http://b"] {
        assert!(store(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_port_speaks_mutual_tls_or_none() {
    let refused = parse(&["serve", "--api-cert", "a.pem", "--api-key", "a.key"]).expect_err("the CA is missing");
    assert_eq!(refused.kind(), ErrorKind::MissingRequiredArgument);
    let args = ["serve", "--xds-cert", "a.pem", "--xds-key", "a.key", "--xds-ca", "ca.pem"];
    assert!(parse(&args).is_ok());
}

#[test]
fn a_proxy_has_its_certificate_from_one_place() {
    let line = ["proxy", "bootstrap", "--site", "s", "--id", "e1", "--server", "a:1", "--identity"];
    assert!(parse(&line).is_ok());
    let files = ["--ca", "x", "--cert", "y", "--key", "z"];
    let refused = parse(&[&line[..], &files].concat()).expect_err("two places");
    assert_eq!(refused.kind(), ErrorKind::ArgumentConflict);
    for zero in [["--max-heap", "0"], ["--max-connections", "0"]] {
        assert!(parse(&[&line[..], &zero].concat()).is_err(), "{zero:?}");
    }
}

#[test]
fn durations_are_those_of_gateway_api() {
    let millis = |text: &str| parse_duration(text).map(|d| d.as_millis());
    assert_eq!(millis("1h30m"), Ok(5_400_000));
    assert_eq!(millis("500ms"), Ok(500));
    assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
    for wrong in ["", "10", "s", "-1s", "1.5s", "1d", "1 s", "99999999999999999999s", "18446744073709551615h"] {
        assert!(millis(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn targets_are_named_in_three_ways() {
    let parse = |words: &[&str]| target::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
    let paths = |words: &[&str]| -> Vec<String> {
        let targets = parse(words).expect("targets");
        targets.iter().map(|t| target::path(&t.object("default").expect("named"))).collect()
    };
    assert_eq!(paths(&["svc", "a", "b"]), ["service/default/a", "service/default/b"]);
    assert_eq!(paths(&["service/a", "httproutes/shop/web"]), ["service/default/a", "httproute/shop/web"]);
    assert_eq!(paths(&["site/fra1"]), ["site/fra1"]);
    for wrong in [&["svc", "svc/a"][..], &["svc/"], &["all", "x"], &["svc/a/b/c"], &["svc/a", "b"], &[]] {
        let failure = parse(wrong).expect_err("no target");
        assert_eq!(failure.exit_code(), 2, "{wrong:?}: {failure}");
    }
    let failure = parse(&["htproute"]).expect_err("misspelt");
    assert!(failure.to_string().contains("did you mean httproutes?"), "{failure}");
}

#[test]
fn a_folder_is_read_recursively_in_order_and_other_files_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("made");
        fs::write(path, name).expect("written");
    };
    for name in ["b.yaml", "a/z.yml", "a/y.json", "README.md", "c.yaml.bak"] {
        write(name);
    }
    let mut input = "from stdin".as_bytes();
    let paths = [folder.path().to_owned(), PathBuf::from("-")];
    let texts: Vec<String> = read_sources(&paths, &mut input).expect("read").into_iter().map(|s| s.text).collect();
    assert_eq!(texts, ["a/y.json", "a/z.yml", "b.yaml", "from stdin"]);

    let empty = tempfile::tempdir().expect("a folder");
    assert!(read_sources(&[empty.path().to_owned()], &mut "".as_bytes()).is_err());
    assert!(read_sources(&[PathBuf::from("/no/such.yaml")], &mut "".as_bytes()).is_err());
}

#[test]
fn documents_are_read_as_far_as_their_names() {
    let source = |text: &str| [Source { name: "f.yaml".into(), text: text.into() }];
    let found =
        local::documents(&source("kind: Site\nmetadata: {name: a}\n---\n---\nkind: Service\nmetadata: {name: b}\n"))
            .expect("two documents");
    let paths: Vec<String> = found.iter().map(|d| target::path(&d.object)).collect();
    assert_eq!(paths, ["site/a", "service/default/b"]);
    for (wrong, word) in [("kind: Sit\n", "Sit"), ("kind: Site\n", "metadata.name"), ("a: [", "f.yaml:")] {
        let mut told = Vec::new();
        local::documents(&source(wrong)).expect_err("faulty").report(&mut told).expect("written");
        let told = String::from_utf8(told).expect("text");
        assert!(told.starts_with("f.yaml") && told.contains(word), "{told}");
    }
}

#[tokio::test]
async fn commands_that_need_more_than_the_api_are_handed_over() {
    let bootstrap = run_with(
        &[
            "proxy",
            "bootstrap",
            "--site",
            "s",
            "--id",
            "e1",
            "--server",
            "a:1,b:2",
            "--ca",
            "x",
            "--cert",
            "y",
            "--key",
            "z",
        ],
        "",
    )
    .await;
    assert_eq!(bootstrap.out, "bootstrap e1 [\"a:1\", \"b:2\"] Some(\"x\")\n");
    let serve = run_with(&["serve", "--data-dir", "/d"], "").await;
    assert_eq!(serve.out, "serve Embedded(\"/d/store.redb\")\n");
    let translate = run_with(&["translate", "-f", "-", "--site", "fra1", "-o", "json"], "kind: Site").await;
    assert_eq!(translate.out, "translate fra1 1 Json\n");
    let certs = run_with(&["dev-certs", "d", "--site", "a:edge", "--site", "b:core"], "").await;
    assert!(certs.out.contains("\"b\", role: Core"), "{}", certs.out);
    let register = ["register", "--service", "a/b", "--site", "s", "--id", "i", "--address", "[::1]:80"];
    let register = run_with(&[&register[..], &["--etcd", "http://a,http://b"]].concat(), "").await;
    assert_eq!(register.out, "register [\"http://a\", \"http://b\"]\n");
    let demo = run_with(&["demo", "--once"], "").await;
    assert_eq!((demo.code, demo.out.as_str()), (0, "demo true\n"));
}

#[tokio::test]
async fn a_completion_script_is_printed() {
    let done = run_with(&["completion", "bash"], "").await;
    assert!(done.code == 0 && done.out.contains("complete -F"), "{}", done.out);
}
