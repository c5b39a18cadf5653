//! Values from outside the plan: the environment, files, and what is known of this machine.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use plan::{Lookup, Reference, Source};

use crate::environment;

/// Looks up late values of a plan that lies in `base`.
#[derive(Debug)]
pub struct Values {
    /// What relative paths of `${file:…}` are relative to.
    pub base: PathBuf,
}

impl Lookup for Values {
    fn look_up(&self, reference: &Reference) -> Result<String, String> {
        match reference.source {
            Source::Env => environment::text(&reference.name)
                .ok_or_else(|| "it is not set in the environment".to_owned()),
            Source::File => {
                let path = self.base.join(&reference.name);
                let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
                Ok(text.trim_end_matches(['\n', '\r']).to_owned())
            }
            Source::Host => match reference.name.as_str() {
                "name" => Ok(host_name()),
                "address" => address(),
                other => Err(format!("nothing is known of `{other}`; there are `name` and `address`")),
            },
        }
    }
}

/// This machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The address under which this machine reaches others, as the routing table has it; nothing is sent.
fn address() -> Result<String, String> {
    let somewhere = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect(somewhere)?;
            socket.local_addr()
        })
        .map(|address| address.ip().to_string())
        .map_err(|error| format!("this machine has no route to anywhere: {error}"))
}
