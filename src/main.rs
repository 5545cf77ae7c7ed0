//! The program: parses the command line and hands the commands to the parts that do them.

use std::process::ExitCode;

use async_trait::async_trait;
use clap::Parser;
use tidegate::{
    cli::{self, Cli, Failure, Io, Offline, Output, Source},
    telemetry,
};

/// The commands that need more than the operator API.
struct Parts;

fn not_wired(command: &str) -> Result<(), Failure> {
    Err(Failure::Failed(format!("{command}: not wired")))
}

#[async_trait(?Send)]
impl Offline for Parts {
    async fn serve(&self, _: cli::ServeArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        not_wired("serve")
    }

    async fn demo(&self, _: cli::DemoArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        not_wired("demo")
    }

    async fn translate(&self, _: cli::TranslateArgs, _: Vec<Source>, _: Output, _: &mut Io<'_>) -> Result<(), Failure> {
        not_wired("translate")
    }

    async fn dev_certs(&self, _: cli::DevCertsArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        not_wired("dev-certs")
    }

    async fn bootstrap(&self, _: cli::BootstrapArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        not_wired("proxy bootstrap")
    }

    async fn register_etcd(&self, _: cli::RegisterArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        not_wired("register --etcd")
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::init(&cli.global.log_options()) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let (mut out, mut err, mut input) = (std::io::stdout(), std::io::stderr(), std::io::stdin());
    let mut io = Io { out: &mut out, err: &mut err, input: &mut input };
    ExitCode::from(cli::run(cli, &Parts, &mut io).await)
}
