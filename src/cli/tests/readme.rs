//! README.md says what the program takes and how it ends.

use clap::CommandFactory;

use super::*;

const README: &str = include_str!("../../../README.md");

#[test]
fn the_readme_lists_every_setting_of_serve() {
    let program = Cli::command();
    let serve = program.find_subcommand("serve").expect("there is a serve");
    let rows = serve.get_arguments().filter_map(|argument| {
        let (flag, env) = (argument.get_long()?, argument.get_env()?.to_string_lossy());
        let shown = argument.get_default_values().first().filter(|_| argument.get_action().takes_values());
        let default = shown.map(|value| format!("`{}`", value.to_string_lossy())).unwrap_or_default();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("| `--{flag}` | `{env}` | {default} | {help} |"))
    });
    let rows: Vec<String> = rows.collect();
    assert!(rows.len() > 15, "{rows:#?}");
    let written: Vec<&str> = README.lines().filter(|line| line.contains("| `TIDEGATE_")).collect();
    assert_eq!(written, rows);
}

#[test]
fn the_readme_lists_every_exit_code() {
    let failures = [
        Failure::Failed(String::new()),
        Failure::Usage(String::new()),
        Failure::NotReady(String::new()),
        Failure::Conflict(String::new()),
        Failure::Timeout(String::new()),
    ];
    let section = README.split("### Exit codes").nth(1).and_then(|rest| rest.split("\n##").next()).expect("a section");
    for code in failures.iter().map(Failure::exit_code).chain([0]) {
        assert_eq!(section.matches(&format!("\n| {code} | ")).count(), 1, "{code} in {section}");
    }
}

#[test]
fn the_unit_and_the_image_set_only_what_the_program_reads() {
    let program = Cli::command();
    let serve = program.find_subcommand("serve").expect("there is a serve");
    let arguments = serve.get_arguments().chain(program.get_arguments());
    let known: Vec<String> =
        arguments.filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned())).collect();
    let files = [include_str!("../../../docs/tidegate.service"), include_str!("../../../docker/tidegate.Dockerfile")];
    for text in files {
        let names = text.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|n| n.starts_with("TIDEGATE_"));
        let names: Vec<&str> = names.filter(|name| *name != "TIDEGATE_").collect();
        assert!(names.len() >= 2, "{names:?}");
        for name in names {
            assert!(known.iter().any(|known| known == name), "{name} is read by nobody");
        }
    }
}
