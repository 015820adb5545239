//! Disks that fill up, processes that are killed, files that change under a mapping.

use super::*;
use quern::error::ErrorKind;
use quern::file::atomic::AtomicFile;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, Stdio};

/// What happens at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The disk is full, from there on.
    Full,
    /// A signal interrupts every second call.
    Interrupted,
    /// Every write takes a single byte less than asked, or half of it.
    Short,
}

/// A file on which the Nth call fails.
struct Faulty<W> {
    inner: W,
    fault: Fault,
    at: usize,
    calls: usize,
}

impl<W> Faulty<W> {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.fault {
            Fault::Full if self.calls > self.at => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Fault::Interrupted if self.calls % 2 == 1 => {
                Err(io::Error::from_raw_os_error(libc::EINTR))
            }
            _ => Ok(()),
        }
    }
}

impl<W: Write> Write for Faulty<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call()?;
        let n = match self.fault {
            Fault::Short => bytes.len().div_ceil(2),
            _ => bytes.len(),
        };
        self.inner.write(&bytes[..n])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for Faulty<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if self.fault == Fault::Full {
            self.call()?;
        }
        self.inner.seek(to)
    }
}

/// Writes the tiny file through a faulty disk; `Ok` is the number of calls it took.
fn write_with(path: &Path, fault: Fault, at: usize) -> Result<usize, Error> {
    let sink = Faulty {
        inner: AtomicFile::create(path)?,
        fault,
        at,
        calls: 0,
    };
    let mut writer = Writer::new(sink, path, tiny_plan(Format::Q4))?;
    fill(&mut writer)?;
    let (sink, _) = writer.seal()?;
    sink.inner.commit()?;
    Ok(sink.calls)
}

#[test]
fn a_full_disk_at_any_call_leaves_the_target_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    let calls = write_with(&path, Fault::Full, usize::MAX).unwrap();
    assert!(calls > 15, "{calls} calls");
    assert_eq!(std::fs::read(&path).unwrap(), tiny_file());
    std::fs::remove_file(&path).unwrap();
    for at in 0..calls {
        let e = write_with(&path, Fault::Full, at).unwrap_err();
        assert_eq!(e.exit_code(), 4, "call {at}: {e}");
        assert!(e.to_string().contains("No space left on device"), "{e}");
        assert!(e.to_string().contains("tiny.quern"), "{e}");
        assert!(names(folder.path()).is_empty(), "call {at}");
    }
    std::fs::write(&path, "old").unwrap();
    for at in 0..calls {
        write_with(&path, Fault::Full, at).unwrap_err();
        assert_eq!(names(folder.path()), ["tiny.quern"], "call {at}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old", "call {at}");
    }
}

#[test]
fn interruptions_and_short_writes_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    for fault in [Fault::Interrupted, Fault::Short] {
        write_with(&path, fault, 0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), tiny_file(), "{fault:?}");
    }
}

#[test]
fn an_unfinished_file_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    let writer = Writer::create(&path, tiny_plan(Format::Q4)).unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    assert!(!path.exists());
    drop(writer);
    assert!(names(folder.path()).is_empty());
    let writer = Writer::create(&path, tiny_plan(Format::Q4)).unwrap();
    assert_eq!(writer.finish().unwrap_err().exit_code(), 3, "no tensors");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn only_regular_files_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    for (target, expected) in [
        (folder.path(), "is not a regular file"),
        (Path::new("/dev/full"), "is not a regular file"),
        (Path::new("/"), "is not a regular file"),
    ] {
        let e = write_tiny(target).unwrap_err();
        assert_eq!(e.exit_code(), 2, "{e}");
        assert!(e.to_string().contains(expected), "{e}");
    }
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    assert_eq!(write_tiny(&link).unwrap_err().exit_code(), 2);
    let e = write_tiny(&folder.path().join("none/tiny.quern")).unwrap_err();
    assert_eq!(e.exit_code(), 4, "{e}");
    assert_eq!(names(folder.path()), ["link"]);
}

#[test]
fn a_symbolic_link_stays_and_its_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("tiny.quern"), folder.path().join("link"));
    std::fs::write(&path, "old").unwrap();
    std::os::unix::fs::symlink("tiny.quern", &link).unwrap();
    write_tiny(&link).unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&path).unwrap(), tiny_file());
}

#[test]
fn writing_over_a_mapped_file_leaves_the_mapping_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    let old = open(&path).unwrap();
    let mut plan = tiny_plan(Format::F32);
    plan.meta.set(key::NAME, Value::String("other".into()));
    let mut writer = Writer::create(&path, plan).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap();
    old.check_unchanged().unwrap();
    check_contents(&old);
    assert_eq!(open(&path).unwrap().meta().name(), Some("other"));
}

#[test]
fn writers_of_the_same_target_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    let mut first = Writer::create(&path, tiny_plan(Format::Q4)).unwrap();
    let mut second = Writer::create(&path, tiny_plan(Format::Q4)).unwrap();
    fill(&mut first).unwrap();
    fill(&mut second).unwrap();
    first.finish().unwrap();
    second.finish().unwrap();
    assert_eq!(names(folder.path()), ["tiny.quern"]);
    check_contents(&open(&path).unwrap());
}

#[test]
fn what_killed_writers_left_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for stale in [
        ".tiny.quern.quern-tmp-999999999-0",
        ".tiny.quern.quern-tmp-1-3",
    ] {
        std::fs::write(folder.path().join(stale), "half").unwrap();
    }
    std::fs::write(folder.path().join(".other.quern.quern-tmp-1-0"), "half").unwrap();
    write_tiny(&folder.path().join("tiny.quern")).unwrap();
    assert_eq!(
        names(folder.path()),
        [".other.quern.quern-tmp-1-0", "tiny.quern"]
    );
}

// Children: this test program again, with the name of a test that acts as a child where this variable holds a path.
const CHILD: &str = "QUERN_TEST_FORMAT_CHILD";

fn child_path() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(std::path::PathBuf::from)
}

/// Starts a test of this file as a child, through a shell that runs `before` first.
fn start(test: &str, path: &Path, before: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{before}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("format::faults::{test}")])
        .env(CHILD, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child says that it is ready.
fn wait_ready(child: &mut Child) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the child ended");
    }
    child.stdout = Some(out.into_inner());
}

/// Tells the child to go on; returns its exit code and what it wrote to stderr.
fn go_on(mut child: Child) -> (std::process::ExitStatus, String) {
    // A child that did not ask may have ended.
    let _ = child.stdin.take().unwrap().write_all(b"go\n");
    let mut errors = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    (child.wait().unwrap(), errors)
}

fn child_ready() {
    println!("ready");
    io::stdout().flush().unwrap();
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
}

#[test]
fn a_file_size_limit_is_an_error_and_not_a_death() {
    if let Some(path) = child_path() {
        quern::cli::signals::install();
        let code = write_tiny(&path).unwrap_err();
        assert_eq!(code.kind(), ErrorKind::Io, "{code}");
        assert!(code.to_string().contains("File too large"), "{code}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    // Blocks of 512 bytes in a POSIX shell, of 1024 in others: below the 36 KiB of the file in both cases.
    let child = start(
        "a_file_size_limit_is_an_error_and_not_a_death",
        &path,
        "ulimit -f 24",
    );
    let (status, errors) = go_on(child);
    assert!(status.success(), "{status}: {errors}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_killed_writer_leaves_no_half_file() {
    if let Some(path) = child_path() {
        println!("ready");
        io::stdout().flush().unwrap();
        loop {
            let _ = std::fs::remove_file(&path);
            write_tiny(&path).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    for round in 0..20_u64 {
        let mut child = start("a_killed_writer_leaves_no_half_file", &path, ":");
        wait_ready(&mut child);
        // Any moment will do; they are spread over several rounds of writing.
        std::thread::sleep(std::time::Duration::from_micros(round * 977 % 5000));
        child.kill().unwrap();
        child.wait().unwrap();
        if path.exists() {
            verify(&open(&path).unwrap(), 1, &|_| {}).unwrap();
        }
        let left = names(folder.path());
        let stale = left.iter().filter(|n| n.contains(".quern-tmp-")).count();
        assert!(stale <= 1, "{left:?}");
    }
    write_tiny(&path).unwrap();
    assert_eq!(names(folder.path()), ["tiny.quern"]);
}

/// Reads all data of a mapped file, checking nothing before.
fn touch(file: &ModelFile) -> u64 {
    let entries = 0..file.entries().len();
    let sum = |i: usize| file.data(i).0.iter().map(|b| u64::from(*b)).sum::<u64>();
    entries.map(sum).sum()
}

#[test]
fn cutting_a_mapped_file_ends_with_exit_6() {
    if let Some(path) = child_path() {
        let file = open(&path).unwrap();
        child_ready();
        println!("{}", touch(&file));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    for pages in [0, 1, 5] {
        write_tiny(&path).unwrap();
        let mut child = start("cutting_a_mapped_file_ends_with_exit_6", &path, ":");
        wait_ready(&mut child);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(pages * 4096).unwrap();
        let (status, errors) = go_on(child);
        assert_eq!(status.code(), Some(6), "{status}: {errors}");
        assert!(errors.contains("tiny.quern"), "{errors}");
        assert!(
            errors.contains("was cut short or its disk failed while it was in use"),
            "{errors}"
        );
    }
}

#[test]
fn threads_that_read_a_cut_file_end_with_exit_6_too() {
    if let Some(path) = child_path() {
        let file = open(&path).unwrap();
        child_ready();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| touch(&file));
            }
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    let mut child = start(
        "threads_that_read_a_cut_file_end_with_exit_6_too",
        &path,
        ":",
    );
    wait_ready(&mut child);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(go_on(child).0.code(), Some(6));
}

#[test]
fn a_fault_elsewhere_is_not_taken_for_ours() {
    if let Some(path) = child_path() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("tiny.quern");
        write_tiny(&own).unwrap();
        let _watched = open(&own).unwrap();
        let other = std::fs::File::open(&path).unwrap();
        // SAFETY: that the file shrinks under this mapping is what is tested; the process dies of it.
        let map = unsafe { memmap2::Mmap::map(&other) }.unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        child_ready();
        println!("{}", map.iter().map(|b| u64::from(*b)).sum::<u64>());
        return;
    }
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    std::fs::write(&path, vec![1; 8192]).unwrap();
    let mut child = start(
        "a_fault_elsewhere_is_not_taken_for_ours",
        &path,
        "ulimit -c 0",
    );
    wait_ready(&mut child);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    let (status, errors) = go_on(child);
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}: {errors}");
}

/// A tiny file that is mapped, and its path.
fn mapped() -> (tempfile::TempDir, std::path::PathBuf, ModelFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    let file = open(&path).unwrap();
    file.check_unchanged().unwrap();
    (folder, path, file)
}

#[track_caller]
fn is_changed(file: &ModelFile, expected: &str) {
    let e = file.check_unchanged().unwrap_err();
    assert_eq!(e.exit_code(), 6, "{e}");
    assert!(e.to_string().contains("tiny.quern"), "{e}");
    assert!(e.to_string().contains(expected), "{e}");
}

#[test]
fn a_cut_file_is_noticed_before_its_pages_are_touched() {
    let (_folder, path, file) = mapped();
    let length = file.len();
    let writable = std::fs::File::options().write(true).open(&path).unwrap();
    writable.set_len(4096).unwrap();
    is_changed(&file, &format!("it had {length} bytes, now it has 4096"));
}

#[test]
fn a_file_written_in_place_is_noticed() {
    let (_folder, path, file) = mapped();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut writable = std::fs::File::options().write(true).open(&path).unwrap();
    writable.seek(SeekFrom::Start(20000)).unwrap();
    writable.write_all(b"other weights").unwrap();
    // Coarse clocks may give both writes one time.
    let later = modified + std::time::Duration::from_secs(1);
    writable.set_modified(later).unwrap();
    is_changed(&file, "its modification time is another");
}

#[test]
fn a_last_page_that_vanished_is_noticed_whatever_the_clock_says() {
    let (_folder, path, file) = mapped();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let writable = std::fs::File::options().write(true).open(&path).unwrap();
    // Cut within the last page and grown again: the same length, zeros at the end, no SIGBUS.
    writable.set_len(file.len() - 4000).unwrap();
    writable.set_len(file.len()).unwrap();
    writable.set_modified(modified).unwrap();
    is_changed(&file, "its last page is another");
}

#[test]
fn a_file_in_memory_does_not_care() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    let file = ModelFile::open(&path, OpenOptions { mmap: false }).unwrap();
    std::fs::write(&path, "").unwrap();
    file.check_unchanged().unwrap();
    check_contents(&file);
}

#[test]
fn renaming_and_removing_a_mapped_file_is_allowed() {
    let (folder, path, file) = mapped();
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    file.check_unchanged().unwrap();
    std::fs::remove_file(folder.path().join("moved")).unwrap();
    file.check_unchanged().unwrap();
    check_contents(&file);
}
