//! Where the first content of guest memory comes from, when it is not zeros.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Supplies the bytes that a guest finds when it first touches a page.
///
/// Called by handler threads, several at once, while no lock is held. It may sleep; if it takes longer than
/// the service's deadline, its fill is given to another handler, and what it returns after that is thrown away. The
/// buffer it writes is its handler's own, so one that was given up cannot reach guest memory. It must not touch guest
/// memory through the VM's mapping: the touch would wait for this very handler.
pub trait Filler: Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Writes all of `into`: the bytes that the guest sees from `offset` on, counted from the start of the range that
    /// this filler was given for. Both are multiples of 4 KiB.
    ///
    /// # Errors
    /// The fill is tried again when the guest faults again.
    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Fills memory from a file; what lies behind its end is zeros.
#[derive(Debug)]
pub struct FileFiller {
    file: File,
    name: String,
}

impl FileFiller {
    /// A filler that reads `file`, called `name` in messages.
    #[must_use]
    pub fn new(file: File, name: impl Into<String>) -> Self {
        Self { file, name: name.into() }
    }
}

impl Filler for FileFiller {
    fn name(&self) -> &str {
        &self.name
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        into[done..].fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_lies_behind_the_end_of_the_file_is_zeros() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let filler = FileFiller::new(file, "image");
        let mut page = [9; 4096];

        filler.fill(4096, &mut page).unwrap();

        assert!(page[..904].iter().all(|byte| *byte == 7));
        assert!(page[904..].iter().all(|byte| *byte == 0));
    }
}
