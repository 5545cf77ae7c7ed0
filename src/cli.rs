//! The command line: arguments in, texts and an exit code out.
//!
//! Commands that ask a control plane speak only [`crate::rpc`]; those that need other parts of Tidegate (`serve`,
//! `demo`, `translate`, certificates, bootstraps) are handed to an [`Offline`], which `main` provides. Data goes to
//! `out`, everything a person is told to `err`; a failure becomes text and an exit code in [`Failure`] and nowhere
//! else.

mod apply;
mod args;
mod client;
mod describe;
mod diff;
mod failure;
mod local;
mod objects;
pub mod offline;
mod output;
mod proxy;
mod ready;
mod register;
mod server_args;
mod store;
mod summary;
mod target;
#[cfg(test)]
mod tests;
mod top;
mod values;

use std::io::{Read, Write};

use async_trait::async_trait;
use clap::CommandFactory;

pub use args::{
    ApplyArgs, BootstrapArgs, Cli, Command, DeleteArgs, DemoArgs, DescribeArgs, DevCertsArgs, DiffArgs, GetArgs,
    Global, Output, ProxyCommand, ProxyConfigArgs, ProxyStatusArgs, ReadyArgs, RegisterArgs, StoreCommand, TopArgs,
    TranslateArgs, WaitArgs,
};
pub use failure::Failure;
pub use local::{Source, read_sources};
pub use server_args::{EtcdArgs, ServeArgs, StoreUrl};
pub use values::{LogFormat, LogOptions, NamedSite, parse_duration};

/// Where a command reads and writes.
pub struct Io<'a> {
    /// Data: what a pipe should get.
    pub out: &'a mut dyn Write,
    /// Messages, warnings and faults for a person.
    pub err: &'a mut dyn Write,
    /// What `-f -` reads.
    pub input: &'a mut dyn Read,
}

/// The commands that need more of Tidegate than its API: the caller of [`run`] brings them.
#[async_trait(?Send)]
pub trait Offline {
    /// Runs a control plane until it is told to stop.
    async fn serve(&self, args: ServeArgs, io: &mut Io<'_>) -> Result<(), Failure>;
    /// Runs the demo.
    async fn demo(&self, args: DemoArgs, io: &mut Io<'_>) -> Result<(), Failure>;
    /// Compiles manifests for one site; the answer goes to `io.out` in the format `output`.
    async fn translate(
        &self,
        args: TranslateArgs,
        sources: Vec<Source>,
        output: Output,
        io: &mut Io<'_>,
    ) -> Result<(), Failure>;
    /// Writes a CA and certificates into a folder.
    async fn dev_certs(&self, args: DevCertsArgs, io: &mut Io<'_>) -> Result<(), Failure>;
    /// Prints an Envoy bootstrap.
    async fn bootstrap(&self, args: BootstrapArgs, io: &mut Io<'_>) -> Result<(), Failure>;
    /// Keeps an endpoint's lease directly in etcd, without a control plane.
    async fn register_etcd(&self, args: RegisterArgs, io: &mut Io<'_>) -> Result<(), Failure>;
}

/// Runs one command line and gives the exit code of the process: 0 done, 1 failed, 2 wrong usage, 3 differs or not
/// ready, 4 conflict, 5 out of time.
pub async fn run(cli: Cli, offline: &dyn Offline, io: &mut Io<'_>) -> u8 {
    match dispatch(cli, offline, io).await {
        Ok(()) => 0,
        Err(failure) => {
            // Nobody is left to tell when stderr is closed.
            let _ = failure.report(io.err);
            failure.exit_code()
        }
    }
}

async fn dispatch(cli: Cli, offline: &dyn Offline, io: &mut Io<'_>) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => offline.serve(*args, io).await,
        Command::Demo(args) => offline.demo(args, io).await,
        Command::Translate(args) => {
            let sources = read_sources(&args.files, io.input)?;
            let output = global.output.unwrap_or(Output::Yaml);
            offline.translate(args, sources, output, io).await
        }
        Command::DevCerts(args) => offline.dev_certs(args, io).await,
        Command::Proxy(ProxyCommand::Bootstrap(args)) => offline.bootstrap(*args, io).await,
        Command::Proxy(ProxyCommand::Status(args)) => proxy::status(&global, &args, io).await,
        Command::Proxy(ProxyCommand::Config(args)) => proxy::config(&global, &args, io).await,
        Command::Top(args) => top::top(&global, &args, io).await,
        Command::Register(args) if !args.etcd.is_empty() => offline.register_etcd(args, io).await,
        Command::Register(args) => register::register(&global, &args, io).await,
        Command::Store(StoreCommand::Accept) => store::accept(&global, io).await,
        Command::Apply(args) => apply::apply(&global, &args, io).await,
        Command::Get(args) => objects::get(&global, &args, io).await,
        Command::Describe(args) => describe::describe(&global, &args, io).await,
        Command::Delete(args) => objects::delete(&global, &args, io).await,
        Command::Diff(args) => diff::diff(&global, &args, io).await,
        Command::Wait(args) => apply::wait(&global, &args, io).await,
        Command::Ready(args) => ready::ready(&args, global.request_timeout, io).await,
        Command::Version => objects::version(&global, io).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
            io.out.write_all(&script)?;
            Ok(())
        }
    }
}
