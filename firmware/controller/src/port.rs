//! The serial port: what a port to another board writes anew, where it has one.

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};

/// The machine's serial port.
#[derive(Debug, Default)]
pub(crate) struct Port {
    /// A byte that was there when somebody asked.
    next: Option<u8>,
}

impl ErrorType for Port {
    type Error = ErrorKind;
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        self.next = self.next.or_else(cptr_rt::read);
        Ok(self.next.is_some())
    }
}

impl Read for Port {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        let Some(place) = bytes.first_mut() else { return Ok(0) };
        while !self.read_ready()? {}
        *place = self.next.take().unwrap_or(0);
        Ok(1)
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        cptr_rt::write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}
