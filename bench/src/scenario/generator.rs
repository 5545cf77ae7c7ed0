//! The load generator's process, and its answers.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::process::{LOAD, Lines, Process};

/// For an answer; the generator itself gives up after three minutes.
const LIMIT: Duration = Duration::from_secs(240);

pub struct Generator {
    pub process: Process,
    answers: Lines,
}

impl Generator {
    /// Starts it with `key=value` words.
    ///
    /// # Errors
    /// The binary is not beside this one.
    pub fn start(dir: &Path, words: &[String]) -> Result<Self> {
        let program = beside("xds-load")?;
        let mut process = Process::start("xds-load", LOAD, dir, &[&[program], words].concat())?;
        let answers = process.lines()?;
        Ok(Self { process, answers })
    }

    /// Gives an order, and waits for its first answer.
    ///
    /// # Errors
    /// It has ended, or says that it failed.
    pub fn order(&mut self, order: &str) -> Result<Value> {
        let stdin = self.process.child.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{order}")?;
        self.answer().with_context(|| format!("order {order:?}"))
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// As [`Generator::order`].
    pub fn answer(&mut self) -> Result<Value> {
        let line = self.answers.next(LIMIT)?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("no answer: {line:?}"))?;
        if answer.get("failed").is_some() || answer["complete"] == false {
            bail!("a failed run: {answer}");
        }
        Ok(answer)
    }
}

/// A binary of this package.
///
/// # Errors
/// It is not beside the running one.
pub fn beside(name: &str) -> Result<String> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is missing", path.display());
    Ok(path.display().to_string())
}
