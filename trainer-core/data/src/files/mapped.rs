//! A memory-mapped file that others may truncate. The system answers a read of a page that the file no longer has with
//! SIGBUS, which ends a process. Here such a page becomes zeros, and the mapping says that it is truncated. A disk that
//! fails shows in the same way.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::Mmap;

/// A memory-mapped file, whatever happens to the file.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    region: &'static Region,
}

/// A mapping, for the signal handler: addresses from `start` to `end`. The handler may only touch memory that always
/// exists, so regions are static.
#[derive(Debug)]
struct Region {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    truncated: AtomicBool,
}

/// One for each mapping; a process has a few.
static REGIONS: [Region; 256] = [const {
    Region {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        truncated: AtomicBool::new(false),
    }
}; 256];

impl MappedFile {
    /// Maps a file of which no byte that a reader relies on is written again.
    ///
    /// # Errors
    /// When it cannot be mapped, or the process maps too many already.
    pub fn new(file: &File) -> io::Result<Self> {
        install_once()?;
        // SAFETY: bytes that a reader relies on do not change (see `cache::disk`), and those that are cut off are
        // replaced by zeros before anybody reads them.
        let map = unsafe { Mmap::map(file) }?;
        let free = REGIONS.iter().find(|region| !region.taken.swap(true, Ordering::AcqRel));
        let region = free.ok_or_else(|| io::Error::other("too many mapped caches"))?;
        region.truncated.store(false, Ordering::Relaxed);
        let start = map.as_ptr() as usize;
        region.end.store(start + map.len(), Ordering::Release);
        region.start.store(start, Ordering::Release);
        Ok(Self { map, region })
    }

    /// Whether a page that was read does not exist any more, so that what was read of late may be zeros. What is cut off
    /// of the last page that exists reads as zeros, too, and shows only in the file's length.
    pub fn is_truncated(&self) -> bool {
        self.region.truncated.load(Ordering::Acquire)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.region.end.store(0, Ordering::Release);
        self.region.start.store(0, Ordering::Release);
        self.region.taken.store(false, Ordering::Release);
    }
}

static PAGE: AtomicUsize = AtomicUsize::new(0);
/// The handler of SIGBUS before ours, which still serves all other addresses.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the signal handler, once in a process.
fn install_once() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED.get_or_init(install).map_err(io::Error::from_raw_os_error)
}

fn install() -> Result<(), i32> {
    let failed = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    // SAFETY: plain system calls on structures of our own; zeros are a valid `sigaction`. The handler does only
    // what a handler may: atomics, `mmap`, `sigaction`.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE);
        PAGE.store(usize::try_from(page).map_err(|_| failed())?, Ordering::Release);
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
            return Err(failed());
        }
        let _ = PREVIOUS.set(before);
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_bus_error as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut ours.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) != 0 {
            return Err(failed());
        }
    }
    Ok(())
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `info` to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = |region: &&Region| {
        let start = region.start.load(Ordering::Acquire);
        start != 0 && (start..region.end.load(Ordering::Acquire)).contains(&address)
    };
    if let Some(region) = REGIONS.iter().find(ours) {
        let page = PAGE.load(Ordering::Acquire);
        let start = address & !(page - 1);
        // First of all: another thread may find the zeros as soon as they are there.
        region.truncated.store(true, Ordering::Release);
        // SAFETY: the page is inside of a mapping of ours, which only readers use; they find zeros there.
        let mapped = unsafe {
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(start as *mut libc::c_void, page, libc::PROT_READ, flags, -1, 0)
        };
        if mapped != libc::MAP_FAILED {
            return;
        }
    }
    call_previous(signal, info, context);
}

/// Calls the handler before ours, as if ours did not exist.
fn call_previous(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type PlainHandler = extern "C" fn(libc::c_int);
    type InfoHandler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let Some(before) = PREVIOUS.get() else { return };
    // SAFETY: the former handler is called as it asked to be; without one, the read is tried again and ends
    // the process as it would have.
    unsafe {
        if before.sa_sigaction == libc::SIG_DFL || before.sa_sigaction == libc::SIG_IGN {
            libc::sigaction(signal, before, std::ptr::null_mut());
        } else if before.sa_flags & libc::SA_SIGINFO != 0 {
            std::mem::transmute::<usize, InfoHandler>(before.sa_sigaction)(signal, info, context);
        } else {
            std::mem::transmute::<usize, PlainHandler>(before.sa_sigaction)(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_reads_as_zeros_and_the_mapping_knows() {
        let file = tempfile::tempfile().unwrap();
        let page = 1 << 16;
        file.set_len(3 * page).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 3 * page as usize], 0).unwrap();
        let (mapping, other) = (MappedFile::new(&file).unwrap(), MappedFile::new(&file).unwrap());
        assert!(mapping.iter().all(|byte| *byte == 7) && !mapping.is_truncated());
        file.set_len(page).unwrap();
        let sum = |range: std::ops::Range<u64>| {
            mapping[range.start as usize..range.end as usize].iter().map(|byte| u64::from(*byte)).sum::<u64>()
        };
        assert_eq!((sum(0..page), mapping.is_truncated()), (7 * page, false));
        assert_eq!((sum(page..3 * page), mapping.is_truncated()), (0, true));
        assert!(!other.is_truncated(), "nobody has read there");
    }

    #[test]
    fn regions_are_used_again() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        for _ in 0..1000 {
            assert!(!MappedFile::new(&file).unwrap().is_truncated());
        }
    }
}
