//! Programs from the registries of crates and of Python packages that tests, checks and the benchmark run: built once into the cache, outside the
//! clone, so that every clone shares them and `cargo clean` leaves them.

use std::path::PathBuf;
use std::process::Command;

use crate::paths;
use crate::process::{Result, output, run};

/// A program of the crate registry in the one version that is known to fit.
struct Tool {
    package: &'static str,
    program: &'static str,
    version: &'static str,
    features: &'static [&'static str],
    /// Whether to build it quickly rather than well: for what runs for seconds on the machine of every developer.
    quickly: bool,
}

/// Checks licences and sources of dependencies; `deny.toml` is written for this version.
const CARGO_DENY: Tool =
    Tool { package: "cargo-deny", program: "cargo-deny", version: "0.20.2", features: &[], quickly: true };

/// The S3 server of the tests, with one database engine; later versions may need another configuration file.
///
/// How tests find and start it is in the crate `s3-for-tests`.
const GARAGE: Tool = Tool {
    package: "garage",
    program: "garage",
    version: "2.5.0",
    features: &["--no-default-features", "--features", "bundled-libs,sqlite"],
    quickly: true,
};

/// A peer in the benchmark, built as its authors build it.
const RUSTIC: Tool =
    Tool { package: "rustic-rs", program: "rustic", version: "0.11.4", features: &[], quickly: false };

/// Tells where cargo-deny is, and installs it first if need be.
pub fn cargo_deny() -> Result<PathBuf> {
    CARGO_DENY.ensure()
}

/// Tells where rustic is, and installs it first if need be.
pub fn rustic() -> Result<PathBuf> {
    RUSTIC.ensure()
}

/// Tells where Garage is, and installs it first if need be; that takes five to ten minutes.
///
/// `LIFEBOAT_TEST_GARAGE` names another one, which is taken as it is.
pub fn garage() -> Result<PathBuf> {
    match paths::given_garage() {
        Some(program) if program.is_file() => Ok(program),
        Some(program) => {
            Err(format!("LIFEBOAT_TEST_GARAGE names {}, which is no file", program.display()).into())
        }
        None => GARAGE.ensure(),
    }
}

/// The S3 server with conditional writes and TLS; how tests start it is in the crate `s3-for-tests`.
const MOTO: &str = "moto[s3,server]==5.2.5";

/// Installs moto into an environment of its own, unless this version is there.
pub fn moto() -> Result<()> {
    let environment = paths::tools()?.join("moto");
    let installed = environment.join("installed");
    if std::fs::read_to_string(&installed).is_ok_and(|what| what == MOTO) {
        return Ok(());
    }
    println!("installing {MOTO} from the registry of Python packages");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", MOTO]))?;
    // The last step, so that an interrupted installation is begun again.
    Ok(std::fs::write(&installed, MOTO)?)
}

impl Tool {
    fn ensure(&self) -> Result<PathBuf> {
        let program = paths::tools()?.join("bin").join(self.program);
        if !self.is_current(&program) {
            self.install()?;
        }
        if self.is_current(&program) {
            return Ok(program);
        }
        Err(format!("{} was built and does not say that it is version {}", program.display(), self.version)
            .into())
    }

    /// Tells whether the program is there in our version, as in `rustic 0.11.4` or `garage cargo:2.5.0 [features…]`.
    fn is_current(&self, program: &PathBuf) -> bool {
        let said = output(Command::new(program).arg("--version")).unwrap_or_default();
        said.split([' ', ':', '-']).any(|word| word.trim_start_matches('v') == self.version)
    }

    fn install(&self) -> Result<()> {
        println!(
            "installing {} {} from the crate registry; this takes some minutes, once",
            self.package, self.version
        );
        let mut command = Command::new("cargo");
        command
            .args(["install", self.package, "--version", self.version, "--locked", "--force"])
            .args(self.features);
        command.arg("--root").arg(paths::tools()?);
        if self.quickly {
            command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
            command
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        }
        // A target directory that the user shares among projects must not fill with what is built once.
        run(command.env_remove("CARGO_TARGET_DIR"))
    }
}
