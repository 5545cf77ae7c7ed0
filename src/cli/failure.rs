//! Every way in which a command fails, its words and its exit code: the one place that knows both.

use std::{
    error::Error,
    io::{self, Write},
};

use tonic::Code;

use crate::rpc;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be done. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The input has faults; each is printed as `file:line:col: message`. Exit code 1.
    #[error("{} in the input", counted(.0.len(), "fault"))]
    Faults(Vec<rpc::Fault>),
    /// Nobody reads the output any more (`tidegate get … | head`): said to nobody. Exit code 1.
    #[error("the output was closed")]
    Closed,
    /// The command line makes no sense. Exit code 2, as clap's own.
    #[error("{0}")]
    Usage(String),
    /// What was compared differs, or what was asked about is not ready. Exit code 3.
    #[error("{0}")]
    NotReady(String),
    /// Somebody else changed the same thing at the same time. Exit code 4.
    #[error("{0}")]
    Conflict(String),
    /// The time given was over. Exit code 5.
    #[error("{0}")]
    Timeout(String),
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Faults(_) | Self::Closed => 1,
            Self::Usage(_) => 2,
            Self::NotReady(_) => 3,
            Self::Conflict(_) => 4,
            Self::Timeout(_) => 5,
        }
    }

    /// Tells a person what happened. An empty [`Failure::NotReady`] has been told already (a diff is its own words).
    ///
    /// # Errors
    /// When `err` cannot be written.
    pub fn report(&self, err: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Faults(faults) => {
                for fault in faults {
                    writeln!(err, "{}", located(fault))?;
                }
                writeln!(err, "error: {self}; nothing was stored")
            }
            Self::Closed => Ok(()),
            Self::NotReady(text) if text.is_empty() => Ok(()),
            other => writeln!(err, "error: {other}"),
        }
    }

    /// What a call answered, seen from the command line; `server` is the address asked.
    pub(crate) fn from_status(status: &tonic::Status, server: &str) -> Self {
        let said = status.message().to_owned();
        match status.code() {
            Code::DeadlineExceeded => Self::Timeout(said),
            Code::Aborted => Self::Conflict(format!("{said}; read it again and repeat the command")),
            // A status that the control plane itself sent has no cause on this side; a broken connection has.
            _ if status.source().is_some() => Self::Failed(unreachable(server, &root_cause(status))),
            Code::Unavailable => Self::Failed(format!("{server} cannot do it now: {said}; try again later")),
            Code::Unauthenticated | Code::PermissionDenied => Self::Failed(format!(
                "{server} refuses: {said}; name an operator's certificate with --ca, --cert and --key"
            )),
            Code::Unimplemented => {
                Self::Failed(format!("the control plane at {server} does not know this call: {said}"))
            }
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists => {
                Self::Failed(said)
            }
            code => Self::Failed(format!("{server} answers {code:?}: {said}")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// What to say when nobody answers at `server`.
pub(crate) fn unreachable(server: &str, why: &str) -> String {
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    format!("no control plane answers at {server}{why}: start one with `tidegate serve` or name it with --server")
}

/// `file:line:col: message`, without the parts that are not known.
pub(crate) fn located(fault: &rpc::Fault) -> String {
    match (fault.source.as_str(), fault.line, fault.column) {
        ("", _, _) => fault.message.clone(),
        (source, 0, _) => format!("{source}: {}", fault.message),
        (source, line, 0) => format!("{source}:{line}: {}", fault.message),
        (source, line, column) => format!("{source}:{line}:{column}: {}", fault.message),
    }
}

/// `1 fault`, `3 faults`.
pub(crate) fn counted(n: usize, noun: &str) -> String {
    let suffix = match noun {
        _ if n == 1 => "",
        noun if noun.ends_with('x') => "es",
        _ => "s",
    };
    // `proxy` is the one noun here with a plural of its own.
    if n != 1 && noun == "proxy" { format!("{n} proxies") } else { format!("{n} {noun}{suffix}") }
}

/// The innermost cause, which is the one that says something ("connection refused").
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
