//! The files in which the kernel speaks of itself.

use std::{fs, io, path::Path};

/// What stands in a report where the kernel has no such file.
pub(super) const ABSENT: &str = "absent";

/// The tree that holds `proc` and `sys`: the real one, or a made-up one in tests.
///
/// A file that is missing, may not be read or holds something else than asked for is `None`: a survey goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    /// The running kernel's files.
    pub(super) fn system() -> Tree<'static> {
        Tree { root: Path::new("/") }
    }

    /// The files under `root`.
    #[cfg(test)]
    pub(super) fn under(root: &Path) -> Tree<'_> {
        Tree { root }
    }

    /// The file at `path`, relative to the root, without the white space around it.
    pub(super) fn text(self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// The number that the file at `path` consists of.
    pub(super) fn number(self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The word in square brackets in the file at `path`, which is how the kernel shows a choice.
    pub(super) fn choice(self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, rest) = text.split_once('[')?;
        let (chosen, _) = rest.split_once(']')?;
        Some(chosen.to_owned())
    }

    /// What follows the first `name :` at the start of a line in the file at `path`.
    pub(super) fn field(self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    }

    /// The names in the directory at `path`, sorted.
    ///
    /// # Errors
    /// What the system said: a directory that is closed to us is worth telling from one that is not there.
    pub(super) fn names(self, path: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join(path))?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A made-up tree of kernel files.
    pub(in crate::host) struct FakeTree {
        root: tempfile::TempDir,
    }

    impl FakeTree {
        #[track_caller]
        pub(in crate::host) fn with(files: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self { root }
        }

        pub(in crate::host) fn tree(&self) -> Tree<'_> {
            Tree::under(self.root.path())
        }
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let fake = FakeTree::with(&[
            ("number", "12\n"),
            ("choice", "always [madvise] never\n"),
            ("fields", "flags\t\t: fpu vme\nflags : later\n"),
            ("dir/b", ""),
            ("dir/a", ""),
        ]);
        let tree = fake.tree();

        assert_eq!(tree.number("number"), Some(12));
        assert_eq!(tree.choice("choice").as_deref(), Some("madvise"));
        assert_eq!(tree.field("fields", "flags").as_deref(), Some("fpu vme"));
        assert_eq!(tree.names("dir").unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_is_missing_or_odd_is_absent() {
        let fake = FakeTree::with(&[("odd", "x")]);
        let tree = fake.tree();

        assert_eq!(tree.text("none"), None);
        assert_eq!(tree.number("odd"), None);
        assert_eq!(tree.choice("odd"), None);
        assert_eq!(tree.field("odd", "x"), None);
        assert_eq!(tree.names("none").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
