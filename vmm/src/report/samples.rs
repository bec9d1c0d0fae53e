//! Every single touch, as CSV: what `--samples-out` writes.

use std::io::{self, BufWriter, Write};

use vm_memory::GuestAddress;

use super::csv::quoted;

/// One touch of one word of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Touch<'a> {
    /// The backing's name.
    pub backing: &'a str,
    /// Which sample, from 1: the warm-up, which would be 0, is not written.
    pub sample: u32,
    /// Which vCPU touched, from 0.
    pub vcpu: u32,
    /// 1 for the first touch of the word by this vCPU in this sample, 2 for the second.
    pub pass: u32,
    /// How many touches this vCPU had done in this pass before.
    pub order: u64,
    /// The address that was touched.
    pub gpa: GuestAddress,
    /// How long it took, less what taking the time costs.
    pub nanoseconds: f64,
}

/// Writes touches as they come: a header, then a line for each.
#[derive(Debug)]
pub struct TouchWriter<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> TouchWriter<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// Those of writing.
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        writeln!(out, "backing,sample,vcpu,pass,order,gpa,nanoseconds")?;
        Ok(Self { out })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// Those of writing; as lines are buffered, an error may be that of an earlier line.
    pub fn touch(&mut self, touch: &Touch) -> io::Result<()> {
        writeln!(
            self.out,
            "{},{},{},{},{},{:#x},{:.1}",
            quoted(touch.backing),
            touch.sample,
            touch.vcpu,
            touch.pass,
            touch.order,
            touch.gpa.0,
            touch.nanoseconds,
        )
    }

    /// Writes what is still in the buffer and gives the writer back. Dropping would hide an error of that.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self) -> io::Result<W> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOUCH: Touch = Touch {
        backing: "file:/a,b",
        sample: 4,
        vcpu: 1,
        pass: 2,
        order: 16_383,
        gpa: GuestAddress(0x1_0000_0000),
        nanoseconds: 15.26,
    };

    #[test]
    fn each_touch_is_a_line() {
        let mut writer = TouchWriter::new(Vec::new()).unwrap();
        writer.touch(&TOUCH).unwrap();
        writer.touch(&Touch { backing: "shmem", gpa: GuestAddress(0), ..TOUCH }).unwrap();

        let text = String::from_utf8(writer.finish().unwrap()).unwrap();

        assert_eq!(
            text,
            "backing,sample,vcpu,pass,order,gpa,nanoseconds\n\
             \"file:/a,b\",4,1,2,16383,0x100000000,15.3\n\
             shmem,4,1,2,16383,0x0,15.3\n"
        );
    }

    #[test]
    fn a_full_disk_is_reported_by_finish() {
        let mut room = [0; 60];
        let mut writer = TouchWriter::new(room.as_mut_slice()).unwrap();
        writer.touch(&TOUCH).unwrap();

        let error = writer.finish().unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
