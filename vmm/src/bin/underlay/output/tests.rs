use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;

#[track_caller]
fn opened(path: &Path) -> Output {
    let interrupt = Interrupt::new().unwrap();
    Destination::of(path).unwrap().open(&interrupt).unwrap()
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_abandoned_output_leaves_the_old_file_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("result.json");
    fs::write(&path, "old").unwrap();

    drop(opened(&path));

    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names_in(directory.path()), ["result.json"]);
}

#[test]
fn a_finished_output_replaces_the_old_file_and_keeps_its_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("result.json");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

    opened(&path).write(|out| out.write_all(b"new")).unwrap();

    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(names_in(directory.path()), ["result.json"]);
}

#[test]
fn a_dangling_link_stays_and_its_target_appears() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    symlink("target", &link).unwrap();

    opened(&link).write(|out| out.write_all(b"new")).unwrap();

    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(directory.path().join("target")).unwrap(), "new");
}

#[test]
fn pieces_reach_what_is_written_in_place_only_at_the_end() {
    use std::os::fd::AsRawFd;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before ").unwrap();
    let mut output = opened(Path::new(&format!("/dev/fd/{}", file.as_raw_fd())));
    let content = || fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();

    output.pieces().unwrap().write_all(b"touches").unwrap();
    let during = content();
    output.finish().unwrap();

    assert_eq!(during, "before ");
    assert_eq!(content(), "before touches");
}

#[test]
fn a_pipe_without_a_reader_can_be_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let interrupt = Interrupt::new().unwrap();
    interrupt.raise();

    let result = Destination::of(&path).unwrap().open(&interrupt);

    assert!(matches!(result, Err(Failure::Interrupted)), "{result:?}");
}

#[test]
fn folders_and_missing_folders_are_found_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let message = |path: &Path| match Destination::of(path) {
        Err(Failure::User(error)) => format!("{error:#}"),
        other => panic!("{other:?}"),
    };

    assert!(message(directory.path()).contains("directory"));
    let missing = directory.path().join("no/such");
    let text = message(&missing.join("a.json"));
    let named = format!("there is no folder {};", missing.display());
    assert!(text.contains(&named), "{text}");
}
