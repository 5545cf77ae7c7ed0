//! The program: parses the command line and hands the commands to the parts that do them.

use std::{process::ExitCode, time::Duration};

use async_trait::async_trait;
use clap::Parser;
use tidegate::{
    app::{self, App},
    cli::{self, Cli, Failure, Io, Offline, Output, Source, offline},
    demo, telemetry,
};
use tokio::signal::unix::{SignalKind, signal};

/// Ten thousand streams are some 600 MB of small pieces, touched in turn at each change: in huge pages that costs a fifth
/// less CPU. `.cargo/config.toml` says that it takes them where the machine has them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The commands that need more than the operator API.
struct Parts;

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure::Failed(format!("{:#}", error.into()))
}

#[async_trait(?Send)]
impl Offline for Parts {
    async fn serve(&self, args: cli::ServeArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let app = App::start(&args).await.map_err(failed)?;
        let stop = async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        app.run(stop).await.map_err(failed)
    }

    async fn demo(&self, args: cli::DemoArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        demo::run(args, io.out).await.map_err(failed)
    }

    async fn translate(
        &self,
        args: cli::TranslateArgs,
        sources: Vec<Source>,
        output: Output,
        io: &mut Io<'_>,
    ) -> Result<(), Failure> {
        offline::translate(&args.site, &sources, output, io)
    }

    async fn dev_certs(&self, args: cli::DevCertsArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        offline::dev_certs(&args, io)
    }

    async fn bootstrap(&self, args: cli::BootstrapArgs, io: &mut Io<'_>) -> Result<(), Failure> {
        write!(io.out, "{}", app::bootstrap_yaml(&args).map_err(failed)?)?;
        Ok(())
    }

    async fn register_etcd(&self, args: cli::RegisterArgs, _: &mut Io<'_>) -> Result<(), Failure> {
        app::register_etcd(&args).await.map_err(failed)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::init(&cli.global.log_options()) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut out, mut err, mut input) = (std::io::stdout(), std::io::stderr(), std::io::stdin());
    let mut io = Io { out: &mut out, err: &mut err, input: &mut input };
    let code = runtime.block_on(cli::run(cli, &Parts, &mut io));
    // A compile that still runs on a blocking thread must not hold the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ExitCode::from(code)
}
