//! Whether an executable stands alone: it is for the right processor, and names neither a loader nor a library.

use super::Arch;
use anyhow::{Result, bail};
use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64, PT_INTERP},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

/// # Errors
///
/// What ties the executable to something else.
pub(crate) fn check_static(bytes: &[u8], arch: Arch) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    if machine != arch.elf_machine() {
        bail!("it is for another processor (ELF machine {machine}) than {arch}");
    }
    for segment in header.program_headers(endian, bytes)? {
        if segment.p_type(endian) == PT_INTERP {
            bail!("it names a loader (PT_INTERP): it was not linked with +crt-static");
        }
        let entries = segment.dynamic(endian, bytes)?.unwrap_or_default();
        if entries.iter().any(|entry| entry.tag(endian) == DT_NEEDED) {
            bail!("it names shared libraries (DT_NEEDED)");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_executable_is_refused() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let here = Arch::of_this_machine().unwrap();
        let error = check_static(&own, here).unwrap_err().to_string();
        assert!(error.contains("PT_INTERP"), "{error}");
        let other = match here {
            Arch::Amd64 => Arch::Arm64,
            Arch::Arm64 => Arch::Amd64,
        };
        let error = check_static(&own, other).unwrap_err().to_string();
        assert!(error.contains("another processor"), "{error}");
        assert!(check_static(b"no ELF", here).is_err());
    }
}
