//! The names of a kernel's functions, for those who ask where a guest is.

use std::{fmt, fs::File, path::Path};

use object::{
    LittleEndian, Object, ObjectSymbol, ReadCache, SymbolKind, elf::FileHeader64, read::elf::ElfFile,
};

/// The functions of a kernel, by address.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: Vec<(u64, String)>,
}

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'s> {
    name: &'s str,
    offset: u64,
}

impl Symbols {
    /// Reads those of the ELF file at `path`; none if it is no such file, or was stripped.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let Ok(file) = File::open(path) else {
            return Self::default();
        };
        let cache = ReadCache::new(file);
        let Ok(elf) = ElfFile::<FileHeader64<LittleEndian>, _>::parse(&cache) else {
            return Self::default();
        };
        let functions = elf
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text)
            .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())));
        Self::of(functions.collect())
    }

    fn of(mut functions: Vec<(u64, String)>) -> Self {
        functions.sort();
        Self { functions }
    }

    /// The function that `address` is in, or comes after.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Place<'_>> {
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.functions.get(after.checked_sub(1)?)?;
        Some(Place { name, offset: address - start })
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_function_before_it() {
        let symbols = Symbols::of(vec![(0x2000, "second".to_owned()), (0x1000, "first".to_owned())]);

        assert_eq!(symbols.find(0xfff), None);
        assert_eq!(symbols.find(0x1000).unwrap().to_string(), "first+0x0");
        assert_eq!(symbols.find(0x1fff).unwrap().to_string(), "first+0xfff");
        assert_eq!(symbols.find(0x2001).unwrap().to_string(), "second+0x1");
    }

    #[test]
    fn a_file_that_is_no_elf_has_none() {
        assert!(Symbols::read(Path::new("/proc/self/status")).find(1).is_none());
        assert!(Symbols::read(Path::new("/no/such/file")).find(1).is_none());
    }
}
