//! The vmlinux that is packed into a bzImage, taken out by this process instead of by the guest.
//!
//! Linux's build appends the unpacked size to whatever compressor it uses (gzip has it there anyway). So it is known
//! before a byte is unpacked, is held against what the header says that the kernel needs, and not a byte more is taken.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

use super::ImageError;

/// Bytes at the end that say how many bytes there are when it is unpacked.
const SIZE_BYTES: usize = 4;
/// Bytes at its start that tell how it is compressed.
const MAGIC_BYTES: usize = 6;
/// The furthest that a decompressor may look back. Linux's build asks for 128 MiB at most.
const MOST_HISTORY: u64 = 128 << 20;
/// What an LZMA decoder needs beside that.
const LZMA_TABLES: u64 = 8 << 20;

/// Where it is in the file, and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// In bytes from the start of the file.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) len: u64,
    /// The most bytes that it may have when it is unpacked.
    pub(super) most: u64,
}

/// How it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Xz,
    Lzma,
    Zstd,
    /// With the older frame, which has no checksum.
    Lz4,
}

impl Payload {
    /// Takes it out of `file`. `None` if it is compressed in a way that is not known here, as by bzip2 or LZO.
    pub(super) fn unpack<F: Read + Seek>(self, file: &mut F) -> Result<Option<Vec<u8>>, ImageError> {
        let mut magic = [0; MAGIC_BYTES];
        let mut size = [0; SIZE_BYTES];
        if self.len < (MAGIC_BYTES + SIZE_BYTES) as u64 {
            return Ok(None);
        }
        let end = self.offset + self.len;
        file.seek(SeekFrom::Start(end - SIZE_BYTES as u64)).map_err(ImageError::Read)?;
        file.read_exact(&mut size).map_err(ImageError::Read)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(ImageError::Read)?;
        file.read_exact(&mut magic).map_err(ImageError::Read)?;
        let Some(compression) = Compression::of(magic) else {
            return Ok(None);
        };
        let bytes = u64::from(u32::from_le_bytes(size));
        if bytes > self.most {
            return Err(ImageError::Malformed { what: "the kernel packed in it is larger than it may be" });
        }
        file.seek(SeekFrom::Start(self.offset)).map_err(ImageError::Read)?;
        let unpacked = compression.unpack(file, self.len, bytes);
        unpacked.map(Some).map_err(|source| ImageError::Unpack { how: compression.name(), source })
    }
}

impl Compression {
    fn of(magic: [u8; MAGIC_BYTES]) -> Option<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Self::Xz),
            [0x5d, 0, 0, ..] => Some(Self::Lzma),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// Unpacks exactly `bytes` bytes from the next `len` bytes of `file`.
    fn unpack(self, file: impl Read, len: u64, bytes: u64) -> io::Result<Vec<u8>> {
        // To gzip its size belongs; the others would take theirs for data.
        let appended = if self == Self::Gzip { 0 } else { SIZE_BYTES as u64 };
        let mut packed = self.decoder(BufReader::new(file.take(len - appended)))?;

        let room = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut unpacked = Vec::new();
        unpacked.try_reserve_exact(room)?;
        packed.by_ref().take(bytes).read_to_end(&mut unpacked)?;
        if unpacked.len() < room {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early"));
        }
        // Whoever has a checksum looks at it at the end.
        if packed.read(&mut [0])? != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it goes on behind its end"));
        }
        Ok(unpacked)
    }

    fn decoder<'a>(self, packed: BufReader<impl Read + 'a>) -> io::Result<Box<dyn Read + 'a>> {
        let most_kib = u32::try_from((MOST_HISTORY + LZMA_TABLES) >> 10).unwrap_or(u32::MAX);
        Ok(match self {
            Self::Gzip => Box::new(GzDecoder::new(packed)),
            Self::Xz => Box::new(XzReader::new_mem_limit(packed, false, most_kib)),
            Self::Lzma => Box::new(LzmaReader::new_mem_limit(packed, most_kib, None)?),
            Self::Zstd => Box::new(
                StreamingDecoder::new_with_max_window_size(packed, MOST_HISTORY).map_err(io::Error::other)?,
            ),
            Self::Lz4 => Box::new(FrameDecoder::new(packed)),
        })
    }
}

#[cfg(test)]
mod tests;
