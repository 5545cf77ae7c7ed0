//! The command line against a fake control plane: exit code, stdout, stderr.

mod arguments;
mod commands;
mod fake;
mod looks;
mod readme;
mod ready;

use async_trait::async_trait;
use clap::Parser;

use super::*;

/// Notes which command was handed over.
struct Handed;

#[async_trait(?Send)]
impl Offline for Handed {
    async fn serve(&self, args: ServeArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        Ok(writeln!(io.out, "serve {:?}", args.store_url())?)
    }
    async fn demo(&self, args: DemoArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        Ok(writeln!(io.out, "demo {}", args.once)?)
    }
    async fn translate(
        &self,
        args: TranslateArgs,
        sources: Vec<Source>,
        output: Output,
        io: &mut Io<'_>,
    ) -> Result<(), Failure> {
        Ok(writeln!(io.out, "translate {} {} {output:?}", args.site, sources.len())?)
    }
    async fn dev_certs(&self, args: DevCertsArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        Ok(writeln!(io.out, "dev-certs {} {:?}", args.dir.display(), args.sites)?)
    }
    async fn bootstrap(&self, args: BootstrapArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        Ok(writeln!(io.out, "bootstrap {} {:?} {:?}", args.id, args.servers, args.ca)?)
    }
    async fn register_etcd(&self, args: RegisterArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        Ok(writeln!(io.out, "register {:?}", args.etcd)?)
    }
}

/// What a command did.
#[derive(Debug)]
struct Done {
    code: u8,
    out: String,
    err: String,
}

async fn run_with(words: &[&str], input: &str) -> Done {
    let cli =
        Cli::try_parse_from(std::iter::once(&"tidegate").chain(words)).unwrap_or_else(|e| panic!("{words:?}: {e}"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let code = run(cli, &Handed, &mut Io { out: &mut out, err: &mut err, input: &mut input }).await;
    Done { code, out: String::from_utf8(out).expect("text"), err: String::from_utf8(err).expect("text") }
}

/// Runs `words` against a control plane that gives `answers`.
async fn against(answers: fake::Answers, words: &[&str], input: &str) -> (Done, Vec<String>) {
    let server = fake::start(answers).await;
    let done = run_with(&[&["--server", &server.url], words].concat(), input).await;
    let asked = server.asked.lock().expect("no panic holds it").clone();
    (done, asked)
}

fn object_ref(kind: &str, namespace: &str, name: &str) -> crate::rpc::ObjectRef {
    crate::rpc::ObjectRef { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}
