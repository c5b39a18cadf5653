//! The `lifeboat` command: arguments, rendering, exit codes.
//!
//! Everything that is done is done by the crates below; what lives here is how a person or a script asks for
//! it and is answered. `args` is the command line, `commands` has a file per command, `access` resolves where a
//! repository is and who opens it, `ui` writes (text or JSON lines), `progress` draws, and `outcome` is the
//! one place that maps errors to exit codes and hints.

mod access;
mod args;
mod commands;
mod environment;
mod estate;
mod interrupt;
mod json;
mod live;
mod outcome;
mod password;
mod progress;
mod s3;
mod table;
mod timeline;
mod ui;
mod units;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = commands::hidden::if_asked() {
        return code;
    }
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    interrupt::ignore_hangup();
    let ui = ui::Ui::new(&cli.output, cli.command.name());
    let result = cli.command.run(&ui);
    ui.conclude(result)
}
