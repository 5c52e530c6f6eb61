//! Processes that were refused a live NodePort: told by the programs, logged with the process's name.
//!
//! Owns the ring buffer. Refuses to know which ports are live: programs look that up at the moment of the call. Invariant: who is refused
//! learns it from the kernel at once; this only tells the operator.

use std::io;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use nodeport_common::{Bind, maps, protocol};

use super::error::DatapathError;
use super::pins::Pins;
use crate::maps::Bytes as _;

/// How often the buffer is emptied. Lines are for people, who do not mind.
const PERIOD: Duration = Duration::from_millis(100);

/// A stream of refusals.
pub struct Refusals {
    buffer: RingBuf<MapData>,
}

impl Refusals {
    /// Those from now on, and those that no agent has read yet.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the buffer cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let name = maps::BINDS;
        let data = MapData::from_pin(pins.map(name)).map_err(DatapathError::map("open", name))?;
        let buffer =
            RingBuf::try_from(Map::RingBuf(data)).map_err(DatapathError::map("open", name))?;
        Ok(Self { buffer })
    }

    /// Logs them until it is dropped.
    pub async fn tell(mut self) {
        loop {
            while let Some(item) = self.buffer.next() {
                match read(&item) {
                    Ok(bind) => tracing::warn!("{}", sentence(&bind)),
                    Err(error) => tracing::warn!(%error, "a refusal cannot be read"),
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }
}

fn read(item: &[u8]) -> io::Result<Bind> {
    if item.len() < Bind::SIZE {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Bind::get(item))
}

/// Who was refused what.
fn sentence(bind: &Bind) -> String {
    let name = bind.name.split(|byte| *byte == 0).next();
    let name = String::from_utf8_lossy(name.unwrap_or_default());
    let port = u16::from_be_bytes(bind.port);
    let protocol = match bind.protocol {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        _ => "?",
    };
    let process = bind.process;
    format!(
        "{name} (process {process}) was refused to bind {protocol} port {port}: it is a NodePort, which takes all that comes for it; \
         give the process or the Service another port"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_process_and_port() {
        let mut bind = Bind {
            process: 4711,
            port: 30080_u16.to_be_bytes(),
            protocol: protocol::TCP,
            family: 4,
            ..Bind::default()
        };
        bind.name[..5].copy_from_slice(b"nginx");
        let mut bytes = [0; Bind::SIZE];
        bind.put(&mut bytes);
        let said = sentence(&read(&bytes).expect("whole"));
        assert!(
            said.starts_with("nginx (process 4711) was refused to bind TCP port 30080"),
            "{said}"
        );
        assert!(read(&bytes[1..]).is_err());
    }
}
