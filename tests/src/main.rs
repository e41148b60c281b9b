//! Runs the fault scenarios and prints a row for each, as `./dogwatch.sh faults` does.
//!
//! ```text
//! dogwatch-faults [--short] [--seed NUMBER] [NAME ...]
//! ```
//! Names are parts of scenarios' names; without one, all are run. A seed makes the same load and the same moments.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use dogwatch_tests::scenario::table::{Form, scenarios};
use dogwatch_tests::scenario::{self, Outcome, Scenario};

struct Arguments {
    form: Form,
    seed: u64,
    names: Vec<String>,
}

const USAGE: &str = "usage: dogwatch-faults [--short] [--seed NUMBER] [NAME ...]";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}\n\nScenarios, by parts of their names:");
        for scenario in scenarios(Form::Short, 0) {
            println!("  {}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("{reason}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    let chosen = |scenario: &Scenario| {
        arguments.names.is_empty()
            || arguments
                .names
                .iter()
                .any(|name| scenario.name.contains(name.as_str()))
    };
    if !scenarios(arguments.form, arguments.seed).iter().any(chosen) {
        eprintln!("no scenario is called so; --help lists them; {USAGE}");
        return ExitCode::from(2);
    }
    println!(
        "seed {}, {:?} form\n\n{}",
        arguments.seed,
        arguments.form,
        Outcome::HEADING
    );
    let mut failed = Vec::new();
    for scenario in scenarios(arguments.form, arguments.seed)
        .iter()
        .filter(|scenario| chosen(scenario))
    {
        // What the environment lacks, or what does not come about in time, is a panic.
        match catch_unwind(AssertUnwindSafe(|| scenario::run(scenario, arguments.seed))) {
            Ok(outcome) => {
                println!("{}", outcome.row());
                if !outcome.passed() {
                    failed.push(outcome.trouble());
                }
            }
            Err(_) => {
                println!(
                    "| {} | | | | | | | | | | **did not come to an end** |",
                    scenario.name
                );
                failed.push(format!("{}: see the message above", scenario.name));
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "\n{} scenarios failed:\n\n{}",
        failed.len(),
        failed.join("\n\n")
    );
    ExitCode::FAILURE
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        form: Form::Long,
        seed: rand::random::<u32>().into(),
        names: Vec::new(),
    };
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--short" => arguments.form = Form::Short,
            "--seed" => {
                let number = given.next().and_then(|text| text.parse().ok());
                arguments.seed = number.ok_or("--seed needs a number")?;
            }
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => arguments.names.push(argument),
        }
    }
    Ok(arguments)
}
