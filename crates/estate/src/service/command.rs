//! The service that is started, stopped and asked by commands of the plan.

use place::{Command, End, Finished};

use super::{Commands, Context, Ended, Error, Started, Status, Verb, how_it_ended};
use crate::by_hand::line;

/// Codes by which a status command says that it does not know: LSB's "status unknown", and the shell's "cannot run" and
/// "not found".
const DOES_NOT_KNOW: [i32; 3] = [4, 126, 127];

/// Runs the start command, unless the status command says that it runs.
pub(super) fn start(service: &str, commands: &Commands, context: &Context<'_>) -> Result<Started, Error> {
    let already = matches!(status(commands, context), Status::Running { .. });
    if !already {
        run(service, "start", &commands.start, context)?;
    }
    Ok(Started { already, process: None, cleared: 0, stand_in: None, notes: Vec::new() })
}

/// Runs the stop command, unless the status command says that it does not run.
pub(super) fn stop(service: &str, commands: &Commands, context: &Context<'_>) -> Result<Ended, Error> {
    let before = status(commands, context);
    if before == Status::Stopped {
        return Ok(Ended { was_running: false, killed: 0 });
    }
    let Some(stop) = &commands.stop else {
        let why = "the plan has no stop command for it".into();
        return Err(Error::Failed { verb: "stop", service: service.to_owned(), why });
    };
    run(service, "stop", stop, context)?;
    Ok(Ended { was_running: matches!(before, Status::Running { .. }), killed: 0 })
}

/// Runs the status command.
pub(super) fn status(commands: &Commands, context: &Context<'_>) -> Status {
    let Some(command) = &commands.status else {
        return Status::Unknown { why: "the plan has no status command for it".into() };
    };
    match context.place.run(command, &context.limits()) {
        Ok(Finished { end: End::Exited(0), .. }) => Status::Running { since: None },
        Ok(Finished { end: End::Exited(code), .. }) if !DOES_NOT_KNOW.contains(&code) => Status::Stopped,
        Ok(finished) => Status::Unknown { why: how_it_ended(&finished, context.secrets) },
        Err(error) => Status::Unknown { why: context.secrets.mask(&error.to_string()) },
    }
}

pub(super) fn by_hand(commands: &Commands, verb: Verb) -> String {
    let known = |command: &Option<Command>| {
        command.as_ref().map_or_else(|| "# the plan has no command for this".into(), line)
    };
    match verb {
        Verb::Start => line(&commands.start),
        Verb::Stop => known(&commands.stop),
        Verb::Restart => format!("{}\n{}", known(&commands.stop), line(&commands.start)),
        Verb::Status => known(&commands.status),
    }
}

fn run(service: &str, verb: &'static str, command: &Command, context: &Context<'_>) -> Result<(), Error> {
    let finished = context.place.run(command, &context.limits())?;
    match finished.end {
        End::Exited(0) => Ok(()),
        End::Cancelled => Err(Error::Interrupted),
        _ => {
            let why = how_it_ended(&finished, context.secrets);
            Err(Error::Failed { verb, service: service.to_owned(), why })
        }
    }
}
